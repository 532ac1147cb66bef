"""Log lines: equal ones are printed once a minute, however often they are logged.

For: `limit_logs`, which the server calls. Not for: writing lines. Easy to get wrong: a client can
cause some lines (such as those of asyncio about lost connections) thousands of times a second.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time

SECONDS = 60.0  # between two equal lines
MAX_KINDS = 256  # kinds of lines that are remembered
_VARIABLE = re.compile(
    r"0x[0-9a-f]+|\d+"
)  # what differs between equal lines: addresses, ports, descriptors


class Repeats(logging.Filter):
    """Passes one of equal records in `SECONDS`, with the number of those left out before it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[
            str, tuple[float, int]
        ] = {}  # kind -> when it passed, how many did not since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to print `record`."""
        kind, now = _kind(record), time.monotonic()
        passed, dropped = self._seen.get(kind, (-SECONDS, 0))
        if now - passed < SECONDS:
            self._seen[kind] = passed, dropped + 1
            return False
        if len(self._seen) >= MAX_KINDS:
            self._seen.clear()
        self._seen[kind] = now, 0
        if dropped:
            record.msg = (
                f"{record.getMessage().rstrip()} (left out since the last such line: {dropped})"
            )
            record.args = None
        return True


def _kind(record: logging.LogRecord) -> str:
    """What equal records share: logger, first line, and the place and type of an exception."""
    where = type(record.exc_info[1]).__name__ if record.exc_info else ""
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        where += f" {trace.tb_frame.f_code.co_filename} {trace.tb_lineno}"
    first = str(record.msg).partition("\n")[0]
    return f"{record.name} {record.levelno} {_VARIABLE.sub('#', first)} {where}"


def _worth_printing(record: logging.LogRecord) -> bool:
    """False for connections that are cut because they outlive the grace at the end."""
    cut = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "graceful shutdown" not in str(record.msg)


_REPEATS = Repeats()


def limit_logs() -> None:
    """Bound what the loggers of uvicorn and asyncio print."""
    logging.getLogger("uvicorn.error").addFilter(_worth_printing)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(_REPEATS)


__all__ = ["Repeats", "limit_logs"]
