"""The divergence of a teacher from a student at every position: the loss of self-distillation.

    names                          --divergence      --top_k  --tail  teacher
    the reference experiment       reverse           20       no      itself (average in training)
    SDPO as published (2601.20802) jensen-shannon    100      yes     moving average, rate 0.05

The top k tokens are the student's. Without `tail` both distributions are renormalised over them, so
that a teacher that prefers other tokens can seem to agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["reverse", "forward", "jensen-shannon"]
KINDS: tuple[Kind, ...] = ("reverse", "forward", "jensen-shannon")
LEAST = -1e30  # the log-probability of nothing that arithmetic survives


@dataclass(frozen=True)
class Divergence:
    """The divergence in nats at every position.

    Attributes:
        kind: "reverse" is KL(student || teacher), "forward" is KL(teacher || student), and
            "jensen-shannon" the mean of the KLs of both to their even mixture (at most ln 2; a
            quarter of the others for close distributions).
        top_k: Compare over the student's k likeliest tokens; 0 is the whole vocabulary.
        tail: Keep the probability of all other tokens as one more outcome, instead of
            renormalising over the top k.
    """

    kind: Kind = "reverse"
    top_k: int = 20
    tail: bool = False

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence: logits (..., vocab) twice -> (...), in float32 or better.

        No gradient reaches the teacher.
        """
        log_s, log_t = self.outcomes(student, teacher)
        if self.kind == "forward":
            return _kl(log_t, log_s)
        if self.kind == "jensen-shannon":
            return (_kl_to_mixture(log_s, log_t) + _kl_to_mixture(log_t, log_s)) / 2
        return _kl(log_s, log_t)

    def outcomes(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised log-probabilities that are compared: (..., outcomes) each."""
        log_s, log_t = (_wide(logits).log_softmax(-1) for logits in (student, teacher.detach()))
        if not 0 < self.top_k < student.shape[-1]:
            return log_s, log_t
        top = log_s.detach().topk(self.top_k, dim=-1).indices
        restrict = _with_tail if self.tail else _renormalised
        return restrict(log_s, top), restrict(log_t, top)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) over the last dimension; outcomes with p = 0 add nothing."""
    difference = torch.where(log_p > -math.inf, log_p - log_q, 0.0)
    return (log_p.exp() * difference).sum(-1)


def _kl_to_mixture(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || (p + q) / 2), exactly 0 where p = q; p = 0 adds no value and no gradient."""
    possible = log_p > -math.inf
    further = torch.where(possible, log_q, 0.0) - torch.where(possible, log_p, 0.0)
    # ln 2 as softplus rounds it
    even = F.softplus(torch.zeros((), dtype=log_p.dtype, device=log_p.device))
    return (log_p.exp() * torch.where(possible, even - F.softplus(further), 0.0)).sum(-1)


def _renormalised(log_p: Tensor, top: Tensor) -> Tensor:
    chosen = log_p.gather(-1, top)
    return chosen - chosen.logsumexp(-1, keepdim=True)


def _with_tail(log_p: Tensor, top: Tensor) -> Tensor:
    """Append the log-probability of all other tokens, summed, since 1 - sum p loses small ones."""
    others = log_p.scatter(-1, top, LEAST).clamp(min=LEAST)
    return torch.cat((log_p.gather(-1, top), others.logsumexp(-1, keepdim=True)), dim=-1)


__all__ = ["KINDS", "Divergence", "Kind"]
