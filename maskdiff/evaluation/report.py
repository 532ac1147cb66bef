"""Reports: one list of rows as terminal tables, JSON and Markdown.

The JSON is an interface (`schema` 1): fields may be added, never renamed or removed; NaN and
infinity are `null`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maskdiff.errors import CheckpointError, DataError, display_width, visible
from maskdiff.evaluation.layouts import TableLayout, table_layouts
from maskdiff.evaluation.rows import Row
from maskdiff.metrics import Unit
from maskdiff.sampling import PRESETS
from maskdiff.utils.files import write_atomic

SCHEMA = 1
MARK = "*"  # of a sampler whose tokens the causal mode verifies
FOOTNOTE = (
    "tokens of a bidirectional draft, verified by the causal mode: "
    "not a purely bidirectional sampler"
)


@dataclass(frozen=True)
class Report:
    """The rows of a benchmark, and a header that says what was measured."""

    rows: list[Row]
    header: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return `{"schema": 1, ...header, "rows": [...]}`, ready for JSON."""
        return {"schema": SCHEMA, **self.header, "rows": [row.to_dict() for row in self.rows]}


@dataclass(frozen=True)
class ReportTable:
    """A titled table of text cells."""

    title: str
    columns: list[str]
    lines: list[list[str]]


# -------------------------------------------------------------------------------------------- files


def check_writable(path: str | Path) -> None:
    """Make the folder of a report file. Raises DataError if the file cannot be written."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("a").close()  # an existing file keeps its content
        if new:
            path.unlink()
        elif path.is_file():  # another file will replace it, which needs the folder
            tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a report file, see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a report file, making its folder. Raises DataError; an old file then stays."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # never replace a device or a pipe
            Path(path).write_bytes(data)
        else:
            write_atomic(path, data)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def to_json(report: Report) -> str:
    """Return the report as JSON text."""
    return json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"


# -------------------------------------------------------------------------------------------- cells


def format_number(value: float | None, unit: Unit = Unit.NUMBER) -> str:
    """Return a figure for a reader: shares in per cent, the rest with three significant digits."""
    if value is None or not math.isfinite(value):
        return "-"
    if unit is Unit.SHARE:
        return f"{100 * value:.1f}"
    if abs(value) < 1e-12:  # a zero, rounded
        return "0"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) < 1 or unit is Unit.PER_SECOND:
        return f"{value:.3g}"
    return f"{value:.2f}"


def cell(row: Row) -> str:
    """Return `value [low, high]`."""
    value, low, high = (format_number(x, row.unit) for x in (row.value, row.low, row.high))
    if row.low is None or row.high is None or row.low == row.high:
        return value
    return f"{value} [{low}, {high}]"


def label(row: Row, *hidden: str) -> str:
    """Return checkpoint, sampler (marked if verified) and the settings of a row that are not
    hidden."""
    settings = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in row.settings.items()
        if key not in ("checkpoint", *hidden)
    ]
    named = [str(row.settings["checkpoint"])] if row.settings.get("checkpoint") else []
    sampler = [row.sampler + MARK * _is_verified(row)] if row.sampler != "-" else []
    return " ".join(named + sampler + settings) or "model"


def _is_verified(row: Row) -> bool:
    return row.sampler in PRESETS and PRESETS[row.sampler].verified


def footnotes(report: Report) -> list[str]:
    """Return the meaning of the mark, if a table has it."""
    return [f"({MARK}) {FOOTNOTE}"] if any(map(_is_verified, report.rows)) else []


# ------------------------------------------------------------------------------------------- tables


def tables(report: Report) -> list[ReportTable]:
    """Return the tables of every suite in the report. Every row is in one of them."""
    made = []
    for suite in dict.fromkeys(row.suite for row in report.rows):
        rest = [row for row in report.rows if row.suite == suite]
        for section in table_layouts(suite, rest):
            taken = [row for row in rest if section.takes(row)]
            rest = [row for row in rest if not section.takes(row)]
            if taken:
                made.append(_table(section, taken))
    return made


def _table(section: TableLayout, rows: list[Row]) -> ReportTable:
    """A line for each label and a column for each metric or value of a setting."""
    if section.column == "nesting":  # not every sampler nests to every depth, in order
        rows = sorted(rows, key=lambda row: row.settings["nesting"])
    shown = rows
    if section.reference == "floor":
        floors = [row for row in rows if row.ceiling is not None]
        shown = rows + [
            replace(row, sampler="(exact floor)", value=row.ceiling or 0.0, low=None)
            for row in floors
        ]
    columns = list(dict.fromkeys(_column(section, row) for row in rows))
    lines: dict[str, dict[str, str]] = {}
    for row in shown:
        text = cell(row)
        if section.baselines and row.baseline is not None:
            text += f" / {format_number(row.baseline, row.unit)}"
        lines.setdefault(label(row, section.hidden), {})[_column(section, row)] = text
    if section.reference == "draws":
        lines |= _reference_lines(section, rows)
    cells = [[name, *(texts.get(key, "") for key in columns)] for name, texts in lines.items()]
    return ReportTable(section.title, ["", *columns], cells)


def _column(section: TableLayout, row: Row) -> str:
    """The heading of the column of a row."""
    if section.column:
        return f"{row.settings[section.column]}"
    return f"{row.metric} ({row.unit.value})" if section.units and row.unit.value else row.metric


def _reference_lines(section: TableLayout, rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """A line for real draws and one for blind draws, where the rows know them."""
    lines = {}
    for name, field_name in (("(real draws)", "ceiling"), ("(blind draws)", "baseline")):
        texts = {
            _column(section, row): format_number(getattr(row, field_name), row.unit)
            for row in reversed(rows)
        }
        if any(text != "-" for text in texts.values()):
            lines[name] = texts
    return lines


# ---------------------------------------------------------------------------------------- rendering


def header_lines(report: Report) -> list[str]:
    """Return the lines above the tables: what was measured, on what, and how."""
    items = report.header.items()
    return [
        visible(f"{key}: {value}") for key, value in items if not isinstance(value, (dict, list))
    ]


def to_terminal(report: Report) -> str:
    """Return the report as aligned plain text."""
    blocks = ["\n".join(header_lines(report))]
    for table in tables(report):
        grid = [[visible(text) for text in line] for line in [table.columns, *table.lines]]
        widths = [max(display_width(line[i]) for line in grid) for i in range(len(table.columns))]
        body = ["  ".join(map(_padded, line, widths)).rstrip() for line in grid]
        rule = "-" * max(map(display_width, body))
        blocks.append("\n".join([table.title, body[0], rule, *body[1:]]))
    return "\n\n".join(blocks + footnotes(report)) + "\n"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def to_markdown(report: Report) -> str:
    """Return the report as Markdown, with the tables of the terminal."""
    head = "\n".join(f"- {line}" for line in header_lines(report))
    notes = [note.replace(MARK, f"\\{MARK}", 1) + "\n" for note in footnotes(report)]
    return "\n".join([f"# Benchmark\n\n{head}\n", *map(_markdown, tables(report)), *notes])


def _markdown(table: ReportTable) -> str:
    """One table under a heading."""
    lines = [
        "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |"
        for line in [table.columns, *table.lines]
    ]
    rule = "|" + "---|" * len(table.columns)
    return "\n".join([f"## {table.title}\n", lines[0], rule, *lines[1:], ""])
