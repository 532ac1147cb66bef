"""`repair` with what the user knows of the damage, and the fit of the prior; an n-gram's model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from maskdiff import tasks
from maskdiff.checkpoint import Loaded
from maskdiff.errors import ConfigError
from maskdiff.models.ngram import NGram
from maskdiff.models.prior import Prior
from maskdiff.repair import (
    Damage,
    FewEdits,
    Truncation,
    fit_damage,
    likely_neighbours,
    named_damage,
)
from maskdiff.tasks import calibrating, proposing
from maskdiff.tasks.candidates import (
    CandidatePool,
    CandidateScorer,
    Damaged,
    RepairConstraints,
    best_result,
)
from maskdiff.tasks.proposing import channel_candidates
from maskdiff.tasks.running import log_probs
from maskdiff.text.edits import edit_distance
from maskdiff.utils.deadline import Deadline, TimedOut
from tests.helpers.corpora import lines
from tests.helpers.fits import fitted
from tests.helpers.tiny import tiny_loaded

TEXTS = ["a17;b=4", "a=17;b=4", "a=1?;b=2", "ca=903", "a=17;b==4;", "x=1", "b=24;c"]


@pytest.fixture(scope="module")
def fit() -> Loaded:
    return fitted()


@pytest.fixture(scope="module")
def both() -> Loaded:
    """A neural model and an n-gram, of the default language."""
    loaded = tiny_loaded()
    strings = [loaded.vocabulary.encode(text) for text in ("(+12)=3", "(*45)=20")]
    return replace(loaded, ngram=NGram.fit(strings, loaded.language.vocabulary, 3))


def damaged_lines(loaded: Loaded, count: int) -> list[str]:
    vocabulary, rng = loaded.language.vocabulary, np.random.default_rng(5)
    return [
        vocabulary.decode(Damage().apply(vocabulary.encode(line), i % 3, vocabulary, rng))
        for i, line in enumerate(lines(count, seed=9))
    ]


@pytest.mark.slow
def test_broken_texts_never_stay(fit: Loaded) -> None:
    """Without the hint most right texts stay."""
    texts = [*lines(6, seed=4), *damaged_lines(fit, 6)]
    results = tasks.repair(fit, texts, broken=True, top=4)
    for text, result in zip(texts, results, strict=True):
        assert result.error is None
        assert text not in (result.text, *(item.text for item in result.alternatives))
    free = tasks.repair(fit, texts[:6])
    assert sum(result.text == text for text, result in zip(texts, free, strict=False)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("edits", [(0, 0), (1, 1), (0, 2), (2, 2)])
def test_every_answer_has_the_number_of_edits(fit: Loaded, edits: tuple[int, int]) -> None:
    """Filled blanks and foreign symbols are no edits."""
    for text, result in zip(TEXTS, tasks.repair(fit, TEXTS, edits=edits, top=5), strict=True):
        assert result.error is None
        given = text.replace("x", "?")
        for item in (result, *result.alternatives):
            assert edits[0] <= edit_distance(given, item.text) <= edits[1]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["a17;?=4", "ca=9?3"])
def test_the_probability_beside_blanks_is_that_among_all_edits(fit: Loaded, text: str) -> None:
    """All strings of at most one edit are compared."""
    vocabulary, constraints = fit.language.vocabulary, RepairConstraints(edits=(0, 1))
    tokens = vocabulary.encode(text, blanks=True)
    blanks = [i for i, token in enumerate(tokens) if token == vocabulary.mask]
    fillings = []
    for symbols in itertools.product(vocabulary.inner_ids, repeat=len(blanks)):
        filled = dict(zip(blanks, symbols, strict=True))
        fillings.append(tuple(filled.get(i, token) for i, token in enumerate(tokens)))
    assert fit.ngram is not None
    likely = sorted(fillings, key=lambda x: -float(fit.ngram.log_probs([x])[0]))[:30]
    every = [made for x in likely for _, made in likely_neighbours(fit.ngram, x, 200)]
    pool = CandidatePool(Damaged(tokens, text))
    CandidateScorer(fit, FewEdits(Damage()), constraints).add_proposed([pool], [likely + every])
    best = best_result(pool, fit.language, constraints)
    (result,) = tasks.repair(fit, [text], edits=(0, 1))
    assert best is not None
    assert result.text == best.text
    assert result.probability == pytest.approx(best.probability, abs=0.02)


@pytest.mark.parametrize("edits", [3, 8])
def test_the_search_reaches_the_least_number_of_edits(fit: Loaded, edits: int) -> None:
    """More edits than explain the text well."""
    (result,) = tasks.repair(fit, ["a=17"], edits=(edits, edits))
    assert edit_distance("a=17", result.text) == edits


def test_slack_bounds_the_edits_by_the_ngram(fit: Loaded) -> None:
    """The probability is that among the strings within the bound."""
    text, lost = "a=17", Damage(0.0, 1.0, 0.0, 0.0)
    (free,) = tasks.repair(fit, [text], damage=lost, edits=(3, 3))
    assert len(free.text) == len(text) + 3
    for slack in (1, 2):
        (bound,) = tasks.repair(fit, [text], damage=lost, edits=(1, 3), slack=slack)
        assert len(text) < len(bound.text) <= len(text) + slack
        assert bound.probability is not None
        assert bound.probability > 1e-3


def test_answers_beyond_the_slack_come_last_with_share_0(fit: Loaded) -> None:
    text, lost = "a=17", Damage(0.0, 1.0, 0.0, 0.0)
    (bound,) = tasks.repair(fit, [text], damage=lost, edits=(1, 3), slack=1, top=100)
    (near,) = tasks.repair(fit, [text], damage=lost, edits=(1, 1))
    shares = [item.share for item in bound.alternatives]
    assert shares[0] == bound.probability == pytest.approx(near.probability, rel=1e-3)
    assert shares == sorted(shares, reverse=True)
    assert [share > 0 for share in shares] == [
        len(item.text) <= len(text) + 1 for item in bound.alternatives
    ]
    assert shares[-1] == 0.0


@pytest.mark.parametrize("more", [3, proposing.DEEPEST])
def test_the_ngram_shortens_a_text_that_is_too_long(fit: Loaded, more: int) -> None:
    line = "a=171;b=424;c=903"
    assert len(line) == fit.language.max_symbols
    signs = line.replace(";", ";" * (1 + more // 2), 1)
    text = signs.replace("c=", "c=" + "=" * (more - more // 2))
    assert len(text) == len(line) + more
    (result,) = tasks.repair(fit, [text])
    assert result.error is None
    assert fit.language.min_symbols <= len(result.text) <= fit.language.max_symbols
    assert result.text == line or more > 3
    (refused,) = tasks.repair(fit, [text], slack=2)
    assert "changes the length by at most 2 (--slack)" in (refused.error or "")
    (wide,) = tasks.repair(fit, [text], slack=more)
    assert wide.text == result.text


def test_a_text_that_is_longer_than_the_search_shortens_is_refused(
    fit: Loaded, both: Loaded
) -> None:
    alone = replace(both, ngram=None)
    for loaded, most in ((fit, proposing.DEEPEST), (alone, 2)):
        (result,) = tasks.repair(loaded, ["1" * (loaded.language.max_symbols + most + 1)])
        assert (result.error or "").endswith(f"repair changes the length by at most {most}")


def test_two_edits_undo_two_edits(fit: Loaded) -> None:
    """A transposition is one edit."""
    (result,) = tasks.repair(fit, ["a=17;=b4"], edits=(1, 1))
    assert result.text == "a=17;b=4"
    (result,) = tasks.repair(fit, ["a17;b4"], edits=(2, 2))
    assert result.text == "a=17;b=4"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["edits", "keyboard", "ocr", "swap", "truncation", "noise"])
def test_answers_have_probabilities(fit: Loaded, damage: str) -> None:
    for result in tasks.repair(fit, TEXTS, damage=damage, top=6):
        assert result.error is None
        assert result.probability is not None
        assert 0 < result.probability <= 1
        assert sum(item.share for item in result.alternatives) <= 1 + 1e-9
        assert result.probability == pytest.approx(result.alternatives[0].share)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["edits", "truncation"])
def test_answers_do_not_depend_on_the_batch(fit: Loaded, damage: str) -> None:
    texts = TEXTS[::2]
    together = tasks.repair(fit, texts, damage=damage)
    alone = [tasks.repair(fit, [text], damage=damage)[0] for text in texts]
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.probability for result in together] == pytest.approx(
        [result.probability for result in alone]
    )


def test_the_damage_decides_between_repairs(fit: Loaded) -> None:
    """The text is a line with a swap, and another one with a lost symbol."""
    (swapped,) = tasks.repair(fit, ["=a17;b=4"], damage="swap", broken=True)
    assert swapped.text == "a=17;b=4"
    (lost,) = tasks.repair(fit, ["=a17;b=4"], damage=Damage(0.0, 1.0, 0.0, 0.0), broken=True)
    assert len(lost.text) > len("=a17;b=4")


def test_a_fitted_damage_repairs_what_it_has_seen(fit: Loaded) -> None:
    """In the pairs "7" is always written as "1", so a "1" is doubtful."""
    pairs = [(line.replace("7", "1"), line) for line in lines(200, seed=2)]
    damage = fit_damage(pairs, fit.language.vocabulary)
    assert damage.confusion is not None
    text = "a=111;b=4"
    (result,) = tasks.repair(fit, [text], damage=damage, broken=True, edits=(1, 1))
    changed = [(a, b) for a, b in zip(text, result.text, strict=True) if a != b]
    assert changed == [("1", "7")]


def test_continuations_begin_with_the_text(fit: Loaded) -> None:
    """A whole line may be its own continuation, unless it is broken."""
    texts = ["a=17;", "a=1", "b?4"]
    for broken in (False, True):
        results = tasks.repair(fit, texts, damage="truncation", broken=broken, top=5)
        for text, result in zip(texts, results, strict=True):
            for item in result.alternatives:
                pairs = zip(text, item.text, strict=False)
                assert all(a in (b, "?") for a, b in pairs)
                assert len(item.text) >= len(text)
                assert item.text != text or not broken
    assert tasks.repair(fit, ["a=17;"], damage="truncation")[0].text != "a=17;"


def test_truncation_without_an_ngram_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs an n-gram"):
        tasks.repair(tiny_loaded(), ["(+12"], damage="truncation")


def test_continuations_are_scored_by_the_neural_model(both: Loaded) -> None:
    (result,) = tasks.repair(both, ["(+12"], damage="truncation", top=3)
    assert result.error is None
    assert result.score is not None
    assert all(item.text.startswith("(+12") for item in result.alternatives)


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        (
            "a=17",
            {"edits": (0, 0), "broken": True},
            "the text itself is the only .* 0 edits; broken excludes",
        ),
        (
            "a=17",
            {"edits": (60, 70)},
            "no string found needs 60 to 70 edits, the nearest needs .*; give edits from 0 to 8$",
        ),
        ("a=17", {"damage": Damage(0, 0, 0, 1.0), "broken": True, "edits": (9, 9)}, "needs 9 "),
    ],
)
def test_the_constraint_that_excludes_every_candidate_is_named(
    fit: Loaded, text: str, settings: dict[str, Any], reason: str
) -> None:
    (result,) = tasks.repair(fit, [text], **settings)
    assert result.error is not None
    assert len(result.error.splitlines()) == 1
    assert re.search(reason, result.error)


@pytest.mark.parametrize("settings", [{}, {"damage": "truncation"}])
def test_a_text_that_parses_stays_and_is_not_certain(
    both: Loaded, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its probability is its share among the strings that parse; one call compares them."""
    calls = 0

    def counted(loaded: Loaded, rows: list[list[int]]) -> list[float]:
        nonlocal calls
        calls += 1
        return log_probs(loaded, rows)

    monkeypatch.setattr("maskdiff.tasks.candidates.log_probs", counted)
    vocabulary, constraints = both.language.vocabulary, RepairConstraints()
    channel = named_damage(settings.get("damage", "edits"), vocabulary)
    scorer = CandidateScorer(
        both,
        channel if isinstance(channel, Truncation) else FewEdits(channel),
        constraints,
        Damage().weights(len(vocabulary.inner_ids)),
    )
    for text in ("(+12)=3", "(*45)=20", "(+12)=4"):
        (result,) = tasks.repair(both, [text], grammar=True, top=2, **settings)
        assert (result.text, result.evaluations, calls) == (text, 1, 1)
        pool = CandidatePool(Damaged(vocabulary.encode(text), text))
        rivals = proposing.likely_originals(scorer, pool.damaged)
        scorer.add_proposed([pool], [[tuple(pool.damaged.tokens), *rivals]])
        p = {c.text: np.exp(c.total) for c in pool.candidates.values() if c.parses}
        assert len(p) > 1
        assert result.probability == pytest.approx(p[text] / sum(p.values()))
        assert [item.share for item in result.alternatives] == [result.probability]
        calls = 0


@pytest.mark.parametrize("settings", [{}, {"damage": "truncation"}, {"method": "draft"}])
def test_a_text_that_parses_stays_after_the_deadline(
    both: Loaded, settings: dict[str, Any]
) -> None:
    """Without a probability, since its rivals are unknown."""
    top = 1 if "method" in settings else 2
    with both.denoiser.until(Deadline(1e-9)):
        (late,) = tasks.repair(both, ["(+12)=3"], grammar=True, top=top, **settings)
    (kept,) = tasks.repair(both, ["(+12)=3"], grammar=True, top=top, **settings)
    assert (late.text, late.error, late.probability, late.alternatives) == (
        kept.text,
        None,
        None,
        (),
    )
    assert late.score == pytest.approx(kept.score)


def test_a_draft_that_stays_has_no_rivals(both: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "_edited", None)  # calling it is an error
    (result,) = tasks.repair(both, ["(+12)=3"], grammar=True, method="draft")
    assert (result.text, result.probability) == ("(+12)=3", None)


def test_the_deadline_ends_the_search_between_two_texts(
    fit: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, searched = 0.0, []

    def slow(scorer: CandidateScorer, item: Damaged) -> list[tuple[int, ...]]:
        nonlocal now
        now += 1.0
        searched.append(item.text)
        return []

    monkeypatch.setattr(proposing, "_edited", slow)
    with fit.denoiser.until(Deadline(1.5, clock=lambda: now)), pytest.raises(TimedOut):
        tasks.repair(fit, TEXTS)
    assert searched == TEXTS[:2]


@pytest.mark.slow
def test_a_text_that_parses_changes_if_it_is_broken(both: Loaded) -> None:
    """By least edits, too, which otherwise returns it."""
    text = "(+12)=3"
    for method in ("least_edits", "channel"):
        kept, changed = (
            tasks.repair(both, [text], method=method, grammar=True, broken=broken)[0]
            for broken in (False, True)
        )
        assert kept.text == text
        assert changed.text != text
        assert changed.parses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edits": (2, 1)}, "the smaller number first"),
        ({"damage": "keyborad"}, "the nearest of .* is 'keyboard'"),
        ({"method": "draft", "broken": True}, "broken and edits need another method"),
        ({"method": "draft", "edits": (1, 1)}, "broken and edits need another method"),
        ({"method": "draft", "damage": "ocr"}, "damage is for method channel"),
        ({"damage": 3}, "the name of a kind of damage"),
    ],
)
def test_impossible_settings_are_refused(
    fit: Loaded, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.repair(fit, ["a=1"], **settings)


# -------------------------- the prior


@pytest.mark.slow
def test_known_weights_are_recovered(both: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Originals are drawn by weights 0.4 and 0.7, from 12 candidates of 300 strings."""

    def simulated(loaded: Loaded, texts: list[str], seed: int) -> Iterator[calibrating.Pool]:
        rng = np.random.default_rng(seed)
        for _ in texts:
            features, channel = rng.normal(-20, 3, (12, 2)), rng.normal(-5, 1, 12)
            total = features @ np.array([0.4, 0.7]) + channel
            p = np.exp(total - total.max())
            features = np.pad(features, ((0, 0), (0, 1)))  # there is no fitted grammar
            yield features, channel, int(rng.choice(12, p=p / p.sum()))

    monkeypatch.setattr(calibrating, "_pools", simulated)
    prior, alone = calibrating.fit_priors(both, ["x"] * 300)
    assert prior.neural == pytest.approx(0.4, abs=0.1)
    assert prior.ngram == pytest.approx(0.7, abs=0.15)
    assert alone.neural == alone.grammar == 0.0
    assert alone.ngram == pytest.approx(0.6, abs=0.2)  # it does not know what the other adds


@pytest.mark.slow
def test_the_fit_of_a_prior_is_deterministic(fit: Loaded) -> None:
    texts = lines(8, seed=8)
    (first, alone), (second, _) = (calibrating.fit_priors(fit, texts) for _ in range(2))
    assert first == second == alone
    assert first.neural == 0.0  # the n-gram alone
    assert 0.3 <= first.ngram <= 1.5
    assert calibrating.fit_priors(fit, [])[0] == Prior.usual(False, True)


def test_an_original_that_the_search_misses_counts(
    fit: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a candidate of the fit, so that the weights are not those of the easy strings."""

    def nothing(scorer: Any, items: Any, **_: Any) -> list[CandidatePool]:
        return [CandidatePool(item) for item in items]

    monkeypatch.setattr(calibrating, "channel_candidates", nothing)
    texts = lines(10, seed=8)
    pools = list(calibrating._pools(fit, texts, seed=0))
    assert [(len(features), row) for features, _, row in pools] == [(1, 0)] * len(texts)


def test_the_likeliest_strings_of_one_edit_are_candidates(
    fit: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if an n-gram prefers several edits; without their own share they are not."""
    damage, vocabulary = Damage(), fit.language.vocabulary
    weights = damage.weights(len(vocabulary.inner_ids))
    scorer = CandidateScorer(fit, FewEdits(damage), RepairConstraints(), weights)
    text = "a=17;b==4;cc=1"
    tokens = vocabulary.encode(text)
    assert fit.ngram is not None
    near = {made for _, made in likely_neighbours(fit.ngram, tokens, 30, weights)}
    (pool,) = channel_candidates(scorer, [Damaged(tokens, text)], 1, 2, False)
    found = {tuple(vocabulary.encode(candidate)) for candidate in pool.candidates}
    assert near <= found
    monkeypatch.setattr(proposing, "FEWEST", 0)
    monkeypatch.setattr(proposing, "EDITED", 30)
    (pool,) = channel_candidates(scorer, [Damaged(tokens, text)], 1, 2, False)
    assert not near <= {tuple(vocabulary.encode(candidate)) for candidate in pool.candidates}


@pytest.mark.parametrize("holds", [False, True])
def test_edits_exclude_a_text_that_parses(both: Loaded, holds: bool) -> None:
    """As `broken` does; without either such a text stays."""
    text = "(+12)=3"
    (free,) = tasks.repair(both, [text], grammar=True, holds=holds)
    assert free.text == text
    (result,) = tasks.repair(both, [text], grammar=True, holds=holds, edits=(1, 2))
    assert both.language.parses(result.text)
    assert 1 <= edit_distance(text, result.text) <= 2


def test_sigma_is_refused_beside_another_damage(fit: Loaded) -> None:
    """It is the level of the training noise."""
    with pytest.raises(ConfigError, match="sigma is for damage noise"):
        tasks.repair(fit, ["a17;b=4"], damage="keyboard", sigma=0.2)
    assert tasks.repair(fit, ["a17;b=4"], damage="noise", sigma=0.2)[0].error is None
