"""Which tentative tokens to hide again: ReMDM in the unmasking loop, `Reconsider` between runs.

Hiding costs evaluations. ReMDM stays within its budget because the loop commits as many more as it
hides; `Reconsider` spends one (or two) itself and leaves at least one to refill. Known tokens are
never hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from maskdiff.drawing.logits import allowed_symbols, is_blank, log_distribution, pick
from maskdiff.drawing.random import Purpose, position_noise
from maskdiff.errors import ConfigError
from maskdiff.models.denoiser import Denoiser
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.leave_out import leave_out
from maskdiff.sampling.order import rank
from maskdiff.sampling.schedule import Clock
from maskdiff.sampling.stage import Stage, evaluations_left


class Remask(Protocol):
    """Chooses tokens to hide while a canvas fills."""

    def __call__(self, clock: Clock, committed: Tensor, log_prob: Tensor) -> Tensor:
        """(batch, width) bool: tokens to hide.

        Args:
            clock: Where each string stands in its stage.
            committed: (batch, width) bool.
            log_prob: (batch, width) of each token when it was committed.
        """
        ...


def _ceiling(clock: Clock) -> Tensor:
    """(batch,) the largest valid probability, min(1, (1 - alpha_s) / alpha_t) (2503.00307)."""
    alpha_t = (clock.total - clock.left) / clock.total
    return ((1 - clock.done) / alpha_t.clamp(min=1e-9)).clamp(max=1.0)


def _coins(clock: Clock, probability: Tensor, committed: Tensor) -> Tensor:
    """Independent coins of the committed positions; probability broadcasts to (batch, width)."""
    return committed & (
        position_noise(clock.keys, Purpose.REMASK, clock.step, committed.shape[1]) < probability
    )


@dataclass(frozen=True)
class Cap:
    """ReMDM-cap: every token with probability min(eta, (1 - alpha_s) / alpha_t)."""

    eta: float = 0.05

    def __call__(self, clock: Clock, committed: Tensor, log_prob: Tensor) -> Tensor:
        """See `Remask`."""
        return _coins(clock, _ceiling(clock).clamp(max=self.eta)[:, None], committed)


@dataclass(frozen=True)
class Rescale:
    """ReMDM-rescale: every token with probability eta (1 - alpha_s) / alpha_t."""

    eta: float = 0.05

    def __call__(self, clock: Clock, committed: Tensor, log_prob: Tensor) -> Tensor:
        """See `Remask`."""
        return _coins(clock, (self.eta * _ceiling(clock))[:, None], committed)


@dataclass(frozen=True)
class Confidence:
    """ReMDM-conf: the ceiling times softmax(-p), p of the token when it was committed."""

    eta: float = 1.0

    def __call__(self, clock: Clock, committed: Tensor, log_prob: Tensor) -> Tensor:
        """See `Remask`."""
        weight = (-log_prob.exp()).masked_fill(~committed, -torch.inf)
        share = torch.where(committed, weight.softmax(1), 0.0)
        return _coins(clock, self.eta * _ceiling(clock)[:, None] * share, committed)


@dataclass(frozen=True)
class Reconsider(Stage):
    """Scores the tentative tokens of a full canvas and hides the least plausible ones.

    A filling stage follows. The scores are, by name:

    - `visible`: one bidirectional evaluation that sees every token at noise level `sigma`, as in
      repair training;
    - `causal`: one evaluation of the causal mode, log p(token | tokens before it);
    - `leave_out`: two evaluations, each with every other tentative token hidden.

    Strings with blanks, or with too few evaluations left to score and refill, do not change.
    """

    score: Literal["visible", "causal", "leave_out"] = "visible"
    share: float = 0.2  # hide at most this share of the tentative tokens (rounded up)
    threshold: float = 0.5  # hide only tokens of less than this probability
    radius: int = 0  # hide the tentative neighbours within this distance, too
    sigma: float = 0.1  # noise level of the score `visible`
    steps: int = 12  # total evaluations of the string; 0: no limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold <= 1 or not 0 < self.share <= 1:
            raise ConfigError(
                f"share {self.share} and threshold {self.threshold} of a correction "
                "must be in (0, 1]"
            )

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """Hide; the canvas comes back with blanks."""
        cost = 2 if self.score == "leave_out" else 1
        blank = is_blank(canvas.tokens, denoiser.vocabulary).any(1)
        ready = (
            ~blank & (~canvas.known).any(1) & (evaluations_left(canvas.spent, self.steps, 0) > cost)
        )
        rows = ready.nonzero()[:, 0]
        if not len(rows):
            return Sample(canvas)
        part = canvas[rows].trim()
        tentative = ~part.known
        log_prob = self._score(denoiser, part)
        doubtful = tentative & (log_prob < math.log(self.threshold))
        most = (self.share * tentative.sum(1)).ceil()
        hide = doubtful & (rank(-log_prob, doubtful) < most[:, None])
        if self.radius:
            near = (
                max_pool1d(
                    hide.float()[:, None], 2 * self.radius + 1, stride=1, padding=self.radius
                )[:, 0]
                > 0
            )
            hide = near & tentative
        tokens = torch.where(hide, denoiser.vocabulary.mask, part.tokens)
        after = replace(part, tokens=tokens, visits=part.visits + hide, spent=part.spent + cost)
        return Sample(canvas.put(rows, after).recorded())

    def _score(self, denoiser: Denoiser, part: Canvas) -> Tensor:
        """(batch, width) log-probability of each tentative token of the canvas."""
        nothing = torch.zeros_like(part.suspect)
        allowed = allowed_symbols(part.tokens, denoiser.vocabulary)
        if self.score == "leave_out":
            odd = (torch.arange(part.tokens.shape[1], device=part.tokens.device) % 2).bool()
            halves = (~part.known & odd, ~part.known & ~odd)
            strings = part.tokens, part.length
            first, second = (leave_out(denoiser, *strings, half, allowed) for half in halves)
            return first + second
        sigma, causal = (nothing, True) if self.score == "causal" else (nothing + self.sigma, False)
        logits = denoiser(part.tokens, part.length, sigma, causal, None)
        return pick(log_distribution(logits, allowed), part.tokens)
