"""The comparison of the golden net: equal values pass, and each kind of change is reported."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path

import pytest
from golden_cases import SECTIONS
from golden_compare import MASK, differences, masked

RECORDED = {
    "exit": 0,
    "out": [{"text": "(+11)=2", "score": -0.5, "evaluations": 3, "holds": True, "note": None}],
    "weights": {"head": {"shape": [2, 3], "mean": 1e-3}},
}


def test_equal_values_have_no_difference() -> None:
    assert list(differences(RECORDED, copy.deepcopy(RECORDED))) == []


@pytest.mark.parametrize("change", [0.0, 9e-6, -1.4e-5])
def test_floats_within_the_tolerance_are_equal(change: float) -> None:
    new = copy.deepcopy(RECORDED)
    new["out"][0]["score"] += change  # type: ignore[index]
    assert list(differences(RECORDED, new)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text", "(+11)=3"),
        ("score", -0.50002),
        ("score", None),
        ("evaluations", 4),
        ("holds", 1),
        ("note", 0),
    ],
)
def test_a_changed_value_is_reported_with_its_path(key: str, value: object) -> None:
    new = copy.deepcopy(RECORDED)
    new["out"][0][key] = value  # type: ignore[index]
    old = RECORDED["out"][0][key]  # type: ignore[index]
    assert list(differences(RECORDED, new)) == [(f"out[0].{key}", old, value)]


def test_what_is_missing_or_new_is_reported() -> None:
    new = copy.deepcopy(RECORDED)
    new["out"].append({"text": ""})  # type: ignore[attr-defined]
    del new["weights"]
    new["more"] = 1
    assert [path for path, *_ in differences(RECORDED, new)] == ["out[1]", "weights", "more"]


def test_times_words_and_paths_are_masked_and_nothing_else() -> None:
    given = {
        "error": "no such file",
        "seconds": 0.25,
        "text": "/scratch/run",
        "rows": [
            {"suite": "edit", "metric": "strings_per_second", "value": 3.5, "count": 4},
            {"suite": "edit", "metric": "parses", "value": 0.5, "count": 4},
        ],
    }
    assert masked(given, "/scratch") == {
        "error": MASK,
        "seconds": MASK,
        "text": "{tmp}/run",
        "rows": [
            {"suite": "edit", "metric": "strings_per_second", "value": MASK, "count": 4},
            {"suite": "edit", "metric": "parses", "value": 0.5, "count": 4},
        ],
    }


@pytest.mark.parametrize("section", SECTIONS)
def test_every_command_line_is_whole_and_recorded_once(section: str) -> None:
    lines = SECTIONS[section]
    assert len(set(lines)) == len(lines)
    assert all(shlex.split(line) for line in lines)
    path = Path(__file__).parent / "values" / f"{section}.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    missing = [line for line in lines if section != "serve" and line not in recorded]
    assert not missing
