"""Ctrl-C and SIGTERM during a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REPEAT = 1.0  # seconds in which a repeated signal is ignored: torchrun forwards it to its workers


@contextmanager
def stop_signals(receive: Callable[[int], None]) -> Iterator[None]:
    """Call `receive` with each signal's number, and raise KeyboardInterrupt at a second signal."""
    first: float | None = None

    def note(number: int, _: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is not None and now - first > REPEAT:
            raise KeyboardInterrupt
        first = first or now
        receive(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
