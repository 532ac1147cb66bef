"""New strings: `generate`, and the lengths that they get."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskdiff.config import SamplerConfig
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.sampling import Canvas, Sampler
from maskdiff.tasks.results import BATCH, Result, ready_sampler, run_sampler, seeded

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language


def generate(
    loaded: Loaded,
    num: int,
    *,
    length: int | tuple[int, int] | None = None,
    sampler: SamplerConfig | Sampler | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """`num` new strings. `length` counts symbols: one number, a range with both ends, or None for the language's own lengths.

    Raises CanvasError for a length that no string has, ConfigError for a sampler that makes no sense.
    """
    return list(generating(loaded, num, length=length, sampler=sampler, seed=seed, batch_size=batch_size, trace=trace))


def generating(
    loaded: Loaded,
    num: int,
    *,
    length: int | tuple[int, int] | None = None,
    sampler: SamplerConfig | Sampler | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> Iterator[Result]:
    """The results of `generate`, a batch at a time."""
    if num < 0:
        raise ConfigError(f"num is {num}; ask for 0 strings or more")
    if num == 0:
        return
    lengths = draw_lengths(loaded.language, num, length, seed)
    canvas = Canvas.blank(lengths, loaded.language.vocabulary, seeded(seed), loaded.device)
    filler = ready_sampler(sampler or SamplerConfig(), loaded)
    for rows in torch.arange(num, device=loaded.device).split(batch_size):
        yield from run_sampler(loaded, filler, canvas[rows], [None] * len(rows), batch_size, trace)


def draw_lengths(language: Language, num: int, length: int | tuple[int, int] | None, seed: int) -> list[int]:
    """`num` lengths in symbols: the one given, or drawn from the language's distribution within a range. CanvasError."""
    if isinstance(length, int):
        return [language.check_length(length)] * num
    low, high = length or (language.min_symbols, language.max_symbols)
    if low == high:
        return [language.check_length(low)] * num
    sizes = np.arange(language.max_symbols + 1)
    inside = (sizes >= low) & (sizes <= high)
    probs = np.where(inside, language.length_probs(), 0.0)
    if not probs.sum() > 0:  # no string has such a length yet; perhaps one may
        probs = np.where(inside, [math.exp(language.length_log_prob(n)) for n in sizes.tolist()], 0.0)
    if not probs.sum() > 0:
        raise CanvasError(
            f"length {low}..{high} is impossible for {language.name}: "
            f"its strings have {language.min_symbols} to {language.max_symbols} symbols"
        )
    drawn = np.random.default_rng([seed, 1]).choice(sizes, size=num, p=probs / probs.sum())
    return [int(n) for n in drawn]
