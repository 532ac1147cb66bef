"""Limits on regular expressions, and the error for a pattern beyond them.

Each limit is checked before the work that it bounds. Together they keep the compilation of one
pattern to about a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maskdiff.errors import UserError

MAX_CHARACTERS = 100_000  # of a pattern
MAX_POSITIONS = 10_000  # of a pattern whose repetitions are written out
MAX_STATES = 10_000  # of an automaton, before it is minimised
MAX_WORK = 1_500_000  # elementary steps of one construction


class RegexError(UserError):
    """A regular expression that is not valid, not regular, or beyond a limit."""


@contextmanager
def nesting_limit() -> Iterator[None]:
    """Raises `RegexError` where a pattern is nested too deeply for Python's stack."""
    try:
        yield
    except RecursionError:
        raise RegexError("the pattern is nested too deeply") from None


class Budget:
    """The number of elementary steps that one construction may still take."""

    def __init__(self, steps: int = MAX_WORK) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Subtracts `steps`. Raises `RegexError` if none are left."""
        self.left -= steps
        if self.left < 0:
            raise RegexError(
                f"the automaton takes more than {MAX_WORK} steps to build; use fewer repetitions, "
                "alternatives or look-arounds"
            )
