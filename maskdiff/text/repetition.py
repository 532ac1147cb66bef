"""How much a sequence repeats itself: pure functions on tokens, which may be characters (a string), ids or words.

For: the figures that tell a loop from a text, and the detector that finds where a loop begins. Not for: copies of whole
texts in a set (`metrics.distinct`), or quality: noise repeats itself less than any language does. Easy to get wrong: most of
these depend on length, since a longer text of the same kind has more of its n-grams twice, so compare at equal lengths, and
with real strings.

Shares are from 0 to 1. Tokens are equal if `==` and `hash` say so; elements of a tensor are not, take `.tolist()` first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Iterator, Sequence


def rep(tokens: Sequence[Hashable], window: int) -> float:
    """The share of tokens that occur among the `window` tokens before them: rep/l of Welleck et al. (1908.04319).

    They count predictions for the next token of a given text; this is the same count on the sequence itself. The first
    tokens count too, with the fewer before them. 0 for no tokens. Raises ValueError for a window below 1.
    """
    _at_least("window", window, 1)
    last: dict[Hashable, int] = {}
    repeated = 0
    for index, token in enumerate(tokens):
        repeated += token in last and index - last[token] <= window
        last[token] = index
    return repeated / len(tokens) if len(tokens) else 0.0


def seq_rep(tokens: Sequence[Hashable], n: int = 4) -> float:
    """1 - distinct n-grams / n-grams of one sequence: seq-rep-n of Welleck et al. (1908.04319).

    0 for fewer than n tokens. Raises ValueError for n below 1.
    """
    _at_least("n", n, 1)
    grams = list(_grams(tokens, n))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int) -> float:
    """Distinct n-grams / n-grams over all sequences together: distinct-n of Li et al. (1510.03055).

    No n-gram reaches from one sequence into the next. NaN where no sequence has n tokens. Falls with the number of
    sequences, so compare equal numbers only. Raises ValueError for n below 1.
    """
    _at_least("n", n, 1)
    grams = [gram for tokens in sequences for gram in _grams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def periodic_tail(tokens: Sequence[Hashable], max_period: int, repeats: int) -> int:
    """The smallest period p <= `max_period` such that the last `repeats` * p tokens have period p; 0 if none.

    That is, one unit of p tokens stands `repeats` times in a row at the end. Raises ValueError for a `max_period` below 1
    or `repeats` below 2.
    """
    _check_loop(max_period, repeats)
    tail = tuple(tokens[-repeats * max_period :])
    for period in range(1, min(max_period, len(tail) // repeats) + 1):
        loop = tail[-repeats * period :]
        if loop[period:] == loop[:-period]:
            return period
    return 0


def first_periodic_tail(
    tokens: Sequence[Hashable], max_period: int, repeats: int
) -> tuple[int, int] | None:
    """The smallest m such that `periodic_tail` of the first m tokens is not 0, and that period; None if there is no such m.

    Takes O(n * max_period), with a counter for each period. Raises ValueError as `periodic_tail` does.
    """
    _check_loop(max_period, repeats)
    runs = [0] * (
        max_period + 1
    )  # by period: how many of the latest tokens in a row equal the one a period before them
    for index, token in enumerate(tokens):
        for period in range(1, min(max_period, index) + 1):
            runs[period] = runs[period] + 1 if token == tokens[index - period] else 0
            if runs[period] >= (repeats - 1) * period:
                return index + 1, period
    return None


def adjacent_duplicates(tokens: Sequence[Hashable]) -> tuple[int, int]:
    """Pairs of neighbours that are equal, and pairs of neighbours: (0, 0) for fewer than two tokens."""
    pairs = max(len(tokens) - 1, 0)
    return sum(tokens[index] == tokens[index + 1] for index in range(pairs)), pairs


def compression_ratio(text: str) -> float:
    """Bytes of `text` in UTF-8 / bytes of its raw DEFLATE at level 9, less what DEFLATE needs for nothing; 1 if empty.

    Larger is more repetitive. Raw, and less the cost of the empty stream (2 bytes), because a header and a checksum are all
    that one sees of short strings: with those of zlib, 3 symbols would have the ratio 3 / 11. Rounding to whole bytes and
    the block header remain, so texts without repetition score near 1 and may score below. Builds of zlib may differ a little.
    """
    if not text:
        return 1.0
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / (len(_deflate(data)) - len(_deflate(b"")))


def _deflate(data: bytes) -> bytes:
    """The raw DEFLATE stream of `data`: no header, no checksum."""
    packer = zlib.compressobj(level=9, wbits=-15)
    return packer.compress(data) + packer.flush()


def _grams(tokens: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    """All runs of `n` tokens, from left to right."""
    return (tuple(tokens[index : index + n]) for index in range(len(tokens) - n + 1))


def _check_loop(max_period: int, repeats: int) -> None:
    """Raises ValueError for bounds that no loop, or every end of a text, would meet."""
    _at_least("max_period", max_period, 1)
    _at_least("repeats", repeats, 2)


def _at_least(name: str, given: int, least: int) -> None:
    """Raises ValueError unless `given` >= `least`."""
    if given < least:
        raise ValueError(f"{name} is {given}; give at least {least}")
