"""How far a student is from its teacher at every position: the loss of self-distillation, and what the experiments measure.

    names                          --divergence      --top_k  --tail  teacher
    the reference experiment       reverse           20       no      itself (exponential average in its trainer)
    SDPO as published (2601.20802) jensen-shannon    100      yes     exponential average, rate 0.05

For: `Divergence`. Not for: which positions count, or how they are averaged (`trainer.py`). Easy to get wrong: the k tokens are
the *student's* likeliest, so what the teacher alone would say is in the tail, and without `tail` it is nowhere: both are
renormalised over the k, and a teacher that wants something else entirely can seem to agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["reverse", "forward", "jensen-shannon"]
LEAST = -1e30  # a log-probability of nothing that arithmetic survives
KINDS: tuple[Kind, ...] = ("reverse", "forward", "jensen-shannon")


@dataclass(frozen=True)
class Divergence:
    """Nats between student and teacher at every position.

    kind: reverse is KL(student || teacher), forward KL(teacher || student), jensen-shannon the mean of the KLs of both to their
    even mixture (at most ln 2; a quarter of the others for close distributions). top_k: over the student's k
    likeliest tokens; 0, or as many as there are, is the whole vocabulary. tail: with one more outcome, everything else; without
    it, both are renormalised over the k.
    """

    kind: Kind = "reverse"
    top_k: int = 20
    tail: bool = False

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """student, teacher (..., vocab) logits -> (...) nats, in float32 or better; no gradient reaches the teacher."""
        log_s, log_t = self.outcomes(student, teacher)
        if self.kind == "forward":
            return _kl(log_t, log_s)
        if self.kind == "jensen-shannon":
            return (_kl_to_middle(log_s, log_t) + _kl_to_middle(log_t, log_s)) / 2
        return _kl(log_s, log_t)

    def outcomes(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of what is told apart, (..., outcomes) each; they sum to one."""
        log_s, log_t = (_wide(logits).log_softmax(-1) for logits in (student, teacher.detach()))
        if not 0 < self.top_k < student.shape[-1]:
            return log_s, log_t
        top = log_s.detach().topk(self.top_k, dim=-1).indices
        close = _with_tail if self.tail else _renormalised
        return close(log_s, top), close(log_t, top)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension; what p gives nothing to costs nothing."""
    difference = torch.where(log_p > -math.inf, log_p - log_q, 0.0)
    return (log_p.exp() * difference).sum(-1)


def _kl_to_middle(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || (p + q) / 2), exactly 0 where p and q are the same; impossible outcomes have neither value nor gradient."""
    possible = log_p > -math.inf
    further = torch.where(possible, log_q, 0.0) - torch.where(possible, log_p, 0.0)
    even = F.softplus(
        torch.zeros((), dtype=log_p.dtype, device=log_p.device)
    )  # ln 2 as softplus rounds it
    return (log_p.exp() * torch.where(possible, even - F.softplus(further), 0.0)).sum(-1)


def _renormalised(log_p: Tensor, top: Tensor) -> Tensor:
    chosen = log_p.gather(-1, top)
    return chosen - chosen.logsumexp(-1, keepdim=True)


def _with_tail(log_p: Tensor, top: Tensor) -> Tensor:
    """With the log-probability of everything else: summed, since 1 - sum p loses what is small."""
    others = log_p.scatter(-1, top, LEAST).clamp(min=LEAST)
    return torch.cat((log_p.gather(-1, top), others.logsumexp(-1, keepdim=True)), dim=-1)


__all__ = ["KINDS", "Divergence", "Kind"]
