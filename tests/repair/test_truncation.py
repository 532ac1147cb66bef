"""The channel of a lost end, and continuations by an n-gram, against brute force."""

from __future__ import annotations

import itertools
import math

import pytest

from maskdiff.languages import Vocabulary
from maskdiff.models.ngram import NGram
from maskdiff.repair import Truncation, likely_continuations

VOCABULARY = Vocabulary.of("ab", digit=False)
INNER = VOCABULARY.inner_ids
LINES = ["abab", "ab", "aab", "abb", "b", "abaab"]
MODEL = NGram.fit([VOCABULARY.encode(line) for line in LINES], VOCABULARY, 3)


def test_beginnings_of_a_string_are_equally_likely() -> None:
    """Over all y the probabilities add up to 1."""
    x = VOCABULARY.encode("abba")
    every = [y for n in range(6) for y in itertools.product(INNER, repeat=n)]
    p = {y: float(Truncation().log_probs(y, [x], VOCABULARY).exp()) for y in every}
    assert sum(p.values()) == pytest.approx(1)
    assert {y for y in every if p[y] > 0} == {tuple(x[:n]) for n in range(5)}


def test_a_blank_hides_a_symbol() -> None:
    texts = [VOCABULARY.encode(text) for text in ("abab", "aaba", "a", "bab")]
    y = VOCABULARY.encode("a?b", blanks=True)
    found = Truncation().log_probs(y, texts, VOCABULARY).exp().tolist()
    assert found == pytest.approx([0, 1 / 5, 0, 0])
    assert len(Truncation().log_probs(y, [], VOCABULARY)) == 0


@pytest.mark.parametrize("text", ["", "a", "ab", "b?", "?a?", "bbbb"])
def test_a_wide_beam_finds_the_likeliest_continuations(text: str) -> None:
    y, longest = VOCABULARY.encode(text, blanks=True), 7
    every = [
        x
        for n in range(longest + 1)
        for x in itertools.product(INNER, repeat=n)
        if float(Truncation().log_probs(y, [x], VOCABULARY)) > -math.inf
    ]
    log_p = dict(zip(every, MODEL.log_probs(every).tolist(), strict=True))
    best = sorted(log_p.values(), reverse=True)[:30]
    found = likely_continuations(MODEL, y, 200, longest)
    assert len(found) == len(set(found)) == min(200, len(every))
    assert [log_p[x] for x in found][:30] == pytest.approx(best)


def test_a_narrow_beam_finds_the_best_ones() -> None:
    y = VOCABULARY.encode("a")
    wide = likely_continuations(MODEL, y, 200, 9)
    assert likely_continuations(MODEL, y, 12, 9)[0] == wide[0]
    assert len(likely_continuations(MODEL, y, 12, 9)) == 12


def test_a_text_longer_than_every_string_has_no_continuation() -> None:
    assert likely_continuations(MODEL, VOCABULARY.encode("ababab"), 10, 5) == []
