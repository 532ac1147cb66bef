"""Search for true fillings, compared with trying all of them; and `tasks.fill`."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskdiff import tasks
from maskdiff.checkpoint import Loaded
from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError
from maskdiff.languages import ArithmeticLanguage, make_language
from maskdiff.repair import fill as fill_module
from maskdiff.repair.fill import FillProblem, Guide, search_fillings
from maskdiff.sampling import Canvas, GrammarConstraint
from tests.helpers.tiny import tiny_loaded

LANGUAGE = ArithmeticLanguage(LanguageConfig())
INNER = [LANGUAGE.vocabulary.symbols[i] for i in LANGUAGE.vocabulary.inner_ids]
EVERY = 10**6


@functools.cache
def constraint() -> GrammarConstraint:
    return GrammarConstraint.of(LANGUAGE)


def puzzle(template: str, grammar: bool = True) -> FillProblem:
    canvas = Canvas.template([template], LANGUAGE.vocabulary)
    mask = constraint().mask(canvas.tokens, ~canvas.known, canvas.length) if grammar else None
    return FillProblem(template, LANGUAGE.vocabulary, LANGUAGE.holds, LANGUAGE.forced_ending, mask)


def random_guide(template: str, seed: int, scale: float = 3.0) -> Guide:
    logits = scale * torch.randn(
        len(template), len(LANGUAGE.vocabulary), generator=torch.Generator().manual_seed(seed)
    )
    return Guide(logits.log_softmax(-1))


def all_solutions(template: str) -> set[str]:
    """Return all solutions, by trying every symbol at every blank."""
    parts = [INNER if symbol == "?" else [symbol] for symbol in template]
    return {text for text in map("".join, itertools.product(*parts)) if LANGUAGE.holds(text)}


def templates(count: int, seed: int, most: int = 3) -> list[str]:
    """Short strings of the language, some with a wrong value, with up to `most` blanks each."""
    rng = np.random.default_rng(seed)
    found: list[str] = []
    for text in LANGUAGE.sample_many(40 * count, rng):
        if len(found) == count:
            break
        if 5 <= len(text) <= 22:
            wrong = text[:-1] + str(rng.integers(10)) if rng.random() < 0.4 else text
            places = rng.choice(len(text), int(rng.integers(1, most + 1)), replace=False)
            found.append("".join("?" if i in places else symbol for i, symbol in enumerate(wrong)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("grammar", [True, False])
def test_solutions_equal_brute_force(grammar: bool) -> None:
    some = none = 0
    for index, template in enumerate(templates(30, 1)):
        expected = all_solutions(template)
        outcome = search_fillings(
            puzzle(template, grammar), random_guide(template, index), EVERY, EVERY
        )
        assert outcome.exhausted
        assert len(outcome.solutions) == len(set(outcome.solutions))
        assert set(outcome.solutions) == expected
        assert (outcome.first is None) == (not expected)
        some, none = some + bool(expected), none + (not expected)
    assert min(some, none) >= 5  # both outcomes occurred


@pytest.mark.slow
def test_a_bounded_search_claims_only_checked_solutions() -> None:
    early = 0
    for index, template in enumerate(templates(25, 2)):
        expected = all_solutions(template)
        for bound in (1, 2, 7, 30, 150):
            outcome = search_fillings(puzzle(template), random_guide(template, index), EVERY, bound)
            assert outcome.looked <= bound
            assert set(outcome.solutions) <= expected
            if outcome.exhausted:
                assert set(outcome.solutions) == expected
            early += not outcome.exhausted
        one = search_fillings(puzzle(template), random_guide(template, index), 1)
        assert len(one.solutions) == min(1, len(expected))
        assert set(one.solutions) <= expected
        assert not one.exhausted or set(one.solutions) == expected
    assert early > 20


@pytest.mark.slow
def test_chunks_cache_size_and_consequences_do_not_change_the_solutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = [(template, all_solutions(template)) for template in templates(25, 3)]
    monkeypatch.setattr(fill_module, "CHUNK", 3)
    for kept in (0, 1000):
        monkeypatch.setattr(fill_module, "KEPT", kept)
        for template, expected in cases:
            blind = replace(puzzle(template), forced_ending=lambda text: None)
            for asked in (puzzle(template), blind):
                assert (
                    set(search_fillings(asked, random_guide(template, 0), EVERY).solutions)
                    == expected
                )


@pytest.mark.parametrize("grammar", [True, False])
def test_the_only_solution_is_found_with_any_guide(grammar: bool) -> None:
    template, only = "(+(*?5)1?)=4?", "(+(*75)10)=45"
    unique = template.replace("=4?", "=45").replace("1?", "10")
    assert all_solutions(unique) == {only}
    worst = torch.zeros(len(only), len(LANGUAGE.vocabulary))
    for position, symbol in enumerate(only):
        worst[position, LANGUAGE.vocabulary.ids[symbol]] = -torch.inf
    for guide in (
        Guide(worst),
        Guide(torch.full_like(worst, torch.nan)),
        Guide(torch.full_like(worst, -torch.inf)),
    ):
        outcome = search_fillings(puzzle(unique, grammar), guide, EVERY)
        assert (outcome.solutions, outcome.exhausted) == ((only,), True)
        assert only in search_fillings(puzzle(template, grammar), guide, EVERY, EVERY).solutions


def test_a_good_guide_finds_it_at_once_and_a_bad_one_late() -> None:
    text = "(+(*75)(+83))=46"
    template = "(+(*??)(+??))=46"
    known = torch.full((len(text), len(LANGUAGE.vocabulary)), -5.0)
    for position, symbol in enumerate(text):
        known[position, LANGUAGE.vocabulary.ids[symbol]] = -0.1
    good, bad = (
        search_fillings(puzzle(template), Guide(known), 1),
        search_fillings(puzzle(template), Guide(-5.1 - known), 1),
    )
    assert (good.solutions, good.first) == ((text,), 1)
    assert bad.first is not None
    assert bad.first > 10


def test_templates_with_at_most_one_solution() -> None:
    for text, expected in (
        ("5=5", ("5=5",)),
        ("5=6", ()),
        ("(*11)=2?", ()),
        ("(+55)=??", ("(+55)=10",)),
        ("?=5", ("5=5",)),
    ):
        outcome = search_fillings(puzzle(text), random_guide(text, 0), EVERY)
        assert (outcome.solutions, outcome.exhausted) == (expected, True)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return tiny_loaded()


def test_fill_gives_true_strings_or_a_reason(loaded: Loaded) -> None:
    texts = ["(+?(*24))=1?", "(*11)=2?", "(+?(*24)=1?", "5=5", "z", "", "(*??)=?2"]
    results = tasks.fill(loaded, texts)
    assert [result.error is None for result in results] == [
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    for text, result in zip(texts, results, strict=True):
        assert result.input == text
        if result.error is None:
            assert result.holds
            assert result.score is not None
            assert all(a in ("?", b) for a, b in zip(text, result.text, strict=True))
    assert results[1].error == "no filling of '(*11)=2?' holds: the only candidate was checked"
    assert "symbol 8 cannot be '='" in (results[2].error or "")
    assert results == [tasks.fill(loaded, [text])[0] for text in texts]
    assert results == tasks.fill(loaded, texts, batch_size=2)


def test_fill_reports_a_reached_bound(loaded: Loaded) -> None:
    impossible = "(*?(*?(*??)))=5041"
    (short,) = tasks.fill(loaded, [impossible], bound=500)
    (whole,) = tasks.fill(loaded, [impossible])
    assert "raise the bound" in (short.error or "")
    assert whole.error == f"no filling of '{impossible}' holds: all 10000 candidates were checked"


def test_the_most_likely_solution_is_given(loaded: Loaded) -> None:
    template = "(+??)=12"
    scores = {
        result.text: result.score for result in tasks.edit(loaded, sorted(all_solutions(template)))
    }
    (result,) = tasks.fill(loaded, [template], solutions=EVERY)
    assert scores[result.text] == pytest.approx(
        max(score for score in scores.values() if score is not None)
    )
    assert len(scores) > 4


def test_masks_are_blanks_and_traces_show_the_solutions(loaded: Loaded) -> None:
    masked, plain = (
        tasks.fill(loaded, ["(+75)=12"], masks=[(2, 4)])[0],
        tasks.fill(loaded, ["(+??)=12"], trace=True)[0],
    )
    assert masked.text == plain.text
    assert plain.trace is not None
    assert plain.text in plain.trace
    assert plain.trace[-1].endswith("which is all")


def test_bad_settings_and_languages_without_equations_are_refused(loaded: Loaded) -> None:
    for settings in ({"bound": 0}, {"solutions": 0}):
        with pytest.raises(ConfigError, match="allowed is 1 to"):
            tasks.fill(loaded, ["5=5"], **settings)
    other = replace(loaded, language=make_language(LanguageConfig(language="json")))
    with pytest.raises(ConfigError, match="state nothing"):
        tasks.fill(other, ["5=5"])
