"""Self-distillation: steps of a student towards what its teacher, who knows more, says of its answers (SDPO, 2601.20802).

    loss = mean over the compared places t of all answers s of D(student(. | p, s_<t), teacher(. | q, a_<t'))

For standard SDPO q is the problem with feedback and a = s; with regeneration q also holds the attempt s and a = s' is the
teacher's own answer. Answers are drawn anew for every step from the student as it is, so that importance ratios are 1 and there
is nothing to clip. For: `Trainer`. Not for: drawing answers (`study.py`). Easy to get wrong: weights of half precision never
move by steps of 1e-6; the trainer keeps float32 copies of them, and steps those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskdiff.config import DistillationConfig
from maskdiff.errors import DataError
from maskdiff.experiments.distillation.compare import Pair, chunks, student_logits, teacher_logits
from maskdiff.experiments.distillation.divergence import Divergence
from maskdiff.experiments.distillation.policy import Policy

Window = Literal["full", "first", "last"]
WINDOWS: tuple[Window, ...] = ("full", "first", "last")
SILENT = 1e-7  # a gradient up to this length is rounding: a step would make as much of it as of any other
OWN_LR, LARGE_LR = 1e-4, 1e-6


@dataclass(frozen=True)
class Stepped:
    """One step: its loss in nats a place, the norm of its gradient before it was clipped or scaled, and the places."""

    loss: float
    norm: float
    places: int


class Masters:
    """Float32 copies of weights of less precision, which an optimiser steps in their place."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.copies = [
            weight.detach().float().requires_grad_() if half(weight) else weight
            for weight in weights
        ]

    def take_gradients(self) -> None:
        """Hand the weights' gradients to the copies."""
        for weight, copy in zip(self.weights, self.copies, strict=True):
            if copy is not weight:
                copy.grad = None if weight.grad is None else weight.grad.float()

    @torch.no_grad()
    def give_weights(self) -> None:
        """Round the copies to the weights."""
        for weight, copy in zip(self.weights, self.copies, strict=True):
            if copy is not weight:
                weight.copy_(copy)


def half(weight: Tensor) -> bool:
    """Whether a weight has less than float32's precision."""
    return weight.dtype.itemsize < 4


def divergence_of(config: DistillationConfig, **changes: object) -> Divergence:
    """The configured divergence."""
    settings: dict[str, object] = {
        "kind": config.divergence,
        "top_k": config.top_k,
        "tail": config.tail,
        **changes,
    }
    return Divergence(**settings)  # type: ignore[arg-type]


def in_window(length: int, window: Window) -> list[bool]:
    """Which places of an answer are in its first or last half, or in the whole; a middle place is in the first half."""
    return [
        window == "full" or (2 * place < length) == (window == "first") for place in range(length)
    ]


class Trainer:
    """Steps a policy's weights in place; AdamW. With `norm`, every gradient is scaled to that norm instead of being clipped."""

    def __init__(self, policy: Policy, config: DistillationConfig) -> None:
        self.policy, self.config = policy, config
        self.divergence = divergence_of(config)
        self.masters = Masters(
            [weight for weight in policy.module.parameters() if weight.requires_grad]
        )
        self.lr = config.lr or (LARGE_LR if policy.large else OWN_LR)
        self.optimizer = torch.optim.AdamW(
            self.masters.copies, lr=self.lr, weight_decay=config.weight_decay
        )
        self.teacher: Policy = policy if config.teacher == "self" else policy.twin()
        self.averages = (
            Masters(list(self.teacher.module.parameters())) if config.teacher == "ema" else None
        )

    def step(
        self, pairs: Sequence[Pair], window: Window = "full", norm: float | None = None
    ) -> Stepped:
        """One step; none where there is no place to compare (its loss is 0), or nothing to learn."""
        inside = [
            [
                kept and here
                for kept, here in zip(
                    pair.compared, in_window(len(pair.answer), window), strict=True
                )
            ]
            for pair in pairs
        ]
        places = sum(map(sum, inside))
        if not places:
            return Stepped(0.0, 0.0, 0)
        self.policy.module.zero_grad(set_to_none=True)
        total, start = 0.0, 0
        with torch.enable_grad():
            for group in chunks(pairs, self.policy.size):
                loss = self._loss(group, inside[start : start + len(group)], places)
                loss.backward()
                total, start = total + float(loss.detach()), start + len(group)
        self.masters.take_gradients()
        length = self._scale(norm)
        if length <= SILENT:
            return Stepped(total, length, places)
        self.optimizer.step()
        self.masters.give_weights()
        self._teach()
        return Stepped(total, length, places)

    def _loss(self, group: Sequence[Pair], inside: Sequence[Sequence[bool]], places: int) -> Tensor:
        student = student_logits(self.policy, group)
        nats = self.divergence(student, teacher_logits(self.teacher, group))  # (batch, places)
        kept = torch.tensor(
            [[*row, *[False] * (nats.shape[1] - len(row))] for row in inside], device=nats.device
        )
        return torch.where(kept, nats, 0.0).sum() / places

    def _scale(self, norm: float | None) -> float:
        """Clip the gradient, or scale it to `norm`; its norm before."""
        limit = norm if norm is not None else self.config.grad_clip
        gradients = [weight.grad for weight in self.masters.copies if weight.grad is not None]
        length = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        if not math.isfinite(length):
            raise DataError(
                "a gradient is no number; lower --lr, or load the model with --dtype float32"
            )
        if limit and length > (0.0 if norm is not None else limit):
            for gradient in gradients:
                gradient.mul_(limit / length)
        return length

    @torch.no_grad()
    def _teach(self) -> None:
        """Let an averaged teacher take over its share of the student's weights."""
        if self.averages is None:
            return
        for theirs, ours in zip(self.averages.copies, self.policy.module.parameters(), strict=True):
            theirs.lerp_(ours.to(theirs), self.config.teacher_rate)
        self.averages.give_weights()


__all__ = [
    "LARGE_LR",
    "OWN_LR",
    "WINDOWS",
    "Masters",
    "Stepped",
    "Trainer",
    "Window",
    "divergence_of",
    "in_window",
]
