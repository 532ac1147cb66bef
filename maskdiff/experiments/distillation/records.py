"""Problems with tests, read from files in the record format of LiveCodeBench (release 6).

For: `read_records`, `Record`, `Test`, and `shipped_problems`, ten small ones written for this project. Not for: running tests
(`python_tests.py`). Easy to get wrong: the private tests of that format are a pickle, in zlib, in base64, and a pickle is a
program. Nothing here is ever unpickled: of its instructions only those that make up one text are known, and that text is taken.

A record is a JSON object on a line of its own, all of whose values are texts: question_id, question_title, question_content,
platform, contest_id, contest_date, starter_code, difficulty; public_test_cases and private_test_cases, which are JSON lists of
{"input", "output", "testtype": "stdin" or "functional"}, the second also in the packed form; and metadata, a JSON object, whose
func_name is the function that functional tests call. Their input is one JSON argument a line, their output one JSON value.
"""

from __future__ import annotations

import base64
import binascii
import json
import keyword
import pickletools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from maskdiff.errors import DataError, quote
from maskdiff.utils.lines import LineReader

MAX_LINE = 1 << 26  # bytes of a record
MAX_UNPACKED = 1 << 28  # bytes of private tests
KEEP = 100  # tests of either kind kept of a record; those of a contest may be millions of characters each
MOST_DIGITS = 50_000  # of an integer in a test, as in the format's grader
SHIPPED = Path(__file__).with_name("problems.jsonl")
TEXTS = (
    "question_id", "question_title", "question_content", "platform", "contest_id", "contest_date", "starter_code", "difficulty"
)  # fmt: skip
FRAME = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}
TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}


@dataclass(frozen=True)
class Test:
    """What a program is given and what it should answer; functional: they are JSON, else standard input and output."""

    __test__ = False  # not for pytest

    input: str
    output: str
    functional: bool


@dataclass(frozen=True)
class Record:
    """A problem: the texts of the format by shorter names, the tests, and the function that functional ones call."""

    name: str
    title: str
    content: str
    platform: str
    contest: str
    date: str
    starter: str
    difficulty: str
    public: tuple[Test, ...]
    private: tuple[Test, ...]
    function: str


class _Bad(Exception):
    """What is wrong with a record: the key and why."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")


def shipped_problems() -> list[Record]:
    """The ten problems of this project: seven with standard input, three with functions."""
    return read_records(SHIPPED)


def read_records(path: str | Path, keep: int = KEEP) -> list[Record]:
    """All records of a file, with the first `keep` tests of either kind. Raises DataError with file, line and key."""
    records: list[Record] = []
    known: dict[str, int] = {}
    for number, line in _lines(Path(path)):
        try:
            record = _record(line, keep)
            if record.name in known:
                raise _Bad(
                    "question_id",
                    f"{quote(record.name)} is that of line {known[record.name]}; give each its own",
                )
        except _Bad as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        known[record.name] = number
        records.append(record)
    if not records:
        raise DataError(f"{path}: no records; give one JSON object a line")
    return records


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(LineReader(file, longest=MAX_LINE), start=1):
                if isinstance(line, DataError):
                    raise DataError(f"{path}, line {number}: {line}")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def value_of(text: str) -> Any:
    """Return the value of a JSON text, whose integers may have MOST_DIGITS digits.

    Longer ones than Python reads by itself become Decimals, which compare alike. Raises ValueError
    for what is no JSON or has longer integers, RecursionError for nests that are too deep.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python reads by itself
        return json.loads(text, parse_int=_integer)


def _integer(text: str) -> int | Decimal:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"an integer of more than {MOST_DIGITS} digits")
    return int(text) if len(text) < 1000 else Decimal(text)


def _parsed(key: str, text: str, kind: type, name: str) -> Any:
    """The JSON value of a text, which is to be of a kind; Python's own error of numbers too long and nests too deep is ours."""
    try:
        value = value_of(text)
    except (ValueError, RecursionError) as error:
        raise _Bad(key, f"no JSON ({error})") from None
    if not isinstance(value, kind):
        raise _Bad(key, f"{quote(value)} is no {name}")
    return value


def _record(line: str, keep: int) -> Record:
    item = _parsed("the line", line, dict, "JSON object")
    texts = [_text(item, key) for key in TEXTS]
    if not texts[0]:
        raise _Bad("question_id", "empty; give a name")
    metadata = _parsed("metadata", _text(item, "metadata"), dict, "JSON object")
    public = _tests("public_test_cases", _text(item, "public_test_cases"), keep)
    private = _tests(
        "private_test_cases",
        _unpacked("private_test_cases", _text(item, "private_test_cases")),
        keep,
    )
    if not public and not private:
        raise _Bad("public_test_cases", "no tests, and no private ones either; give one at least")
    function = metadata.get("func_name", "")
    if any(test.functional for test in public + private) and not (
        isinstance(function, str) and function.isidentifier() and not keyword.iskeyword(function)
    ):
        raise _Bad(
            "metadata",
            f"func_name is {quote(function)}; functional tests need the name of a function",
        )
    name, title, content, platform, contest, date, starter, difficulty = texts
    function = function if isinstance(function, str) else ""
    return Record(
        name,
        title,
        content,
        platform,
        contest,
        date,
        starter,
        difficulty,
        public,
        private,
        function,
    )


def _text(item: dict[str, Any], key: str) -> str:
    if key not in item:
        raise _Bad(key, "missing")
    value = item[key]
    if not isinstance(value, str):
        raise _Bad(key, f"{quote(value)} is no text")
    return value


def _tests(key: str, text: str, keep: int) -> tuple[Test, ...]:
    found = []
    for number, item in enumerate(_parsed(key, text, list, "JSON list")[:keep], start=1):
        if not isinstance(item, dict) or not all(
            isinstance(item.get(name), str) for name in ("input", "output", "testtype")
        ):
            raise _Bad(key, f"test {number} is no object with the texts input, output and testtype")
        if item["testtype"] not in ("stdin", "functional"):
            raise _Bad(
                key,
                f"test {number}: testtype is {quote(item['testtype'])}; give stdin or functional",
            )
        test = Test(item["input"], item["output"], item["testtype"] == "functional")
        for value in [*arguments(test), test.output] if test.functional else ():
            _parsed(f"{key}, test {number}", value, object, "value")
        found.append(test)
    return tuple(found)


def arguments(test: Test) -> list[str]:
    """The JSON texts of the arguments of a functional test."""
    return [line for line in test.input.split("\n") if line.strip()]


def _unpacked(key: str, text: str) -> str:
    """The JSON text of private tests, as it stands or packed."""
    if text.lstrip().startswith("["):
        return text
    unzip = zlib.decompressobj()
    try:
        data = unzip.decompress(
            base64.b64decode("".join(text.split()), validate=True), MAX_UNPACKED + 1
        )
    except (binascii.Error, ValueError, zlib.error) as error:
        raise _Bad(key, f"neither a JSON list nor base64 of zlib ({error})") from None
    if len(data) > MAX_UNPACKED:
        raise _Bad(key, f"longer than {MAX_UNPACKED} bytes unpacked; leave some of the tests out")
    if not unzip.eof:
        raise _Bad(key, "its compressed form is cut off")
    return _pickled_text(key, data)


def _pickled_text(key: str, data: bytes) -> str:
    """The text that a pickle holds; a pickle of anything else is refused, and none is executed."""
    found = []
    try:
        for code, argument, _ in pickletools.genops(data):
            if code.name in TEXT:
                found.append(argument)
            elif code.name not in FRAME:
                raise _Bad(
                    key,
                    f"its pickle is no text but has the instruction {code.name}; it was not executed",
                )
    except (ValueError, EOFError, UnicodeError, OverflowError, MemoryError) as error:
        raise _Bad(key, f"its pickle is damaged ({error})") from None
    if len(found) != 1 or not isinstance(found[0], str):
        raise _Bad(key, "its pickle is not one text")
    return found[0]


__all__ = ["Record", "Test", "arguments", "read_records", "shipped_problems", "value_of"]
