"""The protocol of an experiment: it measures one seed and concludes from the parts of all seeds.

A part is stored as JSON, where NaN is null (`to_json`, `from_json`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.hypotheses import Hypothesis, bootstrap
from maskdiff.experiments.distillation.positions import DECILES, Array
from maskdiff.experiments.distillation.rollouts import Rollouts
from maskdiff.metrics import Estimate

Part = Mapping[str, Any]  # the measurements of one seed, as JSON
Row = tuple[str | Estimate, ...]
Progress = Callable[[str], None]
Estimator = Callable[[Array], Estimate]


@dataclass(frozen=True)
class ResultTable:
    """A table of a report: texts and estimates."""

    title: str
    header: tuple[str, ...]
    rows: list[Row]


@dataclass(frozen=True)
class Series:
    """A line of a picture, or a group of bars.

    Attributes:
        panel: The axes that it belongs to.
        at: Positions on the x axis.
        values: The means.
        band: Half of the width of the interval around each mean, or None.
        style: A line style of matplotlib, "decile:D", or "bars:" and names separated by "|".
    """

    panel: str
    label: str
    at: list[float]
    values: list[float]
    band: list[float] | None = None
    style: str = "-"


@dataclass(frozen=True)
class Conclusion:
    """The conclusion of an experiment.

    Attributes:
        hypotheses: The first without controls and the first with controls give the verdicts.
        axes: Panel -> (x label, y label).
    """

    hypotheses: list[Hypothesis]
    tables: list[ResultTable]
    series: list[Series]
    axes: dict[str, tuple[str, str]]
    notes: list[str] = field(default_factory=list)


class Experiment(Protocol):
    """An experiment.

    Attributes:
        name: The value of `--experiment`.
        title: A title.
        predicts: The predicted result.
    """

    name: str
    title: str
    predicts: str

    def measure(self, rollouts: Rollouts, progress: Progress) -> dict[str, Any]:
        """Return the part of one seed; the policy's weights stay as they were."""
        ...

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """Return the conclusion, a function of the parts and the generator's state."""
        ...


def to_json(values: NDArray[Any]) -> list[Any]:
    """Return an array as lists, with 9 significant digits and None for NaN and infinity."""
    if values.ndim == 0:
        rounded = float(f"{float(values):.9g}")
        return rounded if math.isfinite(rounded) else None  # type: ignore[return-value]
    return [to_json(row) for row in values]


def from_json(values: Any) -> Array:
    """Return the array of `to_json`, with NaN for None."""
    return np.array(values, dtype=np.float64)


def pool(parts: Sequence[Part], *path: str) -> Array:
    """Return the values at `path` of all parts, concatenated: (problems of all seeds, ...)."""
    found: list[Any] = list(parts)
    for key in path:
        found = [item[key] for item in found]
    return np.concatenate([from_json(item) for item in found])


def seed_clusters(parts: Sequence[Part], count: str = "problems") -> NDArray[np.int64]:
    """Return the number of the seed of each problem: (problems of all seeds,)."""
    return np.repeat(np.arange(len(parts)), [int(part[count]) for part in parts])


def problem_clusters(parts: Sequence[Part]) -> NDArray[np.int64] | None:
    """Return a number for each different problem; None where no two seeds share one."""
    names = [name for part in parts for name in part["names"]]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return None if len(numbers) == len(names) else np.array([numbers[name] for name in names])


def estimator(
    config: DistillationConfig, rng: np.random.Generator, clusters: NDArray[np.int64] | None = None
) -> Estimator:
    """Return the bootstrap of the configuration as a function of the values."""
    return lambda values: bootstrap(values, rng, config.resamples, clusters)


def mean_or_zero(values: Array) -> float:
    """Return the mean, ignoring NaN; 0 without any value."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def mean_and_error(curves: Array) -> tuple[Array, Array]:
    """Return mean and standard error over units, ignoring NaN: (units, ...) -> (...) twice.

    The error of a single unit is 0.
    """
    known = np.isfinite(curves)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, curves, 0.0).sum(0) / count
    squares = np.where(known, (curves - mean) ** 2, 0.0).sum(0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / count)
    return np.where(known.any(0), mean, np.nan), error


def bar_series(
    panel: str, label: str, at: Sequence[float], estimates: Sequence[Estimate], names: Sequence[str]
) -> Series:
    """Return bars with their intervals; unknown intervals have width 0."""
    widths = [(e.high - e.low) / 2 if math.isfinite(e.high) else 0.0 for e in estimates]
    values = [estimate.value for estimate in estimates]
    return Series(panel, label, list(at), values, widths, "bars:" + "|".join(names))


def decile_series(panel: str, label: str, curves: Array, style: str = "-") -> Series:
    """Return the mean of curves (units, 10) by decile, with a band of one standard error."""
    means, errors = mean_and_error(curves)
    at = [(d + 0.5) / DECILES for d in range(DECILES)]
    return Series(panel, label, at, means.tolist(), errors.tolist(), style)


def decile_table(title: str, curves: Mapping[str, Array], estimate: Estimator) -> ResultTable:
    """Return a table of curves (units, 10) by decile; the first and last with intervals."""
    rows: list[Row] = []
    for label, values in curves.items():
        means, _ = mean_and_error(values)
        first, last = (estimate(values[:, d]) for d in (0, DECILES - 1))
        middle = ["-" if math.isnan(mean) else f"{mean:.3f}" for mean in means[1:-1]]
        rows.append((label, first, *middle, last))
    return ResultTable(title, ("", *[f"{d + 1}" for d in range(DECILES)]), rows)


__all__ = [
    "Conclusion", "Estimator", "Experiment", "Part", "Progress", "ResultTable", "Row", "Series",
    "bar_series", "decile_series", "decile_table", "estimator", "from_json", "mean_and_error",
    "mean_or_zero", "pool", "problem_clusters", "seed_clusters", "to_json",
]  # fmt: skip
