"""Verdicts and bootstrap intervals: by brute force and by simulation."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maskdiff.experiments.distillation.hypotheses import (
    Hypothesis,
    bootstrap,
    decide,
    student_quantile,
    verdict_of,
)
from maskdiff.experiments.distillation.planted import PlantedPolicy
from maskdiff.experiments.distillation.rollouts import Rollouts
from maskdiff.experiments.distillation.studies.protocol import (
    decile_series,
    from_json,
    mean_and_error,
    pool,
    seed_clusters,
    to_json,
)
from maskdiff.experiments.distillation.studies.rewards import Rewards
from maskdiff.experiments.distillation.studies.training import _fall
from maskdiff.metrics import Estimate
from tests.helpers.distillation import NAN, SMALL, Letters, known, mean, same

FIGURE = st.one_of(st.floats(-100, 100), st.just(NAN))


# ----------------------------------------------------------------------------------------- verdicts


def test_the_rule_divides_all_intervals_into_three() -> None:
    margin, grid = 0.05, [-1.0, -0.05, -1e-9, 0.0, 1e-9, 0.02, 0.05 - 1e-9, 0.05, 0.05 + 1e-9, 1.0]
    seen = set()
    for low, high in itertools.combinations_with_replacement(grid, 2):
        rules = {
            "supported": low > 0 and high >= margin,
            "not supported": high < margin,
            "undecided": low <= 0 and high >= margin,
        }
        assert sum(rules.values()) == 1
        estimate = Estimate((low + high) / 2, low, high, 9)
        verdict = verdict_of(estimate, margin)
        assert rules[verdict]
        seen.add(verdict)
        unseen = verdict_of(estimate, margin, measurable=False)  # too few data exclude nothing
        assert unseen == ("undecided" if verdict == "not supported" else verdict)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.01, 0.05, "supported"),  # it reaches the margin
        (0.01, 0.0499, "not supported"),  # above 0, and too small to matter
        (0.0, 0.2, "undecided"),  # 0 itself is not above 0
        (-0.2, 0.05, "undecided"),
        (-0.2, 0.0499, "not supported"),
        (-0.3, -0.1, "not supported"),
        (-math.inf, math.inf, "undecided"),
        (-math.inf, 0.01, "undecided"),
        (0.01, math.inf, "undecided"),
        (NAN, NAN, "undecided"),
    ],
)
def test_verdicts_at_the_borders(low: float, high: float, verdict: str) -> None:
    assert verdict_of(Estimate(0.0, low, high, 5), 0.05) == verdict
    assert verdict_of(Estimate(0.0, low, high, 5), 0.05, False) != "not supported"


def test_claims_without_an_estimate_are_undecided() -> None:
    rng = np.random.default_rng(0)
    none = decide(Hypothesis("n", "t", np.full(9, NAN), 0.05), rng, 100)
    assert (none.verdict, none.estimate.count, none.estimate.low) == ("undecided", 0, -math.inf)
    assert math.isnan(none.estimate.value)
    two = decide(Hypothesis("n", "t", np.array([1.0, NAN, 1.0]), 0.05), rng, 100)
    assert (two.verdict, two.estimate.value, two.estimate.count, two.estimate.high) == (
        "undecided",
        1.0,
        2,
        math.inf,
    )
    one_seed = decide(Hypothesis("n", "t", np.ones(9), 0.05, np.zeros(9, dtype=np.int64)), rng, 100)
    assert (one_seed.verdict, one_seed.estimate.low) == ("undecided", -math.inf)
    three = decide(Hypothesis("n", "t", np.ones(3), 0.05, control=True), rng, 100)
    assert (three.verdict, three.hypothesis.control, three.estimate) == (
        "supported",
        True,
        Estimate(1.0, 1.0, 1.0, 3),
    )
    zeros = [
        decide(Hypothesis("n", "t", np.zeros(9), 0.05, measurable=seen), rng, 100)
        for seen in (True, False)
    ]
    assert [(found.verdict, found.hypothesis.measurable) for found in zeros] == [
        ("not supported", True),
        ("undecided", False),
    ]


@pytest.mark.slow
def test_the_bootstrap_is_that_of_the_definition() -> None:
    """Against 4,000 resamples drawn unit by unit, stretched for few units: both ends within a tenth
    of the interval."""
    rng = np.random.default_rng(0)
    clusters = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4])
    values = rng.normal(size=12) + clusters
    values[4] = NAN
    groups = [
        [v for v, c in zip(values, clusters, strict=True) if c == g and not math.isnan(v)]
        for g in range(5)
    ]
    for given_clusters in (None, clusters):
        means = []
        for _ in range(4000):
            if given_clusters is None:
                drawn = list(rng.choice(known(values), 11))
            else:
                drawn = [
                    v for g in rng.integers(0, 5, 5) for v in rng.choice(groups[g], len(groups[g]))
                ]
            means.append(np.mean(drawn))
        units, quantile = (
            (11, 2.228) if given_clusters is None else (5, 2.776)
        )  # from the table of Student's distribution
        stretch = quantile / 1.960 * math.sqrt(units / (units - 1))
        low, high = mean(values) + stretch * (np.percentile(means, (2.5, 97.5)) - mean(values))
        estimate = bootstrap(values, rng, 4000, given_clusters)
        assert estimate.value == pytest.approx(mean(values))
        assert estimate.count == 11
        assert estimate.low == pytest.approx(low, abs=0.1 * (high - low))
        assert estimate.high == pytest.approx(high, abs=0.1 * (high - low))


def test_the_quantile_of_student_is_that_of_the_table() -> None:
    table = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042, 1000: 1.962}
    for freedom, quantile in table.items():
        assert student_quantile(freedom) == pytest.approx(
            quantile, rel=0.035 if freedom == 2 else 0.01
        )


@pytest.mark.slow
@pytest.mark.parametrize("units", [3, 5, 10])
def test_intervals_of_few_units_keep_their_coverage(units: int) -> None:
    """400 normal samples each; an interval that covers 95% is below 0.92 in under one of 100 runs.
    A plain bootstrap is."""
    rng = np.random.default_rng(units)
    covered = plain = 0
    for _ in range(400):
        values = rng.normal(size=units)
        estimate = bootstrap(values, rng, 400)
        covered += estimate.low <= 0 <= estimate.high
        low, high = np.percentile(rng.choice(values, (100, units)).mean(1), (2.5, 97.5))
        plain += low <= 0 <= high
    assert covered / 400 >= 0.92
    assert plain / 400 < 0.92


def coverage(
    draw: Callable[[], NDArray[np.float64]], clusters: NDArray[np.int64] | None, seed: int
) -> float:
    """Share of 300 simulated data sets of mean 0 whose interval holds 0."""
    rng = np.random.default_rng(seed)
    held = [bootstrap(draw(), rng, 200, clusters) for _ in range(300)]
    return float(np.mean([estimate.low <= 0 <= estimate.high for estimate in held]))


TOLERANCE = 3 * math.sqrt(0.93 * 0.07 / 300)  # of a coverage of 0.93 in 300 simulations: 0.044


@pytest.mark.slow
def test_intervals_of_independent_problems_cover() -> None:
    rng = np.random.default_rng(0)
    assert coverage(lambda: rng.normal(size=100), None, 1) >= 0.93 - TOLERANCE
    assert (
        coverage(
            lambda: np.where(rng.random(100) < 0.1, NAN, rng.exponential(size=100) - 1), None, 2
        )
        >= 0.93 - TOLERANCE
    )


@pytest.mark.slow
@pytest.mark.parametrize("seeds, problems, spread", [(20, 5, 1.0), (10, 10, 0.3)])
def test_intervals_of_problems_that_seeds_tie_together_cover(
    seeds: int, problems: int, spread: float
) -> None:
    """The two-stage bootstrap; the negative control takes problems for independent and covers
    clearly less."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(seeds), problems)

    def draw() -> NDArray[np.float64]:
        return np.repeat(spread * rng.normal(size=seeds), problems) + rng.normal(
            size=seeds * problems
        )

    tied, ignored = coverage(draw, clusters, 1), coverage(draw, None, 1)
    assert tied >= 0.93 - TOLERANCE
    assert ignored <= 0.9
    assert tied - ignored > 0.05


# ---------------------------------------------------------------------------- plain values and sums


@given(st.lists(st.lists(FIGURE, min_size=3, max_size=3), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_measurements_survive_json(values: list[list[float]]) -> None:
    given_values = np.array(values)
    text = json.dumps(to_json(given_values), allow_nan=False)
    found = from_json(json.loads(text))
    np.testing.assert_allclose(found, given_values, rtol=5e-9, atol=0)  # equal_nan is the default
    assert to_json(found) == to_json(given_values)  # once rounded, for good
    assert found.dtype == np.float64
    assert to_json(from_json(NAN)) is None


def test_parts_are_joined_in_order() -> None:
    parts = [
        {"problems": 2, "a": {"b": [[1.0, None], [3.0, 4.0]]}},
        {"problems": 1, "a": {"b": [[5.0, 6.0]]}},
    ]
    same(pool(parts, "a", "b"), [[1.0, NAN], [3.0, 4.0], [5.0, 6.0]])
    assert seed_clusters(parts).tolist() == [0, 0, 1]


@pytest.mark.slow
@given(st.lists(st.lists(FIGURE, min_size=10, max_size=10), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_means_and_their_errors_by_brute_force(curves: list[list[float]]) -> None:
    means, errors = mean_and_error(np.array(curves))
    for d, column in enumerate(zip(*curves, strict=True)):
        values = known(column)
        same(means[d], mean(column))
        same(errors[d], np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0)
    series = decile_series("panel", "label", np.array(curves))
    same(series.values, means)
    same(series.at, [0.05 + 0.1 * d for d in range(10)])


@pytest.mark.slow
@given(st.lists(st.lists(FIGURE, min_size=3, max_size=3), min_size=2, max_size=7))
@settings(max_examples=100, deadline=None)
def test_falls_are_those_of_straight_lines(rows: list[list[float]]) -> None:
    values = np.array(rows)  # (steps + 1, 3)
    for d, found in enumerate(_fall(values)):
        steps = np.flatnonzero(np.isfinite(values[:, d]))
        if len(steps) < 2:
            assert math.isnan(found)
        else:
            slope = np.polyfit(steps, values[steps, d], 1)[0]
            assert found == pytest.approx(-slope * (len(rows) - 1), abs=1e-6)


# --------------------------------------------------------------------------- regression to the mean


@pytest.mark.slow
def test_a_null_teacher_gains_no_more_than_redrawing() -> None:
    """A teacher who draws as the student does, and knows nothing: failed answers get better, and
    not beyond another try."""
    config = replace(SMALL, problems=40, rollouts=8, resamples=500)
    experiment = Rewards()
    parts = [
        json.loads(
            json.dumps(
                experiment.measure(
                    Rollouts(PlantedPolicy(7), Letters(), config, seed), lambda _: None
                )
            )
        )
        for seed in range(3)
    ]
    rng = np.random.default_rng(0)

    def gain(way: str, over: str, which: str) -> Estimate:
        return bootstrap(pool(parts, which, way) - pool(parts, which, over), rng, 500)

    for way in (
        "regenerated",
        "resampled",
        "shown",
    ):  # the raw gain on failed answers, and the loss on right ones
        assert gain(way, "sampled", "failed").low > 0.05
        assert gain(way, "sampled", "right").high < -0.05
    claims = {
        claim.name: decide(claim, rng, 500)
        for claim in experiment.conclude(parts, config, rng).hypotheses
    }
    for name in (
        "of failed answers: regenerated - resampled",
        "regenerated - sampled",
        "regenerated - shown",
    ):
        estimate = claims[name].estimate
        assert abs(estimate.value) < 0.02
        assert estimate.low < 0.005
        assert estimate.high > -0.005
        assert claims[name].verdict == "not supported"
