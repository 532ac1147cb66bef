"""Tests of `tasks.repair`: truth, certain symbols, few edits, several answers; a random model."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from maskdiff import metrics, tasks
from maskdiff.checkpoint import Loaded, load_denoiser
from maskdiff.errors import ConfigError
from maskdiff.text.edits import edit_cost, edit_script
from tests.helpers.edits import apply_edits
from tests.helpers.paths import CHECKPOINTS
from tests.helpers.tiny import tiny_loaded

GOOD = "(+(*75)10)=45"
SYMBOLS = "0123456789()+*="


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return tiny_loaded()


def damaged(loaded: Loaded, count: int, seed: int, symbols: str = SYMBOLS) -> list[str]:
    """Return short strings with one to four random deletions, insertions, replacements, blanks."""
    rng, texts = random.Random(seed), []
    short = [
        text
        for text in loaded.language.sample_many(400, np.random.default_rng(seed))
        if len(text) <= 14
    ]
    for text in short[:count]:
        for _ in range(rng.randint(1, 4)):
            at, kind = rng.randrange(max(1, len(text))), rng.randrange(4)
            new = "?" if kind == 3 else "" if kind == 0 else rng.choice(symbols)
            text = text[:at] + new + text[at + (kind != 1) :]
        texts.append(text or "?")
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("method", ["channel", "least_edits"])
def test_repaired_strings_are_valid_and_reached_by_their_scripts(
    loaded: Loaded, method: str, holds: bool
) -> None:
    texts = damaged(loaded, 8, 1)
    results = tasks.repair(loaded, texts, method=method, grammar=True, holds=holds, beam=4)
    for text, result in zip(texts, results, strict=True):
        assert result.error is None
        assert result.parses
        assert result.holds or not holds  # a value can always be put right
        assert result.edits is not None
        assert apply_edits(text, result.edits) == result.text
        if loaded.language.parses(text) and (loaded.language.holds(text) or not holds):
            assert result.text == text
            assert result.edits == ()


def test_truth_can_be_switched_off(loaded: Loaded) -> None:
    """A false string that parses stays, unless truth is asked for; a true string always stays."""
    texts = [GOOD, "(+(*75)10)=46"]
    plain, true = (
        tasks.repair(loaded, texts, grammar=True, holds=holds) for holds in (False, True)
    )
    assert [result.text for result in plain] == texts
    assert true[0].text == GOOD
    assert true[1].holds
    assert true[1].edits


@pytest.mark.slow
def test_certain_symbols_never_change(loaded: Loaded) -> None:
    """Check random spans of random strings; without marks some symbol does change."""
    rng, broken = random.Random(3), 0
    for text in damaged(loaded, 8, 2, "0123456789"):
        first = rng.randrange(len(text))
        span = (first, min(len(text), first + rng.randint(1, 3)))
        marked = set(range(*span))
        for settings in ({"grammar": True}, {"holds": True}, {"method": "least_edits"}, {"top": 4}):
            (result,) = tasks.repair(
                loaded,
                [text],
                certain=[span],
                beam=4,
                **settings,  # type: ignore[arg-type]
            )
            if result.error is not None:
                assert "certain" in result.error
                continue
            assert result.parses or "top" in settings
            for answer in (result.text, *(other.text for other in result.alternatives)):
                assert edit_script(text, answer, certain=marked) is not None
            assert result.edits is not None
            assert (
                not {
                    edit.position
                    for edit in result.edits
                    if edit.operation in ("delete", "replace")
                }
                & marked
            )
        (free,) = tasks.repair(loaded, [text], grammar=True, beam=4)
        broken += edit_script(text, free.text, certain=marked) is None
    assert broken > 1


def test_a_draft_keeps_certain_symbols(loaded: Loaded) -> None:
    texts = [text for text in damaged(loaded, 20, 5) if 7 <= len(text) <= 20]  # none has 6
    results = tasks.repair(loaded, texts, method="draft", certain=[(1, 4)])
    assert len(texts) > 5
    assert all(result.error is None for result in results)
    assert all(
        result.text[1:4] == text[1:4]
        for text, result in zip(texts, results)
        if "?" not in text[1:4]
    )
    assert any(result.text[0] != text[0] for text, result in zip(texts, results))
    for text, result in zip(texts, results, strict=True):
        edits = result.edits or ()
        assert apply_edits(text, edits) == result.text
        assert not [
            edit
            for edit in edits
            if edit.operation in ("delete", "replace") and 1 <= edit.position < 4
        ]


def test_unsatisfiable_constraints_fail_their_string_only(loaded: Loaded) -> None:
    texts = ["==75", GOOD, "(+75", "(+75=12"]
    results = tasks.repair(loaded, texts, grammar=True, certain=[(0, 2)])
    assert [result.error is None for result in results] == [False, True, True, True]
    assert "certain" in (results[0].error or "")
    assert results[1].text == GOOD
    (outside,) = tasks.repair(loaded, ["(+75"], certain=[(3, 9)])
    assert "3:9" in (outside.error or "")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["channel", "least_edits"])
def test_max_edits_limits_the_edits(loaded: Loaded, method: str) -> None:
    """Edits are within the limit, by an independent count; an error names a limit that suffices."""
    refused = 0
    for text in (text for text in damaged(loaded, 8, 4) if "?" not in text):
        for most in (0, 1, 2):
            (result,) = tasks.repair(
                loaded, [text], method=method, grammar=True, max_edits=most, beam=4
            )
            if result.error is None:
                assert metrics.edit_distance(text, result.text) <= most
            else:
                refused += 1
                needed = int(result.error.split(" needs ")[1].split()[0])
                assert needed > most
                (enough,) = tasks.repair(
                    loaded, [text], method=method, grammar=True, max_edits=needed, beam=4
                )
                assert metrics.edit_distance(text, enough.text) == needed
    assert refused > 3
    (free,) = tasks.repair(loaded, ["(+??)=12"], grammar=True, max_edits=0)
    assert free.parses
    assert edit_cost(free.edits or ()) == 0


def within_one_edit(text: str) -> set[str]:
    """Return all strings at most one insertion, deletion or replacement away."""
    near = {text}
    for i in range(len(text) + 1):
        for symbol in SYMBOLS:
            near |= {text[:i] + symbol + text[i:], text[:i] + symbol + text[i + 1 :]}
        near.add(text[:i] + text[i + 1 :])
    return near


@pytest.mark.slow
def test_one_edit_repair_finds_a_true_string_if_one_exists(loaded: Loaded) -> None:
    """Compare with all strings within one edit; if none is true, a parsable string is kept."""
    rng, texts = random.Random(8), []
    for text in [
        text
        for text in loaded.language.sample_many(300, np.random.default_rng(8))
        if 6 < len(text) <= 12
    ][:24]:
        for _ in range(rng.choice((1, 2))):
            at, kind = rng.randrange(len(text)), rng.randrange(3)
            text = text[:at] + ("" if kind == 0 else rng.choice(SYMBOLS)) + text[at + (kind != 1) :]
        texts.append(text)
    language, met = loaded.language, [0, 0, 0]
    for text, result in zip(
        texts, tasks.repair(loaded, texts, holds=True, max_edits=1, beam=4), strict=True
    ):
        near = within_one_edit(text)
        parse = any(map(language.parses, near))
        true = any(map(language.holds, near))  # type: ignore[attr-defined]
        met[parse + true] += 1
        assert (result.error is None) == parse, text
        assert bool(result.holds) == true, text
        assert true or not language.parses(text) or result.text == text
    assert min(met) >= 2


@pytest.mark.slow
def test_two_wrong_digits_beside_a_certain_value(loaded: Loaded) -> None:
    """The true string is two replacements away at unknown positions."""
    rng, texts = random.Random(9), []
    for text in loaded.language.sample_many(300, np.random.default_rng(9)):
        places = [i for i in range(text.index("=")) if text[i].isdigit()]
        if 8 < len(text) <= 14 and len(places) > 1:
            for at in rng.sample(places, 2):
                text = (
                    text[:at]
                    + rng.choice([digit for digit in "0123456789" if digit != text[at]])
                    + text[at + 1 :]
                )
            if loaded.language.parses(text):
                texts.append(text)
    assert len(texts) > 4
    for text in texts[:4]:
        value = (text.index("=") + 1, len(text))
        (result,) = tasks.repair(loaded, [text], holds=True, certain=[value], beam=4)
        assert result.holds, text
        assert not [
            e for e in result.edits or () if e.position >= value[0] and e.operation != "insert"
        ]


@pytest.mark.slow
def test_number_of_answers_does_not_change_them() -> None:
    """Use a trained model, whose unconstrained beam often parses."""
    trained = load_denoiser(CHECKPOINTS / "best.pt", "cpu")
    texts = ["(+4(+30)1)=13", "(*55)=49"]
    for settings in ({"holds": True}, {"grammar": True, "max_edits": 4}):
        one, five = (
            tasks.repair(trained, texts, beam=4, top=top, **settings)  # type: ignore[arg-type]
            for top in (1, 5)
        )
        assert [result.text for result in one] == [result.text for result in five]
        assert any(result.text != text for text, result in zip(texts, one, strict=True))


def test_parsable_strings_are_never_refused(loaded: Loaded) -> None:
    """Parsable strings of any length are answered; a text that is too long is an error."""
    long = "(+" * 16 + "1" + "1)" * 16 + "=17"
    for settings in ({"grammar": True}, {"holds": True}, {"method": "least_edits"}):
        (same,) = tasks.repair(loaded, [long], **settings)  # type: ignore[arg-type]
        assert (same.text, same.edits) == (long, ())
    for settings in (
        {"grammar": True},
        {"method": "least_edits"},
        {"method": "draft", "grammar": True},
    ):
        (same,) = tasks.repair(loaded, ["5=45"], slack=0, **settings)  # type: ignore[arg-type]
        assert (same.text, same.edits) == ("5=45", ())
    (error,) = tasks.repair(loaded, ["(" * 200], grammar=True)
    assert "200 symbols" in (error.error or "")


def test_a_check_stricter_than_the_grammar_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_loaded()
    monkeypatch.setattr(type(loaded.language), "parses", lambda language, text: False)
    (result,) = tasks.repair(loaded, ["(+75=12"], grammar=True, beam=2)
    assert "own check refuses them all" in (result.error or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"grammar": True}, {"holds": True}, {"method": "least_edits"}, {}]
)
def test_several_answers_are_distinct_and_ordered(
    loaded: Loaded, settings: dict[str, object]
) -> None:
    texts = damaged(loaded, 3, 6)
    for text, result in zip(
        texts, tasks.repair(loaded, texts, top=5, beam=6, **settings), strict=True
    ):  # type: ignore[arg-type]
        listed = result.alternatives
        assert listed[0].text == result.text
        assert len({item.text for item in listed}) == len(listed)
        assert len(listed) == 5 or result.edits == ()
        assert all(apply_edits(text, item.edits) == item.text for item in listed)
        assert all(item.parses for item in listed) or not settings
        assert sum(item.share for item in listed) <= 1 + 1e-9
        order = [item.score if item.score is not None else -1e9 for item in listed]
        if "holds" in settings:
            truths = [bool(item.holds) for item in listed]
            assert truths == sorted(truths, reverse=True)
            order = [score for score, true in zip(order, truths) if true == truths[0]]
        elif not settings:  # valid ones come first
            valid = [bool(item.parses) for item in listed]
            assert valid == sorted(valid, reverse=True)
            order = [score for score, first in zip(order, valid) if first == valid[0]]
        if "method" in settings:
            order = [-edit_cost(item.edits) for item in listed]
        assert all(a >= b for a, b in itertools.pairwise(order))
        (alone,) = tasks.repair(loaded, [text], beam=6, **settings)  # type: ignore[arg-type]
        assert alone.text == result.text
    assert tasks.repair(loaded, texts[:1])[0].alternatives == ()


@pytest.mark.slow
def test_answers_do_not_depend_on_the_seed_or_the_others(loaded: Loaded) -> None:
    texts = [*damaged(loaded, 3, 7), "1" * 200, ""]
    together = tasks.repair(loaded, texts, holds=True, beam=4, seed=1)
    assert [result.error is None for result in together] == [True] * 3 + [False] * 2
    assert [result.text for result in together[:3]] == [
        tasks.repair(loaded, [text], holds=True, beam=4, seed=2)[0].text for text in texts[:3]
    ]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"top": 0}, "top is 0"),
        ({"max_edits": -1}, "max_edits is -1"),
        ({"method": "draft", "holds": True}, "draft"),
        ({"method": "draft", "top": 2}, "draft"),
    ],
)
def test_impossible_settings_are_refused(
    loaded: Loaded, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.repair(loaded, [GOOD], **settings)  # type: ignore[arg-type]
