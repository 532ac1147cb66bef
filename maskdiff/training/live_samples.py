"""Samples during training: rates of valid strings, texts, and an image of one denoising run.

Lengths come from held-out strings, in their own proportions, so that the rates are comparable with
those of the benchmark; those of a few dozen strings have intervals of several points.
"""

from __future__ import annotations

import numpy as np
import torch

from maskdiff.config import Config, SamplerConfig
from maskdiff.data import held_out
from maskdiff.decoding import CausalModel, Decoding, condition
from maskdiff.drawing.random import new_keys
from maskdiff.errors import ConfigError
from maskdiff.languages import Language, Vocabulary
from maskdiff.models.denoiser import ModelDenoiser
from maskdiff.models.universal import UniversalDenoiser
from maskdiff.sampling.canvas import Canvas
from maskdiff.sampling.presets import make_sampler
from maskdiff.training.console import write_line
from maskdiff.training.event_writer import EventWriter
from maskdiff.training.token_grid import token_grid

LIVE_SEED = 7
SHOWN = 8  # texts per sampler
STEPS = 12  # evaluations of the parallel sampler
LONG = 128  # symbols; longer strings are not drawn token by token, an evaluation of all for each


def parallel_sampler(config: Config) -> SamplerConfig:
    """The preset of few evaluations: `coupled` if the model has that input."""
    name = "coupled" if config.model.use_coupling else "spaced_bound"
    return SamplerConfig(sampler=name, steps=STEPS)


def live_samplers(config: Config, longest: int) -> dict[str, SamplerConfig]:
    """Samplers by name: causal, bidirectional token by token, and in `STEPS` evaluations."""
    few = parallel_sampler(config)
    both = {f"{few.sampler}_{STEPS}": few}
    if longest <= LONG:
        both = {"left_to_right": SamplerConfig(sampler="left_to_right", steps=0), **both}
    if has_causal_mode(config) and config.model.causal_length:
        return {"autoregressive": SamplerConfig(sampler="autoregressive"), **both}
    return both


def has_causal_mode(config: Config) -> bool:
    """Whether a run trains a causal mode that can be sampled from."""
    train = config.train
    return config.model.head == "next" and train.causal_share > 0 and not train.faithful


def unconditional_texts(denoiser: ModelDenoiser, count: int) -> list[str]:
    """Strings of a causal mode that ends them itself."""
    model = CausalModel(denoiser, np.ones(1))  # the lengths are not used
    keys = new_keys(count, torch.Generator().manual_seed(LIVE_SEED))
    drawn = Decoding(condition(model, b""), keys).run()
    return [item.data.decode(errors="replace") for item in drawn]


def _valid(language: Language, texts: list[str]) -> list[bool]:
    """Validity of each text; empty, with a line printed, if a checker fails."""
    try:
        return [language.parses(text) for text in texts]
    except ConfigError as error:
        write_line(f"live samples are not judged: {error}")
        return []


def live_samples(
    model: UniversalDenoiser,
    language: Language,
    vocabulary: Vocabulary,
    config: Config,
    events: EventWriter,
    step: int,
) -> dict[str, float]:
    """Sample, and log texts and a token grid.

    Returns the share of valid strings of each sampler, by the name `parses_NAME`.
    """
    count = config.train.live_samples
    denoiser = ModelDenoiser(model, vocabulary)
    texts = held_out(language, "validation", count, LIVE_SEED)
    lengths = [len(row) for row in vocabulary.encode_many(texts)]

    # Draw.
    verdicts = ("  --  ", "parses" if language.validity else "")
    rates: dict[str, float] = {}
    drawn: dict[str, list[str]] = {}
    if has_causal_mode(config) and not config.model.causal_length:
        drawn["autoregressive"] = unconditional_texts(denoiser, count)
    for name, settings in live_samplers(config, max(lengths)).items():
        canvas = Canvas.blank(lengths, vocabulary, torch.Generator().manual_seed(LIVE_SEED))
        tokens = make_sampler(settings)(denoiser, canvas).tokens
        drawn[name] = [vocabulary.decode(row, "drop") for row in tokens.tolist()]

    # Log the texts and an image.
    for name, texts in drawn.items():
        valid = _valid(language, texts)
        if language.validity and valid:
            rates[f"parses_{name}"] = sum(valid) / len(valid)
        pairs = zip(valid or [False] * len(texts), texts, strict=True)
        shown = [f"    {verdicts[ok]}  {text}" for ok, text in list(pairs)[:SHOWN]]
        events.text(f"samples/{name}", "\n".join(shown), step)
    middle = sorted(lengths)[len(lengths) // 2]
    canvas = Canvas.blank([middle], vocabulary, torch.Generator().manual_seed(LIVE_SEED)).traced()
    sample = make_sampler(parallel_sampler(config))(denoiser, canvas)
    if sample.trace is not None:
        events.image("samples/token_grid", token_grid(sample.trace, 0, vocabulary), step)
    return rates
