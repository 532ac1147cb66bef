"""A time limit that loops check themselves; work is not interrupted within a step.

A loop that has a partial result catches `TimedOut` and returns it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from maskdiff.errors import UserError


class TimedOut(UserError):
    """The time limit passed before there was an answer."""


class Deadline:
    """A point in time, `seconds` from now (None: never).

    Args:
        seconds: Time limit in seconds, above 0; None for no limit.
        tick: Called by every `check`, to show progress.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        seconds: float | None = None,
        tick: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.tick, self.clock = seconds, tick, clock
        self.end = None if seconds is None else clock() + seconds

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self.end is not None and self.clock() >= self.end

    def check(self) -> None:
        """Raise `TimedOut` if the time is over."""
        if self.tick is not None:
            self.tick()
        if self.passed:
            raise TimedOut(self.message)

    @property
    def message(self) -> str:
        """The error message."""
        return f"no answer within {self.seconds:g} s; give a larger --timeout, or ask for less"


NEVER = Deadline()

__all__ = ["NEVER", "Deadline", "TimedOut"]
