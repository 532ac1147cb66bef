"""What all suites share: the plan, the subject, the rows that a suite collects, and baseline texts.

`settings` identify a row: a second row with the same suite, sampler, settings and metric is an
error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from maskdiff import metrics, tasks
from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.evaluation import names
from maskdiff.languages import HasValue
from maskdiff.metrics import Estimate, Unit
from maskdiff.sampling import PRESETS, constrained, make_sampler

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language, Split, Vocabulary
    from maskdiff.sampling.stage import Sampler

T = TypeVar("T")
Settings = dict[str, Any]
Seen = Collection[str] | Callable[[str], bool]  # the training strings, or whether one is among them
# Entered with the name of a measurement, and left when it is done.
MeasurementProgress = Callable[[str], AbstractContextManager[object]]


def no_progress(_: str) -> AbstractContextManager[object]:
    """Shows nothing."""
    return nullcontext()


# --------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """One figure of a report.

    Attributes:
        value: Shares are in [0, 1].
        low, high: The 95% interval; None where there is none.
        count: The number of strings measured.
        baseline: The score of doing nothing clever; None where there is none.
        ceiling: The score of perfection; None where there is none.
        unit: What the figures are measured in. It is not part of the JSON.
    """

    suite: str
    sampler: str
    settings: Settings
    metric: str
    value: float
    low: float | None
    high: float | None
    count: int
    baseline: float | None = None
    ceiling: float | None = None
    unit: Unit = Unit.NUMBER

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON takes it: None for NaN and infinities."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "unit")
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in named
        }


Figure = Estimate | float | None


def make_row(
    suite: str,
    sampler: str,
    settings: Settings,
    metric: str,
    estimate: Estimate,
    baseline: Figure = None,
    ceiling: Figure = None,
) -> Row:
    """Return the row of an estimate."""
    low, high = _finite(estimate.low), _finite(estimate.high)
    return Row(
        suite, sampler, settings, metric, estimate.value, low, high, estimate.count,
        _finite(baseline), _finite(ceiling), estimate.unit,
    )  # fmt: skip


def _finite(figure: Figure) -> float | None:
    value = figure.value if isinstance(figure, Estimate) else figure
    return None if value is None or not math.isfinite(value) else float(value)


@dataclass(frozen=True)
class RowGroup:
    """The rows of one sampler under one set of settings; `add` appends to the rows of the suite."""

    suite: str
    sampler: str
    settings: Settings
    rows: list[Row]

    def add(
        self, metric: str, estimate: Estimate, baseline: Figure = None, ceiling: Figure = None
    ) -> None:
        """Append a row. Raises ValueError where it is there already."""
        identity = self.sampler, metric, self.settings
        if any((row.sampler, row.metric, row.settings) == identity for row in self.rows):
            raise ValueError(
                f"{self.suite} measured {metric} of {self.sampler} twice with {self.settings}"
            )
        self.rows.append(
            make_row(
                self.suite, self.sampler, dict(self.settings), metric, estimate, baseline, ceiling
            )
        )

    def add_all(
        self,
        figures: Mapping[str, Estimate],
        baseline: Mapping[str, Estimate] | None = None,
        ceiling: Mapping[str, Estimate] | float | None = None,
    ) -> None:
        """Append a row for each figure. `baseline` and `ceiling` go by metric, or are one
        number."""
        for metric, estimate in figures.items():
            best = ceiling.get(metric) if isinstance(ceiling, Mapping) else ceiling
            self.add(metric, estimate, (baseline or {}).get(metric), best)

    def add_cost(
        self, evaluations: Sequence[int], seconds: float, rng: np.random.Generator
    ) -> None:
        """Append the mean of `evaluations`, one entry a string, and strings per second."""
        self.add("evaluations", metrics.mean(evaluations, rng))
        # A single pass has no interval.
        speed = len(evaluations) / max(seconds, 1e-9)
        self.add(
            "strings_per_second",
            Estimate(speed, math.nan, math.nan, len(evaluations), Unit.PER_SECOND),
        )


# ------------------------------------------------------------------------------------ what is given


@dataclass(frozen=True)
class Subject:
    """A checkpoint to measure. `name` is shown in its rows; it is empty for the only checkpoint."""

    loaded: Loaded
    name: str = ""

    def settings(self, **extra: Any) -> Settings:
        """Return the settings of a row of this subject."""
        return {**({"checkpoint": self.name} if self.name else {}), **extra}

    @property
    def language(self) -> Language:
        return self.loaded.language

    def sampler(self, config: SamplerConfig) -> Sampler:
        """Return the sampler of a configuration, under the grammar where it asks for that."""
        sampler = make_sampler(config)
        return constrained(sampler, self.loaded.constraint()) if config.grammar else sampler


@dataclass(frozen=True)
class Plan:
    """How much is measured, and how. `lengths` is in symbols, both ends included; None: all."""

    num_samples: int = 200
    seed: int = 0
    batch_size: int = 256
    lengths: tuple[int, int] | None = None
    samplers: tuple[SamplerConfig, ...] = ()
    sigmas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    corruptions: tuple[str, ...] = (
        "mixed", "reference", "mask", "replace", "swap", "delete", "insert",
    )  # fmt: skip
    only_mixed_varies: bool = False  # all corruptions but "mixed" at sigma 0.2 alone, to save time
    repair_methods: tuple[str, ...] = names.USUAL_METHODS
    blank_share: float = 0.2
    split: Split = "test"
    likelihood_draws: int = 8
    speed_seconds: float = 3.0
    control: ControlConfig = field(default_factory=ControlConfig)  # generation and repetition
    problems: tuple[str, ...] = names.PROBLEM_SPLITS  # of the solve suite
    typed: tuple[int, ...] = (5, 8, 12, 16, 24)  # characters typed, in the completion suite

    def damages(self) -> list[tuple[str, float]]:
        """Return the kind of corruption and noise level of every part of the repair suite."""
        fixed = (0.2,) if self.only_mixed_varies else self.sigmas
        return [
            (kind, sigma)
            for kind in self.corruptions
            for sigma in (self.sigmas if kind == "mixed" else fixed)
        ]

    def rng(self, *salt: int) -> np.random.Generator:
        """Return a generator for one use, so that no measurement changes another."""
        return np.random.default_rng([self.seed, *salt])


@dataclass
class SuiteRun:
    """One suite on one subject: what the suite is given, and the rows that it collects.

    Attributes:
        suite: The name of the suite.
        texts: Held-out strings.
        seen: The training strings.
        progress: Entered for each measurement.
    """

    suite: str
    subject: Subject
    plan: Plan
    texts: Sequence[str] = ()
    seen: Seen = ()
    progress: MeasurementProgress = no_progress
    rows: list[Row] = field(default_factory=list)

    @property
    def language(self) -> Language:
        return self.subject.language

    def group(self, sampler: str, settings: Settings) -> RowGroup:
        """Return an empty group of rows, which adds to the rows of this run."""
        return RowGroup(self.suite, sampler, settings, self.rows)


def sampler_settings(config: SamplerConfig) -> Settings:
    """Return the settings that the sampler reads; `top_p` and `grammar` only where they act."""
    read = PRESETS[config.sampler].reads
    names = [name for name in read if not (name == "top_p" and config.top_p == 1.0)]
    settings = {name: getattr(config, name) for name in names}
    return settings | ({"grammar": True} if config.grammar else {})


def control_settings(control: ControlConfig) -> Settings:
    """Return the controls that differ from the defaults."""
    changed = {
        f.name: value
        for f in fields(control)
        if (value := getattr(control, f.name)) != getattr(ControlConfig(), f.name)
    }
    return {n: " ".join(v) if isinstance(v, tuple) else v for n, v in changed.items()}


# -------------------------------------------------------------------------------------------- texts


def sorted_lengths(
    language: Language, count: int, bounds: tuple[int, int] | None, rng: np.random.Generator
) -> list[int]:
    """Return `count` lengths in symbols as `tasks.generate` draws them, in rising order.

    Batches of similar lengths waste little on padding. Raises CanvasError if no string of the
    language has a length within `bounds`.
    """
    return sorted(tasks.sample_lengths(language, count, bounds, int(rng.integers(2**62))))


def timed_call(function: Callable[..., T], *args: Any) -> tuple[T, float]:
    """Return the result of `function(*args)`, and its seconds."""
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start


def unigram_texts(
    real: Sequence[str], lengths: Sequence[int], rng: np.random.Generator
) -> list[str]:
    """Return the blind baseline: symbols drawn independently, with their frequencies in `real`."""
    symbols: NDArray[Any] = np.array(list("".join(real)))
    return ["".join(rng.choice(symbols, length)) for length in lengths]


def one_symbol_each(text: str, vocabulary: Vocabulary) -> str:
    """Return a decoded text in which a special token (`<EOS>`) is one wrong symbol, not five."""
    candidates = "\N{REPLACEMENT CHARACTER}\N{INTERROBANG}\0"
    foreign = next(symbol for symbol in candidates if symbol not in vocabulary.symbols)
    for token in vocabulary.specials:
        name = vocabulary.shown[token]
        if len(name) > 1:
            text = text.replace(name, foreign)
    return text


def validity_figures(texts: Sequence[str], language: Language) -> dict[str, Estimate]:
    """Return `parses` and `holds`, where the language can tell."""
    figures = {}
    if language.validity:
        figures["parses"] = metrics.rate(metrics.parses(texts, language))
    if isinstance(language, HasValue):
        figures["holds"] = metrics.rate(metrics.hold(texts, language))
    return figures
