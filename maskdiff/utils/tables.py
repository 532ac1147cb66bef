"""Lines of text, CSV files and JSON lines as tables, of which the cells of one column are replaced.

Everything else stays as it is: order and quotes of the other columns, delimiter, line ends, a byte
order mark. The `csv` and `json` modules decide what a row means. A row whose cell is replaced is
read again, and must then have the new cell and otherwise the old ones.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from maskdiff.errors import DataError, nearest, quote
from maskdiff.utils.lines import LINE_END

CSV_ENDINGS, JSON_ENDINGS = (".csv", ".tsv"), (".jsonl", ".ndjson")
DELIMITERS = ",;\t|"
SNIFFED = 50  # rows from which the delimiter is chosen
DEFAULT_COLUMN = "text"  # where there are several
LISTED = 8  # names of columns in an error
MAX_CELL = 2**27  # characters of a cell of a CSV file
BOM = "\ufeff"

_LINE_ENDS, _SURROGATES = re.compile(LINE_END), re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        line: The number of its first line in the file, from 1.
        raw: Its text with the line end.
        cell: The cell of the column; an error if the row has none that is one line of text; None
            for a header or a blank row.
    """

    line: int
    raw: str
    cell: str | DataError | None


@dataclass(frozen=True)
class Table:
    """The rows of a file, and a function that returns the text of a row with another cell."""

    rows: list[TableRow]
    rewrite: Callable[[TableRow, str], str]
    start: str = ""  # a byte order mark

    def text(self, cells: Mapping[int, str]) -> str:
        """Return the text of the file with new cells, by the index of their row."""
        parts = [
            self.rewrite(row, cells[index]) if index in cells else row.raw
            for index, row in enumerate(self.rows)
        ]
        return self.start + "".join(parts)


def is_table(name: str) -> bool:
    """Return whether a file of this name is read as CSV or JSON lines, not as lines of text."""
    return name.lower().endswith(CSV_ENDINGS + JSON_ENDINGS)


def read_table(text: str, name: str, column: str = "") -> Table:
    """Return the table of a file.

    Args:
        text: The text of the file.
        name: The name of the file. Its ending tells the format, and errors begin with it.
        column: The column of a CSV file or the key of JSON lines; by default the only one, or
            `text`. Lines of text have none.

    Raises:
        DataError: There is no such column, or the quotes of a CSV file are damaged.
    """
    start = BOM if text.startswith(BOM) else ""
    text = text.removeprefix(BOM)
    if name.lower().endswith(CSV_ENDINGS):
        table = _read_csv(text, name, column)
    elif name.lower().endswith(JSON_ENDINGS):
        table = _read_json(text, name, column)
    elif column:
        raise DataError(
            f"{name} has no column {quote(column)}: it is read as lines of text; a table ends in "
            f"{', '.join(CSV_ENDINGS + JSON_ENDINGS)}"
        )
    else:
        rows = [
            TableRow(number, raw, _cell(raw.rstrip("\r\n"), "the line") or None)
            for number, raw in _numbered_lines(text)
        ]
        table = Table(rows, lambda row, new: new + _line_end(row.raw))
    return Table(table.rows, table.rewrite, start)


def choose_column(names: Iterable[str], column: str, where: str) -> str:
    """Return `column`, by default the only name or `text`. Raises DataError, with the names."""
    known = list(dict.fromkeys(names))
    chosen = column or (known[0] if len(known) == 1 else DEFAULT_COLUMN)
    if chosen in known:
        return chosen
    if not known:
        raise DataError(f"{where} has no columns")
    more = len(known) - LISTED
    listed = ", ".join(map(quote, known[:LISTED])) + (f" and {more} more" if more > 0 else "")
    if not column:
        raise DataError(f"{where} has several columns: {listed}; name one of them")
    raise DataError(
        f"{where} has no column {quote(column)}; the nearest is {quote(nearest(column, known))} "
        f"of {listed}"
    )


def _numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their ends, and their numbers."""
    return enumerate(io.StringIO(text, newline=""), start=1)


def _line_end(raw: str) -> str:
    return raw[len(raw.rstrip("\r\n")) :]


def _cell(value: object, name: str) -> str | DataError:
    """The value as a cell: one line of text, or what is wrong with it."""
    if not isinstance(value, str):
        return DataError(f"{name} is no text")
    if _LINE_ENDS.search(value):
        return DataError(f"{name} has a line break: {quote(value)}")
    if not value.isascii() and _SURROGATES.search(value):
        return DataError(f"{name} is not UTF-8 text")
    return value


# -------------------------- CSV


def _csv_rows(text: str, name: str, delimiter: str) -> Iterator[tuple[int, str, list[str]]]:
    """The number of the first line, the text and the cells of each row. Raises DataError."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for _, line in _numbered_lines(text):
            taken.append(line)
            yield line

    csv.field_size_limit(MAX_CELL)
    reader, first = csv.reader(lines(), delimiter=delimiter, strict=True), 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name}: line {first}: damaged CSV: {error}") from None
        if cells is None:
            return
        yield first, "".join(taken), cells
        first += len(taken)
        taken.clear()


def sniff_delimiter(text: str, name: str, column: str = "") -> str:
    """Return the delimiter: with it the header has `column`, and most rows are as long as it."""

    def fit(delimiter: str) -> tuple[bool, float, int]:
        sizes: list[int] = []
        header: list[str] = []
        with suppress(DataError):  # a damaged row is reported when the file is read
            for _, _, cells in _csv_rows(text, name, delimiter):
                header = header or cells
                sizes += [len(cells)] * bool(cells)
                if len(sizes) == SNIFFED:
                    break
        several = len(header) > 1
        share = sizes.count(len(header)) / len(sizes) if several else 0.0
        return column in header, share, len(header)

    return max(DELIMITERS, key=fit)


def _read_csv(text: str, name: str, column: str) -> Table:
    delimiter = sniff_delimiter(text, name, column)
    rows: list[TableRow] = []
    header: list[str] = []
    place = 0
    for line, raw, cells in _csv_rows(text, name, delimiter):
        cell: str | DataError | None = None
        if cells and not header:
            header, column = cells, choose_column(cells, column, name)
            place = header.index(column)
        elif cells and len(cells) != len(header):
            cell = DataError(f"a row of {len(cells)} cells; the header has {len(header)}")
        elif cells:
            cell = _cell(cells[place], quote(column))
        rows.append(TableRow(line, raw, cell))
    if not header:
        raise DataError(f"{name} has no header")
    return Table(rows, lambda row, new: _with_cell(row, place, new, delimiter, name))


def _with_cell(row: TableRow, place: int, new: str, delimiter: str, name: str) -> str:
    """The text of the row with another cell, quoted if the old one is or if it has to be."""
    mark = re.escape(delimiter)
    spans = [
        match.span(1)
        for match in re.finditer(
            f'(?:^|{mark})("(?:[^"]|"")*"|[^{mark}\r\n]*)(?={mark}|$|[\r\n])', row.raw
        )
    ]
    start, end = spans[place]
    if row.raw.startswith('"', start) or new == "" or any(c in new for c in f'"\r\n{delimiter}'):
        doubled = new.replace('"', '""')
        written = f'"{doubled}"'
    else:
        written = new
    raw = row.raw[:start] + written + row.raw[end:]
    ((_, _, old),) = _csv_rows(row.raw, name, delimiter)
    ((_, _, now),) = _csv_rows(raw, name, delimiter)
    if now != [*old[:place], new, *old[place + 1 :]]:  # never write what reads as something else
        raise DataError(f"{name}: line {row.line}: the cell cannot be replaced")
    return raw


# -------------------------- JSON lines


def _read_json(text: str, name: str, column: str) -> Table:
    parsed = [(line, raw, _json_object(raw)) for line, raw in _numbered_lines(text)]
    keys = (key for _, _, item in parsed if isinstance(item, dict) for key in item)
    names = list(dict.fromkeys(keys))
    if not names:
        bad = [(line, item) for line, _, item in parsed if isinstance(item, DataError)]
        what = f"line {bad[0][0]}: {bad[0][1]}" if bad else "it has no objects"
        raise DataError(f"{name}: {what}")
    column = choose_column(names, column, name)

    def cell(item: dict[str, Any] | DataError | None) -> str | DataError | None:
        if not isinstance(item, dict):
            return item
        return (
            _cell(item[column], quote(column))
            if column in item
            else DataError(f"an object without {quote(column)}")
        )

    rows = [TableRow(line, raw, cell(item)) for line, raw, item in parsed]
    return Table(rows, lambda row, new: _with_value(row.raw, column, new))


def _json_object(raw: str) -> dict[str, Any] | DataError | None:
    """The object of a line; None for a blank line."""
    if not raw.strip():
        return None
    try:
        item = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return DataError(f"no JSON: {error}")
    return item if isinstance(item, dict) else DataError("no JSON object")


def _with_value(raw: str, key: str, new: str) -> str:
    """The text of an object with another value of `key`, escaped as the line is."""
    start, end = _value_span(raw, key)
    return raw[:start] + json.dumps(new, ensure_ascii=raw.isascii()) + raw[end:]


def _value_span(raw: str, key: str) -> tuple[int, int]:
    """Where the value of `key` stands in a JSON object; the last one, which `json` takes."""

    def after_space(place: int) -> int:
        match = _SPACE.match(raw, place)
        assert match is not None
        return match.end()

    decoder, found = json.JSONDecoder(), (0, 0)
    place = after_space(0)
    while raw[place] != "}":
        name, place = decoder.raw_decode(raw, after_space(place + 1))  # behind { or a comma
        start = after_space(after_space(place) + 1)  # behind the colon
        _, end = decoder.raw_decode(raw, start)
        found = (start, end) if name == key else found
        place = after_space(end)
    return found


__all__ = ["Table", "TableRow", "choose_column", "is_table", "read_table", "sniff_delimiter"]
