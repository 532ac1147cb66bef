"""The metrics against brute force, hand-worked cases and their own definitions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff import metrics
from maskdiff.languages import make_language
from maskdiff.metrics import Estimate

WORD = st.text(alphabet="(+)0=", max_size=12)


def table_distance(first: str, second: str) -> int:
    """Return the edit distance by Levenshtein's full table."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@given(WORD, WORD)
@settings(max_examples=300, deadline=None)
def test_edit_distance_equals_the_full_table(first: str, second: str) -> None:
    assert metrics.edit_distance(first, second) == table_distance(first, second)


@given(st.text(alphabet="01(", max_size=90), st.text(alphabet="01(", max_size=90))
@settings(max_examples=50, deadline=None)
def test_edit_distance_of_long_words_equals_the_full_table(first: str, second: str) -> None:
    assert (
        metrics.edit_distance(first, second)
        == table_distance(first, second)
        == metrics.edit_distance(second, first)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("()", True),
        ("=", True),
        (")(", False),
        ("(()", False),
        ("(+1", False),
        ("(1)2=", True),
    ],
)
def test_balanced_considers_brackets_only(text: str, expected: bool) -> None:
    assert metrics.balanced(text) is expected


@given(WORD)
def test_nesting_counts_the_deepest_prefix(text: str) -> None:
    prefixes = [text[:i].count("(") - text[:i].count(")") for i in range(len(text) + 1)]
    assert metrics.nesting(text) == max(prefixes)


def test_token_accuracy_equals_a_hand_computation() -> None:
    clean = "(+12)=3"  # nine tokens with BOS and EOS
    assert metrics.token_accuracy(clean, clean) == 1.0
    assert metrics.token_accuracy("(+12)=4", clean) == pytest.approx(8 / 9)
    # The first symbol is lost: BOS is right, all others are shifted; the same string is one edit
    # away.
    assert metrics.token_accuracy("+12)=3", clean) == pytest.approx(1 / 9)
    assert metrics.aligned_accuracy("+12)=3", clean) == pytest.approx(6 / 7)
    # One symbol too many at the end: EOS is at another place, and what follows the clean string is
    # not looked at.
    assert metrics.token_accuracy("(+12)=33", clean) == pytest.approx(8 / 9)


@given(WORD, WORD)
def test_pair_scores_stay_in_range(text: str, clean: str) -> None:
    for score in (metrics.token_accuracy(text, clean), metrics.aligned_accuracy(text, clean)):
        assert 0.0 <= score <= 1.0
    assert (metrics.aligned_accuracy(text, clean) == 1.0) == (text == clean)


def test_anchors_kept_by_known_outputs() -> None:
    assert metrics.anchors_kept("(+12)=3", "(+??)=3") == 1.0
    assert metrics.anchors_kept("(*12)=3", "(+??)=3") == pytest.approx(4 / 5)
    assert metrics.anchors_kept("(+1", "(+??)=3") == pytest.approx(2 / 5)
    assert metrics.anchors_kept("anything", "???") == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_wilson_interval_contains_its_estimate(successes: int, failures: int) -> None:
    estimate = metrics.wilson(successes, successes + failures)
    if successes + failures:
        assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
        assert estimate.high - estimate.low > 0


def test_wilson_known_value_and_errors() -> None:
    estimate = metrics.wilson(8, 10)
    assert (estimate.low, estimate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert math.isnan(metrics.wilson(0, 0).value)
    for bad in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="successes"):
            metrics.wilson(*bad)


def test_wilson_interval_has_its_coverage() -> None:
    """Coverage at p=0.97, n=200 by exact summation over the binomial: close to 95%, where Wald's
    interval has about 87%."""
    n, p = 200, 0.97
    inside = wald = 0.0
    for k in range(n + 1):
        mass = math.comb(n, k) * p**k * (1 - p) ** (n - k)
        estimate = metrics.wilson(k, n)
        inside += mass * (estimate.low <= p <= estimate.high)
        half = 1.96 * math.sqrt(k / n * (1 - k / n) / n)
        wald += mass * (k / n - half <= p <= k / n + half)
    assert 0.93 < inside < 0.98
    assert wald < inside


def test_bootstrap_covers_and_follows_its_rng() -> None:
    def one(seed: int) -> Estimate:
        return metrics.mean(
            np.random.default_rng(1).normal(3.0, 1.0, 400), np.random.default_rng(seed)
        )

    estimate = one(0)
    assert estimate == one(0) != one(1)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.high - estimate.low == pytest.approx(
        2 * 1.96 / 20, rel=0.2
    )  # the normal theory's width
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        sample = metrics.mean(rng.exponential(1.0, 80), rng, resamples=200)
        covered += sample.low <= 1.0 <= sample.high
    assert (
        170 <= covered <= 199
    )  # 95% nominal; six standard deviations of chance, less the percentile method's bias


def test_ratio_weights_tokens_not_strings() -> None:
    estimate = metrics.ratio([1.0, 30.0], [1, 10], np.random.default_rng(0))
    assert estimate.value == pytest.approx(31 / 11)
    with pytest.raises(ValueError, match="one length"):
        metrics.ratio([1.0], [1, 2], np.random.default_rng(0))
    assert metrics.ratio([], [], np.random.default_rng(0)).count == 0


def test_distinct_and_its_interval() -> None:
    assert metrics.distinct(["a", "a", "b", "c"]).value == 0.75
    assert metrics.distinct(["a"] * 10).value == 0.1
    # The jackknife's variance against simulation: 200 sets of 300 draws from a Zipf-like law.
    rng = np.random.default_rng(0)
    law = 1 / np.arange(1, 400)
    sets = [[str(v) for v in rng.choice(399, 300, p=law / law.sum())] for _ in range(200)]
    estimates = [metrics.distinct(s) for s in sets]
    spread = np.std([e.value for e in estimates])
    stated = np.mean([(e.high - e.low) / 2 / metrics.Z95 for e in estimates])
    assert 0.8 * spread < stated < 2.0 * spread  # Efron and Stein: never too small on average


@pytest.mark.parametrize("kinds", [3_000, 100_000, 1_000_000])
def test_the_interval_of_distinct_covers_even_where_almost_all_differ(kinds: int) -> None:
    n, rng = 300, np.random.default_rng(0)
    expected = kinds * (1 - (1 - 1 / kinds) ** n) / n
    estimates = [metrics.distinct([str(v) for v in rng.integers(0, kinds, n)]) for _ in range(300)]
    assert sum(e.low <= expected <= e.high for e in estimates) > 0.95 * 300 - 3 * math.sqrt(
        300 * 0.05 * 0.95
    )
    assert all(e.low < e.high for e in estimates)


def test_distinct_of_one_repeated_text_is_minimal() -> None:
    estimate = metrics.distinct(["a"] * 50)
    assert estimate.low == estimate.value == 1 / 50 < estimate.high < 0.1
    assert math.isnan(metrics.distinct([]).value)


def test_distinct_valid_ignores_invalid_strings() -> None:
    language = make_language()
    rng = np.random.default_rng(0)
    real = language.sample_many(400, rng)
    noise = ["".join(rng.choice(list("".join(real)), len(text))) for text in real]
    assert (
        metrics.distinct(noise).value > metrics.distinct(real).value
    )  # the more garbage, the more distinct
    assert metrics.distinct_valid(noise, language).value < 0.1
    assert metrics.distinct_valid(real, language) == metrics.distinct(real)
    mixed = metrics.distinct_valid(["0=0", "0=0", "=", "x"], language)
    assert (mixed.value, mixed.count) == (0.25, 4)
    none = metrics.distinct_valid(["="] * 100, language)
    assert none.value == none.low == 0.0 < none.high < 0.05


def test_relative_needs_equal_sizes() -> None:
    texts = ["a", "b", "b", "c"]
    assert metrics.relative(metrics.distinct(texts), [texts, texts]).value == 1.0
    assert metrics.relative(metrics.distinct(["a"] * 4), [["a", "b", "c", "d"]]).value == 0.25
    with pytest.raises(ValueError, match="sizes must agree"):
        metrics.relative(metrics.distinct(texts), [texts[:3]])


def test_novel_takes_a_set_or_a_predicate() -> None:
    assert metrics.novel(["a", "b"], {"a"}).value == 0.5
    assert metrics.novel(["a", "b"], lambda text: text == "a").value == 0.5


@given(st.lists(st.integers(0, 3), min_size=1), st.lists(st.integers(0, 3), min_size=1))
@settings(deadline=None)
def test_total_variation_is_the_largest_difference_over_events(
    first: list[int], second: list[int]
) -> None:
    one, two = Counter(first), Counter(second)
    events = [[k for k in range(4) if mask >> k & 1] for mask in range(16)]
    largest = max(
        sum(one[k] for k in e) / len(first) - sum(two[k] for k in e) / len(second) for e in events
    )
    estimate = metrics.histogram_distance(first, second, np.random.default_rng(0), resamples=20)
    assert estimate.value == pytest.approx(largest)
    assert estimate.low <= estimate.value <= estimate.high


def test_log_likelihood_excludes_impossible_strings() -> None:
    class Coin:
        def log_prob(self, text: str) -> float:
            return -math.inf if "x" in text else len(text) * math.log(0.5) + math.log(0.1)

        def length_log_prob(self, n: int) -> float:
            return math.log(0.1)

    nats, support = metrics.log_likelihood(["00", "0000", "x"], Coin(), np.random.default_rng(0))
    assert nats.value == pytest.approx(math.log(0.5))
    assert (nats.count, support.value) == (2, pytest.approx(2 / 3))


def test_token_classes_cover_every_symbol() -> None:
    assert (
        metrics.token_classes("(+12)=30")
        == ["structure"] * 2 + ["operand"] * 2 + ["structure"] * 2 + ["value"] * 2
    )
    assert metrics.token_classes("123") == ["operand"] * 3  # no '=': nothing is a value


def test_length_buckets_partition() -> None:
    assert [metrics.length_bucket(n) for n in (3, 9, 10, 19, 20, 39, 40, 62)] == [
        "<10", "<10", "10-19", "10-19", "20-29", "30-39", "40+", "40+",
    ]  # fmt: skip
    rows = metrics.by_length([True, False, True], [5, 5, 50])
    assert sum(row.count for row in rows.values()) == 3
    assert rows["<10"].value == 0.5
    assert rows["40+"].value == 1.0


# -------------------------------------------------------------------- differences and calibration


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (0.9, 0.8), (1.0, 0.99), (0.3, 0.6)])
def test_paired_differences_cover_the_true_one(first: float, second: float) -> None:
    """Of 1,000 samples of 100 pairs, the 95% interval holds the difference in 93% or more.

    An interval that covers 90% would pass with a probability below 0.01.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        shared = rng.random(100)  # both flags follow the same string
        mixed = np.where(rng.random(100) < 0.5, shared, rng.random(100))
        found = metrics.paired_difference(shared < first, mixed < second)
        covered += found.low <= first - second <= found.high
    assert covered >= 930


def test_paired_differences_of_few_and_equal_flags() -> None:
    same = metrics.paired_difference([True, False], [True, False])
    assert same.value == 0
    assert same.low < 0 < same.high  # no interval is a point
    assert metrics.paired_difference([True] * 9, [False] * 9).value == 1
    assert math.isnan(metrics.paired_difference([], []).value)
    with pytest.raises(ValueError, match="argument"):
        metrics.paired_difference([True], [])


def simulated(power: float, count: int = 4000) -> tuple[list[float], list[bool]]:
    """Return probabilities, and flags that are right with `probability ** power`."""
    rng = np.random.default_rng(1)
    p = rng.random(count)
    return p.tolist(), (rng.random(count) < p**power).tolist()


@pytest.mark.slow
def test_calibrated_answers_have_an_error_near_zero_and_overconfident_ones_not() -> None:
    """Right with p: no error but by chance. Right with p^2: the mean of p - p^2, which is 1/6."""
    rng = np.random.default_rng(2)
    p, right = simulated(1.0)
    error, by_chance = (
        metrics.calibration_error(p, right, rng),
        metrics.calibration_by_chance(p, rng),
    )
    assert error.value < 0.03
    assert abs(error.value - by_chance) < 0.01
    assert error.low <= error.value <= error.high
    p, right = simulated(2.0)
    overconfident = metrics.calibration_error(p, right, rng)
    assert overconfident.value == pytest.approx(1 / 6, abs=0.02)
    assert overconfident.low > 0.14  # at 4,000 answers the interval excludes calibration


@pytest.mark.slow
def test_overconfidence_of_fifteen_points_shows_in_300_answers() -> None:
    """Power: of 12 samples of 300 answers, right 15 points too seldom, 11 exceed chance."""
    rng, found = np.random.default_rng(3), 0
    for _ in range(12):
        p = 0.3 + 0.6 * rng.random(300)
        error = metrics.calibration_error(p, rng.random(300) < p - 0.15, rng)
        found += error.value > metrics.calibration_by_chance(p, rng, draws=20) + 0.03
    assert found >= 11


def test_reliability_is_a_partition_into_bins_of_equal_count() -> None:
    p, right = simulated(1.5, 103)
    table = metrics.reliability(p, right)
    counts = [part.right.count for part in table]
    assert sum(counts) == 103
    assert len(counts) == 10
    assert max(counts) - min(counts) <= 1
    means = [part.probability for part in table]
    assert means == sorted(means)
    error = sum(
        n * abs(part.right.value - part.probability) for n, part in zip(counts, table, strict=True)
    )
    rng = np.random.default_rng(0)
    assert metrics.calibration_error(p, right, rng).value == pytest.approx(error / 103)
    assert len(metrics.reliability([0.5] * 3, [True] * 3)) == 3
    assert metrics.reliability([], []) == []
    assert math.isnan(metrics.calibration_error([], [], rng).value)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        metrics.reliability([1.5], [True])
