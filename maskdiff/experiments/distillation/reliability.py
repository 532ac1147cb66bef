"""Does a teacher's signal separate right tokens from wrong ones?

The signal at a token is log p(teacher) - log p(student). It is reliable where wrong tokens have
less of it than right ones; the area under the ROC curve measures this (2605.21606, there with other
labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import Ids, Policy
from maskdiff.experiments.distillation.positions import Array


@runtime_checkable
class LabelsErrors(Protocol):
    """An environment that knows where an answer goes wrong."""

    def label_characters(self, problem: Problem, answer: str) -> list[bool | None]:
        """Return whether each character is right, given the text before it; None if unknown.

        The rest of a step after its first wrong character is unknown.
        """
        ...


def token_labels(policy: Policy, labels: Sequence[bool | None], answer: Ids) -> Array:
    """Return a label for each token of an answer: (tokens,).

    1 if all characters of the token are right, 0 if one is wrong, else NaN.
    """
    ends = [len(policy.text(answer[: place + 1])) for place in range(len(answer))]
    made = np.full(len(answer), np.nan)
    for place, (start, end) in enumerate(zip([0, *ends], ends)):
        characters = labels[start:end]
        if False in characters:
            made[place] = 0.0
        elif characters and None not in characters:
            made[place] = 1.0
    return made


def roc_area(signal: Array, right: Array) -> float:
    """Return the probability that a right token (1) has more of the signal than a wrong one (0).

    Ties count half. NaN where one kind is missing.
    """
    known = np.isfinite(signal) & np.isfinite(right)
    good, bad = np.sort(signal[known & (right == 1.0)]), signal[known & (right == 0.0)]
    if not len(good) or not len(bad):
        return float("nan")
    below, upto = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    return float(1.0 - (below + upto).mean() / (2 * len(good)))


__all__ = ["LabelsErrors", "roc_area", "token_labels"]
