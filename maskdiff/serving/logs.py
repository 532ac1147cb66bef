"""Rate limits of log lines: a client can cause some of them thousands of times a second."""

from __future__ import annotations

import asyncio
import logging
import re
import time

SECONDS = 60.0  # between two equal lines
MAX_KINDS = 256  # kinds of lines that are remembered
_VARIABLE = re.compile(r"0x[0-9a-f]+|\d+")  # addresses, ports and descriptors


class RepeatFilter(logging.Filter):
    """Passes one of equal records in `SECONDS`, with the number of records dropped before it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}  # kind -> time of the last, number dropped

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print `record`."""
        kind, now = _kind(record), time.monotonic()
        passed, dropped = self._seen.get(kind, (-SECONDS, 0))
        if now - passed < SECONDS:
            self._seen[kind] = passed, dropped + 1
            return False
        if len(self._seen) >= MAX_KINDS:
            self._seen.clear()
        self._seen[kind] = now, 0
        if dropped:
            text = record.getMessage().rstrip()
            record.msg = f"{text} (left out since the last such line: {dropped})"
            record.args = None
        return True


def _kind(record: logging.LogRecord) -> str:
    """Return what equal records share: logger, first line, type and place of an exception."""
    where = type(record.exc_info[1]).__name__ if record.exc_info else ""
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        where += f" {trace.tb_frame.f_code.co_filename} {trace.tb_lineno}"
    first = str(record.msg).partition("\n")[0]
    return f"{record.name} {record.levelno} {_VARIABLE.sub('#', first)} {where}"


def _is_relevant(record: logging.LogRecord) -> bool:
    """Return False for connections that are cut after the grace period of a shutdown."""
    cut = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "graceful shutdown" not in str(record.msg)


_REPEATS = RepeatFilter()


def limit_logs() -> None:
    """Limit what the loggers of uvicorn and asyncio print."""
    logging.getLogger("uvicorn.error").addFilter(_is_relevant)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(_REPEATS)


__all__ = ["RepeatFilter", "limit_logs"]
