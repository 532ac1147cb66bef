"""From measurements to verdicts, by a rule that was written down before the figures.

A claim is a number that the thesis says is above zero, with a margin: the least that would matter. Of its 95% interval,

    supported      the whole interval lies above 0, and it reaches the margin
    not supported  the whole interval lies below the margin: an effect that matters is ruled out
    undecided      anything else: neither no effect nor one that matters is ruled out; and instead of "not supported" where what
                   is compared is itself, on average, smaller than the margin (not `seen`): there is too little to see

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

from maskdiff.metrics import Z95, Estimate

FEWEST = 3  # units, or clusters, that have an interval
Verdict = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True)
class Claim:
    """What the thesis predicts to be above zero.

    name: of the figure. text: what it would mean. values: one for each problem, NaN where it could not be measured. clusters:
    the seed of each, where its problems were trained on together; None where problems are independent. margin: the least that
    matters, in the unit of the values. seen: whether what is compared is as large as the margin at all. control: whether this
    is what is left after controls, not the experiment as it was first described.
    """

    name: str
    text: str
    values: NDArray[np.float64]
    margin: float
    clusters: NDArray[np.int64] | None = None
    control: bool = False
    seen: bool = True


@dataclass(frozen=True)
class Finding:
    """A claim with its estimate and verdict."""

    name: str
    text: str
    control: bool
    margin: float
    estimate: Estimate
    verdict: Verdict
    seen: bool = True


def verdict_of(estimate: Estimate, margin: float, seen: bool = True) -> Verdict:
    """The rule of the module's docstring; an interval that is not known leaves it undecided."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "undecided"
    if estimate.high < margin:
        return "not supported" if seen else "undecided"
    return "supported" if estimate.low > 0 else "undecided"


def decide(claim: Claim, rng: np.random.Generator, resamples: int) -> Finding:
    """Estimate and judge a claim."""
    estimate = estimated(claim.values, rng, resamples, claim.clusters)
    verdict = verdict_of(estimate, claim.margin, claim.seen)
    return Finding(
        claim.name, claim.text, claim.control, claim.margin, estimate, verdict, claim.seen
    )


def estimated(
    values: ArrayLike,
    rng: np.random.Generator,
    resamples: int,
    clusters: ArrayLike | Sequence[int] | None = None,
) -> Estimate:
    """The mean of `values` (n,), NaN left out, with its 95% bootstrap interval over units, or over clusters and then units.

    A bootstrap of few is too narrow: the interval is stretched about the mean by the ratio of Student's quantile to the normal
    one and by sqrt(k / (k - 1)), k units or clusters. Fewer than `FEWEST` of them have no interval: it is (-inf, inf).
    """
    given = np.asarray(values, dtype=np.float64)
    known = np.isfinite(given)
    given = given[known]
    groups = np.arange(len(given)) if clusters is None else np.asarray(clusters)[known]
    names, groups = np.unique(groups, return_inverse=True)
    if not len(given):
        return Estimate(math.nan, -math.inf, math.inf, 0)
    middle, k = float(given.mean()), len(names)
    if k < FEWEST:
        return Estimate(middle, -math.inf, math.inf, len(given))
    if clusters is None:
        weights = rng.multinomial(k, np.full(k, 1 / k), resamples)  # (resamples, n)
        means = weights @ given / k
    else:
        means = _two_stages(given, groups, np.bincount(groups), rng, resamples)
    low, high = np.percentile(means, (2.5, 97.5))
    stretch = student_quantile(k - 1) / Z95 * math.sqrt(k / (k - 1))
    return Estimate(
        middle,
        middle + stretch * (float(low) - middle),
        middle + stretch * (float(high) - middle),
        len(given),
    )


def student_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's distribution, to 3% at 2 degrees of freedom and 0.1% from 5 on (Fisher's expansion)."""
    z, n = Z95, float(freedom)
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third


def _two_stages(
    values: NDArray[np.float64],
    groups: NDArray[np.int64],
    sizes: NDArray[np.int64],
    rng: np.random.Generator,
    resamples: int,
) -> NDArray[np.float64]:
    """(resamples,) means of as many clusters as there are, drawn again, each with as many of its units drawn again."""
    order = np.argsort(groups, kind="stable")
    starts = np.cumsum(sizes) - sizes
    means = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(0, len(sizes), len(sizes))
        within = np.repeat(chosen, sizes[chosen])
        means[i] = values[
            order[starts[within] + (rng.random(len(within)) * sizes[within]).astype(np.int64)]
        ].mean()
    return means


__all__ = ["Claim", "Finding", "Verdict", "decide", "estimated", "student_quantile", "verdict_of"]
