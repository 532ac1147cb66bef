"""Where in an answer something is, and which place of another answer it is compared with.

For: deciles, and the two alignments of a student's answer with its teacher's. Not for: what is compared. Easy to get wrong:
once two answers part, equal places hold different texts, so that ordinal alignment compares what has nothing to do with each
other; and a decile is one of the *student's* answer, so what lies beyond a shorter partner is missing, and never moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

DECILES = 10
NONE = -1  # partner of a place that has none
Align = Callable[
    [Sequence[int], Sequence[int]], list[int]
]  # answer, other -> a partner for each place of the answer


def ordinal(answer: Sequence[int], other: Sequence[int]) -> list[int]:
    """For each place of `answer` the same place of `other`, NONE beyond its end."""
    return [place if place < len(other) else NONE for place in range(len(answer))]


def edit_aligned(answer: Sequence[int], other: Sequence[int], least: int = 3) -> list[int]:
    """For each place of `answer` the place of `other` behind the same tokens: `least` of them, or all since the beginning.

    Matching tokens are found in order. What is compared is what *follows* them, whether that is the same or not: to ask for the
    same would choose the places where the other's author happened to agree. (What the longest matches are still depends a
    little on it: texts that share nothing agree at 46% of such places over an alphabet of four, where 25% is chance.) NONE
    where nothing matches.
    """
    partners = [NONE] * len(answer)
    if answer and other:
        partners[0] = 0  # behind the same beginning, which is empty
    for block in SequenceMatcher(None, answer, other, autojunk=False).get_matching_blocks():
        begun = 0 if block.a == block.b == 0 else least
        for k in range(begun, block.size + 1 if block.size >= begun else 0):
            if block.a + k < len(answer) and block.b + k < len(other):
                partners[block.a + k] = block.b + k
    return partners


def decile(length: int) -> NDArray[np.int64]:
    """(length,) decile of each place: floor(10 t / length)."""
    return DECILES * np.arange(length) // max(1, length)


def decile_means(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(10,) mean of what stands in each decile, NaN left out; NaN where nothing does."""
    given = np.asarray(values, dtype=np.float64)
    known = np.isfinite(given)
    where = decile(len(given))[known]
    counts = np.bincount(where, minlength=DECILES)
    sums = np.bincount(where, weights=given[known], minlength=DECILES)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def mean_of(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, ...) -> (...): the mean over the first axis, NaN left out; NaN where nothing is left."""
    known = np.isfinite(curves)
    counts = known.sum(0)
    return np.where(counts > 0, np.where(known, curves, 0.0).sum(0) / np.maximum(counts, 1), np.nan)


def late_minus_early(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 10) -> (...): mean of the last five deciles minus mean of the first five, NaN left out."""
    halves = np.moveaxis(curves, -1, 0).reshape(2, DECILES // 2, *curves.shape[:-1])
    return mean_of(halves[1]) - mean_of(halves[0])


__all__ = [
    "DECILES",
    "NONE",
    "Align",
    "decile",
    "decile_means",
    "edit_aligned",
    "late_minus_early",
    "mean_of",
    "ordinal",
]
