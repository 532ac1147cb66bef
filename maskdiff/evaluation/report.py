"""Reports: one list of rows as terminal tables, JSON and Markdown.

For: layout only.  Not for: measuring.  Easy to get wrong: the JSON is an interface (``schema`` 1): fields may be added,
never renamed or removed; NaN and infinity are ``null``.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskdiff.errors import CheckpointError, DataError, display_width, visible
from maskdiff.evaluation.rows import Row
from maskdiff.evaluation.samplers import VERIFIED
from maskdiff.utils.files import write_atomic

SCHEMA = 1
MARK = "*"  # of a sampler whose tokens the causal mode verifies
FOOTNOTE = "tokens of a bidirectional draft, verified by the causal mode: not a purely bidirectional sampler"
RATES = frozenset(
    [
        "parses",
        "holds",
        "balanced",
        "has_equals",
        "has_operator",
        "distinct",
        "distinct_relative",
        "distinct_valid",
        "distinct_valid_relative",
        "novel",
        "in_support",
        "token_accuracy",
        "aligned_accuracy",
        "exact",
        "anchors_kept",
        "anchors_all_kept",
        "token_share",
        "corruption_share",
        "starts_as_typed",
        "next_token_exact",
        "likelihood_impossible",
        "accuracy",
        "accuracy_if_copied",
        "accuracy_if_not",
        "starts_right",
        "run_on",
        "eos",
        "cap_hit",
        "periodic_tail",
        "rep_16",
        "seq_rep_4",
        "distinct_4",
        "adjacent_duplicates",
        "one_token",
        "end_after_whole",
        "ended",
        "covered",
        "loops",
        "all_steps_right",
        "errors_removed",
        "scaled_steps",
        "accuracy_gain",
        "forward_tokens_ratio",
        "restart_rate",
    ]
)


@dataclass(frozen=True)
class Report:
    """What was measured, on what, and the figures."""

    rows: list[Row]
    header: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """``{"schema": 1, ...header, "rows": [...]}``, ready for JSON."""
        return {"schema": SCHEMA, **self.header, "rows": [row.as_dict() for row in self.rows]}


@dataclass(frozen=True)
class Table:
    """A titled table of text cells."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def check_writable(path: str | Path) -> None:
    """Make the folder of a report file and see that the file could be written.  Raises ``DataError`` with one line."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("a").close()  # a file that is there keeps what it holds
        if new:
            path.unlink()
        elif path.is_file():  # another file takes its place, which needs the folder
            tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a report file, see ``write_bytes``."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a report file, making its folder; where that fails, an old file stays.  Raises ``DataError`` with one line."""
    try:
        if (
            Path(path).exists() and not Path(path).is_file()
        ):  # a device or a pipe must not be replaced by a file
            Path(path).write_bytes(data)
        else:
            write_atomic(path, data)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def to_json(report: Report) -> str:
    """The report as JSON text."""
    return json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"


# ------------------------------------------------------------------------------------------------------------- numbers


def number(value: float | None, metric: str) -> str:
    """A figure for a reader: rates in per cent, the rest with three significant digits; ``-`` where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if metric in RATES:
        return f"{100 * value:.1f}"
    if abs(value) < 1e-12:  # what rounding leaves of a zero
        return "0"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) < 1 or metric.endswith("second"):
        return f"{value:.3g}"
    return f"{value:.2f}"


def cell(row: Row) -> str:
    """``value [low, high]``."""
    if row.low is None or row.high is None or row.low == row.high:
        return number(row.value, row.metric)
    return f"{number(row.value, row.metric)} [{number(row.low, row.metric)}, {number(row.high, row.metric)}]"


def cell_beside(row: Row) -> str:
    """``value [low, high] / baseline``: for suites that are read against doing nothing."""
    return (
        cell(row) if row.baseline is None else f"{cell(row)} / {number(row.baseline, row.metric)}"
    )


def label(row: Row, leave: Iterable[str] = ()) -> str:
    """Checkpoint, sampler (marked if the causal mode verifies its tokens) and settings of a row, for its line."""
    left = {*leave, "checkpoint"}
    settings = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in row.settings.items()
        if key not in left
    ]
    named = [str(row.settings["checkpoint"])] if row.settings.get("checkpoint") else []
    sampler = [row.sampler + MARK * (row.sampler in VERIFIED)] if row.sampler != "-" else []
    return " ".join(named + sampler + settings) or "model"


def footnotes(report: Report) -> list[str]:
    """What the mark in the tables means, if it is there."""
    return [f"({MARK}) {FOOTNOTE}"] if any(row.sampler in VERIFIED for row in report.rows) else []


# -------------------------------------------------------------------------------------------------------------- tables


def pivot(
    title: str,
    rows: Sequence[Row],
    line: Callable[[Row], str],
    column: Callable[[Row], str],
    show: Callable[[Row], str] = cell,
) -> Table:
    """One line for each ``line(row)``, one column for each ``column(row)``, in order of appearance."""
    columns = list(dict.fromkeys(map(column, rows)))
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        lines.setdefault(line(row), {})[column(row)] = show(row)
    return Table(
        title,
        ["", *columns],
        [[name, *(cells.get(key, "") for key in columns)] for name, cells in lines.items()],
    )


GENERATION_TABLES = (
    ("strings", ("parses", "holds", "balanced", "has_equals", "has_operator")),
    (
        "variety",
        ("distinct", "distinct_relative", "distinct_valid", "distinct_valid_relative", "novel"),
    ),
    ("under the true generator", ("in_support", "log_likelihood")),
    (
        "distances to held-out strings of like lengths",
        ("length_distance", "depth_distance", "operator_distance"),
    ),
    ("cost", ("evaluations", "strings_per_second")),
)


def tables(report: Report) -> list[Table]:
    """The tables of every suite in the report."""
    made: list[Table] = []
    for suite in dict.fromkeys(row.suite for row in report.rows):
        rows = [row for row in report.rows if row.suite == suite]
        made += LAYOUTS[suite](rows) if suite in LAYOUTS else _plain(suite, rows)
    return [table for table in made if table.lines]


def _plain(suite: str, rows: Sequence[Row]) -> list[Table]:
    beside = any(row.baseline is not None for row in rows)
    title = f"{suite}: value [95% interval]" + (
        f" / {BASELINES.get(suite, 'baseline')}" if beside else ""
    )
    return [pivot(title, rows, label, lambda row: row.metric, cell_beside)]


BASELINES = {
    "repair": "returning the corrupted string",
    "one_edit": "returning the corrupted string",
    "editing": "blind fill",
    "speed": "the padded loop",
}


def _generation(rows: Sequence[Row]) -> list[Table]:
    plain = [
        row
        for row in rows
        if "nesting" not in row.settings and row.settings.get("length", "..").count("..")
    ]
    made = []
    for title, wanted in GENERATION_TABLES:
        chosen = [row for row in plain if row.metric in wanted]
        made.append(
            _with_ends(pivot(f"generation, {title}", chosen, label, lambda row: row.metric), chosen)
        )
    for key in ("length", "nesting"):
        chosen = [row for row in rows if key in row.settings and ".." not in str(row.settings[key])]
        if (
            key == "nesting"
        ):  # not every sampler nests to every depth: the columns need an order of their own
            chosen.sort(key=lambda row: row.settings["nesting"])
        made.append(_by_setting(f"generation, parses by {key}", chosen, key))
    return made


def _by_setting(title: str, rows: Sequence[Row], key: str) -> Table:
    """One column for each value of a setting."""
    return pivot(title, rows, lambda row: label(row, {key}), lambda row: f"{row.settings[key]}")


def _with_ends(table: Table, rows: Sequence[Row]) -> Table:
    """The table with a line for real draws and one for blind ones, where the rows know them."""
    ends = []
    for name, of in (
        ("(real draws)", lambda row: row.ceiling),
        ("(blind draws)", lambda row: row.baseline),
    ):
        by_metric = {row.metric: number(of(row), row.metric) for row in reversed(rows)}
        if any(text != "-" for text in by_metric.values()):
            ends.append([name, *(by_metric.get(column, "") for column in table.columns[1:])])
    return Table(table.title, table.columns, table.lines + ends)


def _likelihood(rows: Sequence[Row]) -> list[Table]:
    whole = [row for row in rows if not {"class", "hidden"} & row.settings.keys()]
    floors = [
        Row(**{**r.__dict__, "sampler": "(exact floor)", "value": r.ceiling, "low": None})
        for r in whole
        if r.ceiling is not None
    ]
    parts = [row for row in rows if "class" in row.settings]
    hidden = [row for row in rows if "hidden" in row.settings]
    return [
        pivot("likelihood, nats per token", [*whole, *floors], label, lambda row: row.metric),
        pivot("likelihood, ELBO by class of token", parts, label, lambda row: row.metric),
        _by_setting("likelihood, nats per hidden token by share hidden", hidden, "hidden"),
    ]


def _completion(rows: Sequence[Row]) -> list[Table]:
    """A table for each metric: a line for each way of completing, a column for each number of characters typed."""
    made = [
        pivot(
            "completion, total variation on tables",
            [row for row in rows if "on" in row.settings],
            label,
            _metric,
        )
    ]
    typed = [row for row in rows if "typed" in row.settings]
    for metric in dict.fromkeys(row.metric for row in typed):
        made.append(
            _by_setting(
                f"completion, {metric} by characters typed",
                [r for r in typed if r.metric == metric],
                "typed",
            )
        )
    return made


REPETITION_TABLES = (
    (
        "what comes out",
        (
            "accuracy",
            "starts_right",
            "parses",
            "accuracy_if_copied",
            "accuracy_if_not",
            "generated",
        ),
    ),
    ("how it ends", ("run_on", "tokens_after", "answers", "eos", "cap_hit")),
    ("how it repeats", ("periodic_tail", "rep_16", "seq_rep_4", "distinct_4", "compression")),
)


def _repetition(rows: Sequence[Row]) -> list[Table]:
    """The diagnosis, the sweep in three tables, and the parallel samplers."""
    sweep = [row for row in rows if "control" in row.settings]
    made = [
        pivot(
            "repetition, what the model does",
            [row for row in rows if row.sampler == "diagnosis"],
            label,
            _metric,
        )
    ]
    for title, wanted in REPETITION_TABLES:
        chosen = [row for row in sweep if row.metric in wanted]
        made.append(_with_ends(pivot(f"repetition, {title}", chosen, label, _metric), chosen))
    parallel = [row for row in rows if "steps" in row.settings]
    return [
        *made,
        _with_ends(
            pivot("repetition, tokens committed together", parallel, label, _metric), parallel
        ),
    ]


def _solve(rows: Sequence[Row]) -> list[Table]:
    """A table for each split, the comparisons, and the servers."""
    made = []
    compared = [row for row in rows if " against " in row.sampler]
    for split in dict.fromkeys(row.settings["split"] for row in rows if "split" in row.settings):
        chosen = [row for row in rows if row.settings.get("split") == split and row not in compared]
        made.append(
            pivot(f"solve, {split} problems", chosen, lambda row: label(row, {"split"}), _metric)
        )
    made.append(pivot("solve, one against another on the same problems", compared, label, _metric))
    made.append(
        pivot("solve, over HTTP", [row for row in rows if "server" in row.settings], label, _metric)
    )
    return made


def _metric(row: Row) -> str:
    return row.metric


LAYOUTS: dict[str, Callable[[Sequence[Row]], list[Table]]] = {
    "generation": _generation,
    "likelihood": _likelihood,
    "completion": _completion,
    "repetition": _repetition,
    "solve": _solve,
}


def header_lines(report: Report) -> list[str]:
    """What is measured, on how many samples, with which seed and how many threads."""
    items = report.header.items()
    return [
        visible(f"{key}: {value}") for key, value in items if not isinstance(value, (dict, list))
    ]


def to_terminal(report: Report) -> str:
    """Aligned plain text."""
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
    """The same tables as Markdown."""
    head = "\n".join(f"- {line}" for line in header_lines(report))
    notes = [note.replace(MARK, f"\\{MARK}", 1) + "\n" for note in footnotes(report)]
    return "\n".join(
        [f"# Benchmark\n\n{head}\n", *(table_markdown(table) for table in tables(report)), *notes]
    )


def table_markdown(table: Table) -> str:
    """One table under a heading."""
    lines = [
        "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |"
        for line in [table.columns, *table.lines]
    ]
    return "\n".join(
        [f"## {table.title}\n", lines[0], "|" + "---|" * len(table.columns), *lines[1:], ""]
    )
