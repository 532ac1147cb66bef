"""Applies the scripts of `maskdiff.text.edits`."""

from __future__ import annotations

from collections.abc import Sequence

from maskdiff.text.edits import Edit


def apply_edits(given: str, script: Sequence[Edit]) -> str:
    """Return the result of a script. Raises ValueError if it does not fit or is out of order."""
    written: list[str] = []
    read = 0
    for edit in script:
        size = len(edit.old)
        if (
            edit.position < read
            or given[edit.position : edit.position + size] != edit.old
            or edit.position > len(given)
        ):
            raise ValueError(f"{edit} does not fit {given!r} behind its first {read} symbols")
        written += [given[read : edit.position], edit.new]
        read = edit.position + size
    return "".join([*written, given[read:]])
