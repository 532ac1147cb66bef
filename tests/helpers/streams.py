"""A standard output whose reader has left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def closed_pipe() -> Iterator[IO[str]]:
    """Replace the standard output by a pipe without a reader."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe, contextlib.redirect_stdout(pipe):
        yield pipe
