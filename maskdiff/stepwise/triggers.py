"""Triggers: which steps get more than one candidate.

`Momentum` is MUR (2507.14958), `Random` its control, `Always` and `Never` are the extremes. The
uncertainty of the chosen step is fed back. With M_0 = 0, as published, the first steps of a long
answer all trigger, even if every step is equally uncertain: 21 of 39 of them at u = 1;
`bias_corrected` prevents that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from maskdiff.drawing.random import Purpose, uniform


class Trigger(Protocol):
    """The state of one answer."""

    def scale(self, step: int, uncertainty: float) -> bool:
        """Return whether `step` (from 0) gets more candidates.

        `uncertainty` is that of its first candidate, in nats a token.
        """
        ...

    def update(self, uncertainty: float) -> None:
        """Add the uncertainty of the chosen step."""
        ...


@dataclass
class Always:
    """Every step."""

    def scale(self, step: int, uncertainty: float) -> bool:
        return True

    def update(self, uncertainty: float) -> None:
        """Do nothing."""


@dataclass
class Never:
    """No step."""

    def scale(self, step: int, uncertainty: float) -> bool:
        return False

    def update(self, uncertainty: float) -> None:
        """Do nothing."""


@dataclass
class Random:
    """Any step but the first, with probability `rate`, as a function of `seed` and the step.

    Comparing it with `Momentum` shows whether uncertainty tells which steps profit.
    """

    rate: float
    seed: int

    def scale(self, step: int, uncertainty: float) -> bool:
        return (
            step > 0
            and float(uniform(torch.tensor(self.seed), int(Purpose.TRIGGER), step)) < self.rate
        )

    def update(self, uncertainty: float) -> None:
        """Do nothing."""


@dataclass
class Momentum:
    """Momentum uncertainty [2507.14958].

    Step t > 0 is scaled iff exp(u_t) > exp(M_{t-1}) / g, with M_t = a M_{t-1} + (1 - a) u_t.

    Attributes:
        momentum: a in [0, 1).
        scaling: g in (0, 1].
        bias_corrected: Compare with M / (1 - a^t), where t is the number of steps so far.
    """

    momentum: float = 0.9
    scaling: float = 0.9
    bias_corrected: bool = False
    average: float = 0.0
    steps: int = 0

    def scale(self, step: int, uncertainty: float) -> bool:
        if self.steps == 0:
            return False
        return uncertainty > self.level - math.log(self.scaling)

    @property
    def level(self) -> float:
        """M, with which the uncertainty of a step is compared."""
        if self.bias_corrected and self.steps:
            return self.average / (1.0 - self.momentum**self.steps)
        return self.average

    def update(self, uncertainty: float) -> None:
        self.average = self.momentum * self.average + (1.0 - self.momentum) * uncertainty
        self.steps += 1


__all__ = ["Always", "Momentum", "Never", "Random", "Trigger"]
