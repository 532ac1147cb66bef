"""When a string ends before its end: stop texts, stop tokens, a limit, a loop.

Stop texts know nothing of tokens: one may begin and end in the middle of a token. A match that is
complete may have to wait: the leftmost match wins, and another stop text that began before it may
still match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskdiff.config import ControlConfig
from maskdiff.errors import ConfigError, nearest, quote
from maskdiff.text.repetition import first_periodic_tail

EOS, STOP, LENGTH, REPETITION = "eos", "stop", "length", "repetition"  # why a string ended
TIMEOUT = "timeout"  # the deadline passed before anything else ended it


@dataclass(frozen=True)
class Stopping:
    """What ends a string.

    Attributes:
        texts: Stop texts in UTF-8, which are not part of the string.
        tokens: Ids of stop tokens, likewise.
        max_tokens: Tokens at most; 0 is no limit.
        period: Tokens of the longest loop that ends a string; 0 for none.
        repeats: Copies that make a loop.
    """

    texts: tuple[bytes, ...] = ()
    tokens: frozenset[int] = frozenset()
    max_tokens: int = 0
    period: int = 0
    repeats: int = 4

    @classmethod
    def of(cls, config: ControlConfig, table: Sequence[bytes | None]) -> Stopping:
        """The rules of a configuration.

        Args:
            config: The configuration.
            table: The text of every token; None for special ones.

        Raises:
            ConfigError: For an empty stop text, or a stop token that the model does not have.
        """
        if "" in config.stop:
            raise ConfigError(
                "stop is an empty text, which stands everywhere; give one or more characters"
            )
        tokens: set[int] = set()
        for text in config.stop_token:
            ids = [
                i
                for i, own in enumerate(table)
                if own is not None and own == text.encode(errors="replace")
            ]
            if not ids or not text:
                known = [own.decode(errors="replace") for own in table if own]
                raise ConfigError(
                    f"stop_token {quote(text)} is no token of the model; "
                    f"the nearest is {nearest(text, known)!r}"
                )
            tokens |= set(ids)
        texts = tuple(text.encode(errors="replace") for text in config.stop)
        return cls(
            texts, frozenset(tokens), config.max_tokens, config.loop_period, config.loop_repeats
        )


NEVER = Stopping()


class StopText:
    """The leftmost match of several texts in a text that arrives piece by piece.

    `feed` returns what can no longer be part of a match; what a stop text may begin with is held
    back. Once a text has matched, and none that began before it can, `stopped` is true and nothing
    follows.
    """

    def __init__(self, stops: Sequence[bytes]) -> None:
        self.stops, self.held, self.stopped = tuple(stops), b"", False

    def feed(self, piece: bytes) -> bytes:
        """The text that is final after another piece."""
        if self.stopped:
            return b""
        text = self.held + piece
        match = self._match(text)
        pending = self._pending(text)
        self.stopped = match is not None and match <= pending
        sure = match if self.stopped else pending
        self.held = b"" if self.stopped else text[sure:]
        return text[:sure]

    def close(self) -> bytes:
        """The rest of a text that has ended, up to a match that had to wait."""
        match = self._match(self.held)
        rest, self.held, self.stopped = self.held[:match], b"", self.stopped or match is not None
        return rest

    def _match(self, text: bytes) -> int | None:
        """Where the leftmost match begins."""
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        return min(found, default=None)

    def _pending(self, text: bytes) -> int:
        """Where a stop text may have begun that is not complete; else the end."""
        longest = max(map(len, self.stops), default=1)
        for start in range(max(len(text) - longest + 1, 0), len(text)):
            if any(
                len(stop) > len(text) - start and stop.startswith(text[start:])
                for stop in self.stops
            ):
                return start
        return len(text)


def cut_short(
    tokens: Sequence[int], table: Sequence[bytes | None], stopping: Stopping, given: int = 0
) -> tuple[bytes, str]:
    """The text of a whole string, ended as if it were written from left to right; and why it ends.

    The first `given` tokens were not drawn: they end nothing, but count for `max_tokens`.
    """

    def text(ids: Sequence[int]) -> bytes:
        return b"".join(table[i] or b"" for i in ids)

    end, reason = len(tokens), EOS
    if 0 < stopping.max_tokens < end:
        end, reason = max(stopping.max_tokens, given), LENGTH
    loop = (
        first_periodic_tail(tokens[given:end], stopping.period, stopping.repeats)
        if stopping.period
        else None
    )
    if loop is not None:
        end, reason = given + loop[0], REPETITION
    search, shown = StopText(stopping.texts), text(tokens[:given])
    for at in range(given, end):
        if tokens[at] in stopping.tokens:
            return shown + search.close(), STOP
        shown += search.feed(table[tokens[at]] or b"")
        if search.stopped:
            return shown, STOP
    shown += search.close()
    return shown, STOP if search.stopped else reason
