"""Answers to arithmetic problems, in which a step may be taken back: `(+ 3 9)!(+ 3 8)>11`, and what may be said of them.

For: `kept_steps`, `next_steps`, `judge`, `symbol_labels`, `feedback_text`. Not for: drawing answers (`slips.py`), or strings
(`language.py`). Easy to get wrong: a step that `!` takes back counts neither as right nor as wrong, and what comes after it
follows the step *before* it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from maskdiff.languages.arithmetic_steps.expressions import (
    derivation,
    is_expression,
    is_number,
    reductions,
)

STEP, BACKTRACK = ">", "!"  # what stands behind a step: the next one, or one in its place
SCALAR, FIRST_WRONG, LEAK = "~", "@", "="  # how each kind of feedback begins
FEEDBACK = ("none", "scalar", "first_wrong_step", "leak")
_PARTS = re.compile(rf"([^{STEP}{BACKTRACK}]*)([{STEP}{BACKTRACK}]|$)")


@dataclass(frozen=True)
class Marks:
    """What an answer is worth.

    right: kept steps that follow from the one before. kept: steps that were not taken back. needed: steps of a solution.
    first_wrong: number of the first wrong kept step, from 1; None where none is. final: whether the last step is the value of
    the problem.
    """

    right: int
    kept: int
    needed: int
    first_wrong: int | None
    final: bool

    @property
    def share(self) -> float:
        """Right steps of those that were written or needed, whichever are more; in [0, 1]."""
        return self.right / max(self.kept, self.needed, 1)


def kept_steps(answer: str) -> list[str]:
    """The steps of `answer` that are not taken back, in order; a mark with no step before it is an empty step, which stays."""
    return [
        step
        for step, mark in _PARTS.findall(answer)
        if (not step and mark) or (step and mark != BACKTRACK)
    ]


def next_steps(before: str) -> list[str]:
    """All right steps after an expression; none after any other text."""
    return list(reductions(before)) if is_expression(before) else []


def judge(problem: str, answer: str) -> Marks:
    """The marks of any text as an answer to `problem`, which must be an expression."""
    steps, solution = kept_steps(answer), derivation(problem)
    before = [problem, *steps]
    right = [step in next_steps(before[i]) for i, step in enumerate(steps)]
    wrong = next((i + 1 for i, good in enumerate(right) if not good), None)
    final = bool(steps) and is_number(steps[-1]) and steps[-1] == solution[-1]
    return Marks(sum(right), len(steps), len(solution) - 1, wrong, final)


def symbol_labels(problem: str, answer: str) -> list[bool | None]:
    """For each symbol of `answer` whether it is right, given what stands before it.

    It is while the step may still become one that follows from the kept step before, right or not; the first symbol that rules
    this out is wrong, and of the rest of that step nothing can be said. A mark is right where it goes on from a right step that
    is no number yet, or takes back a wrong one, and wrong the other way round: a number is the end.
    """
    before, labels = problem, list[bool | None]()
    for step, mark in _PARTS.findall(answer):
        options = next_steps(before)
        good = 0
        while good < len(step) and any(option.startswith(step[: good + 1]) for option in options):
            good += 1
        labels += [True] * good + [False] * (good < len(step)) + [None] * (len(step) - good - 1)
        going = step in options and not is_number(step)
        labels += [bool(step) and (going if mark == STEP else step not in options)] if mark else []
        before = before if step and mark == BACKTRACK else step
    return labels


def feedback_text(problem: str, answer: str, kind: str) -> str:
    """What is said of an answer: nothing, tenths of right steps, its first wrong step, or the value of the problem.

    `kind` is one of FEEDBACK. `first_wrong_step` says the step's number and quotes it (`@2=(+ 3 9)`); `@0` where all is right,
    and the number alone of a step that is missing or no expression. `leak` says what was asked for: it bounds from above what
    feedback can do.
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
