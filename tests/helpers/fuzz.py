"""Seeds and time budgets of the tests that try random input.

Every such test runs twice: once with a fixed seed and once with a fresh one. The end of the run
prints the fresh seed; `MASKDIFF_FUZZ_SEED=N` repeats it. `MASKDIFF_FUZZ_SECONDS` changes how long
each test may take.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

FIXED_SEED = 20_261_130
FRESH_SEED = int(os.environ.get("MASKDIFF_FUZZ_SEED") or random.SystemRandom().randrange(2**32))
SECONDS = float(os.environ.get("MASKDIFF_FUZZ_SECONDS") or 0.5)

both_seeds = pytest.mark.parametrize("seed", [FIXED_SEED, FRESH_SEED], ids=["fixed", "fresh"])


def cases(count: int, seed: int, seconds: float = SECONDS) -> Iterator[random.Random]:
    """Yield at most `count` generators of random numbers, and stop after `seconds`.

    Case i depends on `seed` and i alone, so a failing case is found again on a faster machine. The
    first case is always given, so that no test passes without having tried anything.
    """
    end = time.monotonic() + seconds
    for i in range(count):
        if i and time.monotonic() > end:
            return
        yield random.Random(f"{seed}:{i}")
