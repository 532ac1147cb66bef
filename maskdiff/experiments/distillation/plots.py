"""A picture for each experiment.

For: `draw`, PNG bytes of a conclusion. Not for: figures, which are all in its series. Easy to get wrong: matplotlib is an
optional extra, imported here and with a backend that needs no screen.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from maskdiff.errors import DataError
from maskdiff.experiments.distillation.positions import DECILES
from maskdiff.experiments.distillation.runner import Result
from maskdiff.experiments.distillation.studies import EXPERIMENTS, Series


def check_plots() -> None:
    """Raises DataError where pictures cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise DataError(
            "pictures need matplotlib, which is not installed: pip install 'maskdiff[plots]'"
        ) from None


def draw(result: Result) -> bytes:
    """The picture of an experiment, as PNG. Raises DataError without matplotlib."""
    check_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes_of = result.conclusion.axes
    figure = Figure(figsize=(6.2 * len(axes_of), 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (panel, (xlabel, ylabel)) in enumerate(axes_of.items(), 1):
        axes = figure.add_subplot(1, len(axes_of), number)
        lines = [series for series in result.conclusion.series if series.panel == panel]
        bars = [series for series in lines if series.style.startswith("bars:")]
        for i, series in enumerate(lines):
            _bars(axes, series, i, len(bars)) if series in bars else _line(axes, series)
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_title(panel, fontsize="medium")
        axes.grid(alpha=0.3)
        if bars and any(series.label for series in lines):
            axes.legend(fontsize="x-small", loc="lower right")
        elif any(series.label for series in lines):
            ncols = 2 if len(lines) > 6 else 1
            axes.legend(
                fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=ncols
            )
    figure.suptitle(EXPERIMENTS[result.name].title)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, format="png", metadata={"Software": None})
    return drawn.getvalue()


def _line(axes: Any, series: Series) -> None:
    """A line with its band of one standard error; lines of deciles go from dark to bright."""
    settings: dict[str, Any] = {"linestyle": series.style}
    if series.style.startswith("decile:"):
        from matplotlib import colormaps

        settings = {"color": colormaps["viridis"](int(series.style.partition(":")[2]) / DECILES)}
    (line,) = axes.plot(series.at, series.values, marker=".", label=series.label, **settings)
    if series.band is not None:
        means, band = np.array(series.values), np.array(series.band)
        axes.fill_between(
            series.at, means - band, means + band, alpha=0.15, color=line.get_color(), linewidth=0
        )


def _bars(axes: Any, series: Series, number: int, of: int) -> None:
    """Bars with intervals, named below."""
    names = series.style.removeprefix("bars:").split("|")
    width = 0.8 / of
    at = np.array(series.at) + (number - (of - 1) / 2) * width
    axes.bar(at, series.values, width, yerr=series.band, capsize=3, label=series.label or None)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize="small")


__all__ = ["check_plots", "draw"]
