"""Measures of repetition in a sequence of tokens, which may be characters, ids or words.

Most of them depend on length, since a longer text of the same kind repeats more of its n-grams:
compare at equal lengths, and with real strings. Shares are from 0 to 1. Tokens are compared by `==`
and `hash`; take `.tolist()` of a tensor first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Iterator, Sequence


def rep(tokens: Sequence[Hashable], window: int) -> float:
    """Return the share of tokens among the `window` tokens before them: rep/l [1908.04319].

    The paper counts predictions for the next token of a given text; this counts the sequence
    itself, including the first tokens. 0 for no tokens. Raises ValueError for a window below 1.
    """
    _at_least("window", window, 1)
    last: dict[Hashable, int] = {}
    repeated = 0
    for index, token in enumerate(tokens):
        repeated += token in last and index - last[token] <= window
        last[token] = index
    return repeated / len(tokens) if len(tokens) else 0.0


def seq_rep(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Return 1 - distinct n-grams / n-grams of one sequence: seq-rep-n [1908.04319].

    0 for fewer than n tokens. Raises ValueError for n below 1.
    """
    _at_least("n", n, 1)
    grams = list(_grams(tokens, n))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int) -> float:
    """Return distinct n-grams / n-grams over all sequences together: distinct-n [1510.03055].

    No n-gram spans two sequences. NaN if no sequence has n tokens. It decreases with the number of
    sequences, so compare equal numbers only. Raises ValueError for n below 1.
    """
    _at_least("n", n, 1)
    grams = [gram for tokens in sequences for gram in _grams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def periodic_tail(tokens: Sequence[Hashable], max_period: int, repeats: int) -> int:
    """Return the smallest p <= `max_period` such that the last `repeats` * p tokens have period p.

    That is, a unit of p tokens is repeated `repeats` times at the end. 0 if there is no such p.
    Raises ValueError for a `max_period` below 1 or `repeats` below 2.
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
    """Return the smallest m such that the first m tokens have a `periodic_tail`, and that.

    None if there is no such m. Takes O(n * max_period). Raises ValueError as `periodic_tail` does.
    """
    _check_loop(max_period, repeats)
    # By period: the number of latest tokens that equal the token one period before them.
    runs = [0] * (max_period + 1)
    for index, token in enumerate(tokens):
        for period in range(1, min(max_period, index) + 1):
            runs[period] = runs[period] + 1 if token == tokens[index - period] else 0
            if runs[period] >= (repeats - 1) * period:
                return index + 1, period
    return None


def adjacent_duplicates(tokens: Sequence[Hashable]) -> tuple[int, int]:
    """Return the number of equal pairs of neighbours, and of all pairs of neighbours."""
    pairs = max(len(tokens) - 1, 0)
    return sum(tokens[index] == tokens[index + 1] for index in range(pairs)), pairs


def compression_ratio(text: str) -> float:
    """Return bytes of `text` in UTF-8 / (bytes of its raw DEFLATE - 2, those of an empty one).

    Larger is more repetitive; 1 for an empty text. Header and checksum of zlib are left out, since
    they dominate for short strings: 3 symbols would have the ratio 3 / 11. Texts without repetition
    score near 1, or slightly below. Builds of zlib may differ a little.
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
    """Raise ValueError for bounds that no loop, or every text, would meet."""
    _at_least("max_period", max_period, 1)
    _at_least("repeats", repeats, 2)


def _at_least(name: str, given: int, least: int) -> None:
    """Raise ValueError unless `given` >= `least`."""
    if given < least:
        raise ValueError(f"{name} is {given}; give at least {least}")
