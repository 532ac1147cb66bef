"""`TokenTable`: tokens as bytes, and the tokens that may follow what is left of a prefix.

A special token has no text (None), whatever its name looks like, and never explains typed
characters. A token whose text is empty (b"") is an ordinary one that may stand anywhere. Several
tokens may have the same text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TokenTable:
    """The text of every token id (None for a special token), and the ids that end a string.

    Raises:
        ValueError: If an ending token has a text, or no token has one.
    """

    texts: tuple[bytes | None, ...]
    ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(self.texts[i] is not None for i in self.ends):
            raise ValueError("a token that ends a string is a special one: its text is None")
        if not any(self.texts):
            raise ValueError("no token has a text")

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def silent(self) -> tuple[int, ...]:
        """Ids of the ordinary tokens whose text is empty."""
        return tuple(self._ids.get(b"", ()))

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest text."""
        return max(len(text) for text in self.texts if text is not None)

    @cached_property
    def _ids(self) -> dict[bytes, list[int]]:
        ids: dict[bytes, list[int]] = {}
        for token, text in enumerate(self.texts):
            if text is not None:
                ids.setdefault(text, []).append(token)
        return ids

    @cached_property
    def _sorted(self) -> list[bytes]:
        return sorted(self._ids)

    def exactly(self, rest: bytes) -> list[int]:
        """Ids of the tokens whose text is `rest`."""
        return list(self._ids.get(rest, ()))

    def inside(self, rest: bytes, whole: bool = False) -> list[int]:
        """Ids of tokens whose text is a proper prefix of `rest`, not empty (`whole`: or is it)."""
        most = min(self.longest, len(rest) if whole else len(rest) - 1)
        return [token for size in range(1, most + 1) for token in self._ids.get(rest[:size], ())]

    def covering(self, rest: bytes) -> list[int]:
        """Ids of the tokens whose text begins with a non-empty `rest`."""
        found: list[int] = []
        for text in self._sorted[bisect_left(self._sorted, rest) :]:
            if not text.startswith(rest):
                break
            found += self._ids[text]
        return found

    def text(self, tokens: Sequence[int]) -> bytes:
        """The text of a history, without special tokens."""
        return b"".join(self.texts[token] or b"" for token in tokens)
