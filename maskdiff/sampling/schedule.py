"""Schedules: how many tokens to commit at an evaluation.

Fixed schedules spread the tokens over a number of evaluations (linear, cosine, ancestral). Adaptive
ones count what is certain enough (entropy bound, information, threshold), and never fewer than an
even pace. Which tokens commit is the order's decision (`order.py`).

Counts are per string. A string of 3 blanks with a budget of 12 evaluations needs 3, because every
evaluation commits at least one token. `Ancestral` is the exception: a string that commits nothing
waits without an evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maskdiff.drawing.logits import entropy
from maskdiff.drawing.random import Purpose, position_noise
from maskdiff.sampling.order import Proposal


@dataclass(frozen=True)
class Clock:
    """The progress of each string in its stage; all tensors are (batch,)."""

    initial: Tensor  # blanks when the stage began
    blanks: Tensor  # blanks now
    total: Tensor  # evaluations that the stage may use
    left: Tensor  # evaluations left, this one included; at least 1
    limited: Tensor  # bool: whether there is a budget; without one, total is the number of blanks
    keys: Tensor  # random keys
    step: Tensor  # counter of this evaluation for random numbers

    @property
    def done(self) -> Tensor:
        """Share of the evaluations that are over after this one, in (0, 1]."""
        return (self.total - self.left + 1) / self.total


class Schedule(Protocol):
    """How many tokens to commit."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """Return how many tokens to commit at least, (batch,), before the evaluation.

        A string with quota 0 is not evaluated. `free` (batch, width) marks the blank positions.
        """
        ...

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """Return how many tokens the evaluation allows, (batch,); it counts if above the quota.

        `place` (batch, width) is the rank of each position in the order.
        """
        ...


class FixedSchedule:
    """A schedule that does not depend on the evaluation."""

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """Return 0: nothing beyond the quota."""
        return torch.zeros_like(clock.blanks)


@dataclass(frozen=True)
class Linear(FixedSchedule):
    """The same number at every evaluation; one, where evaluations are not limited."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """ceil(blanks / evaluations left)."""
        return even_share(clock)


@dataclass(frozen=True)
class Cosine(FixedSchedule):
    """Few tokens first, many last (2202.04200).

    After evaluation k of K, floor(N cos(pi/2 k/K)) of N tokens stay blank.
    """

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """Down to the cosine's target, at least one."""
        target = clock.initial * torch.cos(clock.done * (math.pi / 2))
        remain = (target + 1e-3).floor().long()  # the rounding error of float32 is below 1e-4
        return (clock.blanks - remain).clamp(min=1)


@dataclass(frozen=True)
class Ancestral(FixedSchedule):
    """The reverse process of linear masking: every blank commits with probability 1 / evaluations
    left, independently of the others."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """A binomial draw, which may be 0."""
        coins = position_noise(clock.keys, Purpose.COUNT, clock.step, free.shape[1])
        return (free & (coins < 1 / clock.left[:, None])).sum(1)


@dataclass(frozen=True)
class Everything(FixedSchedule):
    """All blanks at once."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """As many as there are."""
        return free.sum(1)


@dataclass(frozen=True)
class EntropyBound:
    """The longest prefix of the order with sum H - max H <= gamma nats (2505.24857), under a cap.

    The cap is blanks / evaluations left: a run never commits fewer, so that it ends within its
    evaluations.
    """

    gamma: float

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """The cap."""
        return even_share(clock)

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """Length of the prefix."""
        return _longest_prefix(
            proposal, place, torch.full_like(clock.left, self.gamma, dtype=torch.float32)
        )


@dataclass(frozen=True)
class Information:
    """An equal share of the entropy: sum H - max H <= (sum H of all blanks) / evaluations left.

    This is the entropy bound with the gamma that spends the budget. Long runs of near-certain
    tokens cost no evaluation, and uncertain tokens get more of them. A string with an evaluation
    left for each blank commits one token at each.

    Attributes:
        gamma: The least bound, in nats.
        floor: The least share of the even pace (blanks / evaluations left) to commit, 0 to 1.
    """

    gamma: float = 0.0
    floor: float = 0.0

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """All blanks at the last evaluation; before it `floor` of the even pace, at least one."""
        pace = torch.where(clock.left == 1, 1.0, self.floor) * clock.blanks / clock.left
        return pace.ceil().long().clamp(min=1)

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """Length of the prefix."""
        total = entropy(proposal.log_probs).masked_fill(~proposal.eligible, 0).sum(1)
        short = clock.limited & (clock.blanks > clock.left)
        return _longest_prefix(
            proposal, place, torch.where(short, total / clock.left, 0.0).clamp(min=self.gamma)
        )


@dataclass(frozen=True)
class Threshold:
    """Every position whose likeliest token has at least this probability (Fast-dLLM, 2505.22618),
    under the cap of `EntropyBound`."""

    probability: float

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """The cap."""
        return even_share(clock)

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """How many positions are that certain."""
        sure = proposal.log_probs.amax(-1) >= math.log(self.probability)
        return (sure & proposal.eligible).sum(1)


def even_share(clock: Clock) -> Tensor:
    """Return ceil(blanks / evaluations left), (batch,)."""
    return (clock.blanks + clock.left - 1) // clock.left


def _longest_prefix(proposal: Proposal, place: Tensor, bound: Tensor) -> Tensor:
    """(batch,): the longest prefix of the ranking with sum H - max H <= `bound` (batch,)."""
    uncertainty = entropy(proposal.log_probs).clamp(min=0)
    by_place = place.argsort(dim=1)
    ranked = uncertainty.gather(1, by_place)
    # Bounds the nats by which the joint distribution and the product of the marginals differ.
    joint = ranked.cumsum(1) - ranked.cummax(1).values
    inside = (joint <= bound[:, None] + 1e-6) & proposal.eligible.gather(1, by_place)
    return inside.sum(1)
