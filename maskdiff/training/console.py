"""What a run says while it trains: lines and a progress bar on the error stream.

For: everything that is printed before the last step is made.  Not for: the result, which goes to the standard output when
the files are safe.  Easy to get wrong: a reader that went away, or a full disk under a redirected stream, is no reason to
lose hours of training, so nothing here raises, in whatever thread it is called.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm

from maskdiff.errors import visible


class ErrorStream:
    """``sys.stderr`` as it is at the moment of writing; after a failure it is silent."""

    def write(self, text: str) -> int:
        """Write if that is possible; always the length of ``text``."""
        try:
            sys.stderr.write(text)
        except (OSError, ValueError, AttributeError):
            _silence()
        return len(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        try:
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            _silence()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)  # encoding, fileno, isatty: what a progress bar asks for


def _silence() -> None:
    """Let the error stream lead nowhere, so that what it still holds does not fail again when the program ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        pass


STREAM = ErrorStream()


def tell(line: str) -> None:
    """One line above the progress bar."""
    tqdm.write(visible(line), file=STREAM)
