"""Plots of a report: validity against evaluations, validity by length and by nesting, noise level against repair.

For: PNG files from rows; nothing is measured here.  Not for: TensorBoard.  Easy to get wrong: matplotlib is an optional
extra and is imported inside the functions, with a backend that needs no screen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskdiff.errors import DataError
from maskdiff.evaluation.report import Report, check_writable, label
from maskdiff.evaluation.rows import Row


def check_plots(folder: str | Path) -> None:
    """See that plots could be drawn and written to ``folder``, making it.  Raises ``DataError`` with one line."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise DataError("plots need matplotlib, which is not installed: pip install 'maskdiff[plots]'") from None
    check_writable(Path(folder) / "plot.png")


def write_plots(report: Report, folder: str | Path) -> list[Path]:
    """Write every plot that the report has rows for; the paths written.  Raises ``DataError`` with one line."""
    check_plots(folder)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wanted: dict[str, Callable[[Any, Sequence[Row]], bool]] = {
        "validity_by_evaluations.png": plot_evaluations,
        "validity_by_length.png": plot_length,
        "validity_by_nesting.png": plot_nesting,
        "repair_by_noise.png": plot_repair,
    }
    written = []
    for name, plot in wanted.items():
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)  # draws without a screen, and without touching the user's backend
        if plot(figure.add_subplot(), report.rows):
            path = Path(folder) / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, dpi=120)
            except OSError as error:
                raise DataError(f"cannot write plot {path}: {error.strerror or error}") from None
            written.append(path)
    return written


def _finish(axes: Any, xlabel: str, ylabel: str) -> bool:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return True


def _errors(rows: Sequence[Row]) -> list[list[float]]:
    low = [100 * (row.value - (row.value if row.low is None else row.low)) for row in rows]
    high = [100 * ((row.value if row.high is None else row.high) - row.value) for row in rows]
    return [[max(0.0, x) for x in low], [max(0.0, x) for x in high]]


def plot_evaluations(axes: Any, rows: Sequence[Row]) -> bool:
    """One point a sampler: strict validity against mean evaluations a string."""
    cost = {label(r): r.value for r in rows if r.suite == "generation" and r.metric == "evaluations"}
    points = [
        r for r in rows if r.suite == "generation" and r.metric == "parses" and "nesting" not in r.settings and label(r) in cost
    ]
    for row in points:
        axes.errorbar([cost[label(row)]], [100 * row.value], yerr=_errors([row]), fmt="o", capsize=3, label=label(row))
    return bool(points) and _finish(axes, "evaluations per string", "parses (%)")


def _by_setting(axes: Any, rows: Sequence[Row], key: str, xlabel: str) -> bool:
    chosen = [r for r in rows if r.suite == "generation" and key in r.settings and ".." not in str(r.settings[key]) and r.count]
    for name in dict.fromkeys(label(r, {key}) for r in chosen):
        own = [r for r in chosen if label(r, {key}) == name]
        axes.errorbar(
            [str(r.settings[key]) for r in own],
            [100 * r.value for r in own],
            yerr=_errors(own),
            marker="o",
            capsize=3,
            label=name,
        )
    return bool(chosen) and _finish(axes, xlabel, "parses (%)")


def plot_length(axes: Any, rows: Sequence[Row]) -> bool:
    """Strict validity by bucket of inner length, one line a sampler."""
    return _by_setting(axes, rows, "length", "inner length (symbols)")


def plot_nesting(axes: Any, rows: Sequence[Row]) -> bool:
    """Strict validity by deepest nesting of brackets, one line a sampler."""
    return _by_setting(axes, rows, "nesting", "deepest nesting of brackets")


def plot_repair(axes: Any, rows: Sequence[Row]) -> bool:
    """Aligned accuracy of repair by noise level, mixed corruption, beside doing nothing."""
    chosen = [
        r for r in rows if r.suite == "repair" and r.metric == "aligned_accuracy" and r.settings.get("corruption") == "mixed"
    ]
    for name in dict.fromkeys(label(r, {"sigma", "corruption"}) for r in chosen):
        own = sorted((r for r in chosen if label(r, {"sigma", "corruption"}) == name), key=lambda r: r.settings["sigma"])
        axes.errorbar(
            [r.settings["sigma"] for r in own],
            [100 * r.value for r in own],
            yerr=_errors(own),
            marker="o",
            capsize=3,
            label=name,
        )
    if chosen:
        first = sorted({(r.settings["sigma"], r.baseline) for r in chosen if r.baseline is not None})
        axes.plot([x for x, _ in first], [100 * y for _, y in first], "k--", label="corrupted string unchanged")
    return bool(chosen) and _finish(axes, "noise level sigma (mixed corruption)", "aligned accuracy (%)")
