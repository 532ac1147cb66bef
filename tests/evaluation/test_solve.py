"""The suite `solve`: its comparisons are paired, its counts are those of the runs, and a closed
turn shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskdiff.checkpoint import load_denoiser
from maskdiff.evaluation import solve as suite
from maskdiff.evaluation.plots import write_plots
from maskdiff.evaluation.report import Report, to_terminal
from maskdiff.evaluation.rows import Plan, Row, Subject
from maskdiff.languages import split_of
from tests.helpers.evaluation import rows_of
from tests.helpers.paths import CHECKPOINTS

PLAN = Plan(num_samples=2, problems=("test",))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(load_denoiser(CHECKPOINTS / "arithmetic-steps.pt", "cpu"))


@pytest.fixture(scope="module")
def rows(subject: Subject) -> list[Row]:
    with pytest.MonkeyPatch.context() as patch:
        settings = [
            suite.StrategySetting("greedy"),
            suite.StrategySetting("every-step", "checker"),
            suite.StrategySetting("adaptive", "checker"),
        ]
        settings.append(suite.StrategySetting("adaptive", "checker", suite.EAGER))
        patch.setattr(suite, "strategy_sweep", lambda: settings)
        patch.setattr(suite, "CLOSER", ("checker",))
        patch.setattr(suite, "CLOSED_STEPS", 6)
        return rows_of(suite.solve_suite, subject, PLAN)


def value(rows: list[Row], sampler: str, metric: str, **settings: object) -> float:
    (found,) = [
        r
        for r in rows
        if (r.sampler, r.metric) == (sampler, metric)
        and all(r.settings.get(k) == v for k, v in settings.items())
    ]
    return found.value


def test_problems_are_held_out_and_deeper_ones_are_deeper(subject: Subject) -> None:
    for split in suite.SPLITS:
        problems = suite.held_out_problems(subject, split, 30, 3)
        assert len(set(problems)) == 30
        assert problems == suite.held_out_problems(subject, split, 30, 3)
        language: Any = subject.language
        depths = [language.depth(problem) for problem in problems]
        if split == "test":
            texts = [">".join([problem, *language.solution(problem)]) for problem in problems]
            assert {split_of(text) for text in texts} == {"test"}
            assert max(depths) <= language.config.max_depth
        else:
            assert set(depths) == {language.config.max_depth + 1}


def test_every_setting_of_the_sweep_has_separate_rows() -> None:
    keys = [setting.key for setting in suite.strategy_sweep()]
    assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_checker_accuracy_bounds_greedy_accuracy_at_a_higher_cost(rows: list[Row]) -> None:
    greedy, bound = value(rows, "greedy", "accuracy"), value(rows, "every-step", "accuracy")
    assert greedy <= bound  # the greedy candidate is among those that the checker sees
    assert value(rows, "every-step", "forward_tokens") > 2 * value(rows, "greedy", "forward_tokens")
    assert value(rows, "every-step", "candidates") == pytest.approx(
        4 * value(rows, "greedy", "candidates"), rel=0.5
    )


@pytest.mark.slow
def test_comparisons_are_differences_of_their_rows(rows: list[Row]) -> None:
    pair = [value(rows, name, "accuracy", scaling=None) for name in ("adaptive", "every-step")]
    gain = value(rows, "adaptive against every-step", "accuracy_gain", scaling=None)
    assert gain == pytest.approx(pair[0] - pair[1])
    tokens = [
        value(rows, name, "forward_tokens", scaling=None) for name in ("adaptive", "every-step")
    ]
    ratio = value(rows, "adaptive against every-step", "forward_tokens_ratio", scaling=None)
    assert ratio == pytest.approx(tokens[0] / tokens[1])


def test_errors_removed_equals_a_hand_computation() -> None:
    base, right = [True, False, False, False], [False, True, True, False]
    made = suite.errors_removed(right, base, np.random.default_rng(0))
    assert made.value == pytest.approx(1 - 2 / 3)
    assert made.low <= made.value <= made.high
    assert suite.errors_removed(base, base, np.random.default_rng(0)).value == 0.0


@pytest.mark.slow
def test_a_closed_turn_shows_in_the_rows_over_http(rows: list[Row]) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("openai")
    assert value(rows, "sample", "restart_rate", server="goes on") == 0.0
    assert value(rows, "sample", "restart_rate", server="closes the turn, unguarded") > 0.9
    loose, tight = (
        value(rows, "sample", "steps", server=f"closes the turn, {how}")
        for how in ("unguarded", "guarded")
    )
    assert tight <= 3 < loose


@pytest.mark.slow
def test_the_report_has_tables_and_a_plot(rows: list[Row], tmp_path: object) -> None:
    report = Report(rows, {"samples": 6})
    text = to_terminal(report)
    for title in ("solve, test problems", "one against another", "over HTTP"):
        assert title in text
    pytest.importorskip("matplotlib")
    assert [path.name for path in write_plots(report, str(tmp_path))] == ["solve_test.png"]
