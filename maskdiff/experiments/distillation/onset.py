"""The decile at which a curve steps up, if it does (change-point detection)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskdiff.experiments.distillation.positions import DECILES, Array, nan_mean

LEVEL = 0.01
PERMUTATIONS = 499


@dataclass(frozen=True)
class Onset:
    """A step in a curve.

    Attributes:
        decile: The first of the higher deciles, 1 to 9; None where the rise is not significant.
        p: The p-value.
        rise: The mean after the step minus the mean before it.
    """

    decile: int | None
    p: float
    rise: float


def find_onset(curves: Array, rng: np.random.Generator, level: float = LEVEL) -> Onset:
    """Return the upward step that fits the mean of `curves` (units, 10) best by least squares.

    The step is the best of nine, so its p-value compares it with the best of nine in
    `PERMUTATIONS` permutations of the deciles within every unit. A missing decile has the mean of
    its unit.
    """
    filled = np.where(np.isfinite(curves), curves, nan_mean(curves.T)[:, None])
    filled = filled[np.isfinite(filled).all(1)]
    if not len(filled):
        return Onset(None, 1.0, 0.0)
    mean = filled.mean(0)
    scores = _scores(mean)
    best = int(scores.argmax())
    shuffled = rng.permuted(np.broadcast_to(filled, (PERMUTATIONS, *filled.shape)), axis=-1)
    means = shuffled.mean(1)  # (permutations, 10)
    p = (1 + sum(_scores(curve).max() >= scores[best] for curve in means)) / (1 + PERMUTATIONS)
    rise = float(mean[best + 1 :].mean() - mean[: best + 1].mean())
    return Onset(best + 1 if p <= level and rise > 0 else None, p, rise)


def _scores(curve: Array) -> Array:
    """Return what an upward step after each decile explains of a curve: (10,) -> (9,)."""
    n = np.arange(1, DECILES)
    before = curve.cumsum()[:-1] / n
    after = (curve.sum() - curve.cumsum()[:-1]) / (DECILES - n)
    return np.where(after > before, n * (DECILES - n) / DECILES * (after - before) ** 2, 0.0)


__all__ = ["LEVEL", "Onset", "find_onset"]
