"""Answers with mistakes: steps that go wrong as those of small models do, and steps taken back."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from maskdiff.languages.arithmetic.grammar import apply_operator
from maskdiff.languages.arithmetic_corrections.answers import BACKTRACK, STEP, judge, kept_steps
from maskdiff.languages.arithmetic_steps.expressions import (
    INTEGER,
    REDEX,
    derivation,
    is_integer,
    reduced,
    reductions,
    value,
)

NEAR = (-10, -2, -1, 1, 2, 10)  # errors of a value
TRIES = 20
_ANY_INTEGER = re.compile(rf"(?<![^( ]){INTEGER}(?=[ )]|$)")


@dataclass(frozen=True)
class Bounds:
    """The integers of a language: bounded, and negative only if `-` is an operator."""

    max_value: int
    operators: str

    def hold(self, number: int) -> bool:
        """Return whether the language has `number`."""
        return abs(number) <= self.max_value and (number >= 0 or "-" in self.operators)


def write_answer(
    problem: str, rng: np.random.Generator, slip: float, back: float, bounds: Bounds
) -> str | None:
    """Return a random answer; None if a value leaves the bounds.

    Args:
        problem: The problem.
        rng: The random number generator.
        slip: The probability that a step is wrong; the answer continues from it.
        back: The probability that a wrong step that is taken back precedes a right step.
        bounds: The integers of the language.
    """
    answer, now = "", problem
    while (right := reduced(now)) is not None:
        chance = rng.random()
        wrong = slipped(now, right, rng, bounds) if chance < slip + back else None
        if wrong is not None and chance >= slip:
            answer += wrong + BACKTRACK
        now = wrong if wrong is not None and chance < slip else right
        if not all(bounds.hold(int(number)) for number in _ANY_INTEGER.findall(now)):
            return None
        answer += now + STEP
    return answer[: -len(STEP)]


def slipped(before: str, right: str, rng: np.random.Generator, bounds: Bounds) -> str | None:
    """Return a random wrong step; None if none is found.

    Args:
        before: The expression before the step.
        right: The first reduction of `before`.
        rng: The random number generator.
        bounds: The integers of the language.
    """
    redex = REDEX.search(before)
    assert redex is not None
    for _ in range(TRIES):
        kind = rng.random()
        if kind < 0.85:
            number = _wrong_value(redex, kind, rng, bounds.operators)
            step = f"{before[: redex.start()]}{number}{before[redex.end() :]}"
        else:  # a number is copied wrongly
            numbers = list(_ANY_INTEGER.finditer(right))
            place = numbers[rng.integers(len(numbers))]
            number = int(place[0]) + int(rng.choice(NEAR))
            step = f"{right[: place.start()]}{number}{right[place.end() :]}"
        if bounds.hold(number) and step not in reductions(before):  # another order may be right
            return step
    return None


def _wrong_value(
    redex: re.Match[str], kind: float, rng: np.random.Generator, operators: str
) -> int:
    """A value near the right one, the value of another operator, or the negated value."""
    right = value(redex)
    if kind < 0.5:
        return right + int(rng.choice(NEAR))
    if kind < 0.7:
        others = [operator for operator in operators if operator != redex[1]] or [redex[1]]
        operator = others[rng.integers(len(others))]
        return apply_operator(operator, int(redex[2]), int(redex[3]))
    return -right


def taken_back(problem: str, attempt: str) -> str | None:
    """Return the correction that takes back the first wrong step of `attempt`; None if none is.

    An attempt that continues behind the value is corrected by its beginning.
    """
    wrong = judge(problem, attempt).first_wrong
    if wrong is None:
        return None
    steps = kept_steps(attempt)[:wrong]
    before = steps[-2] if len(steps) > 1 else problem
    if is_integer(before):
        return STEP.join(steps[:-1])
    return STEP.join(steps) + BACKTRACK + STEP.join(derivation(before)[1:])
