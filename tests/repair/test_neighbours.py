"""Likely neighbours against the scores of all strings one edit away."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from maskdiff.languages import Vocabulary
from maskdiff.models.ngram import NGram
from maskdiff.repair import Damage, EditWeights, likely_neighbours
from tests.helpers.corpora import lines

VOCABULARY = Vocabulary.of("abcd", digit=False)
INNER = VOCABULARY.inner_ids
SIZE = len(INNER)
LINES = ["abcabc", "abab", "cab", "aabbcc", "abcab", "bcdbca", "ccaab", "a", "ddcd"]
EVERY = 10_000
WEIGHTS = (
    EditWeights(),
    EditWeights(-1.0, -0.2, -2.5, 0.3),
    EditWeights(insert=-math.inf),
    EditWeights(delete=-math.inf, replace=-math.inf, transpose=-math.inf),
    EditWeights(insert=-math.inf, delete=-math.inf, replace=-math.inf),
    EditWeights(
        confusion=np.random.default_rng(1).normal(size=(SIZE, SIZE)),
        inserted=np.random.default_rng(2).normal(size=SIZE),
    ),
)
Tokens = tuple[int, ...]


def ngram(order: int) -> NGram:
    return NGram.fit([VOCABULARY.encode(line) for line in LINES], VOCABULARY, order)


def every_neighbour(
    model: NGram, x: Tokens, weights: EditWeights, certain: set[int]
) -> dict[Tokens, float]:
    """Return log p + weight of each string one edit away, by one edit after the other."""
    n, weighted = len(x), dict[Tokens, float]()

    def add(made: Tokens, weight: float) -> None:
        if made != x and made and weight > -math.inf:
            weighted[made] = max(weighted.get(made, -math.inf), weight)

    symbols = model.vocabulary.inner_ids

    def confused(right: int, wrong: int) -> float:
        table = weights.confusion
        row, column = symbols.index(right), symbols.index(wrong)
        return weights.replace + (0.0 if table is None else float(table[row, column]))

    def spurious(symbol: int) -> float:
        table = weights.inserted
        return weights.delete + (0.0 if table is None else float(table[symbols.index(symbol)]))

    for i in range(n + 1):
        for symbol in symbols:
            add((*x[:i], symbol, *x[i:]), weights.insert)
    for i in sorted(set(range(n)) - certain):
        add((*x[:i], *x[i + 1 :]), spurious(x[i]))
        for symbol in symbols:
            add((*x[:i], symbol, *x[i + 1 :]), confused(symbol, x[i]))
        if i + 1 < n and i + 1 not in certain:
            add((*x[:i], x[i + 1], x[i], *x[i + 2 :]), weights.transpose)
    log_p = model.log_probs([*weighted]).tolist()
    return {made: score + log_p[i] for i, (made, score) in enumerate(weighted.items())}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("order", [2, 4])
def test_neighbours_and_their_scores_are_all_of_them(order: int, weights: EditWeights) -> None:
    model, rng = ngram(order), random.Random(order)
    for text in ("a", "b", "aaaa", "ab", "ba", *LINES[:4]):
        x = tuple(VOCABULARY.encode(text))
        certain = set(rng.sample(range(len(x)), len(x) // 3))
        expected = every_neighbour(model, x, weights, certain)
        found = likely_neighbours(model, x, EVERY, weights, certain)
        assert len(found) == len({made for _, made in found}) == len(expected)
        assert {made: score for score, made in found} == pytest.approx(expected)
        scores = [score for score, _ in found]
        assert scores == pytest.approx(sorted(expected.values(), reverse=True))


def test_what_is_certain_stays_in_its_place() -> None:
    """With all symbols certain only insertions are left."""
    x = tuple(VOCABULARY.encode("abca"))
    found = likely_neighbours(ngram(3), x, EVERY, certain=range(4))
    assert found
    assert {len(made) for _, made in found} == {5}


@pytest.mark.slow
def test_pruning_drops_few_of_the_best() -> None:
    """Of the 20 best neighbours of 40 damaged lines the first is found, and 95% of all."""
    corpus = lines(400)
    vocabulary = Vocabulary.of("".join(sorted(set("".join(corpus)))), digit=False)
    model = NGram.fit([vocabulary.encode(line) for line in corpus[40:]], vocabulary, 4)
    rng, hits, wanted = np.random.default_rng(1), 0, 0
    for line in corpus[:40]:
        x = tuple(Damage().apply(vocabulary.encode(line), 2, vocabulary, rng))
        expected = every_neighbour(model, x, EditWeights(), set())
        best = sorted(expected, key=lambda made: -expected[made])[:20]
        found = likely_neighbours(model, x, 20)
        assert found[0][0] == pytest.approx(expected[best[0]])
        hits += len(set(best) & {made for _, made in found})
        wanted += len(best)
    assert hits >= 0.95 * wanted
