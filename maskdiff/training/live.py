"""Live samples of a run: strict rates of parsing, texts, and a picture of one denoising run, for TensorBoard.

For: seeing during training what the weights generate.  Not for: figures to quote; a few dozen strings have intervals of
several points.  Easy to get wrong: lengths come from held-out strings, in their own proportions, so that the rates may be
compared with the benchmark's.
"""

from __future__ import annotations

import torch
from torch.utils.tensorboard import SummaryWriter

from maskdiff.config import Config, SamplerConfig
from maskdiff.data import held_out
from maskdiff.languages import Language
from maskdiff.model import UniversalDenoiser
from maskdiff.sampling.canvas import Canvas
from maskdiff.sampling.denoiser import ModelDenoiser
from maskdiff.sampling.presets import make_sampler

LIVE_SEED = 7
SHOWN = 8  # texts a sampler


def live_samplers(config: Config) -> dict[str, SamplerConfig]:
    """The samplers that are watched: causal, bidirectional one token at a time, and bidirectional in 12 evaluations."""
    parallel = {
        "left_to_right": SamplerConfig(sampler="left_to_right", steps=0),
        "entropy_12": SamplerConfig(sampler="information", steps=12),
    }
    causal = config.model.head == "next" and config.train.causal_share > 0 and not config.train.faithful
    return {"autoregressive": SamplerConfig(sampler="autoregressive"), **parallel} if causal else parallel


def live_samples(
    model: UniversalDenoiser, language: Language, config: Config, writer: SummaryWriter, step: int
) -> dict[str, float]:
    """Sample, log texts and a token grid, and return the share that parses under each sampler, ``parses_NAME``."""
    vocabulary, count = language.vocabulary, config.train.live_samples
    denoiser = ModelDenoiser(model, vocabulary)
    lengths = [len(text) for text in held_out(language, "validation", count, LIVE_SEED)]
    rates: dict[str, float] = {}
    for name, settings in live_samplers(config).items():
        canvas = Canvas.blank(lengths, vocabulary, torch.Generator().manual_seed(LIVE_SEED))
        tokens = make_sampler(settings)(denoiser, canvas).tokens
        texts = [vocabulary.decode(row, "drop") for row in tokens.tolist()]
        valid = [language.parses(text) for text in texts]
        rates[f"parses_{name}"] = sum(valid) / count
        shown = [f"    {'parses' if ok else '  --  '}  {text}" for ok, text in list(zip(valid, texts, strict=True))[:SHOWN]]
        writer.add_text(f"samples/{name}", "\n".join(shown), step)
    middle = sorted(lengths)[len(lengths) // 2]
    canvas = Canvas.blank([middle], vocabulary, torch.Generator().manual_seed(LIVE_SEED)).traced()
    sample = make_sampler(SamplerConfig(sampler="information", steps=12))(denoiser, canvas)
    if sample.trace is not None:
        writer.add_image("samples/token_grid", sample.trace.picture(0, vocabulary), step, dataformats="HWC")
    return rates
