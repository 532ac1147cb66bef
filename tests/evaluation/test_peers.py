"""Tools of others that repair JSON, and the JSON documents of another kind."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from maskdiff.config import LanguageConfig
from maskdiff.evaluation import one_edit, peers
from maskdiff.evaluation.repair import Fixed
from maskdiff.evaluation.rows import Plan, Subject
from maskdiff.evaluation.suites import make_header
from maskdiff.evaluation.yardsticks import UNKNOWN
from maskdiff.languages import make_language
from tests.helpers.evaluation import LANGUAGE, Uniform, rows_of, subject

JSON = make_language(LanguageConfig(language="json"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that returns an empty array for whatever does not parse."""

    def loads(text: str) -> object:
        try:
            return json.loads(text)
        except ValueError:
            return []

    module = ModuleType("json_repair")
    module.loads = loads  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("json_repair", None)
    monkeypatch.setitem(sys.modules, "json_repair", module)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)


def json_subject() -> Subject:
    loaded = subject(Uniform()).loaded
    loaded.language = JSON  # type: ignore[misc]
    return Subject(loaded)


@pytest.mark.usefixtures("installed")
def test_the_tool_keeps_the_spaces_of_a_document() -> None:
    texts = ['{"a":[1,2]}', '{"a": [1, 2]}', '{"a":']
    assert peers.repair_with_json_repair(texts, UNKNOWN) == [*texts[:2], "[]"]
    assert peers.absent_peers(JSON) == ""


@pytest.mark.usefixtures("installed")
def test_tools_are_for_the_built_in_language_alone() -> None:
    assert [*peers.peers(JSON)] == ["json_repair"]
    assert peers.peers(LANGUAGE) == {}


@pytest.mark.usefixtures("missing")
def test_one_line_says_that_a_tool_is_missing() -> None:
    assert peers.peers(JSON) == {}
    plan = Plan(num_samples=3)
    header = make_header([json_subject()], plan, ["one_edit"])
    assert "json_repair is not installed" in header["peers"]
    assert "peers" not in make_header([json_subject()], plan, ["editing"])
    assert "peers" not in make_header([subject(Uniform())], plan, ["one_edit"])


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ('{"a":1,"b":[]}', '{ "b": [], "a": 1}', True),
        ('{"a":1}', '{"a":true}', False),
        ("[1,2]", "[2,1]", False),
        ("[", "[", False),
    ],
)
def test_values_are_compared_not_texts(first: str, second: str, equal: bool) -> None:
    assert peers.same_value(first, second) == equal


def test_configurations_are_documents_of_other_keys() -> None:
    documents = peers.configurations(200, np.random.default_rng(0), JSON.max_symbols)
    assert all(map(JSON.parses, documents))
    assert max(map(len, documents)) <= JSON.max_symbols
    assert all(JSON.vocabulary.encode(document) for document in documents)
    assert len(set(documents)) > 150
    assert documents == peers.configurations(200, np.random.default_rng(0), JSON.max_symbols)
    assert any(isinstance(v, dict) for d in documents for v in json.loads(d).values())


class NoYardsticks:
    """No simple repairers: their rows have tests of their own."""

    def repairers(self) -> dict[str, object]:
        return {}


@pytest.mark.usefixtures("installed")
def test_rows_of_json_have_the_tool_and_another_kind_of_documents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(one_edit, "fit_yardsticks", lambda *_: NoYardsticks())
    clean = JSON.sample_many(12, np.random.default_rng(0))

    def fix(loaded: Any, texts: list[str], *_: object) -> Fixed:
        return Fixed(texts, [1] * len(texts))

    rows = rows_of(
        one_edit.one_edit_suite, json_subject(), Plan(repair_methods=("channel",)), clean, fix
    )
    kinds = {row.settings.get("documents", "") for row in rows if row.sampler == "json_repair"}
    assert kinds == {"", "configuration"}
    assert {row.metric for row in rows if row.sampler == "json_repair"} == {
        "token_accuracy",
        "aligned_accuracy",
        "exact",
        "parses",
        "same_value",
        "evaluations",
        "strings_per_second",
    }
    invalid = [row for row in rows if row.metric == "exact_gain_invalid"]
    assert {row.sampler for row in invalid} == {"channel against json_repair"}
    assert all(0 < row.count < 12 for row in invalid)
    assert all(row.value == 0 for row in invalid)  # neither repairs anything
