"""Edit scripts: their results, their costs, and the certain symbols they keep."""

from __future__ import annotations

import random

import pytest

from maskdiff import metrics
from maskdiff.text.edits import Edit, edit_cost, edit_distance, edit_script, edit_text
from tests.helpers.edits import apply_edits


def word(rng: random.Random, symbols: str, longest: int = 9) -> str:
    return "".join(rng.choice(symbols) for _ in range(rng.randint(0, longest)))


def test_scripts_apply_and_cost_the_edit_distance() -> None:
    rng = random.Random(0)
    for _ in range(500):
        given, text = word(rng, "abc"), word(rng, "abc")
        script = edit_script(given, text)
        assert script is not None
        assert apply_edits(given, script) == text
        assert edit_cost(script) == len(script) == metrics.edit_distance(given, text)
        assert [edit.position for edit in script] == sorted(edit.position for edit in script)
        assert script == edit_script(given, text)


def test_scripts_with_swaps_apply_and_cost_the_distance() -> None:
    """A swap is written as two replacements where it is applied."""
    rng, swaps = random.Random(5), 0
    for _ in range(500):
        given, text = word(rng, "abc"), word(rng, "abc")
        script = edit_script(given, text, transpositions=True)
        assert script is not None
        assert edit_cost(script) == edit_distance(given, text)
        single = []
        for edit in script:
            both = (
                enumerate(zip(edit.old, edit.new, strict=True)) if edit.operation == "swap" else ()
            )
            single += [Edit("replace", edit.position + i, old, new) for i, (old, new) in both]
            single += [] if edit.operation == "swap" else [edit]
        assert apply_edits(given, single) == text
        swaps += len(single) - len(script)
    assert swaps > 25
    kept = edit_script("ab", "ba", certain=[0], transpositions=True)
    assert kept is not None
    assert {edit.operation for edit in kept} <= {"insert", "delete", "replace"}


def test_filling_blanks_costs_nothing() -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = word(rng, "abc")
        blank = "".join("?" if rng.random() < 0.4 else symbol for symbol in text)
        script = edit_script(blank, text)
        assert script is not None
        assert apply_edits(blank, script) == text
        assert (edit_cost(script), len(script)) == (0, blank.count("?"))
        other = word(rng, "abc")
        best = edit_script(blank, other)
        assert best is not None
        assert apply_edits(blank, best) == other
        assert edit_cost(best) <= metrics.edit_distance(blank, other)
    assert edit_script("a!", "ab", blank="!") == (Edit("fill", 1, "!", "b"),)


def test_certain_symbols_are_neither_deleted_nor_replaced() -> None:
    rng = random.Random(2)
    dearer = impossible = 0
    for _ in range(500):
        given, text = word(rng, "ab?", 7), word(rng, "ab", 7)
        certain = {i for i in range(len(given)) if rng.random() < 0.3}
        script, free = edit_script(given, text, certain=certain), edit_script(given, text)
        assert free is not None
        if script is None:
            impossible += 1
            continue
        assert apply_edits(given, script) == text
        touched = {edit.position for edit in script if edit.operation in ("delete", "replace")}
        assert not touched & certain
        dearer += edit_cost(script) > edit_cost(free)
    assert dearer > 10
    assert impossible > 50


def test_a_script_prints_as_one_line() -> None:
    script = edit_script("(+(*75)10=45", "(+(*55)10)=45")
    assert script is not None
    assert edit_text(script) == "replace '7' by '5' at 4, insert ')' at 9"
    assert (
        edit_text((Edit("fill", 2, "?", "1"), Edit("delete", 3, "a")))
        == "fill '1' at 2, delete 'a' at 3"
    )
    assert edit_text(()) == "unchanged"


@pytest.mark.parametrize(
    "script",
    [
        [Edit("delete", 1, "a")],
        [Edit("insert", 5, new="a")],
        [Edit("insert", 2, new="a")] * 2 + [Edit("delete", 0, "a")],
    ],
)
def test_a_script_of_another_text_is_refused(script: list[Edit]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        apply_edits("ab", script)
