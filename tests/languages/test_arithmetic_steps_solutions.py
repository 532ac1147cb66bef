"""Arithmetic in steps: right steps, forced endings, problems and nonces, against trees."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskdiff.config import LanguageConfig
from maskdiff.errors import ParseError
from maskdiff.languages.arithmetic_steps import ArithmeticSteps
from maskdiff.repair.fill import FillProblem, Guide, search_fillings
from tests.helpers.step_trees import (
    BASE,
    PLAIN,
    SIGNED,
    VARIANTS,
    all_derivations,
    drawn,
    edits,
    numbers_of,
    read,
    reducts,
    value_of,
    well_formed,
    write,
    wrong_step,
)

# Steps


def variations(text: str, rng: random.Random) -> Iterator[str]:
    """Expressions that look like a step after `text`, right and wrong."""
    tree = read(text)
    assert tree is not None
    ones = reducts(tree)
    yield from map(write, ones)  # every order
    yield from (write(two) for one in ones for two in reducts(one))  # two at once
    yield from (text, str(value_of(tree)), "", " ", ")", "0")
    for one in map(write, ones):
        yield from (one + " ", " " + one, one + ">", "0" + one, "-" + one)
        yield from rng.sample(sorted(edits(one, "0123456789-+ ()")), 25)
    for at in (i for i, symbol in enumerate(text) if symbol.isdigit()):
        yield text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


@pytest.mark.parametrize("config", VARIANTS[:4])
def test_a_right_step_is_any_one_reduction_and_nothing_else(config: LanguageConfig) -> None:
    language, rng = ArithmeticSteps(config), random.Random(0)
    right = wrong = 0
    for problem in language.problems(40, np.random.default_rng(2)):
        for before in [problem, *language.solution(problem)[:2]]:
            tree = read(before)
            assert tree is not None
            allowed = set(map(write, reducts(tree)))
            for step in {*variations(before, rng)}:
                assert language.right_step(before, step) == (step in allowed), (before, step)
                right, wrong = right + (step in allowed), wrong + (step not in allowed)
            assert (
                language.is_final(before)
                == isinstance(tree, int)
                == (language.next_step(before) is None)
            )
            assert not allowed or language.next_step(before) == write(reducts(tree)[0])
        assert (
            language.answer(problem)
            == language.solution(problem)[-1]
            == str(value_of(read(problem) or 0))
        )
        assert language.prompt(problem) == problem + ">"
    assert right > 60
    assert wrong > 1000


def test_every_order_of_reductions_holds() -> None:
    several = 0
    for problem in SIGNED.problems(60, np.random.default_rng(3)):
        texts = list(all_derivations(read(problem) or 0))[:40]
        several += len(texts) > 1
        assert ">".join((problem, *SIGNED.solution(problem))) == texts[0]
        for text in texts:
            assert SIGNED.holds(text)
            assert SIGNED.parses(text)
    assert several > 15


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS[:3])
def test_a_mutated_step_is_found_at_its_number(config: LanguageConfig) -> None:
    """The steps after a mutated step follow from it, so it alone is wrong."""
    language, rng = ArithmeticSteps(config), random.Random(1)
    found = set()
    for problem in language.problems(200, np.random.default_rng(4)):
        steps = [problem, *language.solution(problem)]
        i = rng.randrange(1, len(steps))
        step = rng.choice(
            [s for s in edits(steps[i], "0123456789") if read(s, config.operators) is not None]
        )
        mutated = [
            *steps[:i],
            step,
            *(language.solution(step) if not language.is_final(step) else ()),
        ]
        expected = i if step not in map(write, reducts(read(steps[i - 1]) or 0)) else None
        assert wrong_step(mutated) == expected
        text = ">".join(mutated)
        assert language.first_wrong(text) == expected, text
        assert language.holds(text) == (expected is None)
        found.add(expected)
        for cut in range(
            1, len(mutated)
        ):  # unfinished: only the steps before the last separator count
            verdict = language.first_wrong(">".join((*mutated[:cut], "")))
            assert verdict == (expected if expected is not None and expected < cut else None)
    assert {1, 2, 3} <= found


@pytest.mark.parametrize("config", VARIANTS[:2])
def test_any_mutated_text_is_judged_as_the_trees_judge_it(config: LanguageConfig) -> None:
    language, rng = ArithmeticSteps(config), random.Random(2)
    verdicts = []
    for full in drawn(language, 60, 3):
        for text in rng.sample(sorted(edits(full, language.spec.symbols)), 30):
            *done, last = text.split(">")
            ended = isinstance(read(last), int)
            assert language.first_wrong(text) == wrong_step(
                [*done, last] if ended and done else done
            ), text
            holds = well_formed(text, config.operators) and wrong_step([*done, last]) is None
            assert language.holds(text) == holds
            verdicts.append(holds)
    assert sum(verdicts) < 100


def test_first_wrong_ignores_an_unfinished_step() -> None:
    problem = "(+ (* 2 4) 12)"
    for text, expected in (
        ("", None), (problem, None), (f"{problem}>", None), (f"{problem}>(+ 9", None),
        (f"{problem}>(+ 9 12)", None),
        (f"{problem}>(+ 9 12)>", 1), (f"{problem}>(+ 8 12)>2", 2), (f"{problem}>(+ 8 12)>20", None),
        (f"{problem}>20", 1),
        (f"{problem}>(+ 8 12)>20>", None), (f"{problem}>(+ 8 12)>20>20", 3),
        (f"{problem}>(+ 8 12)>20>20>", 3),
        (f"{problem}>>", 1),
    ):  # fmt: skip
        assert SIGNED.first_wrong(text) == expected, text


# Forced endings


def test_the_forced_ending_is_the_one_continuation_that_holds() -> None:
    """Against all true strings of the problem, for every prefix of some of them, and wrong ones."""
    rng, mistakes, right = random.Random(3), 0, 0
    for problem in SIGNED.problems(60, np.random.default_rng(6)):
        every = list(all_derivations(read(problem) or 0))
        if len(every) > 200:
            continue
        for text in rng.sample(every, min(2, len(every))):
            for size in range(len(text) + 1):
                prefix = text[:size]
                endings = {other[size:] for other in every if other.startswith(prefix)}
                expected = endings.pop() if len(endings) == 1 and size > len(problem) else None
                assert SIGNED.forced_ending(prefix) == expected, prefix
                mistakes, right = mistakes + (expected is not None), right + (expected is None)
            wrong = text[: size - 1] + ("1" if text[-1] == "0" else "0")
            assert SIGNED.forced_ending(wrong) is None
            assert SIGNED.forced_ending(text + ">") is None
    assert mistakes > 500
    assert right > 500


def test_the_search_finds_fillings_that_reduce_in_another_order() -> None:
    """A forced ending by the generator's order alone would exclude this filling."""
    for first, second in (("?", "2"), ("2", "?"), ("?", "?")):
        template = f"(+ (+ 1 {first}) (+ 3 4))>(+ (+ 1 {second}) 7)>(+ 3 7)>10"
        puzzle = FillProblem(template, SIGNED.vocabulary, SIGNED.holds, SIGNED.forced_ending)
        found = search_fillings(
            puzzle, Guide(torch.zeros(len(template), len(SIGNED.vocabulary))), solutions=2
        )
        assert found.exhausted
        assert found.solutions == (template.replace("?", "2"),)


# Problems


@pytest.mark.parametrize(
    ("language", "text"),
    [
        *(
            (SIGNED, text)
            for text in (
                "",
                " ",
                "5",
                "-5",
                "(+ 1 2",
                "(+ 1 2)>",
                "(+ 1 2)>3",
                "(+ 01 2)",
                "(+ 1  2)",
            )
        ),
        *(
            (SIGNED, text)
            for text in (
                "(/ 1 2)",
                "(+ 1 ?)",
                "(+ 1 2) (+ 1 2)",
                "1(+ 1 2)",
                "(+ 1 2)\x00",
                "(+ 1 é)",
            )
        ),
        *((SIGNED, text) for text in ("(+ 1 2)\n3", "x" * 10_000)),
        *((PLAIN, text) for text in ("(- 3 4)", "(+ -3 4)", "(+ (- 4 3) 1)")),
    ],
)
def test_invalid_problems_raise_a_one_line_error(language: ArithmeticSteps, text: str) -> None:
    with pytest.raises(ParseError, match="is no problem of arithmetic-steps") as caught:
        language.problem(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 420
    assert caught.value.text == text
    assert 0 <= caught.value.position <= len(text)


def test_white_space_around_a_problem_is_removed() -> None:
    assert SIGNED.problem("  (+ 3 (* 2 -4))\n") == "(+ 3 (* 2 -4))"


@pytest.mark.parametrize("operators", ["+*", "+-*", "-", "*", "*-", "-*+"])
@pytest.mark.parametrize("max_value", [10, 30, 112, 999, 9999])
def test_a_nonce_is_copied_by_its_first_step(operators: str, max_value: int) -> None:
    language = ArithmeticSteps(replace(BASE, operators=operators, max_value=max_value))
    rng, seen = np.random.default_rng(0), set()
    for _ in range(30):
        problem, step, given = language.nonce(rng)
        assert language.problem(problem) == problem
        assert (
            [step]
            == [write(t) for t in reducts(read(problem) or 0)]
            == [language.next_step(problem)]
        )
        operator, number, inner = read(problem) or (0, 0, 0)  # type: ignore[misc]
        digits = str(number)
        assert operator == ("+" if "+" in operators else min(operators, key="-*".index))
        assert len(set(digits)) == len(digits) == (3 if max_value >= 112 else 2)
        assert digits[0] != "0"
        assert isinstance(inner, tuple)
        assert all(1 <= n <= 9 for n in numbers_of(inner))
        assert 0 < value_of(inner) < 10
        assert (step[:given], step[given]) == (f"({operator} {digits[0]}", digits[1])
        assert step[given] not in (step[0], step[given - 1])
        within = abs(value_of(read(problem) or 0)) <= max_value and number <= max_value
        assert within or max_value < 12
        assert problem.startswith(step[: given + len(digits) - 1])
        seen.add(problem)
    assert len(seen) > (20 if max_value > 112 else 0)
    again = language.nonce(np.random.default_rng(7))
    assert again == language.nonce(np.random.default_rng(7))
