"""How many tokens to commit at an evaluation.

For: plans over a number of evaluations (linear, cosine, ancestral), and adaptive counts (entropy bound, information,
threshold) under a cap.  Not for: which tokens (``order.py``).  Easy to get wrong: plans are per string.  A string of 3
blanks with a plan of 12 evaluations needs 3, because every evaluation commits at least one token (ancestral excepted, where
a string that commits nothing waits without an evaluation).
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
    """Where each string stands in its stage; all (batch,)."""

    initial: Tensor  # blanks when the stage began
    blanks: Tensor  # blanks now
    total: Tensor  # evaluations that the stage may use
    left: Tensor  # evaluations left, this one included; at least 1
    limited: Tensor  # bool: whether there is a budget; without one, total is the number of blanks
    keys: Tensor  # random keys
    step: Tensor  # counter of this evaluation for random numbers

    @property
    def done(self) -> Tensor:
        """Share of the plan that will be done after this evaluation, in (0, 1]."""
        return (self.total - self.left + 1) / self.total


class Schedule(Protocol):
    """A plan for the number of tokens to commit."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """(batch,) how many to commit at least; free (batch, width) says which positions are blank.

        Known before the evaluation: a string with quota 0 is not evaluated.
        """
        ...

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """(batch,) how many the evaluation allows, if more than the quota; place (batch, width) is each position's rank."""
        ...


class Plan:
    """A schedule that no evaluation changes."""

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """Nothing beyond the quota."""
        return torch.zeros_like(clock.blanks)


@dataclass(frozen=True)
class Linear(Plan):
    """The same number at every evaluation; one, where evaluations are not limited."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """ceil(blanks / evaluations left)."""
        return even_share(clock)


@dataclass(frozen=True)
class Cosine(Plan):
    """Few tokens first, many last: floor(N cos(pi/2 k/K)) stay blank after evaluation k of K (2202.04200)."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """Down to the cosine's target, at least one."""
        remain = (
            (clock.initial * torch.cos(clock.done * (math.pi / 2)) + 1e-3).floor().long()
        )  # float32 has 1e-4 of slack
        return (clock.blanks - remain).clamp(min=1)


@dataclass(frozen=True)
class Ancestral(Plan):
    """Every blank commits independently with probability 1 / evaluations left: the reverse process of linear masking."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """A binomial draw, 0 included."""
        coins = position_noise(clock.keys, Purpose.COUNT, clock.step, free.shape[1])
        return (free & (coins < 1 / clock.left[:, None])).sum(1)


@dataclass(frozen=True)
class Everything(Plan):
    """All blanks at once."""

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """As many as there are."""
        return free.sum(1)


@dataclass(frozen=True)
class EntropyBound:
    """The longest prefix of the order with sum H - max H <= gamma nats (2505.24857), under a cap.

    The cap: never fewer than blanks / evaluations left, so that a run ends within its evaluations; what the bound would
    refuse at the end is spread over what is left.
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
    """An equal share of the *entropy* that is left: sum H - max H <= (sum H of all blanks) / evaluations left.

    Long runs of near-certain tokens cost no evaluation, and the uncertain ones get them: the entropy bound with the gamma
    that spends the budget.  Strings with an evaluation left for each blank get one each.  ``gamma`` is the least bound,
    ``floor`` the least share of the even pace, blanks / evaluations left.
    """

    gamma: float = 0.0
    floor: float = 0.0

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """At least one, all at the last evaluation, between them a share of the even pace."""
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
    """Every position whose most likely token has at least this probability (Fast-dLLM, 2505.22618), under the same cap."""

    probability: float

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """The cap."""
        return even_share(clock)

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """How many are that certain."""
        sure = proposal.log_probs.amax(-1) >= math.log(self.probability)
        return (sure & proposal.eligible).sum(1)


def even_share(clock: Clock) -> Tensor:
    """ceil(blanks / evaluations left), (batch,)."""
    return (clock.blanks + clock.left - 1) // clock.left


def _longest_prefix(proposal: Proposal, place: Tensor, bound: Tensor) -> Tensor:
    """Length of the longest prefix of the ranking with sum H - max H <= bound (batch,); at least 1 for bounds >= 0."""
    uncertainty = entropy(proposal.log_probs).clamp(min=0)
    by_place = place.argsort(dim=1)
    ranked = uncertainty.gather(1, by_place)
    joint = (
        ranked.cumsum(1) - ranked.cummax(1).values
    )  # bounds the nats by which joint and product of marginals differ
    inside = (joint <= bound[:, None] + 1e-6) & proposal.eligible.gather(1, by_place)
    return inside.sum(1)
