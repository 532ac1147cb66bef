"""Orders: which blank positions to commit first.

An order turns one evaluation into a score for every position; the highest scores commit. How many
commit is the schedule's decision (`schedule.py`). To add an order, write a function here and enter
it in `ORDERS`.

An order that looks at the candidate (`confidence`) biases the sample towards its mode, even at one
token an evaluation. Orders that look at the distribution alone, or at nothing, do not (for a
consistent model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from maskdiff.drawing.logits import entropy, pick
from maskdiff.drawing.random import Purpose, gumbel_of, position_noise


@dataclass(frozen=True)
class Proposal:
    """What one evaluation proposes for a batch of strings."""

    log_probs: Tensor  # (batch, width, vocab) over the allowed symbols, at temperature 1
    candidate: Tensor  # (batch, width) int64, the token that would be written
    eligible: Tensor  # (batch, width) bool, positions that may be committed now
    keys: Tensor  # (batch,) int64
    step: Tensor  # (batch,) int64, counter of this evaluation for random numbers

    def noise(self, purpose: Purpose) -> Tensor:
        """Uniform numbers (batch, width)."""
        return position_noise(self.keys, purpose, self.step, self.candidate.shape[1])


Order = Callable[[Proposal], Tensor]  # -> (batch, width), higher commits earlier


def confidence(proposal: Proposal) -> Tensor:
    """Log-probability of the candidate token (MaskGIT, 2202.04200)."""
    return pick(proposal.log_probs, proposal.candidate)


def top(proposal: Proposal) -> Tensor:
    """Log-probability of the most likely token (the confidence of the reference experiment)."""
    return proposal.log_probs.amax(-1)


def by_entropy(proposal: Proposal) -> Tensor:
    """Most certain position first."""
    return -entropy(proposal.log_probs)


def margin(proposal: Proposal) -> Tensor:
    """Largest gap between the two most likely tokens first (2502.06768)."""
    best = proposal.log_probs.exp().topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def random(proposal: Proposal) -> Tensor:
    """A uniformly random position, redrawn at every evaluation: ancestral sampling's order."""
    return proposal.noise(Purpose.ORDER)


def left_to_right(proposal: Proposal) -> Tensor:
    """The first blank first."""
    positions = torch.arange(proposal.candidate.shape[1], device=proposal.candidate.device)
    return -positions.expand(proposal.candidate.shape).float()


def dilated(proposal: Proposal) -> Tensor:
    """Van der Corput order of the positions (8 bits), so that far-apart positions commit together
    (after 2506.19037)."""
    positions = torch.arange(proposal.candidate.shape[1], device=proposal.candidate.device)
    reversed_bits = sum(((positions >> bit) & 1) << (7 - bit) for bit in range(8))
    assert isinstance(reversed_bits, Tensor)
    return -(reversed_bits + (positions >> 8) * 1e-3).expand(proposal.candidate.shape).float()


ORDERS: dict[str, Order] = {
    "confidence": confidence,
    "top": top,
    "entropy": by_entropy,
    "margin": margin,
    "random": random,
    "left_to_right": left_to_right,
    "dilated": dilated,
}


def tempered_choice(score: Tensor, proposal: Proposal, tau: Tensor) -> Tensor:
    """Return `score` plus Gumbel noise of scale `tau` (batch,), as in MaskGIT (2202.04200)."""
    noise = gumbel_of(proposal.noise(Purpose.CHOICE))
    return score + tau[:, None] * noise.to(score.dtype)


def first_blanks(eligible: Tensor, window: Tensor) -> Tensor:
    """Return (batch, width) bool: the first `window` (batch,) eligible positions of each
    string."""
    return eligible & (eligible.cumsum(1) <= window[:, None])


def rank(score: Tensor, eligible: Tensor, spacing: int = 0) -> Tensor:
    """Return the place of each position, (batch, width): 0 commits first.

    Ineligible positions come last, and of equal scores the left one comes first. With `spacing` d,
    positions that are the best within d tokens on both sides come first, then the best among the
    rest, and so on: a greedy choice of far-apart positions in three vectorised rounds.
    """
    score = score.masked_fill(~eligible, -torch.inf)
    tier = torch.zeros_like(score)
    if spacing:
        # Places, because equal scores would all be the best of their neighbourhood.
        rest, free = _places(score), eligible
        for value in (3.0, 2.0, 1.0):
            best = free & (rest == _neighbourhood_max(rest, spacing))
            tier = torch.where(best, value, tier)
            # The next round may not choose a neighbour of an earlier choice.
            near = _neighbourhood_max((tier > 0).to(score), spacing) > 0
            free = free & ~near
            rest = rest.masked_fill(~free, -torch.inf)
    by_score = score.argsort(dim=1, descending=True, stable=True)
    order = by_score.gather(
        1, tier.gather(1, by_score).argsort(dim=1, descending=True, stable=True)
    )
    places = torch.arange(score.shape[1], device=score.device).expand(score.shape)
    return torch.empty_like(order).scatter(1, order, places)


def _places(score: Tensor) -> Tensor:
    """(batch, width) float: the rank of each score from below; of equal scores the left is
    higher."""
    order = score.argsort(dim=1, descending=True, stable=True)
    places = -torch.arange(score.shape[1], device=score.device, dtype=score.dtype).expand(
        score.shape
    )
    return torch.empty_like(score).scatter(1, order, places)


def _neighbourhood_max(x: Tensor, radius: int) -> Tensor:
    """(batch, width): the largest value within `radius` positions of each."""
    return max_pool1d(x[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]
