"""Plots of a report: validity against evaluations, by length and by nesting; repair by noise level; repetition by control.

For: PNG files from rows; nothing is measured here.  Not for: TensorBoard.  Easy to get wrong: matplotlib is an optional
extra and is imported inside the functions, with a backend that needs no screen; samplers are moved apart sideways, by little,
so that their intervals do not hide one another.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskdiff import metrics
from maskdiff.errors import DataError
from maskdiff.evaluation.repetition import TIMES
from maskdiff.evaluation.report import MARK, Report, check_writable, label, write_bytes
from maskdiff.evaluation.rows import Row

LONG = f"{TIMES}x"  # the limit of the plots by control


def check_plots(folder: str | Path) -> None:
    """See that plots could be drawn and written to ``folder``, making it.  Raises ``DataError`` with one line."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise DataError(
            "plots need matplotlib, which is not installed: pip install 'maskdiff[plots]'"
        ) from None
    check_writable(Path(folder) / "plot.png")


def write_plots(report: Report, folder: str | Path) -> list[Path]:
    """Write every plot that the report has rows for; the paths written.  Raises ``DataError`` with one line."""
    check_plots(folder)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wanted: dict[str, tuple[str, Callable[[Any, Sequence[Row]], bool]]] = {
        "validity_by_evaluations.png": ("Validity against evaluations", plot_evaluations),
        "validity_by_length.png": ("Validity by length", plot_length),
        "validity_by_nesting.png": ("Validity by nesting", plot_nesting),
        "repair_by_noise.png": ("Repair by noise level", plot_repair),
        "accuracy_by_control.png": (
            "What controls cost",
            lambda axes, rows: plot_controls(axes, rows, "accuracy"),
        ),
        "run_on_by_control.png": (
            "What controls do about run-on",
            lambda axes, rows: plot_controls(axes, rows, "run_on"),
        ),
        "collapse.png": ("Collapse at temperature 0", plot_collapse),
        "solve_test.png": (
            "Solving held-out problems",
            lambda axes, rows: plot_solve(axes, rows, "test"),
        ),
        "solve_deeper.png": (
            "Solving deeper problems",
            lambda axes, rows: plot_solve(axes, rows, "deeper"),
        ),
    }
    written = []
    for name, (title, plot) in wanted.items():
        figure = Figure(figsize=(8, 6), layout="constrained")
        FigureCanvasAgg(figure)  # draws without a screen, and without touching the user's backend
        axes = figure.add_subplot()
        if plot(axes, report.rows):
            axes.set_title(f"{title}: {subtitle(report.header)}", fontsize="medium")
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=120, format="png")
            written.append(Path(folder) / name)
            write_bytes(written[-1], drawn.getvalue())
    return written


def subtitle(header: Mapping[str, Any]) -> str:
    """Which checkpoints were measured, on how many strings."""
    facts = header.get("checkpoints", ())
    names = [str(f["name"] or "/".join(Path(f["path"]).parts[-2:]) or "model") for f in facts] or [
        "model"
    ]
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
    """``count`` offsets around 0, evenly spaced, within ``width`` in all."""
    return [width * ((i + 0.5) / count - 0.5) for i in range(count)]


def apart(values: Sequence[float]) -> list[float]:
    """The values, where neighbours are closer than a fiftieth of their range moved that far apart, around their middle."""
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
    """A series of rates with their intervals; colours repeat after ten, markers then change."""
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


def plot_evaluations(axes: Any, rows: Sequence[Row]) -> bool:
    """One point a sampler: strict validity against mean evaluations a string."""
    cost = {
        label(r): r.value for r in rows if r.suite == "generation" and r.metric == "evaluations"
    }
    points = [
        r
        for r in rows
        if r.suite == "generation"
        and r.metric == "parses"
        and "nesting" not in r.settings
        and label(r) in cost
    ]
    for i, (x, row) in enumerate(
        zip(apart([cost[label(row)] for row in points]), points, strict=True)
    ):
        _line(axes, label(row), i, [x], [row], line="")
    return bool(points) and _finish(axes, "evaluations per string", "parses (%)")


def _by_setting(
    axes: Any, rows: Sequence[Row], key: str, order: Callable[[Any], int], xlabel: str
) -> bool:
    chosen = [
        r
        for r in rows
        if r.suite == "generation"
        and key in r.settings
        and ".." not in str(r.settings[key])
        and r.count
    ]
    places = {
        value: i for i, value in enumerate(sorted({r.settings[key] for r in chosen}, key=order))
    }
    names = list(dict.fromkeys(label(r, {key}) for r in chosen))
    for i, (name, offset) in enumerate(zip(names, spread(len(names), 0.4), strict=True)):
        own = sorted(
            (r for r in chosen if label(r, {key}) == name), key=lambda r: places[r.settings[key]]
        )
        _line(axes, name, i, [places[r.settings[key]] + offset for r in own], own)
    axes.set_xticks(range(len(places)), list(map(str, places)))
    return bool(chosen) and _finish(axes, xlabel, "parses (%)")


def plot_length(axes: Any, rows: Sequence[Row]) -> bool:
    """Strict validity by bucket of inner length, one line a sampler."""
    buckets = [name for name, _, _ in metrics.LENGTH_BUCKETS]
    return _by_setting(axes, rows, "length", buckets.index, "inner length (symbols)")


def plot_nesting(axes: Any, rows: Sequence[Row]) -> bool:
    """Strict validity by deepest nesting of brackets, one line a sampler."""
    return _by_setting(axes, rows, "nesting", int, "deepest nesting of brackets")


def plot_repair(axes: Any, rows: Sequence[Row]) -> bool:
    """Aligned accuracy of repair by noise level, mixed corruption, beside doing nothing."""
    chosen = [
        r
        for r in rows
        if r.suite == "repair"
        and r.metric == "aligned_accuracy"
        and r.settings.get("corruption") == "mixed"
    ]
    levels = sorted({r.settings["sigma"] for r in chosen})
    gap = min((b - a for a, b in zip(levels, levels[1:], strict=False)), default=0.1)
    names = list(dict.fromkeys(label(r, {"sigma", "corruption"}) for r in chosen))
    for i, (name, offset) in enumerate(zip(names, spread(len(names), gap / 4), strict=True)):
        own = sorted(
            (r for r in chosen if label(r, {"sigma", "corruption"}) == name),
            key=lambda r: r.settings["sigma"],
        )
        _line(axes, name, i, [r.settings["sigma"] + offset for r in own], own)
    if chosen:
        first = sorted(
            {(r.settings["sigma"], r.baseline) for r in chosen if r.baseline is not None}
        )
        axes.plot(
            [x for x, _ in first],
            [100 * y for _, y in first],
            "k--",
            label="corrupted string unchanged",
        )
    return bool(chosen) and _finish(
        axes, "noise level sigma (mixed corruption)", "aligned accuracy (%)"
    )


def plot_controls(axes: Any, rows: Sequence[Row], metric: str) -> bool:
    """A rate by control, after prompts with known answers at the long limit; a colour for each checkpoint."""
    own = {"on": "prompts", "limit": LONG}
    chosen = [
        r
        for r in rows
        if r.suite == "repetition" and r.metric == metric and own.items() <= r.settings.items()
    ]
    names = list(dict.fromkeys(_control(r) for r in chosen))
    models = list(dict.fromkeys(str(r.settings.get("checkpoint", "")) for r in chosen))
    for model, offset, colour in zip(
        models, spread(len(models), 0.5), map("C{}".format, range(len(models))), strict=True
    ):
        mine = [r for r in chosen if str(r.settings.get("checkpoint", "")) == model]
        places = [names.index(_control(r)) + offset for r in mine]
        values = [100 * r.value for r in mine]
        axes.errorbar(
            values,
            places,
            xerr=_errors(mine),
            fmt="o",
            color=colour,
            markersize=4,
            capsize=2,
            label=model or "model",
        )
    axes.set_yticks(range(len(names)), names, fontsize="x-small")
    axes.invert_yaxis()
    axes.set_xlim(-3, 103)
    xlabel = {
        "accuracy": "whole outputs that are right (%)",
        "run_on": "outputs that run on, or do not end (%)",
    }[metric]
    return bool(chosen) and _finish(axes, xlabel, "")


def _control(row: Row) -> str:
    """What was done, for the axis."""
    return f"T {row.settings['temperature']:g}: {row.settings.get('cut', row.settings['control'])}"


def plot_collapse(axes: Any, rows: Sequence[Row]) -> bool:
    """Equal neighbours by tokens committed at an evaluation, at temperature 0, one line a sampler, beside real strings."""
    cold = [
        r
        for r in rows
        if r.suite == "repetition" and "steps" in r.settings and r.settings["temperature"] == 0
    ]
    at_once = {label(r): r.value for r in cold if r.metric == "committed_at_once"}
    chosen = [r for r in cold if r.metric == "adjacent_duplicates"]
    for i, name in enumerate(dict.fromkeys(label(r, {"steps", "temperature"}) for r in chosen)):
        own = sorted(
            (r for r in chosen if label(r, {"steps", "temperature"}) == name),
            key=lambda r: at_once[label(r)],
        )
        _line(axes, name, i, [at_once[label(r)] for r in own], own)
    for ceiling in dict.fromkeys(r.ceiling for r in chosen if r.ceiling is not None):
        axes.axhline(100 * ceiling, color="k", linestyle="--", label="real strings")
    axes.set_xscale("log")
    return bool(chosen) and _finish(
        axes, "tokens committed at an evaluation", "equal neighbours (%)"
    )


def plot_solve(axes: Any, rows: Sequence[Row], split: str) -> bool:
    """Accuracy by forward tokens a problem, a marker for each strategy and a colour for each scorer; greedy as a line."""
    own = [r for r in rows if r.suite == "solve" and r.settings.get("split") == split]
    cost = {label(r): r.value for r in own if r.metric == "forward_tokens"}
    chosen = [r for r in own if r.metric == "accuracy"]
    strategies = list(dict.fromkeys(r.sampler for r in chosen))
    scorers = list(dict.fromkeys(r.settings.get("scorer", "") for r in chosen))
    costs = [
        math.log10(cost[label(r)]) for r in chosen
    ]  # many cost the same: a third of the way apart is still about there
    places = [10 ** (x + (moved - x) / 3) for x, moved in zip(costs, apart(costs), strict=True)]
    for x, r in zip(places, chosen, strict=True):
        wide = "candidates" in r.settings
        axes.errorbar(
            [x], [100 * r.value], yerr=_errors([r]), fmt="osD^vP"[strategies.index(r.sampler) % 6], capsize=2,
            color=f"C{scorers.index(r.settings.get('scorer', ''))}", markersize=8 if wide else 5, alpha=0.8,
        )  # fmt: skip
    for i, name in enumerate(strategies):
        axes.plot([], [], "osD^vP"[i % 6], color="grey", label=name)
    for i, name in enumerate(scorers):
        axes.plot([], [], "o", color=f"C{i}", label=name or "(no scorer)")
    for r in chosen:
        if r.sampler == "greedy":
            axes.axhline(100 * r.value, color="k", linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    return bool(chosen) and _finish(
        axes,
        "forward tokens a problem, equal ones slightly apart (large markers: 16 candidates)",
        "answers that are right (%)",
    )
