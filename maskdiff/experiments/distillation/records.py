"""Problems with tests, from files in the record format of LiveCodeBench (release 6).

A record is a JSON object on a line of its own, all of whose values are texts: question_id,
question_title, question_content, platform, contest_id, contest_date, starter_code, difficulty;
public_test_cases and private_test_cases, which are JSON lists of {"input", "output", "testtype":
"stdin" or "functional"}, the second also in the packed form; and metadata, a JSON object, whose
func_name is the function that functional tests call. Their input is one JSON argument a line, their
output one JSON value.

The packed form is a pickle, in zlib, in base64, and a pickle is a program. It is never unpickled:
only the instructions of a single text are accepted, and that text is taken.
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
KEEP = 100  # tests of either kind kept of a record; each may have millions of characters
MOST_DIGITS = 50_000  # of an integer in a test, as in the format's grader
SHIPPED = Path(__file__).with_name("problems.jsonl")
# Field of `Record` -> key of the format.
TEXTS = {
    "name": "question_id", "title": "question_title", "content": "question_content",
    "platform": "platform", "contest": "contest_id", "date": "contest_date",
    "starter": "starter_code", "difficulty": "difficulty",
}  # fmt: skip
FRAME = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}
TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}


@dataclass(frozen=True)
class Test:
    """Input and expected output; JSON of a function if `functional`, else standard streams."""

    __test__ = False  # not for pytest

    input: str
    output: str
    functional: bool


@dataclass(frozen=True)
class Record:
    """A problem: the texts of the format, the tests, and the function that functional ones call."""

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


class _RecordError(Exception):
    """A mistake in a record: the key and the reason."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")


def shipped_problems() -> list[Record]:
    """Return the ten problems of this project: seven with standard input, three with functions."""
    return read_records(SHIPPED)


def read_records(path: str | Path, keep: int = KEEP) -> list[Record]:
    """Return all records of a file, with the first `keep` tests of either kind.

    Raises DataError with file, line and key.
    """
    records: list[Record] = []
    known: dict[str, int] = {}
    for number, line in _lines(Path(path)):
        try:
            record = _record(line, keep)
            if record.name in known:
                first = f"{quote(record.name)} is that of line {known[record.name]}"
                raise _RecordError("question_id", f"{first}; give each its own")
        except _RecordError as error:
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


def parse_value(text: str) -> Any:
    """Return the value of a JSON text, whose integers may have MOST_DIGITS digits.

    Integers that Python refuses to parse become Decimals, which compare alike. Raises ValueError
    for invalid JSON and longer integers, RecursionError for too deep nesting.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of too many digits for Python
        return json.loads(text, parse_int=_integer)


def _integer(text: str) -> int | Decimal:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"an integer of more than {MOST_DIGITS} digits")
    return int(text) if len(text) < 1000 else Decimal(text)


def _parsed(key: str, text: str, kind: type, name: str) -> Any:
    """Return the JSON value of a text, which must be of a kind. Raises _RecordError."""
    try:
        value = parse_value(text)
    except (ValueError, RecursionError) as error:
        raise _RecordError(key, f"no JSON ({error})") from None
    if not isinstance(value, kind):
        raise _RecordError(key, f"{quote(value)} is no {name}")
    return value


def _record(line: str, keep: int) -> Record:
    item = _parsed("the line", line, dict, "JSON object")
    texts = {name: _text(item, key) for name, key in TEXTS.items()}
    if not texts["name"]:
        raise _RecordError("question_id", "empty; give a name")
    metadata = _parsed("metadata", _text(item, "metadata"), dict, "JSON object")
    public = _tests("public_test_cases", _text(item, "public_test_cases"), keep)
    key = "private_test_cases"
    private = _tests(key, _unpacked(key, _text(item, key)), keep)
    if not public and not private:
        raise _RecordError(
            "public_test_cases", "no tests, and no private ones either; give one at least"
        )
    function = metadata.get("func_name", "")
    if any(test.functional for test in public + private) and not (
        isinstance(function, str) and function.isidentifier() and not keyword.iskeyword(function)
    ):
        why = f"func_name is {quote(function)}; functional tests need the name of a function"
        raise _RecordError("metadata", why)
    function = function if isinstance(function, str) else ""
    return Record(**texts, public=public, private=private, function=function)


def _text(item: dict[str, Any], key: str) -> str:
    if key not in item:
        raise _RecordError(key, "missing")
    value = item[key]
    if not isinstance(value, str):
        raise _RecordError(key, f"{quote(value)} is no text")
    return value


def _tests(key: str, text: str, keep: int) -> tuple[Test, ...]:
    found = []
    for number, item in enumerate(_parsed(key, text, list, "JSON list")[:keep], start=1):
        names = ("input", "output", "testtype")
        if not isinstance(item, dict) or not all(isinstance(item.get(n), str) for n in names):
            why = f"test {number} is no object with the texts input, output and testtype"
            raise _RecordError(key, why)
        kind = item["testtype"]
        if kind not in ("stdin", "functional"):
            why = f"test {number}: testtype is {quote(kind)}; give stdin or functional"
            raise _RecordError(key, why)
        test = Test(item["input"], item["output"], kind == "functional")
        for value in [*arguments(test), test.output] if test.functional else ():
            _parsed(f"{key}, test {number}", value, object, "value")
        found.append(test)
    return tuple(found)


def arguments(test: Test) -> list[str]:
    """Return the JSON texts of the arguments of a functional test."""
    return [line for line in test.input.split("\n") if line.strip()]


def _unpacked(key: str, text: str) -> str:
    """Return the JSON text of private tests, which may be packed."""
    if text.lstrip().startswith("["):
        return text
    unzip = zlib.decompressobj()
    try:
        packed = base64.b64decode("".join(text.split()), validate=True)
        data = unzip.decompress(packed, MAX_UNPACKED + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise _RecordError(key, f"neither a JSON list nor base64 of zlib ({error})") from None
    if len(data) > MAX_UNPACKED:
        raise _RecordError(
            key, f"longer than {MAX_UNPACKED} bytes unpacked; leave some of the tests out"
        )
    if not unzip.eof:
        raise _RecordError(key, "its compressed form is cut off")
    return _pickled_text(key, data)


def _pickled_text(key: str, data: bytes) -> str:
    """Return the text in a pickle, which is not executed. Raises _RecordError for any other."""
    found = []
    try:
        for code, argument, _ in pickletools.genops(data):
            if code.name in TEXT:
                found.append(argument)
            elif code.name not in FRAME:
                why = f"its pickle is no text but has the instruction {code.name}"
                raise _RecordError(key, f"{why}; it was not executed")
    except (ValueError, EOFError, UnicodeError, OverflowError, MemoryError) as error:
        raise _RecordError(key, f"its pickle is damaged ({error})") from None
    if len(found) != 1 or not isinstance(found[0], str):
        raise _RecordError(key, "its pickle is not one text")
    return found[0]


__all__ = ["Record", "Test", "arguments", "parse_value", "read_records", "shipped_problems"]
