"""Answers with mistakes: marks, symbols, feedback and slips, against a judge of trees."""

from __future__ import annotations

import random
import re
from itertools import chain

import numpy as np
import pytest

from maskdiff.config import LanguageConfig
from maskdiff.languages.arithmetic_corrections import (
    FEEDBACK,
    Marks,
    feedback_text,
    judge,
    symbol_labels,
)
from maskdiff.languages.arithmetic_corrections.answers import kept_steps
from maskdiff.languages.arithmetic_corrections.slips import slipped, taken_back, write_answer
from tests.helpers.corrections import (
    LANGUAGE,
    VARIANTS,
    attempts,
    bounds_of,
    feedback_by_hand,
    following,
    judged_by_trees,
    kept_by_hand,
    operations,
    problems,
    step_tree,
    tree_of,
)
from tests.helpers.step_trees import numbers_of, read, reducts, value_of, write


def all_expressions(answer: str) -> bool:
    return all(step_tree(step) is not None for step in kept_by_hand(answer))


# Marks


def test_marks_are_those_of_the_trees() -> None:
    seen = set()
    for problem, answer in attempts(180, 1):
        marks = judge(problem, answer)
        assert marks == judged_by_trees(problem, answer), (problem, answer)
        assert kept_steps(answer) == kept_by_hand(answer)
        assert marks.share == marks.right / max(marks.kept, marks.needed)
        assert 0 <= marks.share <= 1
        assert (marks.first_wrong is None) == (marks.right == marks.kept)
        seen.add(
            (
                all_expressions(answer),
                marks.first_wrong is None,
                marks.final,
                "!" in answer,
                marks.kept < marks.needed,
            )
        )
    assert len(seen) >= 14


@pytest.mark.parametrize("answer", ["5 (+ 1 1)>5 2", ")) (+ 1 1)>)) 2", "1(+ 5 (* 6 8))>1(+ 5 48)"])
def test_answers_that_are_no_expression_have_no_right_step(answer: str) -> None:
    assert (
        judge("(+ 3 (* 2 4))", answer).right == judged_by_trees("(+ 3 (* 2 4))", answer).right == 0
    )


def test_every_order_of_reductions_is_right_and_retracted_steps_do_not_count() -> None:
    dice = random.Random(0)
    for problem in problems(40):
        tree, steps = tree_of(problem), []
        while options := reducts(tree):
            tree = dice.choice(options)
            steps.append(write(tree))
        marks = judge(problem, ">".join(steps))
        assert (marks.share, marks.first_wrong, marks.final) == (1.0, None, True)
        waste = [dice.choice(["0", "(+ 1 1)", ")(", steps[-1]]) for _ in steps]
        assert (
            judge(problem, ">".join(f"{wrong}!{step}" for wrong, step in zip(waste, steps)))
            == marks
        )
        assert judge(problem, "".join(f"{step}!" for step in waste) + ">".join(steps)) == marks
        kept_waste = judge(
            problem, ">".join(f"{wrong}>{step}" for wrong, step in zip(["0"] * len(steps), steps))
        )
        assert (kept_waste.first_wrong, kept_waste.kept) == (
            1,
            2 * len(steps),
        )  # the same steps, not taken back


GARBAGE = [
    *(
        "",
        "!",
        ">",
        "!>",
        "!!",
        ">>>",
        "3!",
        "!(+ 3 9)",
        "((((",
        "))))",
        "(+ 3",
        "(+ 3 8",
        "+ 3 8)",
        ")(",
        " ",
    ),
    *(
        "-",
        "--1",
        "-0",
        "007",
        "(+ 3 8)(+ 3 8)",
        "1(+ 3 8)",
        "@1",
        "=",
        "~3",
        ";|",
        "é",
        "\n",
        "\x00",
        "(+ 3 (* 2 4))",
    ),
    *(
        "9" * 5000,
        "(" * 5000,
        ">" * 3000,
        "!" * 3000,
        "(+ 3 (* 2 4))>" * 5,
        "(+ 1 " * 2000,
        "(* " + "9" * 4000 + " 9)",
    ),
]


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_gets_few_marks(answer: str) -> None:
    problem = "(+ 3 (* 2 4))"
    marks = judge(problem, answer)
    assert (marks.right, marks.share, marks.final) == (0, 0.0, False)
    assert marks.first_wrong == (1 if marks.kept else None)
    for kind in FEEDBACK:
        assert feedback_text(problem, answer, kind) == feedback_by_hand(problem, answer, kind)


@pytest.mark.parametrize("answer", ["!(+ 3 8)>11", "(+ 3 8)>!11", "!!(+ 3 8)>!!11"])
def test_retracting_nothing_is_a_mistake(answer: str) -> None:
    marks = judge("(+ 3 (* 2 4))", answer)
    assert not LANGUAGE.parses(f"(+ 3 (* 2 4))>{answer}")
    assert marks.first_wrong is not None or marks.share < 1


# Symbols


def located_by_hand(problem: str, answer: str) -> list[bool | None]:
    """Labels by their definition, symbol by symbol, with all reducts of trees."""
    labels, before, now, lost = list[bool | None](), problem, "", False
    for symbol in answer:
        options = following(before)
        if symbol in ">!":
            labels.append(
                now != ""
                and ((now in options and "(" in now) if symbol == ">" else now not in options)
            )
            before, now, lost = now if symbol == ">" or not now else before, "", False
            continue
        now += symbol
        possible = any(option[: len(now)] == now for option in options)
        labels.append(None if lost else possible)
        lost = lost or not possible
    return labels


@pytest.mark.slow
def test_symbols_are_right_while_the_step_may_still_become_right() -> None:
    seen, ended = {True: 0, False: 0, None: 0}, 0
    for problem, answer in chain.from_iterable(
        ((one, text), (one, f"{text}>")) for one, text in attempts(120, 6)
    ):
        labels, wrong = symbol_labels(problem, answer), judged_by_trees(problem, answer).first_wrong
        assert labels == located_by_hand(problem, answer), (problem, answer)
        for label in labels:
            seen[label] += 1
        if wrong is None and "!" not in answer:
            behind = [found.end() for found in re.finditer("[0-9](?=>)", answer)]
            assert [place for place, label in enumerate(labels) if not label] == behind
            ended += not all(labels)
        elif wrong is not None and all_expressions(answer):
            assert False in labels
    assert min(seen.values()) > 500
    assert ended > 20


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("(+ 3 8)>11", "++++++++++"),
        ("(+ 3 9)!(+ 3 8)>11", "+++++-.+++++++++++"),
        ("(+ 3 9)>12", "+++++-.-++"),  # goes on from a wrong step, and follows from that
        ("(+ 3 8)!(+ 3 8)>11", "+++++++-++++++++++"),
        ("(+ 3 8)>1>11", "+++++++++--."),
        ("(+ 3 8)>115", "++++++++++-"),
        ("(+ 3 8)>11>", "++++++++++-"),  # no symbol may follow the value
        ("(+ 3 8)>11>11", "++++++++++--."),
        ("(+ 3 8)>12>", "+++++++++--"),
        ("(+ 3 8)>12!11>", "+++++++++-+++-"),
        ("(+ 3", "++++"),
        ("8>", "--"),
        ("!(+ 3 8)>11", "--......-++"),  # nothing is taken back, and nothing is right after it
        ("(+ 3 8)>!11", "++++++++--."),
        ("", ""),
    ],
)
def test_symbols_by_hand(answer: str, labels: str) -> None:
    assert symbol_labels("(+ 3 (* 2 4))", answer) == [
        {"+": True, "-": False, ".": None}[label] for label in labels
    ]


# Feedback


@pytest.mark.parametrize(
    ("answer", "scalar", "first_wrong"),
    [
        ("(+ 3 8)>11", "~10", "@0"),
        ("(+ 3 9)!(+ 3 8)>11", "~10", "@0"),
        ("(+ 3 8)>12!11", "~10", "@0"),
        ("", "~0", "@1"),
        ("(+ 3 8)", "~5", "@2"),
        ("(+ 3 8)>", "~5", "@2"),
        ("(+ 3 8)>12!", "~5", "@2"),
        ("(+ 3 9)", "~0", "@1=(+ 3 9)"),
        ("(+ 3 9)>12", "~5", "@1=(+ 3 9)"),
        ("(+ 3 9)!(+ 3 7)>10", "~5", "@1=(+ 3 7)"),
        ("(+ 3 8)>12", "~5", "@2=12"),
        ("(+ 3 8)>10!12", "~5", "@2=12"),
        ("(+ 3 8)>11>11", "~6", "@3=11"),
        ("11", "~0", "@1=11"),
        (">11", "~0", "@1"),
        ("!(+ 3 8)>11", "~3", "@1"),
        ("(+ 3 8)>!11", "~3", "@2"),
        ("(+ 3 8", "~0", "@1"),
    ],
)
def test_feedback_by_hand(answer: str, scalar: str, first_wrong: str) -> None:
    problem = "(+ 3 (* 2 4))"
    assert [feedback_text(problem, answer, kind) for kind in FEEDBACK] == [
        "",
        scalar,
        first_wrong,
        "=11",
    ]


@pytest.mark.slow
def test_feedback_is_its_definition() -> None:
    kinds = set()
    for problem, answer in attempts(120, 2):
        for kind in FEEDBACK:
            feedback = feedback_text(problem, answer, kind)
            assert feedback == feedback_by_hand(problem, answer, kind), (problem, answer)
            assert LANGUAGE.parses(f"(+ 1 2)|{feedback}>3")
            kinds.add(feedback[:1] + "=" * ("=" in feedback[1:]))
    assert kinds == {"", "~", "@", "@=", "="}
    for needed in range(1, 60):  # tenths are rounded down, and never by a rounding error
        for right in range(needed + 1):
            assert int(10 * Marks(right, needed, 1, None, False).share) == 10 * right // needed


@pytest.mark.slow
def test_only_leak_feedback_contains_the_value() -> None:
    """Problems whose value is no number of steps or tenths: feedback only quotes the attempt."""
    marked = quoted = 0
    for problem, answer in attempts(300, 3):
        value = str(value_of(tree_of(problem)))
        if abs(int(value)) < 20:
            continue
        assert feedback_text(problem, answer, "leak") == f"={value}"
        for kind in ("none", "scalar", "first_wrong_step"):
            feedback = feedback_text(problem, answer, kind)
            assert value not in feedback or value in answer
            number, quotes, step = feedback.partition("=")
            assert not quotes or step in kept_by_hand(answer)
            assert value not in number
            marked, quoted = marked + 1, quoted + bool(quotes)
    assert marked > 500
    assert quoted > 100


# Slips


@pytest.mark.parametrize("config", VARIANTS)
def test_a_slip_is_always_wrong(config: LanguageConfig) -> None:
    rng, bounds = np.random.default_rng(0), bounds_of(config)
    found, missed, kinds = 0, 0, set()
    for problem in problems(60, 0, config):
        tree = tree_of(problem)
        while isinstance(tree, tuple):
            allowed = [write(other) for other in reducts(tree)]
            for _ in range(8):
                step = slipped(write(tree), allowed[0], rng, bounds)
                if step is None:
                    missed += 1
                    continue
                other = read(step, config.operators)
                assert other is not None
                assert step not in allowed
                assert operations(other) == operations(tree) - 1
                wrong = [n for n in numbers_of(other) if abs(n) > config.max_value]
                assert all(n in numbers_of(tree_of(allowed[0])) for n in wrong)
                kinds.add(re.sub("-?[0-9]+", "0", step) == re.sub("-?[0-9]+", "0", allowed[0]))
                found += 1
            tree = tree_of(allowed[0])
    assert found > 1000
    assert missed < found / 100
    assert kinds == {True}  # the operation that comes first is replaced, by whatever number


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS)
def test_attempts_go_wrong_with_their_probability(config: LanguageConfig) -> None:
    rng, bounds = np.random.default_rng(1), bounds_of(config)
    always, never, back = 0, 0, 0
    for problem in problems(150, 1, config):
        solution = write_answer(problem, rng, 0.0, 0.0, bounds)
        assert solution is not None
        assert judged_by_trees(problem, solution) == Marks(
            *[operations(tree_of(problem))] * 3, None, True
        )
        never += 1
        wrong = write_answer(problem, rng, 1.0, 0.0, bounds)
        if wrong is not None:
            assert "!" not in wrong
            marks = judged_by_trees(problem, wrong)
            assert (marks.first_wrong, marks.right, marks.kept) == (1, 0, marks.needed)
            always += 1
        mended = write_answer(problem, rng, 0.0, 1.0, bounds)
        assert mended is not None
        assert kept_by_hand(mended) == kept_by_hand(solution)
        taken = re.findall("([^>!]*)!", mended)
        assert len(taken) >= operations(tree_of(problem)) - 1
        back += len(taken)
    assert always > 75
    assert never == 150
    assert back > 400


@pytest.mark.slow
def test_corrections_end_right() -> None:
    rng, none, some = np.random.default_rng(2), 0, 0
    for problem in problems(300, 2):
        attempt = write_answer(problem, rng, 0.3, 0.2, bounds_of())
        if attempt is None:
            continue
        wrong, kept = judged_by_trees(problem, attempt).first_wrong, kept_by_hand(attempt)
        correction = taken_back(problem, attempt)
        if wrong is None:
            assert correction is None
            none += 1
            continue
        assert correction is not None
        assert correction.startswith(">".join(kept[:wrong]) + "!")
        assert correction.count("!") == 1
        assert kept_by_hand(correction)[: wrong - 1] == kept[: wrong - 1]
        marks = judged_by_trees(problem, correction)
        assert (marks.first_wrong, marks.final, marks.kept) == (None, True, marks.needed)
        assert LANGUAGE.holds(f"{problem}>{correction}")
        some += 1
    assert min(none, some) > 60


def test_a_step_beyond_the_value_is_retracted() -> None:
    assert taken_back("(+ 1 2)", "3>4") == "3"
    assert taken_back("(+ 3 (* 2 4))", "(+ 3 8)>12!11>11>0") == "(+ 3 8)>11"
