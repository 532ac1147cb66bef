"""Possible lengths of strings in error messages."""

from __future__ import annotations

import numpy as np

from maskdiff.errors import CanvasError


def nearest_lengths(possible: np.ndarray, length: int) -> str:
    """Return a clause that names the possible lengths nearest to an impossible one.

    Args:
        possible: (longest + 1,) whether each length is possible.
        length: The impossible length.
    """
    sizes = np.flatnonzero(possible)
    near = [*sizes[sizes < length][-1:], *sizes[sizes > length][:1]]
    if not near:
        return "none has a length near it"
    return f"the nearest length{'s are' if len(near) > 1 else ' is'} {' and '.join(map(str, near))}"


def check_possible(name: str, possible: np.ndarray, length: int) -> int:
    """Return `length` if it is possible in the language `name`. Raises `CanvasError` if not."""
    if not (0 <= length < len(possible) and possible[length]):
        raise CanvasError(
            f"length {length} is impossible for {name}: no string has {length} symbols; "
            f"{nearest_lengths(possible, length)}"
        )
    return length
