"""The protocol of an environment, which gives problems and evaluates answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Problem:
    """A problem: its name in reports, and the text that a solver reads."""

    name: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """The evaluation of an answer: a reward in [0, 1], and feedback, which may be empty."""

    reward: float
    feedback: str


class Environment(Protocol):
    """Gives problems and evaluates answers to them.

    Attributes:
        name: The environment's name.
        reveals: Whether feedback holds the expected answer. A teacher that reads it has privileged
            information, so that results are an upper bound.
    """

    name: str
    reveals: bool

    def problems(self, count: int, seed: int) -> list[Problem]:
        """Return `count` different problems, a function of the seed.

        Raises DataError where there are fewer.
        """
        ...

    def evaluate(self, problem: Problem, answer: str) -> Outcome:
        """Return the outcome of any answer; a malformed one has a low reward."""
        ...


def evaluate_all(
    environment: Environment, problems: Sequence[Problem], answers: Sequence[str]
) -> list[Outcome]:
    """Return the outcome of every answer; equal answers to a problem are evaluated once."""
    pairs = list(zip(problems, answers, strict=True))
    known = {pair: environment.evaluate(*pair) for pair in dict.fromkeys(pairs)}
    return [known[pair] for pair in pairs]


__all__ = ["Environment", "Outcome", "Problem", "evaluate_all"]
