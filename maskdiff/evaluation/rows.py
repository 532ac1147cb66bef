"""What every suite shares: the row, the subject, the settings and the drawing of lengths.

For: one shape of result for all suites.  Not for: rendering (``report.py``) or measuring (the suites).  Easy to get wrong:
``settings`` is part of a row's identity: two rows with the same suite, sampler, settings and metric are a bug.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskdiff import metrics, tasks
from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.errors import ConfigError
from maskdiff.languages import HasValue
from maskdiff.metrics import Estimate
from maskdiff.sampling import constrained, make_sampler

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language, Vocabulary
    from maskdiff.sampling.stage import Sampler

Settings = dict[str, Any]
Watch = Callable[
    [str], AbstractContextManager[object]
]  # entered with the name of a measurement, left when it is done


def unwatched(_: str) -> AbstractContextManager[object]:
    """The watch that shows nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Row:
    """One figure.  Rates are in [0, 1]; ``low`` and ``high`` bound the 95% interval; ``count`` strings stand behind it.

    ``baseline`` is what doing nothing clever scores, ``ceiling`` what perfection scores; ``None`` where there is none.
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

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON takes it: NaN and infinities become ``None``."""
        return {key: _finite(value) for key, value in asdict(self).items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def row(
    suite: str,
    sampler: str,
    settings: Settings,
    metric: str,
    estimate: Estimate,
    *,
    baseline: Estimate | float | None = None,
    ceiling: Estimate | float | None = None,
) -> Row:
    """A ``Row`` of an estimate, with its baseline and ceiling as estimates or plain numbers."""
    low, high = (value if math.isfinite(value) else None for value in (estimate.low, estimate.high))
    return Row(
        suite,
        sampler,
        settings,
        metric,
        estimate.value,
        low,
        high,
        estimate.count,
        _plain(baseline),
        _plain(ceiling),
    )


def _plain(figure: Estimate | float | None) -> float | None:
    value = figure.value if isinstance(figure, Estimate) else figure
    return None if value is None or not math.isfinite(value) else float(value)


@dataclass(frozen=True)
class Subject:
    """What is measured: a checkpoint and the name that its rows carry (empty when there is only one)."""

    loaded: Loaded
    name: str = ""

    def settings(self, **extra: Any) -> Settings:
        """Settings of a row about this subject."""
        return {**({"checkpoint": self.name} if self.name else {}), **extra}

    @property
    def language(self) -> Language:
        return self.loaded.language

    def sampler(self, config: SamplerConfig) -> Sampler:
        """The sampler of a configuration for this subject's language."""
        sampler = make_sampler(config)
        return constrained(sampler, self.loaded.constraint()) if config.grammar else sampler


@dataclass(frozen=True)
class Plan:
    """How much is measured, and how.  ``lengths`` are inner symbols, both ends included; ``None`` takes real lengths."""

    num_samples: int = 200
    seed: int = 0
    batch_size: int = 256
    lengths: tuple[int, int] | None = None
    samplers: tuple[SamplerConfig, ...] = ()
    sigmas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    corruptions: tuple[str, ...] = (
        "mixed",
        "reference",
        "mask",
        "replace",
        "swap",
        "delete",
        "insert",
    )
    only_mixed_varies: bool = (
        False  # other corruptions than "mixed" at sigma 0.2 alone, to save time
    )
    repair_methods: tuple[str, ...] = ("channel", "draft")
    blank_share: float = 0.2
    split: str = "test"
    likelihood_draws: int = 8
    speed_seconds: float = 3.0
    control: ControlConfig = field(
        default_factory=ControlConfig
    )  # of generation; one more of repetition
    problems: tuple[str, ...] = ("test", "deeper")  # of the solve suite
    typed: tuple[int, ...] = (5, 8, 12, 16, 24)  # characters typed, in the completion suite

    def damages(self) -> list[tuple[str, float]]:
        """Kind of corruption and noise level of every block of the repair suite."""
        fixed = (0.2,) if self.only_mixed_varies else self.sigmas
        return [
            (kind, sigma)
            for kind in self.corruptions
            for sigma in (self.sigmas if kind == "mixed" else fixed)
        ]

    def rng(self, *salt: int) -> np.random.Generator:
        """A generator of its own for each use: suites do not disturb one another."""
        return np.random.default_rng([self.seed, *salt])


PROBES: dict[
    str, Callable[[Any], Any]
] = {  # another value of a setting, to see whether the sampler changes with it
    "steps": lambda steps: steps + 12,
    "num_ar_tokens": lambda count: count + 1,
    "temperature": lambda temperature: temperature + 1.0,
    "top_p": lambda top_p: 0.5 if top_p == 1.0 else 1.0,
}


def matters(config: SamplerConfig, name: str) -> bool:
    """Whether the sampler of ``config`` would be another one with another value of the setting ``name``."""
    try:
        return make_sampler(config) != make_sampler(
            replace(config, **{name: PROBES[name](getattr(config, name))})
        )
    except ConfigError:  # a value that it cannot have is one that it looks at
        return True


def sampler_settings(config: SamplerConfig) -> Settings:
    """The settings that this sampler heeds; ``top_p`` only where it cuts something off, `grammar` only where there is one."""
    names = [name for name in PROBES if matters(config, name)]
    settings = {
        name: getattr(config, name)
        for name in names
        if not (name == "top_p" and config.top_p == 1.0)
    }
    return settings | ({"grammar": True} if config.grammar else {})


def control_settings(control: ControlConfig) -> Settings:
    """The controls that are not the usual ones, which change nothing."""
    usual = ControlConfig()
    own = {f.name: getattr(control, f.name) for f in fields(control)}
    texts = {
        name: " ".join(value) if isinstance(value, tuple) else value for name, value in own.items()
    }
    return {name: value for name, value in texts.items() if own[name] != getattr(usual, name)}


def draw_lengths(
    language: Language, count: int, bounds: tuple[int, int] | None, rng: np.random.Generator
) -> list[int]:
    """``count`` inner lengths as ``tasks.generate`` draws them, within ``bounds``, in rising order.

    Rising, because batches of like lengths waste little on padding and strings are exchangeable.  Raises ``CanvasError``
    if no string of the language has a length within the bounds.
    """
    return sorted(tasks.sample_lengths(language, count, bounds, int(rng.integers(2**62))))


def throughput(count: int, seconds: float) -> Estimate:
    """Strings per second of one timed pass, which has no interval."""
    return Estimate(count / max(seconds, 1e-9), math.nan, math.nan, count)


def chunks(count: int, size: int) -> list[slice]:
    """Slices of at most ``size`` that cover ``range(count)``."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def unigram_texts(
    real: Sequence[str], lengths: Sequence[int], rng: np.random.Generator
) -> list[str]:
    """The blind baseline: symbols drawn independently with the frequencies they have in ``real``."""
    symbols: NDArray[Any] = np.array(list("".join(real)))
    return ["".join(rng.choice(symbols, length)) for length in lengths]


def one_symbol_each(text: str, vocabulary: Vocabulary) -> str:
    """A decoded text in which a special token inside the string (``<EOS>``) is one wrong symbol instead of five characters."""
    foreign = next(
        sign
        for sign in "\N{REPLACEMENT CHARACTER}\N{INTERROBANG}\0"
        if sign not in vocabulary.symbols
    )
    for token in vocabulary.specials:
        name = vocabulary.shown[token]
        if len(name) > 1:
            text = text.replace(name, foreign)
    return text


def verdicts(texts: Sequence[str], language: Language) -> dict[str, Estimate]:
    """``parses`` and ``holds``, where the language can tell."""
    found = {"parses": metrics.rate(metrics.parses(texts, language))} if language.validity else {}
    return found | (
        {"holds": metrics.rate(metrics.holds(texts, language))}
        if isinstance(language, HasValue)
        else {}
    )


@dataclass
class Ledger:
    """Collects the rows of one suite and refuses a second row of the same identity."""

    suite: str
    rows: list[Row] = field(default_factory=list)

    def add(
        self, sampler: str, settings: Settings, metric: str, estimate: Estimate, **beside: Any
    ) -> None:
        """Append one row; ``beside`` may hold ``baseline`` and ``ceiling``."""
        if any(
            r.sampler == sampler and r.metric == metric and r.settings == settings
            for r in self.rows
        ):
            raise ValueError(f"{self.suite} measured {metric} of {sampler} twice with {settings}")
        self.rows.append(row(self.suite, sampler, dict(settings), metric, estimate, **beside))
