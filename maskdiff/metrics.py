"""What a set of texts is worth: pure functions from strings to numbers, each with its interval.

For: the figures of every report, defined once.  Nothing here knows a model, a sampler or a file; a language is only asked
to parse.  Texts are the symbols between BOS and EOS, one character each, without spaces; a symbol that should not be there
(a mask left over, a pad) stands in the text as any character outside the alphabet, so that it counts as wrong.  Easy to get
wrong: ``balanced`` looks at brackets alone (``=)(`` fails, ``=`` passes), so it says nothing about syntax; quote ``parses``.

Every figure that is reported is an ``Estimate``: value, 95% interval, count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments

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


class Checker(Protocol):
    """The part of a language that the metrics ask."""

    def parses(self, text: str) -> bool: ...


class Judge(Protocol):
    """The part of a language whose strings are true or false."""

    def holds(self, text: str) -> bool: ...


class Generator(Protocol):
    """The part of a language that knows its own distribution, in nats."""

    def log_prob(self, text: str) -> float: ...

    def length_log_prob(self, n: int) -> float: ...


# ---------------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; ``count`` is the number of strings behind it."""

    value: float
    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count {self.count} is negative")


def wilson(successes: int, count: int, z: float = Z95) -> Estimate:
    """A rate with Wilson's score interval, which stays inside [0, 1] and is not empty at 0 or 1.

    Raises ``ValueError`` unless 0 <= successes <= count.  A count of 0 gives NaN with the interval [0, 1].
    """
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count}")
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    p = successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # The exact ends at 0 and 1 are pinned: rounding would otherwise leave the interval short of its own value.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Estimate(p, low, high, count)


def rate(flags: Iterable[bool]) -> Estimate:
    """The share of true flags."""
    values = [bool(flag) for flag in flags]
    return wilson(sum(values), len(values))


def bootstrap(
    units: Sequence[object] | NDArray[np.float64],
    statistic: Callable[[NDArray[np.int64]], float],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Percentile bootstrap of ``statistic(indices)`` over ``len(units)`` exchangeable units (95%)."""
    count = len(units)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = statistic(np.arange(count))
    draws = np.array([statistic(rng.integers(0, count, count)) for _ in range(resamples)])
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), count)


def mean(values: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """The mean of ``values`` (n,) with its bootstrap interval."""
    return ratio(values, None, rng, resamples)


def ratio(
    numerators: ArrayLike,
    denominators: ArrayLike | None,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """sum(numerators) / sum(denominators), both (n,), one entry a string; strings are resampled together.

    This is how nats per token are averaged: long strings weigh more, and the unit of chance stays the string.
    """
    top = np.asarray(numerators, dtype=np.float64)
    below = (
        np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
    )
    if top.shape != below.shape or top.ndim != 1:
        raise ValueError(
            f"numerators {top.shape} and denominators {below.shape} must be two vectors of one length"
        )
    if len(top) == 0 or below.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan, len(top))
    # Multinomial weights are the bootstrap in one matrix product.  # (resamples, n)
    weights = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=resamples)
    bottoms = weights @ below
    draws = (weights @ top)[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(float(top.sum() / below.sum()), float(low), float(high), len(top))


# -------------------------------------------------------------------------------------------------- one text at a time


def balanced(text: str) -> bool:
    """Every prefix has at least as many ``(`` as ``)``, and the whole as many: what the reference calls valid syntax."""
    depth = 0
    for symbol in text:
        depth += (symbol == "(") - (symbol == ")")
        if depth < 0:
            return False
    return depth == 0


def has_equals(text: str) -> bool:
    """The text contains ``=``, once or more."""
    return "=" in text


def has_operator(text: str, operators: str = "+*") -> bool:
    """The text contains one of ``operators``."""
    return any(symbol in operators for symbol in text)


def nesting(text: str) -> int:
    """The largest number of brackets open at once; defined for texts that do not parse, too."""
    depth = deepest = 0
    for symbol in text:
        depth += (symbol == "(") - (symbol == ")")
        deepest = max(deepest, depth)
    return deepest


def operator_counts(text: str, operators: str = "+*") -> tuple[int, ...]:
    """How often each of ``operators`` occurs."""
    return tuple(text.count(operator) for operator in operators)


def length_bucket(length: int) -> str:
    """The name of the bucket of an inner length: ``<10 10-19 20-29 30-39 40+``."""
    for name, low, high in LENGTH_BUCKETS:
        if low <= length and (high is None or length <= high):
            return name
    raise ValueError(f"length {length} is negative")


# ----------------------------------------------------------------------------------------------------- pairs of texts


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions, each at cost 1.

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
    """The reference's score: the share of ``BOS clean EOS`` that ``BOS text EOS`` has at the same position.

    BOS and EOS count, as they do there, and a deletion near the start costs all that follows it.
    """
    # None stands for EOS: equal to itself, unlike every symbol.
    ours, theirs = [*text, None], [*clean, None]
    hits = 1 + sum(
        a == b for a, b in zip(ours, theirs, strict=False)
    )  # 1: BOS, which is always right
    return hits / (len(clean) + 2)


def aligned_accuracy(text: str, clean: str) -> float:
    """1 - edit distance / length of the longer: 1 when equal, and a shift costs one edit."""
    longer = max(len(text), len(clean))
    return 1.0 if longer == 0 else 1.0 - edit_distance(text, clean) / longer


def anchors_kept(text: str, template: str, blank: str = "?") -> float:
    """The share of the template's given symbols that stand unchanged at their position; 1 if all are blank."""
    given = [index for index, symbol in enumerate(template) if symbol != blank]
    if not given:
        return 1.0
    return sum(index < len(text) and text[index] == template[index] for index in given) / len(given)


# ------------------------------------------------------------------------------------------------------ sets of texts


@_of_texts
def distinct(texts: Sequence[str]) -> Estimate:
    """Distinct texts / texts.  Says nothing about what the texts are: noise is more distinct than any language.

    Leaving one text out changes the number of distinct ones only if it is the sole copy, so that the share has the
    jackknife's variance q (1 - q) / n with q the share of sole copies: that of a rate.  As Agresti and Coull do for rates,
    q is taken from z^2/2 sole copies and z^2/2 others more than there are, or the interval would be a point where all
    texts differ.  (A bootstrap would add copies.)
    """
    return _distinct_share(Counter(texts), len(texts))


@_of_texts
def distinct_valid(texts: Sequence[str], language: Checker) -> Estimate:
    """Distinct texts that parse / all texts.  The interval is that of ``distinct``, with the sole copies that parse."""
    return _distinct_share(Counter(text for text in texts if language.parses(text)), len(texts))


def _distinct_share(tally: Mapping[str, int], count: int) -> Estimate:
    """``len(tally) / count``, where ``tally`` holds the copies of the texts that qualify among ``count`` drawn."""
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    singles = sum(copies == 1 for copies in tally.values())
    share, trials = len(tally) / count, count + Z95**2
    sole = (singles + Z95**2 / 2) / trials
    half = Z95 * math.sqrt(sole * (1 - sole) / trials)
    least = 1 / count if tally else 0.0  # what was seen is there
    return Estimate(share, max(least, share - half), min(1.0, share + half), count)


def relative(own: Estimate, real: Sequence[Sequence[str]]) -> Estimate:
    """A share of distinct texts in units of the mean ``distinct`` of ``real``: several sets of as many real draws each.

    Real draws all parse, so that ``distinct_valid`` has the same unit.  Raises ``ValueError`` if a set has another size,
    because distinctness falls with the number drawn.
    """
    if not real or any(len(draw) != own.count for draw in real):
        raise ValueError(
            f"real draws of {sorted({len(draw) for draw in real})} texts beside {own.count}: sizes must agree"
        )
    unit = float(np.mean([distinct(draw).value for draw in real]))
    return Estimate(own.value / unit, own.low / unit, own.high / unit, own.count)


@_of_texts
def novel(texts: Sequence[str], seen: Collection[str] | Callable[[str], bool]) -> Estimate:
    """The share of texts that training never saw; ``seen`` is the set of training texts, or says whether one is in it."""
    known = seen if callable(seen) else seen.__contains__
    return rate(not known(text) for text in texts)


def histogram_distance(
    values: Sequence[Hashable],
    reference: Sequence[Hashable],
    rng: np.random.Generator,
    resamples: int = 200,
) -> Estimate:
    """Total variation of ``values`` from ``reference``: half the L1 distance of the histograms, 0 if equal, 1 if disjoint.

    The interval resamples ``values`` (and so leans upwards); without values or reference the distance is NaN.
    Two samples of one distribution are not at distance 0: always read it beside the distance of as many real draws.
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
    # Resampling adds noise, and noise adds distance: the interval is widened to hold the value itself.
    return Estimate(
        estimate.value,
        min(estimate.low, estimate.value),
        max(estimate.high, estimate.value),
        len(values),
    )


@_of_texts
def log_likelihood(
    texts: Sequence[str], language: Generator, rng: np.random.Generator
) -> tuple[Estimate, Estimate]:
    """Nats per token that the true generator gives the texts, given their lengths, and the share it can produce at all.

    The first is a mean over the texts in the generator's support, tokens weighing alike; real draws score minus the
    entropy.  A higher figure is not better: it means that the texts are more typical than real ones.
    """
    nats: list[float] = []
    lengths: list[int] = []
    for text in texts:
        log_prob = language.log_prob(text)
        if log_prob > -math.inf:
            nats.append(log_prob - language.length_log_prob(len(text)))
            lengths.append(len(text))
    return ratio(nats, lengths, rng), wilson(len(nats), len(texts))


def token_classes(text: str, equals: str = "=", digits: str = "0123456789") -> list[str]:
    """``structure``, ``operand`` or ``value`` for each symbol: digits are the value's after the last ``=``."""
    border = text.rfind(equals)
    return [
        "structure" if symbol not in digits else "value" if 0 <= border < i else "operand"
        for i, symbol in enumerate(text)
    ]


def by_length(flags: Sequence[bool], lengths: Sequence[int]) -> Mapping[str, Estimate]:
    """The rate of ``flags`` in each bucket of inner length, empty buckets included."""
    names = [length_bucket(length) for length in lengths]
    return {
        bucket: rate(flag for flag, name in zip(flags, names, strict=True) if name == bucket)
        for bucket, _, _ in LENGTH_BUCKETS
    }


@_of_texts
def parses(texts: Sequence[str], language: Checker) -> list[bool]:
    """Whether each text belongs to the language by its real grammar."""
    return [language.parses(text) for text in texts]


@_of_texts
def holds(texts: Sequence[str], language: Judge) -> list[bool]:
    """Whether each text parses and its equation is true."""
    return [language.holds(text) for text in texts]
