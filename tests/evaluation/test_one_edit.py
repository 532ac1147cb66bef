"""One random edit: its probabilities by brute force, the optimum against every string of a small
language, and the rows."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from maskdiff.config import LanguageConfig
from maskdiff.evaluation.one_edit import (
    OPTIMAL,
    damage,
    damage_prob,
    edit_neighbours,
    most_probable,
    one_edit_suite,
    symbols_of,
)
from maskdiff.evaluation.repair import Fixed, check_methods, fitting_methods
from maskdiff.evaluation.rows import Plan
from maskdiff.languages import make_language
from tests.helpers.evaluation import LANGUAGE, Uniform, pick, rows_of, subject


@pytest.mark.parametrize("clean", ["ab", "aab", "abca", "bbbb"])
def test_edit_probabilities_equal_the_enumeration(clean: str) -> None:
    """Probabilities sum to 1 over all strings; 60,000 draws agree within 5 standard errors."""
    symbols, draws = "abc", 60_000
    words = [
        "".join(w)
        for n in range(len(clean) - 1, len(clean) + 2)
        for w in itertools.product(symbols, repeat=n)
    ]
    exact = {word: damage_prob(clean, word, symbols) for word in words}
    assert sum(exact.values()) == pytest.approx(1)
    rng = np.random.default_rng(0)
    seen = Counter(damage(clean, symbols, rng) for _ in range(draws))
    assert set(seen) <= {word for word, p in exact.items() if p > 0}
    for word, p in exact.items():
        assert abs(seen[word] / draws - p) <= 5 * math.sqrt(p * (1 - p) / draws)


def test_neighbours_are_all_possible_sources_of_an_edit() -> None:
    symbols = "ab"
    words = ["".join(w) for n in range(1, 6) for w in itertools.product(symbols, repeat=n)]
    for text in ("ab", "aaa", "abba"):
        found = list(edit_neighbours(text, symbols))
        assert len(found) == len(set(found))
        assert {w for w in words if len(w) > 1 and damage_prob(w, text, symbols) > 0} == {
            w for w in found if len(w) > 1
        }


def test_optimum_is_best_on_every_string() -> None:
    """Compare with all strings of a small language, not only with neighbours."""
    language: Any = make_language(LanguageConfig(max_int=1, max_depth=2, max_len=20))
    rng, symbols = np.random.default_rng(0), symbols_of(language)
    known = set(language.sample_many(20_000, rng))  # all but the rarest strings
    for clean in language.sample_many(25, rng):
        damaged = damage(clean, symbols, rng)

        def joint(text: str, damaged: str = damaged) -> float:
            return math.exp(language.log_prob(text)) * damage_prob(text, damaged, symbols)

        assert (
            joint(most_probable(damaged, language, symbols))
            >= max(joint(text) for text in known) * (1 - 1e-9)
            > 0
        )


def test_one_edit_rows_are_complete() -> None:
    clean = LANGUAGE.sample_many(40, np.random.default_rng(1))

    def perfect(
        loaded: Any, texts: list[str], method: str, sigma: float | None, seed: int
    ) -> Fixed:
        assert sigma is None  # unknown to a user
        return Fixed(list(clean) if method == "channel" else texts, [1] * len(texts))

    plan = Plan(num_samples=40, repair_methods=("channel", "draft"))
    rows = rows_of(one_edit_suite, subject(Uniform()), plan, clean, perfect)
    by = {(row.sampler, row.metric): row for row in rows}
    assert by["channel", "exact"].value == 1.0
    assert by["draft", "exact"].value == 0.0 == by["draft", "exact"].baseline
    optimum = by[OPTIMAL, "exact"].value
    assert 0.3 < optimum < 1.0  # an edit destroys information
    assert by["channel", "exact"].ceiling == optimum
    assert ("least_edits", "exact") in by
    assert pick(rows, "parses").baseline is not None


def test_methods_are_those_of_the_language() -> None:
    methods = check_methods(("channel", "draft"), grammar=True)
    assert methods == (
        "channel",
        "draft",
        "channel+grammar",
        "draft+grammar",
        "channel+grammar+holds",
        "least_edits",
    )
    assert fitting_methods(methods, LANGUAGE) == methods
    json = make_language(LanguageConfig(language="json"))
    assert fitting_methods(methods, json) == (
        "channel",
        "draft",
        "channel+grammar",
        "draft+grammar",
        "least_edits",
    )
