"""Settings of penalties, samplers that take them, and prompts."""

from __future__ import annotations

from dataclasses import replace

import torch

from maskdiff.config import ControlConfig
from maskdiff.models.denoiser import Denoiser
from maskdiff.sampling import (
    Ancestral,
    Autoregressive,
    Canvas,
    Cap,
    Confidence,
    EntropyBound,
    Everything,
    Linear,
    Penalties,
    Predictive,
    Rescale,
    Sampler,
    Speculate,
    Unmask,
    hybrid,
)
from tests.helpers.dummies import TINY

EVERYTHING = ControlConfig(
    repetition_penalty=1.3,
    presence_penalty=0.4,
    frequency_penalty=0.2,
    no_repeat_ngram=3,
    dry_multiplier=0.8,
    dry_breakers="=",
    dry_range=15,
    top_k=6,
    min_p=0.05,
)
SETTINGS = {
    "penalties": ControlConfig(repetition_penalty=1.7, presence_penalty=0.7, frequency_penalty=0.3),
    "n-grams": ControlConfig(no_repeat_ngram=2),
    "tokens": ControlConfig(no_repeat_ngram=1),
    "DRY": ControlConfig(
        dry_multiplier=4.0, dry_base=1.4, dry_allowed_length=1, dry_breakers="(", dry_range=9
    ),
    "all": EVERYTHING,
    "exempt": replace(EVERYTHING, exempt_prompt=True),
}
UNMASK = {
    "confidence": Unmask(steps=5),
    "left to right": Unmask(order="left_to_right", schedule=Linear(), steps=0),
    "bound": Unmask(order="entropy", schedule=EntropyBound(0.1), spacing=2, steps=6),
    "ancestral": Unmask(order="random", schedule=Ancestral(), steps=6),
    "cap": Unmask(order="random", schedule=Linear(), steps=8, remask=Cap(0.3)),
    "rescale": Unmask(order="random", schedule=Linear(), steps=8, remask=Rescale(0.3)),
    "least confident": Unmask(order="margin", schedule=Linear(), steps=8, remask=Confidence()),
    "refinement": Unmask(order="top", schedule=Everything(), rewrite=True, steps=4),
    "self-conditioned": Unmask(order="entropy", schedule=Linear(), steps=5, self_condition=True),
}
SAMPLERS: dict[str, Sampler] = {
    **UNMASK,
    "autoregressive": Autoregressive(),
    "predictive": Predictive(),
    "speculative": Speculate(Unmask(), steps=0),
    "short of budget": Speculate(Unmask(), steps=8),
    "hybrid": hybrid(3, Unmask(steps=8)),
}
PROMPTS = ["(1?2)??1+1??=??", "????", "?" * 9, "?0?0?0?0"]
SYMBOLS = "0123()+*="


def controls(name: str) -> Penalties:
    return Penalties.of(SETTINGS[name], TINY)


def prompts(texts: list[str] = PROMPTS) -> Canvas:
    return Canvas.template(texts, TINY, torch.Generator().manual_seed(0))


def padded(canvas: Canvas, width: int, token: int) -> Canvas:
    """Wider, with a token of our choice behind every string."""
    wide = canvas.wider(width, TINY.pad)
    outside = torch.arange(width) >= canvas.length[:, None]
    return replace(wide, tokens=torch.where(outside, token, wide.tokens))


def disagreements(sampler: Sampler, denoiser: Denoiser, token: int = TINY.pad) -> int:
    """Prompts that become another string alone than in the batch of all of them, with some
    padding more."""
    canvas = prompts()
    together, different = sampler(denoiser, padded(canvas, 40, token)).tokens, 0
    for i, length in enumerate(canvas.length.tolist()):
        alone = sampler(denoiser, canvas[[i]].trim()).tokens
        different += not torch.equal(alone[0, :length], together[i, :length])
    return different
