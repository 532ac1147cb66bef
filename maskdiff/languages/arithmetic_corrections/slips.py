"""Answers with mistakes: steps that go wrong as small models get them wrong, and steps that are taken back.

For: `write_answer`, `taken_back`. Not for: judging answers (`answers.py`). Easy to get wrong: a slip must not happen to be
right, as another order of reductions would be; one that is, or that leaves the bounds, is drawn again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from maskdiff.languages.arithmetic.grammar import apply
from maskdiff.languages.arithmetic_corrections.answers import BACKTRACK, STEP, judge, kept_steps
from maskdiff.languages.arithmetic_steps.expressions import (
    NUMBER,
    REDEX,
    derivation,
    is_number,
    reduced,
    reductions,
    value,
)

NEAR = (-10, -2, -1, 1, 2, 10)
TRIES = 20
_ANY_NUMBER = re.compile(rf"(?<![^( ]){NUMBER}(?=[ )]|$)")


@dataclass(frozen=True)
class Bounds:
    """What the numbers of a language are: of at most so large an absolute value, negative only if `-` is an operator."""

    max_value: int
    operators: str

    def hold(self, number: int) -> bool:
        """Whether the language has `number`."""
        return abs(number) <= self.max_value and (number >= 0 or "-" in self.operators)


def write_answer(
    problem: str, rng: np.random.Generator, slip: float, back: float, bounds: Bounds
) -> str | None:
    """An answer to `problem` of which each step goes wrong with probability `slip`, and others are taken back with `back`.

    A wrong step stays, and what follows is worked out from it; before a right one a wrong one may stand that is taken back.
    None where a value leaves the bounds on the way.
    """
    said, now = "", problem
    while (right := reduced(now)) is not None:
        chance = rng.random()
        wrong = slipped(now, right, rng, bounds) if chance < slip + back else None
        if wrong is not None and chance >= slip:
            said += wrong + BACKTRACK
        now = wrong if wrong is not None and chance < slip else right
        if not all(bounds.hold(int(number)) for number in _ANY_NUMBER.findall(now)):
            return None
        said += now + STEP
    return said[: -len(STEP)]


def slipped(before: str, right: str, rng: np.random.Generator, bounds: Bounds) -> str | None:
    """A wrong step after `before`, whose first right one is `right`; None where none was found."""
    redex = REDEX.search(before)
    assert redex is not None
    for _ in range(TRIES):
        kind = rng.random()
        if kind < 0.85:
            number = _wrong_value(redex, kind, rng, bounds.operators)
            step = f"{before[: redex.start()]}{number}{before[redex.end() :]}"
        else:
            numbers = list(_ANY_NUMBER.finditer(right))  # something is copied wrongly
            place = numbers[rng.integers(len(numbers))]
            number = int(place[0]) + int(rng.choice(NEAR))
            step = f"{right[: place.start()]}{number}{right[place.end() :]}"
        if bounds.hold(number) and step not in reductions(before):
            return step
    return None


def _wrong_value(
    redex: re.Match[str], kind: float, rng: np.random.Generator, operators: str
) -> int:
    """A value near the right one, that of another operator, or the right one with the wrong sign."""
    right = value(redex)
    if kind < 0.5:
        return right + int(rng.choice(NEAR))
    if kind < 0.7:
        others = [operator for operator in operators if operator != redex[1]] or [redex[1]]
        return apply(others[rng.integers(len(others))], int(redex[2]), int(redex[3]))
    return -right


def taken_back(problem: str, attempt: str) -> str | None:
    """The correction that goes along with `attempt` up to its first wrong step and takes it back; None where none is wrong.

    An attempt that went on behind the value is corrected by ending there.
    """
    wrong = judge(problem, attempt).first_wrong
    if wrong is None:
        return None
    steps = kept_steps(attempt)[:wrong]
    before = steps[-2] if len(steps) > 1 else problem
    if is_number(before):
        return STEP.join(steps[:-1])
    return STEP.join(steps) + BACKTRACK + STEP.join(derivation(before)[1:])
