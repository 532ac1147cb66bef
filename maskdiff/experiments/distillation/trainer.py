"""Self-distillation: steps of a student towards a teacher with feedback (SDPO, 2601.20802).

    loss = mean over compared places t of D(student(. | p, s_<t), teacher(. | q, a_<t'))

In standard SDPO q is the problem with feedback and a = s. With regeneration q also holds the answer
s, and a = s' is the teacher's own answer. Every step samples new answers from the current student,
so importance ratios are 1 and there is nothing to clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskdiff.config import DistillationConfig
from maskdiff.errors import DataError
from maskdiff.experiments.distillation.compare import (
    Pair,
    pair_batches,
    student_logits,
    teacher_logits,
)
from maskdiff.experiments.distillation.policy import Policy
from maskdiff.experiments.distillation.rollouts import make_divergence

Window = Literal["full", "first", "last"]
WINDOWS: tuple[Window, ...] = ("full", "first", "last")
MIN_NORM = 1e-7  # gradients up to this norm are rounding errors, which AdamW would scale up
OWN_LR, LARGE_LR = 1e-4, 1e-6


@dataclass(frozen=True)
class StepResult:
    """A step's loss in nats a place, its gradient norm before clipping, and its places."""

    loss: float
    norm: float
    places: int


class MasterWeights:
    """Float32 copies of low-precision weights, which the optimizer steps instead.

    Half-precision weights do not move by steps of 1e-6.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.copies = [
            weight.detach().float().requires_grad_() if is_low_precision(weight) else weight
            for weight in weights
        ]

    def copy_gradients(self) -> None:
        """Copy the weights' gradients to the master weights."""
        for weight, copy in zip(self.weights, self.copies, strict=True):
            if copy is not weight:
                copy.grad = None if weight.grad is None else weight.grad.float()

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the master weights to the weights."""
        for weight, copy in zip(self.weights, self.copies, strict=True):
            if copy is not weight:
                weight.copy_(copy)


def is_low_precision(weight: Tensor) -> bool:
    """Return whether a weight has less than float32's precision."""
    return weight.dtype.itemsize < 4


def in_window(length: int, window: Window) -> list[bool]:
    """Return which places of an answer are in the window; a middle place is in the first half."""
    return [
        window == "full" or (2 * place < length) == (window == "first") for place in range(length)
    ]


@contextmanager
def preserved_weights(policy: Policy) -> Iterator[None]:
    """Restore the policy's weights at the end of the block."""
    kept = [weight.detach().clone() for weight in policy.module.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(policy.module.parameters(), kept, strict=True):
                weight.copy_(before)


class DistillationTrainer:
    """Trains a policy's weights in place with AdamW."""

    def __init__(self, policy: Policy, config: DistillationConfig) -> None:
        self.policy, self.config = policy, config
        self.divergence = make_divergence(config)
        trained = [weight for weight in policy.module.parameters() if weight.requires_grad]
        self.masters = MasterWeights(trained)
        self.lr = config.lr or (LARGE_LR if policy.large else OWN_LR)
        self.optimizer = torch.optim.AdamW(
            self.masters.copies, lr=self.lr, weight_decay=config.weight_decay
        )
        self.teacher: Policy = policy if config.teacher == "self" else policy.twin()
        self.averages = (
            MasterWeights(list(self.teacher.module.parameters()))
            if config.teacher == "ema"
            else None
        )

    def step(
        self, pairs: Sequence[Pair], window: Window = "full", norm: float | None = None
    ) -> StepResult:
        """Do one step; none where no place is compared or the gradient is zero.

        Args:
            pairs: The answers of the step.
            window: The part of the answers whose places count.
            norm: If given, gradients are scaled to this norm instead of being clipped.

        Raises:
            DataError: For a gradient that is not finite.
        """
        kept = [
            [compared and inside for compared, inside in zip(pair.compared, window_of)]
            for pair in pairs
            for window_of in [in_window(len(pair.answer), window)]
        ]
        places = sum(map(sum, kept))
        if not places:
            return StepResult(0.0, 0.0, 0)
        # Accumulate gradients over batches.
        self.policy.module.zero_grad(set_to_none=True)
        total, start = 0.0, 0
        with torch.enable_grad():
            for batch in pair_batches(pairs, self.policy.size):
                loss = self._loss(batch, kept[start : start + len(batch)], places)
                loss.backward()
                total, start = total + float(loss.detach()), start + len(batch)
        # Step the student, then its teacher.
        self.masters.copy_gradients()
        length = self._clip(norm)
        if length > MIN_NORM:
            self.optimizer.step()
            self.masters.write_back()
            self._update_teacher()
        return StepResult(total, length, places)

    def _loss(self, batch: Sequence[Pair], kept: Sequence[Sequence[bool]], places: int) -> Tensor:
        student = student_logits(self.policy, batch)
        nats = self.divergence(student, teacher_logits(self.teacher, batch))  # (batch, places)
        width = nats.shape[1]
        padded = [[*row, *[False] * (width - len(row))] for row in kept]
        return torch.where(torch.tensor(padded, device=nats.device), nats, 0.0).sum() / places

    def _clip(self, norm: float | None) -> float:
        """Clip the gradient, or scale it to `norm`; return its norm before."""
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
    def _update_teacher(self) -> None:
        """Move an averaged teacher towards the student."""
        if self.averages is None:
            return
        for theirs, ours in zip(self.averages.copies, self.policy.module.parameters(), strict=True):
            theirs.lerp_(ours.to(theirs), self.config.teacher_rate)
        self.averages.write_back()


__all__ = [
    "LARGE_LR", "OWN_LR", "WINDOWS", "DistillationTrainer", "MasterWeights", "StepResult",
    "Window", "in_window", "preserved_weights",
]  # fmt: skip
