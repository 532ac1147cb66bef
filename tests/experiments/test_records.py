"""Records of problems: reading them, and reports of malformed ones."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from maskdiff.errors import DataError
from maskdiff.experiments.distillation import records
from maskdiff.experiments.distillation.records import read_records, shipped_problems
from tests.helpers.records import SOLUTIONS, item, packed, read

# Records.


def test_shipped_problems_are_as_described() -> None:
    found = shipped_problems()
    assert [record.name for record in found] == list(SOLUTIONS)
    assert [
        all(test.functional for test in record.public + record.private) for record in found
    ] == [False] * 7 + [True] * 3
    assert all(2 <= len(record.public) <= 3 and 4 <= len(record.private) <= 6 for record in found)
    lines = [json.loads(line) for line in records.SHIPPED.read_text(encoding="utf-8").splitlines()]
    assert sum(not line["private_test_cases"].startswith("[") for line in lines) >= 2
    shown = [
        test
        for record in found
        for test in record.public
        if record.content.count(test.output.strip())
    ]
    assert len(shown) >= 10  # the examples are tests


def test_private_tests_are_read_packed_in_every_protocol(tmp_path: Path) -> None:
    text = json.dumps([{"input": "é\n", "output": "1" * 300, "testtype": "stdin"}] * 3)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()
        (record,) = read(tmp_path, item([], private_test_cases=data))
        assert record.private == (records.Test("é\n", "1" * 300, False),) * 3
    path = tmp_path / "records.jsonl"
    assert len(read_records(path, keep=2)[0].private) == 2


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_is_a_program_does_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for value in (Evil(touched), [Evil(touched)], ("[]", Evil(touched))):
        with pytest.raises(DataError, match=r"line 1: private_test_cases: its pickle .*"):
            read(tmp_path, item([("", "")], private_test_cases=packed(value)))
    assert not touched.exists()
    pickle.loads(pickle.dumps(Evil(touched)))
    assert touched.exists()  # it would have


CUT_OFF = base64.b64encode(zlib.compress(b"x" * 99)[:-4]).decode()
GOOD = item([("1", "2")])
FUNCTION = item([("1", "2")], kind="functional", metadata='{"func_name": "f"}')
MALFORMED: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "the line: no JSON"),
    "deep": ("[" * 100_000, "the line: no JSON"),
    "a list": ([1], "the line: .* is no JSON object"),
    **{
        f"no {key}": (
            {name: value for name, value in GOOD.items() if name != key},
            f"{key}: missing",
        )
        for key in GOOD
    },
    **{f"number as {key}": (GOOD | {key: 1}, f"{key}: '1' is no text") for key in GOOD},
    "no name": (GOOD | {"question_id": ""}, "question_id: empty"),
    "metadata": (GOOD | {"metadata": "[]"}, "metadata: .* is no JSON object"),
    "metadata no JSON": (GOOD | {"metadata": "x"}, "metadata: no JSON"),
    "public no JSON": (GOOD | {"public_test_cases": "x"}, "public_test_cases: no JSON"),
    "public no list": (GOOD | {"public_test_cases": "{}"}, "public_test_cases: .* is no JSON list"),
    "no object": (GOOD | {"public_test_cases": "[1]"}, "public_test_cases: test 1 is no object"),
    "no output": (
        GOOD | {"public_test_cases": '[{"input": "", "testtype": "stdin"}]'},
        "test 1 is no object",
    ),
    "test type": (item([("", "")], kind="other"), "public_test_cases: test 1: testtype is 'other'"),
    "no tests": (item([]), "public_test_cases: no tests"),
    "neither": (
        GOOD | {"private_test_cases": "x"},
        "private_test_cases: neither a JSON list nor base64 of zlib",
    ),
    "base64 of else": (GOOD | {"private_test_cases": "eHh4"}, "private_test_cases: neither"),
    "cut off": (GOOD | {"private_test_cases": CUT_OFF}, "its compressed form is cut off"),
    "no pickle": (
        GOOD | {"private_test_cases": base64.b64encode(zlib.compress(b"x")).decode()},
        "its pickle is damaged",
    ),
    "empty pickle": (
        GOOD | {"private_test_cases": base64.b64encode(zlib.compress(b"")).decode()},
        "its pickle is damaged",
    ),
    "pickle of a number": (
        GOOD | {"private_test_cases": packed(1)},
        "its pickle is no text but has the instruction BININT1",
    ),
    "pickle of no JSON": (
        GOOD | {"private_test_cases": packed("x")},
        "private_test_cases: no JSON",
    ),
    "no function": (FUNCTION | {"metadata": "{}"}, "metadata: func_name is ''"),
    "no name of one": (
        FUNCTION | {"metadata": '{"func_name": "f; import os"}'},
        "metadata: func_name is 'f; import os'",
    ),
    "keyword": (
        FUNCTION | {"metadata": '{"func_name": "class"}'},
        "metadata: func_name is 'class'",
    ),
    "argument": (
        item([("1\nx", "2")], kind="functional", metadata='{"func_name": "f"}'),
        "public_test_cases, test 1: no JSON",
    ),
    "result": (
        item([("1", "x")], kind="functional", metadata='{"func_name": "f"}'),
        "public_test_cases, test 1: no JSON",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("bad, message", MALFORMED.values(), ids=MALFORMED)
def test_malformed_records_are_named(tmp_path: Path, bad: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"records\.jsonl, line 2: .*{message}") as caught:
        read(tmp_path, GOOD | {"question_id": "first"}, bad)
    assert "\n" not in str(caught.value)


def test_malformed_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="line 3: question_id: 'q' is that of line 1"):
        read(tmp_path, GOOD, "", GOOD)
    with pytest.raises(DataError, match="no records"):
        read(tmp_path, "")
    with pytest.raises(DataError, match=r"cannot read .*missing"):
        read_records(tmp_path / "missing")
    (tmp_path / "latin").write_bytes(b'{"question_id": "\xe9"}')
    with pytest.raises(DataError, match="latin, line 1: the line is not UTF-8 text"):
        read_records(tmp_path / "latin")
    bomb = item([("", "")], private_test_cases=packed("[" + " " * 100_000 + "]"))
    assert len(read(tmp_path, bomb)) == 1
    monkeypatch.setattr(records, "MAX_UNPACKED", 50_000)
    with pytest.raises(DataError, match="private_test_cases: longer than 50000 bytes unpacked"):
        read(tmp_path, bomb)
    monkeypatch.setattr(records, "MAX_LINE", 100)
    with pytest.raises(DataError, match="line 1: the line has over 100 bytes"):
        read(tmp_path, GOOD)
