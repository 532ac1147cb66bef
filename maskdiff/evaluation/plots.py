"""Plots of a report as PNG files: validity, repair, repetition and solving.

matplotlib is an optional extra, so functions import it, with a backend that needs no screen.
Samplers are moved a little sideways, so that their intervals do not hide one another.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maskdiff import metrics
from maskdiff.errors import DataError
from maskdiff.evaluation.repetition import TIMES
from maskdiff.evaluation.report import MARK, Report, check_writable, label, write_bytes
from maskdiff.evaluation.rows import Row

LONG = f"{TIMES}x"  # the limit of the plots by control


def check_plots(folder: str | Path) -> None:
    """Make the folder of plots. Raises DataError if plots cannot be drawn or written."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise DataError(
            "plots need matplotlib, which is not installed: pip install 'maskdiff[plots]'"
        ) from None
    check_writable(Path(folder) / "plot.png")


def write_plots(report: Report, folder: str | Path) -> list[Path]:
    """Write every plot that the report has rows for; returns the paths. Raises DataError."""
    check_plots(folder)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for name, (title, plot) in PLOTS.items():
        figure = Figure(figsize=(8, 6), layout="constrained")
        FigureCanvasAgg(figure)  # needs no screen, and leaves the user's backend alone
        axes = figure.add_subplot()
        if plot(axes, report.rows):
            axes.set_title(f"{title}: {subtitle(report.header)}", fontsize="medium")
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=120, format="png")
            written.append(Path(folder) / name)
            write_bytes(written[-1], drawn.getvalue())
    return written


def subtitle(header: Mapping[str, Any]) -> str:
    """Return the checkpoints that were measured, and the number of strings."""
    facts = header.get("checkpoints", ())
    names = [str(f["name"] or "/".join(Path(f["path"]).parts[-2:]) or "model") for f in facts]
    names = names or ["model"]
    shown = ", ".join(names) if len(names) <= 2 else f"{len(names)} checkpoints"
    return f"{shown}, {header.get('samples', '?')} strings"


def _finish(axes: Any, xlabel: str, ylabel: str) -> bool:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    marked = any(MARK in text for text in axes.get_legend_handles_labels()[1])
    note = f"({MARK}) verified by the causal mode" if marked else None
    axes.legend(
        fontsize="x-small",
        title=note,
        title_fontsize="x-small",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=2,
    )
    return True


def _errors(rows: Sequence[Row]) -> list[list[float]]:
    low = [100 * (row.value - (row.value if row.low is None else row.low)) for row in rows]
    high = [100 * ((row.value if row.high is None else row.high) - row.value) for row in rows]
    return [[max(0.0, x) for x in low], [max(0.0, x) for x in high]]


def spread(count: int, width: float) -> list[float]:
    """Return `count` offsets around 0, evenly spaced, within `width` in all."""
    return [width * ((i + 0.5) / count - 0.5) for i in range(count)]


def apart(values: Sequence[float]) -> list[float]:
    """Return the values, with neighbours moved apart that are closer than a fiftieth of the
    range."""
    step = ((max(values) - min(values)) or 1.0) / 50 if values else 0.0
    order, moved = sorted(range(len(values)), key=values.__getitem__), list(values)
    while order:
        size = next(
            (i for i in range(1, len(order)) if values[order[i]] - values[order[i - 1]] >= step),
            len(order),
        )
        group, order = order[:size], order[size:]
        middle = sum(values[i] for i in group) / size
        for i, offset in zip(group, spread(size, size * step), strict=True):
            moved[i] = middle + offset if size > 1 else values[i]
    return moved


def _line(
    axes: Any, name: str, index: int, xs: Sequence[float], rows: Sequence[Row], line: str = "-"
) -> None:
    """A series of shares with intervals; colours repeat after ten, and markers then change."""
    values = [100 * row.value for row in rows]
    axes.errorbar(
        xs,
        values,
        yerr=_errors(rows),
        fmt="osD^v"[index // 10 % 5] + line,
        markersize=4,
        capsize=2,
        label=name,
    )


def _lines(
    axes: Any,
    rows: Sequence[Row],
    hidden: Sequence[str],
    x: Callable[[Row], float],
    width: float = 0.0,
) -> None:
    """A line for each label without the `hidden` settings; lines are moved apart within `width`."""
    names = list(dict.fromkeys(label(row, *hidden) for row in rows))
    for i, (name, offset) in enumerate(zip(names, spread(len(names), width), strict=True)):
        own = sorted((row for row in rows if label(row, *hidden) == name), key=x)
        _line(axes, name, i, [x(row) + offset for row in own], own)


def _of(rows: Sequence[Row], suite: str, *metrics_: str) -> list[Row]:
    return [row for row in rows if row.suite == suite and row.metric in metrics_]


def plot_evaluations(axes: Any, rows: Sequence[Row]) -> bool:
    """Strict validity against mean evaluations of a string, one point a sampler."""
    cost = {label(row): row.value for row in _of(rows, "generation", "evaluations")}
    points = [
        row
        for row in _of(rows, "generation", "parses")
        if "nesting" not in row.settings and label(row) in cost
    ]
    places = apart([cost[label(row)] for row in points])
    for i, (x, row) in enumerate(zip(places, points, strict=True)):
        _line(axes, label(row), i, [x], [row], line="")
    return bool(points) and _finish(axes, "evaluations per string", "parses (%)")


def _by_setting(
    axes: Any, rows: Sequence[Row], key: str, order: Callable[[Any], int], xlabel: str
) -> bool:
    chosen = [
        row
        for row in _of(rows, "generation", "parses")
        if key in row.settings and ".." not in str(row.settings[key]) and row.count
    ]
    values = sorted({row.settings[key] for row in chosen}, key=order)
    _lines(axes, chosen, (key,), lambda row: values.index(row.settings[key]), 0.4)
    axes.set_xticks(range(len(values)), list(map(str, values)))
    return bool(chosen) and _finish(axes, xlabel, "parses (%)")


def plot_length(axes: Any, rows: Sequence[Row]) -> bool:
    """Strict validity by bucket of length, one line a sampler."""
    buckets = [name for name, _, _ in metrics.LENGTH_BUCKETS]
    return _by_setting(axes, rows, "length", buckets.index, "inner length (symbols)")


def plot_nesting(axes: Any, rows: Sequence[Row]) -> bool:
    """Strict validity by deepest nesting of brackets, one line a sampler."""
    return _by_setting(axes, rows, "nesting", int, "deepest nesting of brackets")


def plot_repair(axes: Any, rows: Sequence[Row]) -> bool:
    """Aligned accuracy of repair by noise level (mixed corruption), beside doing nothing."""
    chosen = [
        row
        for row in _of(rows, "repair", "aligned_accuracy")
        if row.settings.get("corruption") == "mixed"
    ]
    levels = sorted({row.settings["sigma"] for row in chosen})
    gap = min((b - a for a, b in zip(levels, levels[1:], strict=False)), default=0.1)
    _lines(axes, chosen, ("sigma", "corruption"), lambda row: row.settings["sigma"], gap / 4)
    known = {(row.settings["sigma"], row.baseline) for row in chosen if row.baseline is not None}
    if chosen:
        xs, ys = [x for x, _ in sorted(known)], [100 * y for _, y in sorted(known)]
        axes.plot(xs, ys, "k--", label="corrupted string unchanged")
    xlabel = "noise level sigma (mixed corruption)"
    return bool(chosen) and _finish(axes, xlabel, "aligned accuracy (%)")


def plot_controls(axes: Any, rows: Sequence[Row], metric: str) -> bool:
    """A share by control, after prompts with known answers at the long limit.

    Each checkpoint has a colour.
    """
    own = {"on": "prompts", "limit": LONG}
    chosen = [row for row in _of(rows, "repetition", metric) if own.items() <= row.settings.items()]
    names = list(dict.fromkeys(map(_control, chosen)))
    models = list(dict.fromkeys(str(row.settings.get("checkpoint", "")) for row in chosen))
    for i, (model, offset) in enumerate(zip(models, spread(len(models), 0.5), strict=True)):
        mine = [row for row in chosen if str(row.settings.get("checkpoint", "")) == model]
        axes.errorbar(
            [100 * row.value for row in mine],
            [names.index(_control(row)) + offset for row in mine],
            xerr=_errors(mine), fmt="o", color=f"C{i}", markersize=4, capsize=2,
            label=model or "model",
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize="x-small")
    axes.invert_yaxis()
    axes.set_xlim(-3, 103)
    xlabels = {
        "accuracy": "whole outputs that are right (%)",
        "run_on": "outputs that run on, or do not end (%)",
    }
    return bool(chosen) and _finish(axes, xlabels[metric], "")


def _control(row: Row) -> str:
    """The temperature and control of a row, for the axis."""
    return f"T {row.settings['temperature']:g}: {row.settings.get('cut', row.settings['control'])}"


def plot_collapse(axes: Any, rows: Sequence[Row]) -> bool:
    """Equal neighbours by tokens committed at an evaluation, at temperature 0, beside real
    strings."""
    cold = [
        row
        for row in _of(rows, "repetition", "committed_at_once", "adjacent_duplicates")
        if "steps" in row.settings and row.settings["temperature"] == 0
    ]
    at_once = {label(row): row.value for row in _of(cold, "repetition", "committed_at_once")}
    chosen = _of(cold, "repetition", "adjacent_duplicates")
    _lines(axes, chosen, ("steps", "temperature"), lambda row: at_once[label(row)])
    for ceiling in dict.fromkeys(row.ceiling for row in chosen if row.ceiling is not None):
        axes.axhline(100 * ceiling, color="k", linestyle="--", label="real strings")
    axes.set_xscale("log")
    xlabel = "tokens committed at an evaluation"
    return bool(chosen) and _finish(axes, xlabel, "equal neighbours (%)")


def plot_solve(axes: Any, rows: Sequence[Row], split: str) -> bool:
    """Accuracy by forward tokens a problem: a marker for each strategy, a colour for each scorer.

    Greedy is a line.
    """
    own = [row for row in rows if row.suite == "solve" and row.settings.get("split") == split]
    cost = {label(row): row.value for row in _of(own, "solve", "forward_tokens")}
    chosen = _of(own, "solve", "accuracy")
    strategies = list(dict.fromkeys(row.sampler for row in chosen))
    scorers = list(dict.fromkeys(row.settings.get("scorer", "") for row in chosen))
    # Many cost the same: a third of the way apart is still near the true cost.
    costs = [math.log10(cost[label(row)]) for row in chosen]
    places = [10 ** (x + (moved - x) / 3) for x, moved in zip(costs, apart(costs), strict=True)]
    for x, row in zip(places, chosen, strict=True):
        marker = "osD^vP"[strategies.index(row.sampler) % 6]
        colour = f"C{scorers.index(row.settings.get('scorer', ''))}"
        size = 8 if "candidates" in row.settings else 5
        axes.errorbar(
            [x], [100 * row.value], yerr=_errors([row]), fmt=marker, capsize=2, color=colour,
            markersize=size, alpha=0.8,
        )  # fmt: skip
    # The legend, and the line of greedy.
    for i, name in enumerate(strategies):
        axes.plot([], [], "osD^vP"[i % 6], color="grey", label=name)
    for i, name in enumerate(scorers):
        axes.plot([], [], "o", color=f"C{i}", label=name or "(no scorer)")
    for row in chosen:
        if row.sampler == "greedy":
            axes.axhline(100 * row.value, color="k", linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    xlabel = "forward tokens a problem, equal ones slightly apart (large markers: 16 candidates)"
    return bool(chosen) and _finish(axes, xlabel, "answers that are right (%)")


# File name -> (title, plot); a plot returns whether the report has rows for it.
PLOTS: dict[str, tuple[str, Callable[[Any, Sequence[Row]], bool]]] = {
    "validity_by_evaluations.png": ("Validity against evaluations", plot_evaluations),
    "validity_by_length.png": ("Validity by length", plot_length),
    "validity_by_nesting.png": ("Validity by nesting", plot_nesting),
    "repair_by_noise.png": ("Repair by noise level", plot_repair),
    "accuracy_by_control.png": ("What controls cost", partial(plot_controls, metric="accuracy")),
    "run_on_by_control.png": (
        "What controls do about run-on",
        partial(plot_controls, metric="run_on"),
    ),
    "collapse.png": ("Collapse at temperature 0", plot_collapse),
    "solve_test.png": ("Solving held-out problems", partial(plot_solve, split="test")),
    "solve_deeper.png": ("Solving deeper problems", partial(plot_solve, split="deeper")),
}
