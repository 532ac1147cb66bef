"""Tables: what the csv and json modules read, and files of which only one column changes."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest

from maskdiff.errors import DataError
from maskdiff.utils.tables import Table, read_table, sniff_delimiter
from tests.helpers.fuzz import both_seeds, cases

ALPHABET = ["a", "b", " ", '"', "'", ",", ";", "\t", "|", "ä", "\u2028", "=", "\\"]


def random_text(rng: random.Random, most: int = 6, more: str = "") -> str:
    return "".join(rng.choices([*ALPHABET, *more], k=rng.randrange(most)))


def random_csv(rng: random.Random) -> tuple[str, str, str]:
    """The text of a random file, its delimiter and the column that is read."""
    width, delimiter = rng.randrange(2, 5), rng.choice(",;\t|")
    out = io.StringIO(newline="")
    end = rng.choice(["\n", "\r\n", "\r"])
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    header = [f"column{i}" for i in range(width)]
    writer.writerow(header)
    more = "\n\r" if quoting == csv.QUOTE_ALL else ""  # older writers do not quote a lone CR
    for _ in range(rng.randrange(1, 8)):
        writer.writerow([random_text(rng, more=more) for _ in range(width)])
    text = out.getvalue()
    cut = text[: len(text) - len(end)] if rng.random() < 0.3 else text
    return rng.choice(["", "\ufeff"]) + cut, delimiter, rng.choice(header)


@both_seeds
def test_random_csv_round_trips_against_the_csv_module(seed: int) -> None:
    tried = 0
    for rng in cases(150, seed):
        text, delimiter, column = random_csv(rng)
        bare = text.removeprefix("\ufeff")
        before = list(csv.reader(io.StringIO(bare, newline=""), delimiter=delimiter))
        place = before[0].index(column)
        if sniff_delimiter(bare, "x.csv", column) != delimiter:
            continue  # cells of other delimiters may look the same
        tried += 1
        table = read_table(text, "x.csv", column)
        assert table.text({}) == text
        cells = [row.cell for row in table.rows[1:]]
        for cell, row in zip(cells, before[1:], strict=True):
            assert isinstance(cell, DataError) == bool({"\n", "\r"} & set(row[place]))
            assert isinstance(cell, DataError) or cell == row[place]
        # Any cells may be replaced, by any text; all others stay as they were.
        new = {i: random_text(rng) for i in range(1, len(before)) if rng.random() < 0.6}
        written = table.text(new)
        assert written.startswith("\ufeff") == text.startswith("\ufeff")
        after = list(
            csv.reader(io.StringIO(written.removeprefix("\ufeff"), newline=""), delimiter=delimiter)
        )
        for i, cell in new.items():
            before[i][place] = cell
        assert after == before
    assert tried


@both_seeds
def test_random_json_lines_round_trip_against_the_json_module(seed: int) -> None:
    for rng in cases(150, seed):
        items = [
            {
                f"{random_text(rng)}{k}": rng.choice([random_text(rng), 7, None, [{"text": "}"}]])
                for k in range(rng.randrange(3))
            }
            | {"text": random_text(rng)}
            | {"z": {"text": 1}}
            for _ in range(rng.randrange(1, 6))
        ]
        ascii_only, space = rng.random() < 0.5, rng.choice([None, (", ", ":"), (" ,\t", " : ")])
        end = rng.choice(["\n", "\r\n"])
        lines = [json.dumps(item, ensure_ascii=ascii_only, separators=space) for item in items]
        text = end.join(f" {line}" for line in lines) + rng.choice(["", end])
        table = read_table(text, "x.jsonl", "text")
        assert table.text({}) == text
        assert [row.cell for row in table.rows] == [item["text"] or "" for item in items]
        new = {i: random_text(rng) for i in range(len(items)) if rng.random() < 0.6}
        written = table.text(new)
        for i, cell in new.items():
            items[i]["text"] = cell
        assert [json.loads(line) for line in written.split("\n") if line.strip()] == items
        assert written.isascii() or not text.isascii() or not ascii_only or "\u2028" in text


def test_the_last_of_equal_keys_is_read_and_replaced() -> None:
    table = read_table('{"a": "x", "a" : "y", "b": {"a": "z"}}\n', "x.jsonl", "a")
    assert table.rows[0].cell == "y"
    assert table.text({0: "q"}) == '{"a": "x", "a" : "q", "b": {"a": "z"}}\n'


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_that_of_the_header(delimiter: str) -> None:
    rows = [["id", "rule", "more"], ["1", "a, b; c|d\te", "x"], ["2", "q", "y"]]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows(rows)
    assert sniff_delimiter(out.getvalue(), "x.csv") == delimiter
    assert [row.cell for row in read_table(out.getvalue(), "x.csv", "rule").rows[1:]] == [
        "a, b; c|d\te",
        "q",
    ]


@pytest.mark.parametrize(
    ("name", "text", "column", "message"),
    [
        (
            "x.csv",
            "id,rule\n1,a\n",
            "rul",
            "no column 'rul'; the nearest is 'rule' of 'id', 'rule'",
        ),
        ("x.csv", "id,rule\n1,a\n", "", "several columns: 'id', 'rule'; name one of them"),
        ("x.csv", "\n", "", "has no header"),
        ("x.csv", 'id,rule\n1,"a\n2,b\n', "rule", "line 2: damaged CSV"),
        ("x.csv", 'id,rule\n1,"a"b\n', "rule", "line 2: damaged CSV"),
        ("x.jsonl", '{"a": "x", "b": "y"}\n', "c", "no column 'c'; the nearest"),
        ("x.jsonl", "{\n", "", "line 1: no JSON"),
        ("x.txt", "a\n", "c", "it is read as lines of text"),
    ],
)
def test_a_file_without_the_column_is_refused(
    name: str, text: str, column: str, message: str
) -> None:
    with pytest.raises(DataError) as error:
        read_table(text, name, column)
    assert str(error.value).startswith(name)
    assert message in str(error.value)


def test_the_only_column_or_text_needs_no_name() -> None:
    def cells(table: Table) -> list[str]:
        return [row.cell for row in table.rows if isinstance(row.cell, str)]

    assert cells(read_table("rule\na\n\nb\n", "x.csv")) == ["a", "b"]
    assert cells(read_table("id,text\n1,a\n", "x.CSV")) == ["a"]
    assert cells(read_table('{"q": "a"}\n', "x.jsonl")) == ["a"]
    assert cells(read_table('{"text": "a", "q": 1}\n', "x.ndjson")) == ["a"]


def test_bad_rows_are_errors_in_their_place_and_stay_as_they_are() -> None:
    text = 'id,rule\r\n1,a\r\n2\r\n\r\n3,b,c\r\n4,"d\r\ne"\r\n5,\udcff\r\n6,f'
    table = read_table(text, "x.csv", "rule")
    found = [(row.line, str(row.cell)) for row in table.rows if row.cell is not None]
    assert found == [
        (2, "a"),
        (3, "a row of 1 cells; the header has 2"),
        (5, "a row of 3 cells; the header has 2"),
        (6, "'rule' has a line break: 'd\\r\\ne'"),
        (8, "'rule' is not UTF-8 text"),
        (9, "f"),
    ]
    assert table.text({1: "A", 7: "F"}) == text.replace("1,a", "1,A").replace("6,f", "6,F")
    table = read_table('{"a": "x"}\n[1]\n{"b": 1}\n{"a": 7}\nnull\n', "x.jsonl", "a")
    assert [str(row.cell) for row in table.rows] == [
        "x",
        "no JSON object",
        "an object without 'a'",
        "'a' is no text",
        "no JSON object",
    ]


def test_lines_of_text_keep_their_ends() -> None:
    text = "\ufeffab\r\n\nb\rc"
    table = read_table(text, "-")
    assert [row.cell for row in table.rows] == ["ab", None, "b", "c"]
    assert table.text({}) == text
    assert table.text({0: "x", 3: "z"}) == "\ufeffx\r\n\nb\rz"
