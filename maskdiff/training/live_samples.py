"""Live samples of a run: strict rates of parsing, texts, and a picture of one denoising run, for TensorBoard.

For: seeing during training what the weights generate.  Not for: figures to quote; a few dozen strings have intervals of
several points.  Easy to get wrong: lengths come from held-out strings, in their own proportions, so that the rates may be
compared with the benchmark's.
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
from maskdiff.training.console import tell
from maskdiff.training.event_writer import EventWriter
from maskdiff.training.token_grid import token_grid

LIVE_SEED = 7
SHOWN = 8  # texts a sampler
STEPS = 12  # evaluations of the parallel sampler


def parallel_sampler(config: Config) -> SamplerConfig:
    """The preset to watch in few evaluations: the one whose tokens agree where the model can, else the best that any can."""
    return SamplerConfig(
        sampler="coupled" if config.model.use_coupling else "spaced_bound", steps=STEPS
    )


def live_samplers(config: Config) -> dict[str, SamplerConfig]:
    """The samplers that are watched: causal, bidirectional one token at a time, and bidirectional in 12 evaluations."""
    few = parallel_sampler(config)
    both = {
        "left_to_right": SamplerConfig(sampler="left_to_right", steps=0),
        f"{few.sampler}_{STEPS}": few,
    }
    on_canvas = (
        has_causal_mode(config) and config.model.causal_length
    )  # else it ends its strings where it likes
    return (
        {"autoregressive": SamplerConfig(sampler="autoregressive"), **both} if on_canvas else both
    )


def has_causal_mode(config: Config) -> bool:
    """Whether a run trains a causal mode that can be sampled from."""
    return (
        config.model.head == "next" and config.train.causal_share > 0 and not config.train.faithful
    )


def endless(denoiser: ModelDenoiser, count: int) -> list[str]:
    """Strings of a causal mode that ends them itself: completions of nothing."""
    model = CausalModel(denoiser, np.ones(1))  # one that is not told the length needs none
    drawn = Decoding(
        condition(model, b""), new_keys(count, torch.Generator().manual_seed(LIVE_SEED))
    ).run()
    return [item.data.decode(errors="replace") for item in drawn]


def _valid(language: Language, texts: list[str]) -> list[bool]:
    """Which texts are valid; nothing where a checker fails at one, which ends no run."""
    try:
        return [language.parses(text) for text in texts]
    except ConfigError as error:
        tell(f"live samples are not judged: {error}")
        return []


def live_samples(
    model: UniversalDenoiser,
    language: Language,
    vocabulary: Vocabulary,
    config: Config,
    board: EventWriter,
    step: int,
) -> dict[str, float]:
    """Sample, log texts and a token grid, and return the share that parses under each sampler, ``parses_NAME``."""
    count = config.train.live_samples
    denoiser = ModelDenoiser(model, vocabulary)
    lengths = [
        len(row)
        for row in vocabulary.encode_many(held_out(language, "validation", count, LIVE_SEED))
    ]
    verdicts = ("  --  ", "parses" if language.validity else "")
    rates: dict[str, float] = {}
    drawn: dict[str, list[str]] = {}
    if has_causal_mode(config) and not config.model.causal_length:
        drawn["autoregressive"] = endless(denoiser, count)
    for name, settings in live_samplers(config).items():
        canvas = Canvas.blank(lengths, vocabulary, torch.Generator().manual_seed(LIVE_SEED))
        tokens = make_sampler(settings)(denoiser, canvas).tokens
        drawn[name] = [vocabulary.decode(row, "drop") for row in tokens.tolist()]
    for name, texts in drawn.items():
        valid = _valid(language, texts)
        if language.validity and valid:
            rates[f"parses_{name}"] = sum(valid) / len(valid)
        pairs = zip(valid or [False] * len(texts), texts, strict=True)
        shown = [f"    {verdicts[ok]}  {text}" for ok, text in list(pairs)[:SHOWN]]
        board.text(f"samples/{name}", "\n".join(shown), step)
    middle = sorted(lengths)[len(lengths) // 2]
    canvas = Canvas.blank([middle], vocabulary, torch.Generator().manual_seed(LIVE_SEED)).traced()
    sample = make_sampler(parallel_sampler(config))(denoiser, canvas)
    if sample.trace is not None:
        board.image("samples/token_grid", token_grid(sample.trace, 0, vocabulary), step)
    return rates
