"""The tables of a report: for each suite, which rows a table takes and what its columns are.

A row goes into the first table that takes it. Rows that no table takes go into a last table of
their suite, so that a new metric is shown wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from maskdiff.evaluation.rows import Row


@dataclass(frozen=True)
class TableLayout:
    """One table of a suite.

    Attributes:
        takes: Whether a row belongs into the table.
        column: The setting whose values are the columns; "" for a column for each metric.
        hidden: A setting that the title states, so that the lines leave it out.
        reference: Lines to add: "draws" for real and blind draws, "floor" for the exact floor.
        baselines: Whether cells show the baseline beside the value.
        units: Whether columns show the unit of their metric.
    """

    title: str
    takes: Callable[[Row], bool]
    column: str = ""
    hidden: str = ""
    reference: Literal["", "draws", "floor"] = ""
    baselines: bool = False
    units: bool = False


BASELINES = {
    "repair": "returning the corrupted string",
    "one_edit": "returning the corrupted string",
    "editing": "blind fill",
    "speed": "the padded loop",
}
GENERATION = {
    "strings": ("parses", "holds", "balanced", "has_equals", "has_operator"),
    "variety": (
        "distinct", "distinct_relative", "distinct_valid", "distinct_valid_relative", "novel",
    ),
    "under the true generator": ("in_support", "log_likelihood"),
    "distances to held-out strings of like lengths": (
        "length_distance", "depth_distance", "operator_distance",
    ),
    "cost": ("evaluations", "strings_per_second"),
}  # fmt: skip
REPETITION = {
    "what comes out": (
        "accuracy", "starts_right", "parses", "accuracy_if_copied", "accuracy_if_not", "generated",
    ),
    "how it ends": ("run_on", "tokens_after", "answers", "eos", "cap_hit"),
    "how it repeats": ("periodic_tail", "rep_16", "seq_rep_4", "distinct_4", "compression"),
}  # fmt: skip


def table_layouts(suite: str, rows: Sequence[Row]) -> list[TableLayout]:
    """Return the tables of a suite that has these rows; together they take every row."""
    layout = LAYOUTS.get(suite)
    if layout is not None:
        other = TableLayout(f"{suite}, other figures", lambda row: True, units=True)
        return [*layout(rows), other]
    baselines = any(row.baseline is not None for row in rows)
    title = f"{suite}: value [95% interval]"
    if baselines:
        title += f" / {BASELINES.get(suite, 'baseline')}"
    return [TableLayout(title, lambda row: True, baselines=baselines)]


def _of_metrics(
    names: Sequence[str], takes: Callable[[Row], bool] = lambda row: True
) -> Callable[[Row], bool]:
    return lambda row: row.metric in names and takes(row)


def _is_whole(row: Row) -> bool:
    """Whether a row is about all strings, not those of a bucket of lengths or of one nesting."""
    return "nesting" not in row.settings and ".." in str(row.settings.get("length", ".."))


def _is_bucket(key: str) -> Callable[[Row], bool]:
    """Whether a row is about the strings of one bucket of a setting."""
    return lambda row: key in row.settings and ".." not in str(row.settings[key])


def _generation(rows: Sequence[Row]) -> list[TableLayout]:
    made = [
        TableLayout(f"generation, {title}", _of_metrics(names, _is_whole), reference="draws")
        for title, names in GENERATION.items()
    ]
    for key in ("length", "nesting"):
        takes = _of_metrics(("parses",), _is_bucket(key))
        made.append(TableLayout(f"generation, parses by {key}", takes, key, key))
    return made


def _likelihood(rows: Sequence[Row]) -> list[TableLayout]:
    return [
        TableLayout(
            "likelihood, nats per token",
            lambda row: not {"class", "hidden"} & row.settings.keys(),
            reference="floor",
        ),
        TableLayout("likelihood, ELBO by class of token", lambda row: "class" in row.settings),
        TableLayout(
            "likelihood, nats per hidden token by share hidden",
            _of_metrics(("masked_loss",)),
            "hidden",
            "hidden",
        ),
    ]


def _completion(rows: Sequence[Row]) -> list[TableLayout]:
    """A table for each metric: a line for each method, a column for each number of characters."""
    typed = dict.fromkeys(row.metric for row in rows if "typed" in row.settings)
    title = "completion, {} by characters typed"
    return [
        TableLayout("completion, total variation on tables", lambda row: "on" in row.settings),
        *(
            TableLayout(title.format(name), _of_metrics((name,)), "typed", "typed")
            for name in typed
        ),
    ]


def _repetition(rows: Sequence[Row]) -> list[TableLayout]:
    """The diagnosis, the sweep of controls in three tables, and the parallel samplers."""
    return [
        TableLayout("repetition, what the model does", lambda row: row.sampler == "diagnosis"),
        *(
            TableLayout(
                f"repetition, {title}",
                _of_metrics(names, lambda row: "control" in row.settings),
                reference="draws",
            )
            for title, names in REPETITION.items()
        ),
        TableLayout(
            "repetition, tokens committed together",
            lambda row: "steps" in row.settings,
            reference="draws",
        ),
    ]


def _solve(rows: Sequence[Row]) -> list[TableLayout]:
    """A table for each split, the paired comparisons, and the servers."""

    def of_split(split: str) -> Callable[[Row], bool]:
        return lambda row: row.settings.get("split") == split and " against " not in row.sampler

    splits = dict.fromkeys(row.settings["split"] for row in rows if "split" in row.settings)
    return [
        *(TableLayout(f"solve, {s} problems", of_split(s), hidden="split") for s in splits),
        TableLayout(
            "solve, one against another on the same problems",
            lambda row: " against " in row.sampler,
        ),
        TableLayout("solve, over HTTP", lambda row: "server" in row.settings),
    ]


def _with_gains(suite: str, *parts: TableLayout) -> Callable[[Sequence[Row]], list[TableLayout]]:
    """The paired comparisons, `parts`, and the repairers."""
    gains = TableLayout(
        f"{suite}, on the same strings: gain in exact recovery",
        lambda row: " against " in row.sampler,
    )
    others = TableLayout(
        f"{suite}: value [95% interval] / {BASELINES[suite]}", lambda row: True, baselines=True
    )
    return lambda rows: [gains, *parts, others]


RELIABILITY = TableLayout(
    "one_edit, reliability of the probabilities", lambda row: "bin" in row.settings
)
LAYOUTS: dict[str, Callable[[Sequence[Row]], list[TableLayout]]] = {
    "generation": _generation,
    "likelihood": _likelihood,
    "repair": _with_gains("repair"),
    "one_edit": _with_gains("one_edit", RELIABILITY),
    "editing": _with_gains("editing"),
    "completion": _completion,
    "repetition": _repetition,
    "solve": _solve,
}
