"""What judges an attempt: a reward, and words about it.

For: `Problem`, `Outcome` and the protocol `Environment`. Not for: any environment (`arithmetic.py`, `python_tests.py`), or how
a model is asked (`policy.py`). Easy to get wrong: feedback is text that a teacher is shown, so whatever it holds, the expected
answer above all, is privileged information; an environment that tells the answer says so (`reveals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Problem:
    """Something to be solved. name: tells it from others in reports. text: what a solver is given."""

    name: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """What an environment says of an attempt: reward in [0, 1], and feedback, empty where there is nothing to say."""

    reward: float
    feedback: str


class Environment(Protocol):
    """Problems, and a judge of attempts at them."""

    name: str
    reveals: bool  # whether the feedback holds the expected answer, so that what it teaches is an upper bound

    def problems(self, count: int, seed: int) -> list[Problem]:
        """`count` different problems, the same for the same seed. Raises DataError where there are fewer."""
        ...

    def attempt(self, problem: Problem, answer: str) -> Outcome:
        """AnswerScorer an answer, whatever it is: a bad one has a low reward, and raises nothing."""
        ...


def attempts(
    environment: Environment, problems: Sequence[Problem], answers: Sequence[str]
) -> list[Outcome]:
    """The outcome of every answer, an equal answer to the same problem being judged once."""
    known: dict[tuple[Problem, str], Outcome] = {}
    for problem, answer in zip(problems, answers, strict=True):
        if (problem, answer) not in known:
            known[problem, answer] = environment.attempt(problem, answer)
    return [known[problem, answer] for problem, answer in zip(problems, answers, strict=True)]


__all__ = ["Environment", "Outcome", "Problem", "attempts"]
