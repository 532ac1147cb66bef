"""One random edit: its probabilities by brute force, the optimum against every string of a small
language, and the rows."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest

from maskdiff import tasks
from maskdiff.config import LanguageConfig
from maskdiff.evaluation.one_edit import (
    OPTIMAL,
    DamagedStrings,
    damage,
    damage_prob,
    edit_neighbours,
    most_probable,
    one_edit_suite,
    symbols_of,
)
from maskdiff.evaluation.repair import Fixed, check_methods, fitting_methods, fix_with_tasks
from maskdiff.evaluation.report import Report, tables
from maskdiff.evaluation.rows import Plan, Row
from maskdiff.evaluation.yardsticks import UNKNOWN, KnownDamage
from maskdiff.languages import make_language
from maskdiff.metrics import edit_distance
from tests.helpers.evaluation import LANGUAGE, Uniform, pick, rows_of, subject

COUNT = 10  # strings of the suite


@pytest.mark.slow
@pytest.mark.parametrize("clean", ["ab", "aab", "bbbb"])
def test_edit_probabilities_equal_the_enumeration(clean: str) -> None:
    """Probabilities sum to 1 over all strings; 20,000 draws agree within 5 standard errors."""
    symbols, draws = "abc", 20_000
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


@pytest.mark.slow
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
            joint(most_probable(damaged, language.log_prob, symbols))
            >= max(joint(text) for text in known) * (1 - 1e-9)
            > 0
        )


def oracle(clean: list[str], probability: float) -> Any:
    """Return a repairer whose `channel` finds the originals among `clean`; `draft` does nothing."""

    def fix(
        loaded: Any,
        texts: list[str],
        method: str,
        sigma: float | None,
        seed: int,
        known: KnownDamage,
    ) -> Fixed:
        assert sigma is None  # unknown to a user
        assert known == UNKNOWN or method == "channel"
        made = list(clean[: len(texts)]) if method == "channel" else texts
        return Fixed(made, [1] * len(texts), [probability] * len(made))

    return fix


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The rows of an oracle that gives its answers the probability 0.7."""
    clean = LANGUAGE.sample_many(COUNT, np.random.default_rng(4))
    plan = Plan(num_samples=COUNT, repair_methods=("channel", "draft"))
    return rows_of(one_edit_suite, subject(Uniform()), plan, clean, oracle(clean, 0.7))


@pytest.mark.slow
def test_one_edit_rows_are_complete(rows: list[Row]) -> None:
    by = {
        (row.sampler, row.metric, row.settings["edits"], row.settings["damage"]): row
        for row in rows
    }
    assert by["channel", "exact", 1, "unknown"].value == 1.0
    draft = by["draft", "exact", 1, "unknown"]
    assert draft.value == 0.0 == draft.baseline
    optimum = by[OPTIMAL, "exact", 1, "known broken"].value
    assert 0.3 < optimum < 1.0  # an edit destroys information
    for edits, known in ((1, "unknown"), (1, "known broken"), (2, "known broken")):
        for name in ("channel", "least_edits", "ngram", "pcfg", "nearest_line"):
            row = by[name, "exact", edits, known]
            assert row.ceiling == (optimum if edits == 1 else None)
        simple = ("least_edits", "ngram", "pcfg", "nearest_line")
        best = max(simple, key=lambda n: by[n, "exact", edits, known].value)
        gain = by[f"channel against {best}", "exact_gain", edits, known]
        assert gain.value == pytest.approx(1 - by[best, "exact", edits, known].value)
    assert ("draft", "exact", 1, "known broken") not in by
    assert pick(rows, "parses").baseline is not None
    titles = [table.title for table in tables(Report(rows))]
    assert any("gain" in title for title in titles)


def test_damaged_strings_have_the_edits_that_were_asked_for() -> None:
    clean, symbols = LANGUAGE.sample_many(60, np.random.default_rng(2)), symbols_of(LANGUAGE)
    for edits in (1, 2):
        strings = DamagedStrings.draw(clean, edits, symbols, np.random.default_rng(3))
        distances = [edit_distance(a, b) for a, b in zip(clean, strings.noisy, strict=True)]
        assert set(distances) <= set(range(1, edits + 1))
        assert max(distances) == edits


def test_what_is_known_reaches_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []

    def repaired(loaded: object, texts: list[str], **options: object) -> list[tasks.Result]:
        given.append(options)
        return [tasks.Result(text) for text in texts]

    monkeypatch.setattr(tasks, "repair", repaired)
    for known in (UNKNOWN, KnownDamage(True, (1, 1))):
        fix_with_tasks(cast(Any, None), ["ab"], "channel", None, 0, known)
    assert [(call["broken"], call["edits"]) for call in given] == [(False, None), (True, (1, 1))]


@pytest.mark.slow
def test_probabilities_are_compared_with_what_is_right(rows: list[Row]) -> None:
    of_channel = [row for row in rows if row.sampler == "channel"]
    error = pick(of_channel, "calibration_error", damage="unknown")
    assert error.value == pytest.approx(0.3)  # always right, with probability 0.7
    assert error.ceiling is not None
    assert error.ceiling > 0  # by chance
    bins = [r for r in of_channel if r.metric == "right" and r.settings["edits"] == 2]
    assert [row.settings["bin"] for row in bins] == list(range(1, 11))
    assert sum(row.count for row in bins) == COUNT
    assert {row.value for row in bins} == {1.0}


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
