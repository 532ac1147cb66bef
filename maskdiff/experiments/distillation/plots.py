"""Pictures of conclusions. Matplotlib is optional and drawn with a backend without a screen."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from maskdiff.errors import DataError
from maskdiff.experiments.distillation.positions import DECILES
from maskdiff.experiments.distillation.runner import ExperimentResult
from maskdiff.experiments.distillation.studies import EXPERIMENTS, Series


def require_matplotlib() -> None:
    """Raise DataError where pictures cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise DataError(
            "pictures need matplotlib, which is not installed: pip install 'maskdiff[plots]'"
        ) from None


def plot_png(result: ExperimentResult) -> bytes:
    """Return the picture of an experiment as PNG. Raises DataError without matplotlib."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = result.conclusion.axes
    figure = Figure(figsize=(6.2 * len(panels), 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (panel, (xlabel, ylabel)) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        lines = [series for series in result.conclusion.series if series.panel == panel]
        bars = [series for series in lines if series.style.startswith("bars:")]
        for i, series in enumerate(lines):
            _bars(axes, series, i, len(bars)) if series in bars else _line(axes, series)
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(panel, fontsize="medium")
        axes.grid(alpha=0.3)
        if any(series.label for series in lines):
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
            place = {"loc": "lower right"} if bars else {**below, "ncols": 1 + (len(lines) > 6)}
            axes.legend(fontsize="x-small", **place)
    figure.suptitle(EXPERIMENTS[result.name].title)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, format="png", metadata={"Software": None})
    return drawn.getvalue()


def _line(axes: Any, series: Series) -> None:
    """Draw a line with its band; lines of deciles go from dark to bright."""
    settings: dict[str, Any] = {"linestyle": series.style}
    if series.style.startswith("decile:"):
        from matplotlib import colormaps

        settings = {"color": colormaps["viridis"](int(series.style.partition(":")[2]) / DECILES)}
    (line,) = axes.plot(series.at, series.values, marker=".", label=series.label, **settings)
    if series.band is not None:
        means, band = np.array(series.values), np.array(series.band)
        shade = {"alpha": 0.15, "color": line.get_color(), "linewidth": 0}
        axes.fill_between(series.at, means - band, means + band, **shade)


def _bars(axes: Any, series: Series, number: int, of: int) -> None:
    """Draw named bars with intervals; `number` of `of` groups side by side."""
    names = series.style.removeprefix("bars:").split("|")
    width = 0.8 / of
    at = np.array(series.at) + (number - (of - 1) / 2) * width
    axes.bar(at, series.values, width, yerr=series.band, capsize=3, label=series.label or None)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize="small")


__all__ = ["plot_png", "require_matplotlib"]
