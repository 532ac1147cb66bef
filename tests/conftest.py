"""Settings of all tests: one seed for random input in all workers, one thread per worker."""

from __future__ import annotations

import os
import signal
import sys

from tests.helpers.fuzz import FRESH_SEED

# A shell ignores SIGINT in what it runs in the background; processes of tests would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Second processes reuse compiled modules, and the next run the compiled tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("MASKDIFF_FUZZ_SEED", str(FRESH_SEED))  # workers start with this environment
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: several workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_terminal_summary(terminalreporter: object) -> None:
    write = terminalreporter.write_line  # type: ignore[attr-defined]
    repeat = f"MASKDIFF_FUZZ_SEED={FRESH_SEED}"
    write(f"fresh seed of the fuzzing tests: {FRESH_SEED} ({repeat} repeats it)")
