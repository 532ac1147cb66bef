"""Sets of small integers as the bits of one integer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def positions_of(mask: int) -> Iterator[int]:
    """Yields the positions of the set bits of `mask`, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def mask_of(positions: Iterable[int]) -> int:
    """Return the integer whose bits at distinct `positions` are set."""
    return sum(1 << int(position) for position in positions)
