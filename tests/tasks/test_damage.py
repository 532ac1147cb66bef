"""`repair` with what the user knows of the damage, and the fit of the prior; an n-gram's model."""

from __future__ import annotations

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
from maskdiff.repair import Damage, fit_damage
from maskdiff.tasks import calibrating
from maskdiff.text.edits import edit_distance
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
        ("a=17", {"edits": (60, 70)}, "no string found needs 60 to 70 edits, the nearest needs"),
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
    prior = calibrating.fit_prior(both, ["x"] * 300)
    assert prior.neural == pytest.approx(0.4, abs=0.1)
    assert prior.ngram == pytest.approx(0.7, abs=0.15)


@pytest.mark.slow
def test_the_fit_of_a_prior_is_deterministic(fit: Loaded) -> None:
    texts = lines(8, seed=8)
    first, second = (calibrating.fit_prior(fit, texts) for _ in range(2))
    assert first == second
    assert first.neural == 0.0  # the n-gram alone
    assert 0.3 <= first.ngram <= 1.5
    assert calibrating.fit_prior(fit, []) == Prior.usual(False, True)


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
