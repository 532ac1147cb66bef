"""Where a curve over deciles begins to be higher, and whether it does at all.

For: `find_onset`, tried on teachers whose corruption begins at a known place. Not for: what the curve means: one that rises
because later tokens are harder has an onset, too. Easy to get wrong: the split is chosen to be the best of nine, so its height
alone says nothing; the level is that of the best of nine splits of curves whose deciles were permuted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskdiff.experiments.distillation.positions import DECILES, mean_of

LEVEL = 0.01
PERMUTATIONS = 499


@dataclass(frozen=True)
class Onset:
    """decile: the first of the higher ones, 1 to 9; None where no rise is certain. p: its level. rise: mean after less
    before.
    """

    decile: int | None
    p: float
    rise: float


def find_onset(
    curves: NDArray[np.float64], rng: np.random.Generator, level: float = LEVEL
) -> Onset:
    """The step that fits the mean of `curves` (units, 10) best, if it rises: least squares, which is the likeliest in even
    noise.

    Its level is that among `PERMUTATIONS` permutations of the deciles within every unit. A unit's missing deciles are at its
    mean.
    """
    level_of = mean_of(curves.T)[:, None]
    whole = np.where(np.isfinite(curves), curves, level_of)
    whole = whole[np.isfinite(whole).all(1)]
    if not len(whole):
        return Onset(None, 1.0, 0.0)
    scores = _scores(whole.mean(0))
    best = int(scores.argmax())
    shuffled = rng.permuted(np.broadcast_to(whole, (PERMUTATIONS, *whole.shape)), axis=-1).mean(
        1
    )  # (permutations, 10)
    beaten = sum(_scores(curve).max() >= scores[best] for curve in shuffled)
    p = (1 + beaten) / (1 + PERMUTATIONS)
    mean = whole.mean(0)
    rise = float(mean[best + 1 :].mean() - mean[: best + 1].mean())
    return Onset(best + 1 if p <= level and rise > 0 else None, p, rise)


def _scores(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """(9,) what a step behind each decile explains of a curve (10,), 0 where it would fall."""
    n = np.arange(1, DECILES)
    before = curve.cumsum()[:-1] / n
    after = (curve.sum() - curve.cumsum()[:-1]) / (DECILES - n)
    return np.where(after > before, n * (DECILES - n) / DECILES * (after - before) ** 2, 0.0)


__all__ = ["LEVEL", "Onset", "find_onset"]
