"""Lines and a progress bar on the error stream while a run trains.

Nothing here raises, in any thread: a closed pipe, or a full disk under a redirected stream, must
not end a run. The result is printed on the standard output when all files are written.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm

from maskdiff.errors import visible


class ErrorStream:
    """The current `sys.stderr`; after a failure it is silent."""

    def write(self, text: str) -> int:
        """Write if possible; returns the length of `text` in any case."""
        try:
            sys.stderr.write(text)
        except (OSError, ValueError, AttributeError):
            _silence()
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        try:
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            _silence()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)  # encoding, fileno, isatty: for the progress bar


def _silence() -> None:
    """Redirect the error stream to nowhere, so that its buffer does not fail again at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        pass


STREAM = ErrorStream()


def write_line(line: str) -> None:
    """Print one line above the progress bar."""
    tqdm.write(visible(line), file=STREAM)
