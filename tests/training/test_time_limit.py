"""Runs that are limited by time, and runs that end early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from maskdiff import checkpoint
from maskdiff.config import TrainConfig
from maskdiff.config_io import load_config
from maskdiff.training import time_limit
from maskdiff.training.loop import Trainer
from maskdiff.training.time_limit import TimeLimit, spread_evaluations
from tests.helpers.training import TINY, assert_same_run, tiny


class FakeClock:
    """A clock that advances by a number of seconds at every reading."""

    def __init__(self, each: float) -> None:
        self.now, self.each = 0.0, each

    def __call__(self) -> float:
        self.now += self.each
        return self.now


@pytest.fixture(autouse=True, scope="module")
def few_measured_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_limit, "SKIPPED", 2)
        patch.setattr(time_limit, "MEASURED", 3)
        yield


def limited(**changes: object):  # type: ignore[no-untyped-def]
    """The options of a tiny run of one minute, without a number of steps."""
    given = {key: value for key, value in TINY.items() if key != "max_iters"}
    return load_config(None, {**given, "minutes": 1.0, "eval_interval": 0, **changes})


def trainer(folder: Path, each: float = 0.5, resume: bool = False, **changes: object) -> Trainer:
    """A trainer with a clock that advances `each` seconds at every reading."""
    made = Trainer(limited(**changes), folder, resume)
    made.time_limit.started, made.time_limit.clock = 0.0, FakeClock(each)
    return made


def stop_at(run: Trainer, step: int) -> None:
    """Make `run` receive a signal in step number `step`."""
    original = run.step

    def stopping(*args: object) -> object:
        if run.progress.step == step:
            run.stop_signal = 15
        return original(*args)  # type: ignore[arg-type]

    run.step = stopping  # type: ignore[method-assign, assignment]


def test_steps_and_validations_fill_the_time() -> None:
    """100 s of 110 are left; a step takes 0.1 s and a validation 1 s."""
    clock = FakeClock(0.0)
    plan = TimeLimit(110 / 60, 0.0, clock)
    for _ in range(time_limit.SKIPPED):
        assert not plan.note_step(5.0)  # start-up is not measured
    for _ in range(time_limit.MEASURED - 1):
        assert not plan.note_step(0.1)
    assert plan.note_step(0.1)
    clock.now = 10.0
    train = TrainConfig(minutes=110 / 60, max_iters=0, eval_interval=0, save_interval=10**9)
    steps, interval = plan.plan(train, 5, (9.0, 9.0, 10.0))
    validations = -(-steps // interval)
    closing = time_limit.CLOSING + time_limit.closing_seconds(110 / 60)
    spent = 10 + (steps - 5) * 0.1 + validations * 1.0 + closing + 1.0
    assert 108 < spent <= 110.2
    assert time_limit.EVALUATIONS[0] <= validations <= time_limit.EVALUATIONS[1]
    fixed = TrainConfig(minutes=110 / 60, max_iters=0, eval_interval=20, save_interval=10**9)
    steps, interval = plan.plan(fixed, 5, (9.0, 9.0, 10.0))
    assert interval == 20
    assert 108 < 10 + (steps - 5) * (0.1 + 1.0 / 20) + closing + 1.0 <= 110
    least = TrainConfig(minutes=110 / 60, max_iters=50, eval_interval=20)
    assert plan.plan(least, 5, (9.0, 9.0, 10.0))[0] == 50


def test_slow_steps_are_measured_in_a_part_of_the_time() -> None:
    clock = FakeClock(0.0)
    plan = TimeLimit(1.0, 0.0, clock)
    clock.now = 20.0
    assert not plan.note_step(9.0)
    assert plan.note_step(9.0)


def test_an_interval_of_0_spreads_the_validations() -> None:
    spread = spread_evaluations(TrainConfig(max_iters=100, eval_interval=0))
    assert spread.eval_interval == 100 // time_limit.EVALUATIONS[1]
    assert spread_evaluations(TrainConfig()) == TrainConfig()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert trainer(folder).run().step > 20
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stop", [8, 20])
def test_a_resumed_run_of_a_time_limit_equals_an_uninterrupted_one(
    tmp_path: Path, whole: Path, stop: int
) -> None:
    """The number of steps is measured once: a slower clock after resumption changes nothing."""
    parts = tmp_path / "parts"
    first = trainer(parts)
    stop_at(first, stop)
    assert first.run().step == stop + 1
    second = trainer(parts, each=5.0, resume=True)
    assert second.config.train.max_iters == first.config.train.max_iters > 0
    second.run()
    assert_same_run(whole, parts)
    steps = checkpoint.load(parts / "last.pt")["training"]["progress"]["step"]
    stored = load_config(parts / "config.yaml").train
    assert (stored.max_iters, stored.minutes) == (steps, 1.0)
    assert checkpoint.read_config(checkpoint.load(parts / "best.pt")).train.minutes == 1.0


@pytest.mark.slow
def test_a_run_that_stops_before_the_measurement_measures_when_it_resumes(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    stop_at(first, 1)
    first.run()
    assert (first.progress.budget, first.config.train.max_iters) == (0.0, 0)
    second = trainer(tmp_path, resume=True)
    progress = second.run()
    assert progress.step == second.config.train.max_iters > 2
    assert progress.budget == 1.0


@pytest.mark.slow
def test_other_minutes_or_steps_continue_a_run(tmp_path: Path) -> None:
    steps = trainer(tmp_path, each=2.0).run().step
    again = trainer(tmp_path, resume=True)
    assert again.finished
    longer = load_config(tmp_path / "config.yaml", {"max_iters": steps + 2})
    assert Trainer(longer, tmp_path, resume=True).run().step == steps + 2
    more = trainer(tmp_path, each=2.0, resume=True, minutes=0.9)
    assert more.run().step > steps + 2


def ending_early(folder: Path, losses: list[float], resume: bool = False) -> Trainer:
    """A run with a validation after every second step, which gives `losses`."""
    made = Trainer(tiny(eval_interval=2, patience=2, max_iters=20), folder, resume)
    assert made.monitor is not None
    original = made.monitor.validate

    def validate(*args: object) -> dict[str, float]:
        metrics = original(*args)  # type: ignore[arg-type]
        return {**metrics, "validation_loss": losses[made.progress.step // 2 - 1]}

    made.monitor.validate = validate  # type: ignore[method-assign, assignment]
    return made


@pytest.mark.slow
def test_a_run_ends_when_the_validation_does_not_improve_and_keeps_the_best(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 2.5, 2.4, 1.0]
    progress = ending_early(tmp_path, losses).run()
    assert (progress.step, progress.best_step, progress.best) == (8, 4, 2.0)
    assert checkpoint.load(tmp_path / "best.pt")["provenance"]["step"] == 4
    assert ending_early(tmp_path, losses, resume=True).run().step == 8  # nothing more to do
    patient = Trainer(tiny(eval_interval=2, patience=0, max_iters=10), tmp_path, resume=True)
    assert patient.run().step == 10


@pytest.mark.parametrize("criterion", ["mixture", "next_token", "elbo"])
def test_the_criterion_is_the_validation_loss(tmp_path: Path, criterion: str) -> None:
    run = Trainer(tiny(max_iters=1, criterion=criterion), tmp_path)
    metrics = run.run().metrics
    share = run.config.train.causal_share
    mean = (1 - share) * metrics["elbo"] + share * metrics["next_token"]
    assert metrics["validation_loss"] == {"mixture": mean, **metrics}[criterion]
