"""A stream of uniform random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np


def uniform_stream(rng: np.random.Generator, expected: int) -> Callable[[], float]:
    """Return a function that returns the next uniform number in [0, 1).

    Numbers are drawn in blocks of about `expected`, between 64 and 32,768. The sequence does not
    depend on the size of the blocks; the state in which `rng` is left does.
    """
    size = max(64, min(32768, expected))

    def blocks() -> Iterator[list[float]]:
        while True:
            yield rng.random(size).tolist()

    return chain.from_iterable(blocks()).__next__
