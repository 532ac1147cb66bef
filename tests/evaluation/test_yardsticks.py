"""The yardsticks against brute force: the n-gram as a noisy channel, fillings, nearest lines."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff import metrics
from maskdiff.evaluation.noisy_ngram import NoiseRates, noisy_originals
from maskdiff.evaluation.one_edit import damage_prob, edit_neighbours
from maskdiff.evaluation.yardsticks import (
    KINDS,
    UNKNOWN,
    KnownDamage,
    NearestLine,
    Tokens,
    Yardsticks,
    _replacements,
    edit_sources,
    fit_yardsticks,
    most_probable_source,
)
from maskdiff.languages import Vocabulary, split_of
from maskdiff.models.ngram import NGram
from tests.helpers.evaluation import LANGUAGE

VOCABULARY = Vocabulary.of("abc")
LINES = ["abcabc", "abab", "cab", "aabbcc", "abcab", "bcabca", "ccaab", "a"]
TEXTS = ("a", "ab", "aab", "abba", "cccabcc", "abcabcabc", "bbbbbbbb")


def ngram(order: int) -> NGram:
    return NGram.fit([VOCABULARY.encode(line) for line in LINES], VOCABULARY, order)


def joint(model: NGram, text: str, damaged: str) -> float:
    """Return log p(text) + log p(damaged | text), scored as a whole."""
    likelihood = damage_prob(text, damaged, "abc")
    log_p = float(model.log_probs([VOCABULARY.encode(text)])[0])
    return log_p + math.log(likelihood) if likelihood else -math.inf


def decoded(pairs: Sequence[tuple[float, Tokens]]) -> dict[str, float]:
    return {VOCABULARY.decode(tokens): score for score, tokens in pairs}


@pytest.mark.parametrize("order", [2, 3, 6])
@pytest.mark.parametrize("text", TEXTS)
def test_sources_and_their_scores_equal_all_neighbours(order: int, text: str) -> None:
    model = ngram(order)
    every = {x: joint(model, x, text) for x in edit_neighbours(text, "abc") if x}
    found = decoded(edit_sources(model, VOCABULARY.encode(text), top=1000))
    assert found.keys() == {x for x, score in every.items() if score > -math.inf}
    assert all(score == pytest.approx(every[x]) for x, score in found.items())


@given(st.text(alphabet="abc", min_size=1, max_size=14), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_first_sources_are_the_best_of_all(text: str, top: int) -> None:
    """The bound drops no source that belongs to the first."""
    model, tokens = ngram(4), VOCABULARY.encode(text)
    every = edit_sources(model, tokens, top=10_000)
    assert edit_sources(model, tokens, top=top) == every[:top]


def test_transpositions_are_sources() -> None:
    model, text = ngram(3), "abcacb"
    swaps = [
        text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(5) if text[i] != text[i + 1]
    ]
    found = decoded(edit_sources(model, VOCABULARY.encode(text), 1000, ("transpose",)))
    log_p = model.log_probs([VOCABULARY.encode(x) for x in swaps])
    assert found == pytest.approx(dict(zip(swaps, log_p - math.log(5), strict=True)))
    together = decoded(edit_sources(model, VOCABULARY.encode(text), 1000, (*KINDS, "transpose")))
    assert together[swaps[0]] == pytest.approx(found[swaps[0]] - math.log(4))


def test_original_is_the_best_of_what_is_known() -> None:
    model = ngram(4)
    for text in TEXTS:
        every = {x: joint(model, x, text) for x in edit_neighbours(text, "abc") if x}
        best = max(every, key=lambda x: every[x])
        tokens = VOCABULARY.encode(text)
        answer = most_probable_source(model, tokens, KnownDamage(True, (1, 1)))
        assert VOCABULARY.decode(answer) == best
        # Of no edit or one, equally likely before the text is seen.
        either = max(best, text, key=lambda x: every.get(x, joint_unchanged(model, text)))
        answer = most_probable_source(model, tokens, KnownDamage(False, (0, 1)))
        assert VOCABULARY.decode(answer) == either
    unbroken = VOCABULARY.encode("abcabc")
    assert most_probable_source(model, unbroken, UNKNOWN) == tuple(unbroken)
    assert most_probable_source(model, unbroken, KnownDamage(True)) != tuple(unbroken)


def joint_unchanged(model: NGram, text: str) -> float:
    return float(model.log_probs([VOCABULARY.encode(text)])[0])


def test_two_edits_are_summed_over_the_strings_between() -> None:
    """With a beam that holds all strings between, the answer is that of the enumeration."""
    model, damaged = ngram(3), "ba"
    totals: Counter[str] = Counter()
    for middle in edit_neighbours(damaged, "abc"):
        for text in edit_neighbours(middle, "abc"):
            if text and middle and text != damaged:
                ways = damage_prob(text, middle, "abc") * damage_prob(middle, damaged, "abc")
                totals[text] += ways * math.exp(joint_unchanged(model, text))
    answer = most_probable_source(
        model, VOCABULARY.encode(damaged), KnownDamage(True, (2, 2)), beam=1000
    )
    assert VOCABULARY.decode(answer) == totals.most_common(1)[0][0]


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("template", ["???", "a?c?b", "?ab??", "abc", "?"])
def test_filling_is_the_most_probable_of_all(order: int, template: str) -> None:
    model = ngram(order)
    fillings = itertools.product(*("abc" if s == "?" else s for s in template))
    every = [tuple(VOCABULARY.encode("".join(symbols))) for symbols in fillings]
    best = every[int(model.log_probs(every).argmax())]
    given = VOCABULARY.encode(template, blanks=True)
    found = next(iter(noisy_originals(model, given, NoiseRates(), beam=1000)))
    assert model.log_probs([found])[0] == pytest.approx(model.log_probs([best])[0])
    assert all(s in ("?", f) for s, f in zip(template, VOCABULARY.decode(found), strict=True))


NOISE = NoiseRates(0.7, 0.1, 0.03, 0.05, 0.04, 0.01)


@pytest.mark.parametrize("damaged", ["abcab", "acc?b", "??ccb"])
def test_strings_of_the_parser_have_the_terms_of_the_channel(damaged: str) -> None:
    """Kept symbols and blanks count, too, so that they compare with the strings of the n-gram."""
    model, original = ngram(3), tuple(VOCABULARY.encode("abcab"))
    given = VOCABULARY.encode(damaged, blanks=True)
    found = noisy_originals(model, given, NOISE, beam=1000, whole=True)
    expected = found[original] - float(model.log_probs([original])[0])
    cost = sum(a not in (b, "?") for a, b in zip(damaged, "abcab", strict=True))
    made = _replacements(given, cost, model, KnownDamage(noise=(NOISE,)))
    assert made == pytest.approx(expected, abs=0.5)
    assert made <= expected + 1e-9


def ways(text: str, damaged: str) -> float:
    """Return p(damaged | text) by a recursion over the first symbol, one deletion in a gap."""

    @cache
    def rest(x: str, y: str, deleted: bool) -> float:
        total = 0.0 if x or y else 1.0
        if x and not deleted:
            total += NOISE.delete * rest(x[1:], y, True)
        if y and y[0] != "?":
            total += NOISE.insert * rest(x, y[1:], False)
        if x and y:
            stays = NOISE.mask if y[0] == "?" else NOISE.replace + NOISE.keep * (x[0] == y[0])
            total += stays * rest(x[1:], y[1:], False)
        if len(x) > 1 and len(y) > 1 and x[0] == y[1] != y[0] == x[1]:
            total += NOISE.swap * rest(x[2:], y[2:], False)
        return total

    return rest(text, damaged, False)


@pytest.mark.parametrize("damaged", ["a?c", "ba", "?", "ab?b", "abca"])
def test_noisy_originals_equal_the_sum_over_all_alignments(damaged: str) -> None:
    """With a beam that holds all strings, each has log p(x) + log p(y | x)."""
    model, tokens = ngram(3), VOCABULARY.encode(damaged, blanks=True)
    found = noisy_originals(model, tokens, NOISE, beam=10_000, whole=True)
    words = ["".join(w) for n in range(1, 6) for w in itertools.product("abc", repeat=n)]
    log_p = dict(zip(words, model.log_probs([VOCABULARY.encode(w) for w in words]), strict=True))
    every = {w: log_p[w] + math.log(p) for w in words if (p := ways(w, damaged))}
    scores = {VOCABULARY.decode(x): score for x, score in found.items()}
    assert {w: scores[w] for w in every} == pytest.approx(every)
    assert [*found.values()] == sorted(found.values(), reverse=True)
    best = VOCABULARY.decode(next(iter(noisy_originals(model, tokens, NOISE))))
    assert best == max(every, key=lambda w: every[w])


@given(
    st.lists(st.text(alphabet="abcd", max_size=9), min_size=1, max_size=40),
    st.text(alphabet="abcde?", max_size=9),
    st.sampled_from(["?", ""]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_nearest_line_equals_the_search_of_all(
    lines: list[str], text: str, blank: str, broken: bool
) -> None:
    """A blank equals every symbol."""

    def distance(line: str) -> int:
        table = list(range(len(line) + 1))
        for i, symbol in enumerate(text, 1):
            row = [i]
            for j, other in enumerate(line, 1):
                differs = symbol not in (other, blank)
                row.append(min(row[-1] + 1, table[j] + 1, table[j - 1] + differs))
            table = row
        return table[-1]

    counted = Counter(lines)
    allowed = [line for line in lines if not (broken and distance(line) == 0)]
    expected = min(
        allowed, key=lambda line: (distance(line), -counted[line], lines.index(line)), default=text
    )
    assert NearestLine(lines, blank)(text, broken) == expected


def test_yardsticks_are_fitted_on_the_training_split_alone() -> None:
    yardsticks = fit_yardsticks(LANGUAGE, seed=3)
    assert {split_of(line) for line in yardsticks.lines} == {"train"}
    assert fit_yardsticks(LANGUAGE, seed=3) is yardsticks  # every suite shares them
    assert fit_yardsticks(LANGUAGE, seed=4).lines != yardsticks.lines


def test_nats_are_those_of_whole_strings_and_sum_to_one() -> None:
    """The probability of all strings to 6 symbols, and of all prefixes that go on, is 1."""
    yardsticks = Yardsticks(VOCABULARY, ngram(2), LINES)
    words = ["".join(w) for n in range(7) for w in itertools.product("abc", repeat=n)]
    ended = np.exp(-yardsticks.nats(words)).sum()
    longest = [VOCABULARY.encode(word) for word in words if len(word) == 6]
    terms = yardsticks.model.symbol_log_probs(longest)
    going_on = sum(math.exp(t[:-1].sum()) - math.exp(t.sum()) for t in terms)
    assert ended + going_on == pytest.approx(1)


def test_the_fitted_grammar_repairs_to_its_most_probable_strings() -> None:
    """Of all strings within one edit it finds the best; each has log p(x) and the channel's."""
    yardsticks = fit_yardsticks(LANGUAGE, seed=3)
    grammar = yardsticks.grammar
    assert grammar is not None
    assert "pcfg" in yardsticks.repairers()
    damaged = "(+12=3"
    (made,) = yardsticks.pcfg([damaged], KnownDamage(True, (1, 1)))
    assert LANGUAGE.parses(made)
    assert metrics.edit_distance(damaged, made) == 1
    nats = yardsticks.pcfg_nats([made, damaged])
    assert nats is not None
    assert 0 < nats[0] < nats[1] < math.inf
    without = Yardsticks(VOCABULARY, ngram(2), LINES)
    assert "pcfg" not in without.repairers()
    assert without.pcfg_nats(["a"]) is None
