"""From measurements to verdicts, by a rule that was written down before the figures.

A claim is a number that the thesis says is above zero, with a margin: the least that would matter. Of its 95% interval,

    supported      the whole interval lies above 0, and it reaches the margin
    not supported  the whole interval lies below the margin: an effect that matters is ruled out
    undecided      anything else: neither no effect nor one that matters is ruled out

For: `Claim`, `decide`, and the two bootstraps. Not for: what is claimed (`experiments/`). Easy to get wrong: answers to one
problem are alike, so that problems are resampled and never answers; where training ties the problems of a seed together, seeds
are resampled first and then problems within them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maskdiff.metrics import Estimate

Verdict = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True)
class Claim:
    """What the thesis predicts to be above zero.

    name: of the figure. text: what it would mean. values: one for each problem, NaN where it could not be measured. clusters:
    the seed of each, where its problems were trained on together; None where problems are independent. margin: the least that
    matters, in the unit of the values. control: whether this is what is left after controls, not the experiment as it was first
    described.
    """

    name: str
    text: str
    values: NDArray[np.float64]
    margin: float
    clusters: NDArray[np.int64] | None = None
    control: bool = False


@dataclass(frozen=True)
class Finding:
    """A claim with its estimate and verdict."""

    name: str
    text: str
    control: bool
    margin: float
    estimate: Estimate
    verdict: Verdict


def verdict_of(estimate: Estimate, margin: float) -> Verdict:
    """The rule of the module's docstring; an interval that is not known leaves it undecided."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "undecided"
    if estimate.high < margin:
        return "not supported"
    return "supported" if estimate.low > 0 else "undecided"


def decide(claim: Claim, rng: np.random.Generator, resamples: int) -> Finding:
    """Estimate and judge a claim."""
    estimate = estimated(claim.values, rng, resamples, claim.clusters)
    return Finding(claim.name, claim.text, claim.control, claim.margin, estimate, verdict_of(estimate, claim.margin))


def estimated(
    values: ArrayLike, rng: np.random.Generator, resamples: int, clusters: ArrayLike | Sequence[int] | None = None
) -> Estimate:
    """The mean of `values` (n,), NaN left out, with its bootstrap interval over units, or over clusters and then units.

    Fewer than three units, or two clusters, have no interval: it is (-inf, inf).
    """
    given = np.asarray(values, dtype=np.float64)
    known = np.isfinite(given)
    given = given[known]
    groups = np.zeros(len(given), dtype=np.int64) if clusters is None else np.asarray(clusters)[known]
    names, groups = np.unique(groups, return_inverse=True)
    if not len(given):
        return Estimate(math.nan, -math.inf, math.inf, 0)
    if len(given) < 3 or (clusters is not None and len(names) < 2):
        return Estimate(float(given.mean()), -math.inf, math.inf, len(given))
    sizes = np.bincount(groups)
    if clusters is None:
        weights = rng.multinomial(len(given), np.full(len(given), 1 / len(given)), resamples)  # (resamples, n)
        means = weights @ given / len(given)
    else:
        means = _two_stages(given, groups, sizes, rng, resamples)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(given.mean()), float(low), float(high), len(given))


def _two_stages(
    values: NDArray[np.float64], groups: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """(resamples,) means of as many clusters as there are, drawn again, each with as many of its units drawn again."""
    order = np.argsort(groups, kind="stable")
    starts = np.cumsum(sizes) - sizes
    means = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(0, len(sizes), len(sizes))
        within = np.repeat(chosen, sizes[chosen])
        means[i] = values[order[starts[within] + (rng.random(len(within)) * sizes[within]).astype(np.int64)]].mean()
    return means


__all__ = ["Claim", "Finding", "Verdict", "decide", "estimated", "verdict_of"]
