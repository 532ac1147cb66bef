"""What all tests share: the seed of the tests with random input, printed at the end of every run."""

from __future__ import annotations

from fuzz_helpers import FRESH_SEED


def pytest_terminal_summary(terminalreporter: object) -> None:
    write = terminalreporter.write_line  # type: ignore[attr-defined]
    write(f"fresh seed of the fuzzing tests: {FRESH_SEED} (MASKDIFF_FUZZ_SEED={FRESH_SEED} repeats it)")
