"""Metrics: pure functions from strings to figures, each with its unit and interval.

Every figure of a report is an `Estimate`: value, 95% interval, count and unit. Nothing here knows a
model, a sampler or a file. Texts are the symbols between BOS and EOS, one character each, without
spaces. A symbol that should not be there (a mask, a pad) appears as a character outside the
alphabet, so that it counts as wrong. `balanced` looks at brackets alone (`=)(` fails, `=` passes),
so it says nothing about syntax: quote `parses`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments

if TYPE_CHECKING:
    from maskdiff.languages import HasExactProbability, HasValue, Language

_of_texts = checked_arguments(texts=arguments.texts)  # one text is a list of one
Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
RESAMPLES = 1000
LENGTH_BUCKETS: tuple[tuple[str, int, int | None], ...] = (
    ("<10", 0, 9),
    ("10-19", 10, 19),
    ("20-29", 20, 29),
    ("30-39", 30, 39),
    ("40+", 40, None),
)


class Unit(str, Enum):
    """What a figure is measured in; the unit decides how a report shows it."""

    NUMBER = ""  # a count, a distance or a ratio
    SHARE = "share"  # shown in per cent; also a difference or a ratio of shares
    NATS = "nats"
    MILLISECONDS = "ms"
    PER_SECOND = "per second"


# ---------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval (`low`, `high`), of `count` strings."""

    value: float
    low: float
    high: float
    count: int
    unit: Unit = Unit.NUMBER

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count {self.count} is negative")

    def to_dict(self) -> dict[str, float | None]:
        """Return value, low, high and count as JSON takes them: None for what is not finite."""
        figures = {"value": self.value, "low": self.low, "high": self.high, "count": self.count}
        return {name: x if math.isfinite(x) else None for name, x in figures.items()}


def wilson(successes: int, count: int, z: float = Z95) -> Estimate:
    """Return a share with Wilson's score interval, which stays inside [0, 1].

    A count of 0 gives NaN with the interval [0, 1].

    Raises:
        ValueError: Unless 0 <= successes <= count.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count}")
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, Unit.SHARE)
    p = successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # Rounding would otherwise leave the value 0 or 1 outside its own interval.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Estimate(p, low, high, count, Unit.SHARE)


def rate(flags: Iterable[bool]) -> Estimate:
    """Return the share of true flags, see `wilson`."""
    values = [bool(flag) for flag in flags]
    return wilson(sum(values), len(values))


def paired_difference(first: Iterable[bool], second: Iterable[bool]) -> Estimate:
    """Return the difference of two shares of true flags on the same strings.

    The interval is that of Agresti and Min (2005, Statistics in Medicine 24): a half is added to
    both counts of strings with different flags, so that no interval is a point.

    Raises:
        ValueError: The flags are not as many.
    """
    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    if not pairs:
        return Estimate(math.nan, -1.0, 1.0, 0, Unit.SHARE)
    gained, lost = (pairs.count(pair) + 0.5 for pair in ((True, False), (False, True)))
    trials = len(pairs) + 2
    centre = (gained - lost) / trials
    half = Z95 * math.sqrt(gained + lost - trials * centre**2) / trials
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Estimate((gained - lost) / len(pairs), low, high, len(pairs), Unit.SHARE)


def bootstrap(
    units: Sequence[object] | NDArray[np.float64],
    statistic: Callable[[NDArray[np.int64]], float],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    unit: Unit = Unit.NUMBER,
) -> Estimate:
    """Return `statistic(indices)` with its percentile bootstrap over exchangeable `units`
    (95%)."""
    count = len(units)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    value = statistic(np.arange(count))
    draws = np.array([statistic(rng.integers(0, count, count)) for _ in range(resamples)])
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), count, unit)


def mean(
    values: ArrayLike,
    rng: np.random.Generator,
    unit: Unit = Unit.NUMBER,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return the mean of `values` (n,) with its bootstrap interval."""
    return ratio(values, None, rng, unit, resamples)


def ratio(
    numerators: ArrayLike,
    denominators: ArrayLike | None,
    rng: np.random.Generator,
    unit: Unit = Unit.NUMBER,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return sum(numerators) / sum(denominators), both (n,) with one entry a string.

    The bootstrap resamples strings. Nats per token are averaged so: long strings weigh more.
    `denominators` None is 1 for each string.
    """
    top = np.asarray(numerators, dtype=np.float64)
    below = (
        np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
    )
    if top.shape != below.shape or top.ndim != 1:
        raise ValueError(
            f"numerators {top.shape} and denominators {below.shape} must be vectors of one length"
        )
    if len(top) == 0 or below.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan, len(top), unit)
    # Multinomial weights are the bootstrap in one matrix product.  # (resamples, n)
    weights = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=resamples)
    bottoms = weights @ below
    draws = (weights @ top)[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(float(top.sum() / below.sum()), float(low), float(high), len(top), unit)


# -------------------------------------------------------------------------------------- calibration


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers of similar probability: the mean of their probabilities, and the share right."""

    probability: float
    right: Estimate


def reliability(
    probabilities: ArrayLike, right: Iterable[bool], bins: int = 10
) -> list[ReliabilityBin]:
    """Return the reliability table: bins of equal count, by rising probability.

    The counts differ by one at most; there are fewer bins for fewer answers.
    """
    p, flags = _by_probability(probabilities, right)
    parts = (part for part in np.array_split(np.arange(len(p)), bins) if len(part))
    return [ReliabilityBin(float(p[part].mean()), rate(flags[part] > 0)) for part in parts]


def calibration_error(
    probabilities: ArrayLike, right: Iterable[bool], rng: np.random.Generator, bins: int = 10
) -> Estimate:
    """Return the expected calibration error over bins of equal count, with its bootstrap interval.

    It is the mean over the bins, weighted by their counts, of |share right - mean probability|. It
    is above 0 by chance: compare it with `calibration_by_chance`. NaN without answers.
    """
    p, flags = _by_probability(probabilities, right)

    def error(indices: NDArray[np.int64]) -> float:
        return _calibration_error(p[np.sort(indices)], flags[np.sort(indices)], bins)

    estimate = bootstrap(p, error, rng, unit=Unit.SHARE)
    # Resampling adds noise, and noise adds error: widen the interval to hold the value.
    low, high = min(estimate.low, estimate.value), max(estimate.high, estimate.value)
    return Estimate(estimate.value, low, high, len(p), Unit.SHARE)


def calibration_by_chance(
    probabilities: ArrayLike, rng: np.random.Generator, bins: int = 10, draws: int = 200
) -> float:
    """Return the mean `calibration_error` of answers that are right with these probabilities."""
    p: NDArray[np.float64] = np.sort(np.asarray(probabilities, dtype=np.float64))
    if not len(p):
        return math.nan
    right = (rng.random((draws, len(p))) < p).astype(np.float64)
    return float(np.mean([_calibration_error(p, flags, bins) for flags in right]))


def _by_probability(
    probabilities: ArrayLike, right: Iterable[bool]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as vectors, by rising probability. Raises ValueError unless they are as long."""
    p, flags = np.asarray(probabilities, dtype=np.float64), np.array(list(right), dtype=np.float64)
    if p.shape != flags.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probabilities {p.shape} of {flags.shape} answers, each in [0, 1]")
    order = np.argsort(p, kind="stable")
    return p[order], flags[order]


def _calibration_error(p: NDArray[np.float64], flags: NDArray[np.float64], bins: int) -> float:
    """The error of answers sorted by probability; the bins are those of `reliability`."""
    starts = np.cumsum([0, *map(len, np.array_split(p, min(bins, len(p))))])[:-1]
    return float(np.abs(np.add.reduceat(flags - p, starts)).sum() / len(p))


# ------------------------------------------------------------------------------- one text at a time


def balanced(text: str) -> bool:
    """Return whether brackets balance, in every prefix too: what the reference calls valid
    syntax."""
    depth = 0
    for symbol in text:
        depth += (symbol == "(") - (symbol == ")")
        if depth < 0:
            return False
    return depth == 0


def has_equals(text: str) -> bool:
    """Return whether the text contains `=`."""
    return "=" in text


def has_operator(text: str, operators: str = "+*") -> bool:
    """Return whether the text contains one of `operators`."""
    return any(symbol in operators for symbol in text)


def nesting(text: str) -> int:
    """Return the largest number of brackets open at once, also of texts that do not parse."""
    depth = deepest = 0
    for symbol in text:
        depth += (symbol == "(") - (symbol == ")")
        deepest = max(deepest, depth)
    return deepest


def operator_counts(text: str, operators: str = "+*") -> tuple[int, ...]:
    """Return how often each of `operators` occurs."""
    return tuple(text.count(operator) for operator in operators)


def length_bucket(length: int) -> str:
    """Return the bucket of an inner length: `<10`, `10-19`, `20-29`, `30-39` or `40+`."""
    for name, low, high in LENGTH_BUCKETS:
        if low <= length and (high is None or length <= high):
            return name
    raise ValueError(f"length {length} is negative")


# ----------------------------------------------------------------------------------- pairs of texts


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return Levenshtein's distance: insertions, deletions and substitutions, each at cost 1.

    Myers' bit-parallel recurrence (J. ACM 46(3), 1999): a column of the table is two integers.
    """
    if not first:
        return len(second)
    positions: dict[Hashable, int] = {}
    for index, symbol in enumerate(first):
        positions[symbol] = positions.get(symbol, 0) | 1 << index
    full, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down, distance = full, 0, len(first)
    for symbol in second:
        match = positions.get(symbol, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right = down | ~(diagonal | up) & full
        left = up & diagonal
        distance += bool(right & last) - bool(left & last)
        right = (right << 1 | 1) & full
        up = (left << 1 | ~((match | down) | right)) & full
        down = right & (match | down)
    return distance


def token_accuracy(text: str, clean: str) -> float:
    """Return the reference's score: the share of `BOS clean EOS` that `BOS text EOS` has at the
    same position.

    A deletion near the start costs all that follows it.
    """
    # None is EOS: equal to itself, unlike every symbol.
    ours, theirs = [*text, None], [*clean, None]
    hits = 1 + sum(a == b for a, b in zip(ours, theirs, strict=False))  # 1: BOS is always right
    return hits / (len(clean) + 2)


def aligned_accuracy(text: str, clean: str) -> float:
    """Return 1 - edit distance / length of the longer text: a shift costs one edit."""
    longer = max(len(text), len(clean))
    return 1.0 if longer == 0 else 1.0 - edit_distance(text, clean) / longer


def anchors_kept(text: str, template: str, blank: str = "?") -> float:
    """Return the share of the template's given symbols that are unchanged; 1 if all are blank."""
    given = [index for index, symbol in enumerate(template) if symbol != blank]
    if not given:
        return 1.0
    return sum(index < len(text) and text[index] == template[index] for index in given) / len(given)


# ------------------------------------------------------------------------------------ sets of texts


@_of_texts
def distinct(texts: Sequence[str]) -> Estimate:
    """Return distinct texts / texts. Noise is more distinct than any language.

    Leaving out one text changes the number of distinct ones only if it has no copy. So the share
    has the jackknife variance of a rate, q (1 - q) / n with q the share of texts without a copy. As
    Agresti and Coull do for rates, q counts z^2/2 more texts of both kinds, or the interval would
    be a point where all texts differ. (A bootstrap would add copies.)
    """
    return _distinct_share(Counter(texts), len(texts))


@_of_texts
def distinct_valid(texts: Sequence[str], language: Language) -> Estimate:
    """Return distinct texts that parse / all texts, with the interval of `distinct`."""
    return _distinct_share(Counter(text for text in texts if language.parses(text)), len(texts))


def _distinct_share(tally: Mapping[str, int], count: int) -> Estimate:
    """`len(tally) / count`, of the copies of each text that qualifies among `count` drawn."""
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, Unit.SHARE)
    singles = sum(copies == 1 for copies in tally.values())
    share, trials = len(tally) / count, count + Z95**2
    sole = (singles + Z95**2 / 2) / trials
    half = Z95 * math.sqrt(sole * (1 - sole) / trials)
    least = 1 / count if tally else 0.0  # what was seen is there
    low, high = max(least, share - half), min(1.0, share + half)
    return Estimate(share, low, high, count, Unit.SHARE)


def relative(own: Estimate, real: Sequence[Sequence[str]]) -> Estimate:
    """Return a share of distinct texts divided by the mean `distinct` of sets of real draws.

    All real draws parse, so that `distinct_valid` is divided by the same.

    Raises:
        ValueError: A set has another size; distinctness falls with the number drawn.
    """
    if not real or any(len(draw) != own.count for draw in real):
        raise ValueError(
            f"real draws of {sorted({len(draw) for draw in real})} texts beside {own.count}: "
            "sizes must agree"
        )
    base = float(np.mean([distinct(draw).value for draw in real]))
    return Estimate(own.value / base, own.low / base, own.high / base, own.count, Unit.SHARE)


@_of_texts
def novel(texts: Sequence[str], seen: Collection[str] | Callable[[str], bool]) -> Estimate:
    """Return the share of texts not in training; `seen` is the training set, or tells
    membership."""
    known = seen if callable(seen) else seen.__contains__
    return rate(not known(text) for text in texts)


def histogram_distance(
    values: Sequence[Hashable],
    reference: Sequence[Hashable],
    rng: np.random.Generator,
    resamples: int = 200,
) -> Estimate:
    """Return the total variation distance of the histogram of `values` from that of `reference`.

    It is half the L1 distance: 0 if equal, 1 if disjoint, NaN without values or reference. The
    interval resamples `values`. Two samples of one distribution are not at distance 0: read it
    beside the distance of as many real draws.
    """
    if not values or not reference:
        return Estimate(math.nan, 0.0, 1.0, len(values))
    keys = {key: index for index, key in enumerate(dict.fromkeys([*values, *reference]))}
    codes = np.array([keys[value] for value in values])
    target = np.bincount([keys[value] for value in reference], minlength=len(keys)) / len(reference)

    def distance(indices: NDArray[np.int64]) -> float:
        own = np.bincount(codes[indices], minlength=len(keys)) / len(indices)
        return float(0.5 * np.abs(own - target).sum())

    estimate = bootstrap(values, distance, rng, resamples)
    # Resampling adds noise, and noise adds distance: widen the interval to hold the value.
    low, high = min(estimate.low, estimate.value), max(estimate.high, estimate.value)
    return Estimate(estimate.value, low, high, len(values))


@_of_texts
def log_likelihood(
    texts: Sequence[str], language: HasExactProbability, rng: np.random.Generator
) -> tuple[Estimate, Estimate]:
    """Return the log-probability per token under the true generator, and the share in its support.

    The first is in nats, given the lengths, and a mean over the tokens of texts in the support.
    Real draws score minus the entropy. Higher is not better: it means more typical than real texts.
    """
    nats: list[float] = []
    lengths: list[int] = []
    for text in texts:
        log_prob = language.log_prob(text)
        if log_prob > -math.inf:
            nats.append(log_prob - language.length_log_prob(len(text)))
            lengths.append(len(text))
    return ratio(nats, lengths, rng, Unit.NATS), wilson(len(nats), len(texts))


def token_classes(text: str, equals: str = "=", digits: str = "0123456789") -> list[str]:
    """Return the class of each symbol: `value` (digits after the last `=`), `operand` or
    `structure`."""
    border = text.rfind(equals)
    return [
        "structure" if symbol not in digits else "value" if 0 <= border < i else "operand"
        for i, symbol in enumerate(text)
    ]


def by_length(flags: Sequence[bool], lengths: Sequence[int]) -> Mapping[str, Estimate]:
    """Return the share of true `flags` in each bucket of inner length, empty buckets included."""
    names = [length_bucket(length) for length in lengths]
    return {
        bucket: rate(flag for flag, name in zip(flags, names, strict=True) if name == bucket)
        for bucket, _, _ in LENGTH_BUCKETS
    }


@_of_texts
def parses(texts: Sequence[str], language: Language) -> list[bool]:
    """Return whether each text belongs to the language by its real grammar."""
    return [language.parses(text) for text in texts]


@_of_texts
def hold(texts: Sequence[str], language: HasValue) -> list[bool]:
    """Return whether each text parses and what it states is true."""
    return [language.holds(text) for text in texts]
