"""Character classes: a partition of an alphabet into sets of characters that behave alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def partition(characters: Iterable[str], key: Callable[[str], Key]) -> dict[Key, str]:
    """Return the characters with each key as a sorted string, in the order of first characters."""
    parts: dict[Key, list[str]] = {}
    for character in sorted(characters):
        parts.setdefault(key(character), []).append(character)
    return {value: "".join(members) for value, members in parts.items()}
