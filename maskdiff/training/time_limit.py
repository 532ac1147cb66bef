"""The number of steps of a run that is limited by time.

The speed is measured once, over the first steps. The number of steps that follows from it is stored
in the configuration of the run, so that the learning rate, and everything else, is a function of
the step, and a resumed run is the same run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from maskdiff.config import TrainConfig
from maskdiff.config.limits import MAX_COUNT

EVALUATIONS = (3, 20)  # least and greatest number of validations that an interval of 0 stands for
EVALUATED = 0.1  # largest share of the time for more validations than the least number
SKIPPED, MEASURED = 20, 100  # steps that are not measured (start-up, compilation), and that are
SKIPPED_SHARE, MEASURED_SHARE = 0.05, 0.15  # shares of the time after which fewer steps count
CLOSING = 3.0  # seconds for what follows the last step, besides one more validation
CLOSING_SHARE, CLOSING_MOST = 0.08, 45.0  # of the time, and seconds, for the closing comparison


def closing_seconds(minutes: float) -> float:
    """Return the seconds for the prior and the closing comparison; `minutes` is 0 without limit."""
    return min(CLOSING_MOST, CLOSING_SHARE * 60 * (minutes or 10.0))


def spread_evaluations(train: TrainConfig) -> TrainConfig:
    """Return `train` with an interval of validation, if it is 0 and the number of steps is known.

    An interval of 0 stands for the greatest number of validations in `EVALUATIONS`.
    """
    if train.eval_interval or not train.max_iters:
        return train
    return replace(train, eval_interval=math.ceil(train.max_iters / EVALUATIONS[1]))


@dataclass
class TimeLimit:
    """The speed of a run, measured over its first steps.

    Attributes:
        minutes: of the whole command.
        started: value of `clock` when the command started; now by default.
        clock: the time in seconds.
    """

    minutes: float
    started: float = field(default_factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic
    _skipped: int = 0
    _measured: int = 0
    _seconds: float = 0.0

    @property
    def used(self) -> float:
        """The share of the time that has passed."""
        return (self.clock() - self.started) / (60 * self.minutes)

    def note_step(self, seconds: float) -> bool:
        """Count a step of this process, and return whether the speed is known."""
        if self._skipped == 0 or (self._skipped < SKIPPED and self.used < SKIPPED_SHARE):
            self._skipped += 1
            return False
        self._measured += 1
        self._seconds += seconds
        return self._measured >= MEASURED or self.used >= MEASURED_SHARE

    def plan(self, train: TrainConfig, step: int, times: Sequence[float]) -> tuple[int, int]:
        """Return `max_iters` and `eval_interval` of the run.

        Args:
            train: the options; an interval of 0 is chosen, another one is kept, and `max_iters` is
                the most steps unless it is 0.
            step: steps made.
            times: of the clock: when a checkpoint began, when it was written, and when the
                validation after it ended.
        """
        saving, validation = times[1] - times[0], times[2] - times[0]
        left = 60 * self.minutes * (1 - self.used) - CLOSING - validation
        left -= closing_seconds(self.minutes)
        each = self._seconds / self._measured + saving / train.save_interval
        if train.eval_interval:
            each += validation / train.eval_interval
            evaluations = 0
        else:
            affordable = int(EVALUATED * max(0.0, left) / max(validation, 1e-9))
            evaluations = max(EVALUATIONS[0], min(EVALUATIONS[1], affordable))
        more = int((left - evaluations * validation) / max(each, 1e-9))
        steps = min(step + max(more, 1), train.max_iters or MAX_COUNT)
        return steps, train.eval_interval or math.ceil(steps / evaluations)
