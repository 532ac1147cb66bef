"""What an experiment is: a measurement of one seed, and a conclusion from the measurements of all.

For: the protocol `Experiment`, and the plain values that it gives. Not for: any experiment. Easy to get wrong: what is measured
is written to JSON between the two, so that NaN is None there (`listed`, `array`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.positions import DECILES
from maskdiff.experiments.distillation.study import Study
from maskdiff.experiments.distillation.verdicts import Claim, estimated
from maskdiff.metrics import Estimate

Part = Mapping[str, Any]  # what was measured of one seed, as JSON
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Table:
    """Rows of a report: texts and estimates."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str | Estimate, ...]]


@dataclass(frozen=True)
class Series:
    """One line of a picture, or one bar for each place: means with what they are uncertain by.

    panel: the axes that it belongs to. band: half of the width of the shaded band, or None. at: places on the x axis.
    """

    panel: str
    label: str
    at: list[float]
    values: list[float]
    band: list[float] | None = None
    style: str = "-"


@dataclass(frozen=True)
class Conclusion:
    """claims: what the thesis predicts; of those without controls the first, and of those with them the first, are the ones
    that the experiment's two verdicts are taken from. axes: panel -> (x label, y label).
    """

    claims: list[Claim]
    tables: list[Table]
    series: list[Series]
    axes: dict[str, tuple[str, str]]
    notes: list[str] = field(default_factory=list)


class Experiment(Protocol):
    """One of the five. name: its flag. title: a sentence. predicts: what was expected of it."""

    name: str
    title: str
    predicts: str

    def measure(self, study: Study, progress: Progress) -> dict[str, Any]:
        """What one seed gives, as JSON; leaves the policy's weights as they were."""
        ...

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """What all seeds say together; the same parts and generator give the same."""
        ...


def listed(values: NDArray[Any]) -> list[Any]:
    """An array as JSON knows it, 9 significant digits, NaN and infinity as None."""
    if values.ndim == 0:
        number = float(values)
        return None if not math.isfinite(number) else float(f"{number:.9g}")  # type: ignore[return-value]
    return [listed(row) for row in values]


def array(values: Any) -> NDArray[np.float64]:
    """The other way."""
    return np.array(values, dtype=np.float64)


def pooled(parts: Sequence[Part], *path: str) -> NDArray[np.float64]:
    """(problems of all seeds, ...) of what stands at `path` in every part."""
    found = []
    for part in parts:
        here: Any = part
        for key in path:
            here = here[key]
        found.append(array(here))
    return np.concatenate(found)


def seeds_of(parts: Sequence[Part], count: str = "problems") -> NDArray[np.int64]:
    """(problems of all seeds,) number of the seed of each."""
    return np.repeat(np.arange(len(parts)), [int(part[count]) for part in parts])


def problems_of(parts: Sequence[Part]) -> NDArray[np.int64] | None:
    """(problems of all seeds,) a number for each different problem; None where no two seeds share one."""
    names = [name for part in parts for name in part["names"]]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return None if len(numbers) == len(names) else np.array([numbers[name] for name in names])


def named(study: Study) -> dict[str, Any]:
    """What every part says of its problems."""
    return {"problems": len(study.problems), "names": [problem.name for problem in study.problems]}


def bars(
    panel: str, label: str, at: Sequence[float], estimates: Sequence[Estimate], names: Sequence[str]
) -> Series:
    """Bars with their intervals, 0 where these are not known."""
    widths = [(e.high - e.low) / 2 if math.isfinite(e.high) else 0.0 for e in estimates]
    return Series(
        panel, label, list(at), [e.value for e in estimates], widths, "bars:" + "|".join(names)
    )


def level(values: NDArray[np.float64]) -> float:
    """The mean of what is known, 0 where nothing is: how much there is of something."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def curve(panel: str, label: str, curves: NDArray[np.float64], style: str = "-") -> Series:
    """The mean of curves (units, 10) by decile, with a band of one standard error."""
    means, errors = mean_and_error(curves)
    return Series(
        panel,
        label,
        [(d + 0.5) / DECILES for d in range(DECILES)],
        means.tolist(),
        errors.tolist(),
        style,
    )


def mean_and_error(curves: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(units, ...) -> mean over units and its standard error, NaN left out; an error of 0 where there is one unit."""
    known = np.isfinite(curves)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, curves, 0.0).sum(0) / count
    squares = np.where(known, (curves - mean) ** 2, 0.0).sum(0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / count)
    return np.where(known.any(0), mean, np.nan), error


def by_decile(
    title: str,
    curves: Mapping[str, NDArray[np.float64]],
    config: DistillationConfig,
    rng: np.random.Generator,
    clusters: NDArray[np.int64] | None = None,
) -> Table:
    """A table of curves (units, 10): a row each, deciles as columns; the first and the last with their intervals."""
    rows: list[tuple[str | Estimate, ...]] = []
    for label, values in curves.items():
        means, _ = mean_and_error(values)
        ends = [estimated(values[:, d], rng, config.resamples, clusters) for d in (0, DECILES - 1)]
        rows.append(
            (
                label,
                ends[0],
                *["-" if math.isnan(mean) else f"{mean:.3f}" for mean in means[1:-1]],
                ends[1],
            )
        )
    return Table(title, ("", *[f"{d + 1}" for d in range(DECILES)]), rows)


__all__ = [
    "Conclusion", "Experiment", "Part", "Progress", "Series", "Table", "array", "bars", "by_decile", "curve", "level", "listed",
    "mean_and_error", "named", "pooled", "problems_of", "seeds_of",
]  # fmt: skip
