"""Positions of an answer: deciles, and two alignments of a student's answer with its teacher's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ids = Sequence[int]

DECILES = 10
NO_PARTNER = -1
Align = Callable[[Ids, Ids], list[int]]  # answer, other -> a partner for each place of the answer


def ordinal(answer: Ids, other: Ids) -> list[int]:
    """Align each place of `answer` with the same place of `other`; NO_PARTNER after its end."""
    return [place if place < len(other) else NO_PARTNER for place in range(len(answer))]


def edit_aligned(answer: Ids, other: Ids, least: int = 3) -> list[int]:
    """Align places of `answer` and `other` that follow the same tokens.

    The context is the same for `least` tokens, or since the beginning. The tokens that follow it
    may differ: to require equal ones would select the places where the other author agreed. (What
    the longest matches are still depends a little on it: unrelated texts agree at 46 % of aligned
    places over an alphabet of four, where 25 % is chance.) Other places have NO_PARTNER.
    """
    partners = [NO_PARTNER] * len(answer)
    if answer and other:
        partners[0] = 0  # both follow the empty context
    for block in SequenceMatcher(None, answer, other, autojunk=False).get_matching_blocks():
        first = 0 if block.a == block.b == 0 else least
        for k in range(first, block.size + 1 if block.size >= first else 0):
            if block.a + k < len(answer) and block.b + k < len(other):
                partners[block.a + k] = block.b + k
    return partners


def decile(length: int) -> NDArray[np.int64]:
    """Return the decile of each place of an answer, floor(10 t / length): (length,)."""
    return DECILES * np.arange(length) // max(1, length)


def decile_means(values: Sequence[float] | Array) -> Array:
    """Return the mean of each decile, ignoring NaN: (10,); NaN where a decile has no value."""
    given = np.asarray(values, dtype=np.float64)
    known = np.isfinite(given)
    where = decile(len(given))[known]
    counts = np.bincount(where, minlength=DECILES)
    sums = np.bincount(where, weights=given[known], minlength=DECILES)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def nan_mean(curves: Array) -> Array:
    """Return the mean over the first axis, ignoring NaN: (n, ...) -> (...)."""
    known = np.isfinite(curves)
    counts = known.sum(0)
    return np.where(counts > 0, np.where(known, curves, 0.0).sum(0) / np.maximum(counts, 1), np.nan)


def late_minus_early(curves: Array) -> Array:
    """Return the mean of the last five deciles minus that of the first: (..., 10) -> (...)."""
    halves = np.moveaxis(curves, -1, 0).reshape(2, DECILES // 2, *curves.shape[:-1])
    return nan_mean(halves[1]) - nan_mean(halves[0])


__all__ = [
    "DECILES", "NO_PARTNER", "Align", "Array", "decile", "decile_means", "edit_aligned",
    "late_minus_early", "nan_mean", "ordinal",
]  # fmt: skip
