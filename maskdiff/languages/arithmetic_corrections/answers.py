"""Answers to arithmetic problems in which steps may be taken back, `(+ 3 9)!(+ 3 8)>11`.

A step that `!` takes back is neither right nor wrong. The step after it follows the step before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from maskdiff.languages.arithmetic_steps.expressions import (
    derivation,
    is_expression,
    is_integer,
    reductions,
)

STEP, BACKTRACK = ">", "!"  # behind a step: the next step follows, or one that replaces it
SCALAR, FIRST_WRONG, LEAK = "~", "@", "="  # the first symbol of each kind of feedback
FEEDBACK = ("none", "scalar", "first_wrong_step", "leak")
_PARTS = re.compile(rf"([^{STEP}{BACKTRACK}]*)([{STEP}{BACKTRACK}]|$)")


@dataclass(frozen=True)
class Marks:
    """The evaluation of an answer.

    Attributes:
        right: The number of kept steps that follow from the step before.
        kept: The number of steps that were not taken back.
        needed: The number of steps of a solution.
        first_wrong: The number of the first wrong kept step, from 1; None if none is wrong.
        final: Whether the last step is the value of the problem.
    """

    right: int
    kept: int
    needed: int
    first_wrong: int | None
    final: bool

    @property
    def share(self) -> float:
        """The right steps as a share of the kept or needed steps, whichever are more."""
        return self.right / max(self.kept, self.needed, 1)


def kept_steps(answer: str) -> list[str]:
    """Return the steps of `answer` that are not taken back; a mark without a step is a step."""
    return [
        step
        for step, mark in _PARTS.findall(answer)
        if (not step and mark) or (step and mark != BACKTRACK)
    ]


def next_steps(before: str) -> list[str]:
    """Return all right steps after an expression; none after any other text."""
    return list(reductions(before)) if is_expression(before) else []


def judge(problem: str, answer: str) -> Marks:
    """Return the marks of any text as an answer to `problem`, an expression."""
    steps, solution = kept_steps(answer), derivation(problem)
    before = [problem, *steps]
    right = [step in next_steps(before[i]) for i, step in enumerate(steps)]
    wrong = next((i + 1 for i, good in enumerate(right) if not good), None)
    final = bool(steps) and is_integer(steps[-1]) and steps[-1] == solution[-1]
    return Marks(sum(right), len(steps), len(solution) - 1, wrong, final)


def symbol_labels(problem: str, answer: str) -> list[bool | None]:
    """Return whether each symbol of `answer` is right, given the symbols before it.

    A symbol of a step is right while the step may become one that follows from the kept step
    before. The first symbol that excludes this is wrong; the rest of the step is undecided (None).
    `>` is right after a right step that is no integer, `!` after a wrong step.
    """
    before, labels = problem, list[bool | None]()
    for step, mark in _PARTS.findall(answer):
        options = next_steps(before)
        good = 0
        while good < len(step) and any(option.startswith(step[: good + 1]) for option in options):
            good += 1
        labels += [True] * good + [False] * (good < len(step)) + [None] * (len(step) - good - 1)
        if mark:
            may_continue = step in options and not is_integer(step)
            labels.append(bool(step) and (may_continue if mark == STEP else step not in options))
        before = before if step and mark == BACKTRACK else step
    return labels


def feedback_text(problem: str, answer: str, kind: str) -> str:
    """Return the feedback on an answer.

    Args:
        problem: The problem.
        answer: The answer, any text.
        kind: One of `FEEDBACK`: nothing; tenths of right steps; the number of the first wrong step
            with the step (`@2=(+ 3 9)`), `@0` if all is right, and the number alone of a step that
            is missing or no expression; or the value of the problem.
    """
    if kind == "none":
        return ""
    if kind == "leak":
        return LEAK + derivation(problem)[-1]
    marks = judge(problem, answer)
    if kind == "scalar":
        return f"{SCALAR}{int(10 * marks.share)}"
    if marks.first_wrong is not None:
        step = kept_steps(answer)[marks.first_wrong - 1]
        return f"{FIRST_WRONG}{marks.first_wrong}{LEAK + step if is_expression(step) else ''}"
    return f"{FIRST_WRONG}{0 if marks.final else marks.kept + 1}"
