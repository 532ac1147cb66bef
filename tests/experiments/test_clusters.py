"""Seeds that share problems: a problem that was drawn twice is not two, whatever the seeds; of
figures and of whole runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.hypotheses import bootstrap
from maskdiff.experiments.distillation.studies import EXPERIMENTS
from maskdiff.experiments.distillation.studies.protocol import problem_clusters
from tests.helpers.distillation import (
    NAN,
    SMALL,
    Letters,
    Located,
    parts_of,
    planted,
    results_of,
    run,
    same,
    setting_of,
)

BY_PROBLEM, BY_SEED = ("rewards", "positions", "tokens"), ("training", "windows")
NAMES = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5, unique=True), max_size=4)


@given(NAMES)
@settings(max_examples=200, deadline=None)
def test_problems_are_numbered_by_their_names(names: list[list[str]]) -> None:
    """Equal numbers are equal names; None where all differ."""
    found = problem_clusters([{"names": each} for each in names])
    every = [name for each in names for name in each]
    if len(set(every)) == len(every):
        assert found is None
        return
    assert found is not None
    assert len(found) == len(every)
    for i, one in enumerate(every):
        for j, other in enumerate(every):
            assert (found[i] == found[j]) == (one == other)
    assert sorted({*found.tolist()}) == list(range(len(set(every))))


@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize("count", [3, 8, 20])
def test_repeated_problems_do_not_narrow_an_interval(count: int, times: int) -> None:
    """With the same value each time, the interval is that of the distinct problems; counted as
    distinct problems, repetitions would narrow it."""
    rng = np.random.default_rng(count)
    values = rng.normal(size=count)
    order = rng.permutation(count * times)
    again, names = np.tile(values, times)[order], np.tile(np.arange(count), times)[order]
    once = bootstrap(values, rng, 4000)
    tied, ignored = bootstrap(again, rng, 4000, names), bootstrap(again, rng, 4000)
    width = once.high - once.low
    assert tied.value == pytest.approx(once.value)
    assert tied.count == ignored.count == count * times
    assert (tied.low, tied.high) == (
        pytest.approx(once.low, abs=width / 15),
        pytest.approx(once.high, abs=width / 15),
    )
    assert ignored.high - ignored.low < 1.1 * width / math.sqrt(times)


def test_few_distinct_problems_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    assert math.isinf(bootstrap(values, rng, 100, np.arange(40) % 2).high)
    assert math.isfinite(bootstrap(values, rng, 100, np.arange(40) % 3).high)
    third = np.where(np.arange(40) % 3 == 2, NAN, values)  # missing values
    assert math.isinf(bootstrap(third, rng, 100, np.arange(40) % 3).high)


# --------------------------------------------------------------------------------------- whole runs


class Shared(Located):
    """The same problems for every seed, by the same names or by names that seeds do not share."""

    def __init__(self, same_names: bool) -> None:
        self.same_names = same_names

    def problems(self, count: int, seed: int) -> list[Problem]:
        return [
            Problem(f"{i}" if self.same_names else f"{seed}-{i}", f"problem {i}")
            for i in range(count)
        ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two seeds that share all problems, and the same answers where names hide it."""
    folders = tuple(tmp_path_factory.mktemp("runs") / name for name in ("shared", "hidden"))
    for folder, same_names in zip(folders, (True, False)):
        setting = setting_of(planted(), replace(SMALL, resamples=500))
        run(folder, setting=setting, environment=Shared(same_names))
    return folders  # type: ignore[return-value]


def named(part: bytes) -> tuple[list[str], dict[str, Any]]:
    """The names of a part, and all else."""
    value = json.loads(part)
    return value.pop("names"), value


@pytest.mark.slow
def test_only_the_names_differ(runs: tuple[Path, Path]) -> None:
    shared, hidden = map(parts_of, runs)
    for name in shared:
        (ours, one), (theirs, other) = named(shared[name]), named(hidden[name])
        assert one == other
        assert ours == ["0", "1", "2"]
        assert theirs == [f"{name[-6]}-{i}" for i in range(3)]


@pytest.mark.slow
def test_two_seeds_that_share_all_problems_are_those_problems(runs: tuple[Path, Path]) -> None:
    """Three problems in place of six: the same means, and wider intervals wherever problems are
    what is resampled."""
    shared, hidden = (results_of(folder)["experiments"] for folder in runs)
    for name in BY_SEED:
        assert shared[name] == hidden[name]
    for name in BY_PROBLEM:
        wider = compared = 0
        for one, other in zip(shared[name]["claims"], hidden[name]["claims"], strict=True):
            a, b = one["estimate"], other["estimate"]
            assert (one["name"], a["value"], a["count"]) == (other["name"], b["value"], b["count"])
            if "area" in one["name"]:  # one value a seed
                assert a == b
            elif b["low"] is not None and a["low"] is not None and b["high"] > b["low"]:
                compared += 1
                wider += a["high"] - a["low"] > b["high"] - b["low"]
        assert compared >= 4
        assert wider >= 0.75 * compared
        tables = (
            [row for table in made[name]["tables"] for row in table["rows"]]
            for made in (shared, hidden)
        )
        widths = [
            [
                cell["high"] - cell["low"]
                for row in rows
                for cell in row
                if isinstance(cell, dict) and cell["low"] is not None
            ]
            for rows in tables
        ]
        assert sum(widths[0]) > 1.2 * sum(widths[1])


@pytest.mark.slow
def test_the_intervals_are_those_of_clusters_of_names(runs: tuple[Path, Path]) -> None:
    rng, config = np.random.default_rng(0), replace(SMALL, resamples=500)
    for name in BY_PROBLEM:
        shared, hidden = (
            [json.loads(parts_of(folder)[f"{name}-{seed}.json"]) for seed in (0, 1)]
            for folder in runs
        )
        tied, free = (
            EXPERIMENTS[name].conclude(parts, config, rng).hypotheses for parts in (shared, hidden)
        )
        for one, other in zip(tied, free, strict=True):
            same(one.values, other.values)
            if "area" in one.name:
                continue
            assert other.clusters is None
            assert one.clusters is not None
            assert one.clusters.tolist() == [0, 1, 2, 0, 1, 2]


def test_two_problems_are_too_few_for_any_number_of_seeds(tmp_path: Path) -> None:
    """Seeds that draw the same two say nothing of others; with names that hide it they would."""
    for same_names in (True, False):
        folder = tmp_path / str(same_names)
        setting = setting_of(planted(), replace(SMALL, problems=2, seeds=3))
        run(folder, ["rewards"], setting=setting, environment=Shared(same_names))
        claims = results_of(folder)["experiments"]["rewards"]["claims"]
        assert all(
            (claim["estimate"]["low"] is None) == same_names
            for claim in claims
            if claim["estimate"]["count"] == 6
        )
        assert sum(claim["estimate"]["count"] == 6 for claim in claims) >= 4
        if same_names:
            assert {claim["verdict"] for claim in claims} == {"undecided"}


def test_seeds_cluster_only_their_shared_problems(tmp_path: Path) -> None:
    class Some(Letters):
        def problems(self, count: int, seed: int) -> list[Problem]:
            return [Problem(f"{seed + i}", f"problem {seed + i}") for i in range(count)]

    run(tmp_path, ["rewards"], environment=Some())
    parts = [json.loads(parts_of(tmp_path)[f"rewards-{seed}.json"]) for seed in (0, 1)]
    assert [part["names"] for part in parts] == [["0", "1", "2"], ["1", "2", "3"]]
    found = problem_clusters(parts)
    assert found is not None
    assert found.tolist() == [0, 1, 2, 1, 2, 3]
