"""Measures of repetition against their definitions, planted loops and words without any."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Hashable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.text import repetition

WORD = st.text(alphabet="abc", max_size=24)
BINARY = st.text(alphabet="ab", max_size=20)


def has_period(tokens: Sequence[Hashable], period: int, repeats: int) -> bool:
    """Whether the tokens end with `repeats` copies of a unit of `period` tokens."""
    unit = list(tokens[-period:])
    return len(tokens) >= repeats * period and list(tokens[-repeats * period :]) == unit * repeats


def tail_by_definition(tokens: Sequence[Hashable], max_period: int, repeats: int) -> int:
    return next(
        (period for period in range(1, max_period + 1) if has_period(tokens, period, repeats)), 0
    )


def first_by_definition(
    tokens: Sequence[Hashable], max_period: int, repeats: int
) -> tuple[int, int] | None:
    for size in range(len(tokens) + 1):
        if period := tail_by_definition(tokens[:size], max_period, repeats):
            return size, period
    return None


def thue_morse(size: int) -> list[int]:
    """Return the Thue-Morse sequence, which contains no overlap."""
    return [index.bit_count() % 2 for index in range(size)]


def square_free(size: int) -> list[int]:
    """Return a square-free sequence of three symbols: differences of Thue's (Thue 1912)."""
    word = thue_morse(size + 1)
    return [after - before for before, after in zip(word, word[1:])]


# -------------------------- n-grams


@given(WORD, st.integers(1, 6))
@settings(deadline=None)
def test_rep_equals_its_definition(word: str, window: int) -> None:
    hits = [word[i] in word[max(0, i - window) : i] for i in range(len(word))]
    assert repetition.rep(word, window) == (sum(hits) / len(word) if word else 0.0)


@given(WORD, st.integers(1, 5))
@settings(deadline=None)
def test_seq_rep_and_distinct_n_equal_their_definitions(word: str, n: int) -> None:
    grams = [word[i : i + n] for i in range(len(word) - n + 1)]
    if grams:
        assert repetition.seq_rep(word, n) == pytest.approx(1 - len(set(grams)) / len(grams))
        assert repetition.distinct_n([word], n) == pytest.approx(1 - repetition.seq_rep(word, n))
    else:
        assert repetition.seq_rep(word, n) == 0.0
        assert math.isnan(repetition.distinct_n([word], n))


@given(st.lists(WORD, max_size=5), st.integers(1, 4))
@settings(deadline=None)
def test_distinct_n_over_several_sequences(words: list[str], n: int) -> None:
    grams = [word[i : i + n] for word in words for i in range(len(word) - n + 1)]
    if grams:
        assert repetition.distinct_n(words, n) == len(set(grams)) / len(grams)
    assert repetition.distinct_n(["abc", "abd"], 2) == 3 / 4  # ab twice; no ca between the two


def test_shares_equal_a_hand_computation() -> None:
    assert repetition.rep("abab", 2) == 2 / 4
    assert repetition.rep("abab", 1) == 0.0
    assert repetition.rep("aab", 1) == 1 / 3
    assert repetition.rep("abca", 3) == 1 / 4
    assert repetition.seq_rep("abcabcabc") == 1 - 3 / 6  # abca bcab cabc, each twice
    assert repetition.seq_rep("aaaaaaaaaa") == 1 - 1 / 7
    assert repetition.seq_rep("abcd") == 0.0
    assert repetition.distinct_n(["aaaa", "aaaa"], 1) == 1 / 8


@pytest.mark.parametrize("tokens", ["", "a", [], [7], ()])
def test_shares_of_nothing_and_of_one_token(tokens: Sequence[Hashable]) -> None:
    assert repetition.rep(tokens, 4) == 0.0
    assert repetition.seq_rep(tokens) == 0.0
    assert repetition.adjacent_duplicates(tokens) == (0, 0)
    assert repetition.periodic_tail(tokens, 5, 2) == 0
    assert repetition.first_periodic_tail(tokens, 5, 2) is None
    assert math.isnan(repetition.distinct_n([tokens], 2))
    assert math.isnan(repetition.distinct_n([], 2))


@given(WORD)
@settings(deadline=None)
def test_characters_ids_and_words_are_accepted_as_tokens(word: str) -> None:
    ids, words = [ord(symbol) for symbol in word], tuple(symbol * 3 for symbol in word)
    for figure in (
        lambda tokens: repetition.rep(tokens, 3),
        lambda tokens: repetition.seq_rep(tokens, 2),
        lambda tokens: repetition.periodic_tail(tokens, 4, 2),
        lambda tokens: repetition.first_periodic_tail(tokens, 4, 2),
        repetition.adjacent_duplicates,
    ):
        assert figure(word) == figure(ids) == figure(words)


@given(WORD)
@settings(deadline=None)
def test_adjacent_duplicates_equal_their_definition(word: str) -> None:
    assert repetition.adjacent_duplicates(word) == (
        sum(a == b for a, b in zip(word, word[1:])),
        max(len(word) - 1, 0),
    )
    assert repetition.adjacent_duplicates("aabbbc") == (3, 5)


# -------------------------- loops


@pytest.mark.slow
@given(BINARY, st.integers(1, 8), st.integers(2, 4))
@settings(max_examples=400, deadline=None)
def test_loops_equal_their_definition(word: str, max_period: int, repeats: int) -> None:
    assert repetition.periodic_tail(word, max_period, repeats) == tail_by_definition(
        word, max_period, repeats
    )
    assert repetition.first_periodic_tail(word, max_period, repeats) == first_by_definition(
        word, max_period, repeats
    )


def test_loops_of_known_words() -> None:
    assert repetition.periodic_tail("xabab", 2, 2) == 2
    assert repetition.periodic_tail("xabab", 1, 2) == 0  # longer than allowed
    assert repetition.periodic_tail("xabab", 2, 3) == 0  # not often enough
    assert repetition.periodic_tail("ababx", 2, 2) == 0  # not at the end
    assert repetition.periodic_tail("aaaa", 2, 2) == 1  # the smallest
    assert repetition.periodic_tail("abaabaaba", 9, 3) == 3
    assert repetition.periodic_tail("baba", 10**9, 2) == 2
    assert repetition.first_periodic_tail("xababab", 2, 2) == (5, 2)
    assert repetition.first_periodic_tail("xababab", 2, 3) == (7, 2)
    assert repetition.first_periodic_tail("abcdaa", 2, 2) == (6, 1)


@pytest.mark.parametrize("period", range(1, 21))
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_a_planted_loop_is_found_at_its_exact_step(period: int, repeats: int) -> None:
    rng = random.Random(100 * period + repeats)
    for _ in range(5):
        unit = rng.sample(range(50), period)  # all different, so that nothing in it repeats sooner
        before = rng.sample(range(50, 99), rng.randrange(30))
        tokens = before + unit * (repeats + 2)
        step = len(before) + repeats * period
        assert repetition.first_periodic_tail(tokens, 20, repeats) == (step, period)
        assert repetition.periodic_tail(tokens[: step - 1], 20, repeats) == 0
        assert repetition.periodic_tail(tokens[:step], 20, repeats) == period
        assert repetition.first_periodic_tail(tokens, period, repeats) == (step, period)
        assert period == 1 or repetition.first_periodic_tail(tokens, period - 1, repeats) is None


@pytest.mark.parametrize("period", range(1, 21))
def test_a_loop_after_noise_is_found_where_the_definition_finds_it(period: int) -> None:
    rng = random.Random(period)
    for _ in range(5):
        unit = rng.choices("ab", k=period)
        tokens = (
            rng.choices("abc", k=rng.randrange(20)) + unit * 4
        )  # few symbols: the loop may begin before it was meant to
        assert (
            repetition.first_periodic_tail(tokens, 20, 3)
            == first_by_definition(tokens, 20, 3)
            is not None
        )


@pytest.mark.slow
def test_no_hit_in_ten_thousand_words_without_repetition() -> None:
    rng = random.Random(0)
    squares, overlaps = square_free(4096), thue_morse(4096)
    for _ in range(5_000):
        start, size = rng.randrange(4000), rng.randrange(60)
        names = rng.sample("abcdefgh", 3)
        ternary = [names[symbol] for symbol in squares[start : start + size]]
        assert repetition.first_periodic_tail(ternary, 30, 2) is None
        # Thue's own word has squares, but no cube.
        binary = [names[symbol] for symbol in overlaps[start : start + size]]
        assert repetition.first_periodic_tail(binary, 20, 3) is None
        assert (
            repetition.periodic_tail(ternary, 30, 2) == repetition.periodic_tail(binary, 20, 3) == 0
        )
    assert repetition.first_periodic_tail(squares, 64, 2) is None
    assert repetition.first_periodic_tail(overlaps, 64, 3) is None
    assert (
        repetition.first_periodic_tail(overlaps, 64, 2) is not None
    )  # negative control: the detector does find loops


def test_the_first_loop_takes_one_comparison_for_each_token_and_period() -> None:
    asked = 0

    class Token:
        def __init__(self, name: int) -> None:
            self.name = name

        def __hash__(self) -> int:
            return hash(self.name)

        def __eq__(self, other: object) -> bool:
            nonlocal asked
            asked += 1
            return isinstance(other, Token) and self.name == other.name

    tokens = [Token(name) for name in square_free(500)]
    assert repetition.first_periodic_tail(tokens, 10, 2) is None
    assert asked == sum(min(10, index) for index in range(500))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: repetition.rep("ab", 0), "window is 0"),
        (lambda: repetition.seq_rep("ab", 0), "n is 0"),
        (lambda: repetition.seq_rep("", -1), "n is -1"),
        (lambda: repetition.distinct_n(["ab"], 0), "n is 0"),
        (lambda: repetition.distinct_n([], 0), "n is 0"),
        (lambda: repetition.periodic_tail("ab", 0, 2), "max_period is 0"),
        (lambda: repetition.periodic_tail("ab", 1, 1), "repeats is 1; give at least 2"),
        (lambda: repetition.first_periodic_tail("", 0, 2), "max_period is 0"),
        (lambda: repetition.first_periodic_tail("", 1, 1), "repeats is 1"),
    ],
)
def test_impossible_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# -------------------------- compression


def test_compression_ratio_equals_a_hand_computation() -> None:
    assert repetition.compression_ratio("") == 1.0
    # Fixed codes: 3 bits of header, 8 for each letter, 7 for the end. 18 bits are 3 bytes, 34 are
    # 5; nothing at all takes 2.
    assert repetition.compression_ratio("a") == 1 / (3 - 2)
    assert repetition.compression_ratio("abc") == 3 / (5 - 2)
    # One or two letters (8 bits each), then one copy of 9 or 8 (7 bits and 5 for the distance):
    # 30 or 38 bits.
    assert repetition.compression_ratio("a" * 10) in (10 / (4 - 2), 10 / (5 - 2))
    # Bytes, not characters, and from 144 on a byte has 9 bits: 28 bits are 4 bytes, and 37 are 5.
    assert repetition.compression_ratio("é") == 2 / (4 - 2)
    assert repetition.compression_ratio("\ud800") == 3 / (
        5 - 2
    )  # a surrogate alone, as a broken output may have


@given(st.text(max_size=40))
@settings(deadline=None)
def test_compression_ratio_equals_that_of_the_bytes(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    assert zlib.decompress(packed, -15) == data
    assert repetition.compression_ratio(text) == (len(data) / (len(packed) - 2) if text else 1.0)


def test_a_header_would_dominate_the_ratio_of_a_short_string() -> None:
    rng = random.Random(0)
    for size in (1, 3, 8, 20):
        text = "".join(rng.sample("abcdefghijklmnopqrstuvwxyz", size))
        with_header = size / len(zlib.compress(text.encode(), 9))
        assert with_header < 0.75 < 0.9 < repetition.compression_ratio(text) <= 1.1
    assert 3 / len(zlib.compress(b"abc", 9)) == 3 / 11  # as in the docstring


def test_compression_ratio_separates_loops_from_noise() -> None:
    rng = random.Random(0)
    noise = "".join(chr(rng.randrange(128)) for _ in range(1000))
    ratios = [
        repetition.compression_ratio(text) for text in (noise, "ab" * 10, "ab" * 50, "ab" * 500)
    ]
    assert ratios == sorted(ratios)
    words = " ".join("".join(rng.choices("ab", k=3)) for _ in range(1000))
    fast = zlib.compressobj(level=1, wbits=-15)
    assert repetition.compression_ratio(words) > len(words) / (
        len(fast.compress(words.encode()) + fast.flush()) - 2
    )
    assert 1.0 < ratios[0] < 1.3  # seven bits in eight
    assert ratios[-1] > 50
