"""Arithmetic problems as an environment of the distillation experiments: held-out problems, rewards
and feedback, judged by trees."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from maskdiff.errors import ConfigError, DataError
from maskdiff.experiments.distillation.arithmetic import ArithmeticEnvironment
from maskdiff.experiments.distillation.environment import Outcome, Problem, evaluate_all
from maskdiff.languages import ArithmeticCorrections, split_of
from maskdiff.languages.arithmetic_corrections import FEEDBACK, feedback_text
from maskdiff.languages.arithmetic_corrections.slips import write_answer
from tests.helpers.distillation_policies import BOUNDS, LANGUAGE
from tests.helpers.step_trees import read, reducts, value_of, write


def solved(problem: str) -> str:
    """A solution that reduces in random order, by trees."""
    tree, steps, dice = read(problem), [], random.Random(problem)
    while options := reducts(tree or 0):
        tree = dice.choice(options)
        steps.append(write(tree))
    return ">".join(steps)


def test_problems_are_held_out_distinct_and_fixed_by_the_seed() -> None:
    language = ArithmeticCorrections(LANGUAGE)
    environment = ArithmeticEnvironment(language)
    first = environment.problems(60, 3)
    assert (
        environment.problems(60, 3)
        == first
        == ArithmeticEnvironment(language, "leak").problems(60, 3)
    )
    assert len({problem.text for problem in first}) == 60
    assert all(
        problem.name == problem.text and split_of(problem.text) == "test" for problem in first
    )
    others = environment.problems(60, 4)
    assert others != first
    assert len({*first} & {*others}) < 30
    assert environment.problems(0, 3) == []


@pytest.mark.slow
def test_problems_enumerate_a_small_language_exactly() -> None:
    """In a language that is small enough to enumerate all problems."""
    small = replace(LANGUAGE, operators="+*", min_int=1, max_int=2, max_depth=2)
    every = {
        f"({a} {left} {right})"
        for a in "+*"
        for left, right in product(
            [f"({op} {x} {y})" for op in "+*" for x in (1, 2) for y in (1, 2)], repeat=2
        )
    }
    held_out = {problem for problem in every if split_of(problem) == "test"}
    assert 2 < len(held_out) < 20
    environment = ArithmeticEnvironment(ArithmeticCorrections(small))
    assert {problem.text for problem in environment.problems(len(held_out), 0)} == held_out
    for count in (len(held_out) + 1, 3 * len(held_out)):
        with pytest.raises(
            DataError, match=rf"only {len(held_out)} different problems of {count}: ask for fewer$"
        ):
            environment.problems(count, 0)


@pytest.mark.parametrize("mode", FEEDBACK)
def test_rewards_are_half_for_the_steps_and_half_for_the_value(mode: str) -> None:
    environment = ArithmeticEnvironment(ArithmeticCorrections(LANGUAGE), mode)
    assert environment.reveals == (mode == "leak")
    for problem in environment.problems(40, 0):
        value, solution = str(value_of(read(problem.text) or 0)), solved(problem.text)
        steps = solution.split(">")
        feedback = {"none": "", "scalar": "~10", "first_wrong_step": "@0", "leak": f"={value}"}[
            mode
        ]
        assert environment.evaluate(problem, solution) == Outcome(1.0, feedback)
        assert environment.evaluate(problem, f"0!{solution}").reward == 1.0
        for garbage in (
            "",
            "!",
            ">",
            ")(" * 50,
            "x",
            problem.text,
            solution + "0",
            "@0",
            "=" + value,
            value + ">x",
        ):
            outcome = environment.evaluate(problem, garbage)
            assert outcome.reward < 0.5, garbage
            assert outcome.feedback == feedback_text(problem.text, garbage, mode)
        for cut in range(len(steps)):  # the share of the steps
            assert environment.evaluate(problem, ">".join(steps[:cut])).reward == pytest.approx(
                cut / len(steps) / 2
            )
        assert environment.evaluate(problem, value).reward == 0.5  # the value alone
        assert environment.evaluate(problem, f"{int(value) + 1}").reward == 0.0


def test_rewards_are_between_0_and_1() -> None:
    rng, environment = (
        np.random.default_rng(0),
        ArithmeticEnvironment(ArithmeticCorrections(LANGUAGE)),
    )
    rewards = set()
    for problem in environment.problems(60, 1):
        attempt = write_answer(problem.text, rng, 0.4, 0.2, BOUNDS)
        if attempt is not None:
            rewards.add(environment.evaluate(problem, attempt).reward)
    assert min(rewards) >= 0
    assert max(rewards) == 1
    assert len(rewards) > 3


def test_an_unknown_feedback_mode_raises_a_one_line_error() -> None:
    with pytest.raises(
        ConfigError,
        match=r"feedback is 'lea'; it must be one of none, scalar, first_wrong_step, leak$",
    ):
        ArithmeticEnvironment(ArithmeticCorrections(LANGUAGE), "lea")


def test_equal_answers_are_evaluated_once() -> None:
    asked: list[tuple[str, str]] = []

    class Counting:
        name, reveals = "counting", False

        def problems(self, count: int, seed: int) -> list[Problem]:
            return [Problem(str(i), "same text") for i in range(count)]

        def evaluate(self, problem: Problem, answer: str) -> Outcome:
            asked.append((problem.name, answer))
            return Outcome(len(asked) / 10, f"{problem.name}:{answer}")

    environment = Counting()
    one, two = environment.problems(2, 0)
    given = [(one, "a"), (two, "a"), (one, "a"), (one, "b"), (two, "a"), (one, "b")]
    outcomes = evaluate_all(
        environment, [problem for problem, _ in given], [answer for _, answer in given]
    )
    assert asked == [("0", "a"), ("1", "a"), ("0", "b")]
    assert [outcome.feedback for outcome in outcomes] == [
        f"{problem.name}:{answer}" for problem, answer in given
    ]
    assert evaluate_all(environment, [], []) == []
    with pytest.raises(ValueError):
        evaluate_all(environment, [one], [])
