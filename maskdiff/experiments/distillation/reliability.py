"""Does a teacher's signal tell right tokens from wrong ones? The question behind the divergences, where truth is known.

A teacher's signal at a token is log p(teacher) - log p(student) of what the student said. It is reliable where wrong tokens
have less of it than right ones: the area under the ROC curve is the probability of that, one half for a signal that knows
nothing (the measure of 2605.21606, there with other labels). For: `Locating`, `token_labels`, `area`. Not for: environments
that only judge whole answers. Easy to get wrong: after the first wrong token of a step the rest of the step is neither right
nor wrong, and counts as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import Ids, Policy


@runtime_checkable
class Locating(Protocol):
    """An environment that knows where an answer goes wrong."""

    def located(self, problem: Problem, answer: str) -> list[bool | None]:
        """For each character whether it is right, given what stands before it; None where that cannot be said."""
        ...


def token_labels(policy: Policy, labels: Sequence[bool | None], answer: Ids) -> NDArray[np.float64]:
    """(tokens,) of an answer whose characters are labelled: 1 where all of a token's are right, 0 where one is wrong, else
    NaN.
    """
    ends = [len(policy.text(answer[: place + 1])) for place in range(len(answer))]
    made = np.full(len(answer), np.nan)
    for place, (start, end) in enumerate(zip([0, *ends], ends)):
        mine = labels[start:end]
        if False in mine:
            made[place] = 0.0
        elif mine and None not in mine:
            made[place] = 1.0
    return made


def area(signal: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The probability that a right token (1) has more of the signal than a wrong one (0), ties counting half; NaN without
    both.
    """
    known = np.isfinite(signal) & np.isfinite(right)
    good, bad = np.sort(signal[known & (right == 1.0)]), signal[known & (right == 0.0)]
    if not len(good) or not len(bad):
        return float("nan")
    below, upto = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    return float(1.0 - (below + upto).mean() / (2 * len(good)))


__all__ = ["Locating", "area", "token_labels"]
