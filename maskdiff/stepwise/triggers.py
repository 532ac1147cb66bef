"""When a step gets more candidates than one.

For: `Momentum` (MUR, 2507.14958), `Random` (its control) and the two ends, `Always` and `Never`. Not for: choosing among
candidates. Easy to get wrong: what is fed back is the uncertainty of the step that was *chosen*; and with M_0 = 0, as
published, the first steps of a long answer all trigger, even where every step is equally uncertain: 21 of 39 of them at u = 1.
Correcting the bias of the average mends that.
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
        """Whether step `step` (from 0), whose first candidate has `uncertainty` in nats a token, gets more candidates."""
        ...

    def update(self, uncertainty: float) -> None:
        """Take the uncertainty of the step that was chosen."""
        ...


@dataclass
class Always:
    """Every step."""

    def scale(self, step: int, uncertainty: float) -> bool:
        return True

    def update(self, uncertainty: float) -> None:
        """Nothing is remembered."""


@dataclass
class Never:
    """No step."""

    def scale(self, step: int, uncertainty: float) -> bool:
        return False

    def update(self, uncertainty: float) -> None:
        """Nothing is remembered."""


@dataclass
class Random:
    """Any step but the first, with probability `rate`: whether the uncertainty tells *where* candidates pay.

    The lots are a function of `seed` and the number of the step.
    """

    rate: float
    seed: int

    def scale(self, step: int, uncertainty: float) -> bool:
        return (
            step > 0
            and float(uniform(torch.tensor(self.seed), int(Purpose.TRIGGER), step)) < self.rate
        )

    def update(self, uncertainty: float) -> None:
        """Nothing is remembered."""


@dataclass
class Momentum:
    """Momentum uncertainty [2507.14958]: scale step t > 0 iff exp(u_t) > exp(M_{t-1}) / g, M_t = a M_{t-1} + (1 - a) u_t.

    momentum: a in [0, 1). scaling: g in (0, 1]. bias_corrected: compare with M / (1 - a^t), t being the steps so far.
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
        """What the uncertainty of a step is compared with, before g."""
        return (
            self.average / (1.0 - self.momentum**self.steps)
            if self.bias_corrected and self.steps
            else self.average
        )

    def update(self, uncertainty: float) -> None:
        self.average = self.momentum * self.average + (1.0 - self.momentum) * uncertainty
        self.steps += 1


__all__ = ["Always", "Momentum", "Never", "Random", "Trigger"]
