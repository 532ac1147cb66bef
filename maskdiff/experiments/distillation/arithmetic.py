"""Arithmetic problems that are answered step by step, as an environment.

For: `ArithmeticSteps`. Not for: what is a step (`maskdiff.languages.arithmetic_corrections`). Easy to get wrong: half of the
reward is for the way and half for the result, which is checked against the problem's own value and against nothing that an
answer says.
"""

from __future__ import annotations

import numpy as np

from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.experiments.distillation.environment import Outcome, Problem
from maskdiff.languages import ArithmeticCorrections
from maskdiff.languages.arithmetic_corrections import FEEDBACK, feedback_text, judge, symbol_labels

TRIES = 50  # draws a problem before too few of them differ


class ArithmeticSteps:
    """Implements `Environment` and `Locating` over the problems of a language's test split.

    mode: what feedback says. `scalar`: tenths of right steps. `first_wrong_step`: its number, and the step. `leak`:
    the value of the problem, which is what was asked for: an upper bound, and `reveals` says so. Raises ConfigError for another
    mode.
    """

    name = "arithmetic"

    def __init__(self, language: ArithmeticCorrections, mode: str = "first_wrong_step") -> None:
        if mode not in FEEDBACK:
            raise ConfigError(f"feedback is {quote(mode)}; it must be one of {', '.join(FEEDBACK)}")
        self.language, self.mode, self.reveals = language, mode, mode == "leak"

    def problems(self, count: int, seed: int) -> list[Problem]:
        """See `Environment`: problems with which no training string begins."""
        rng, found = np.random.default_rng((0xD157, seed)), dict[str, None]()
        for _ in range(TRIES):
            found.update(dict.fromkeys(self.language.problems(count, rng)))
            if len(found) >= count:
                return [Problem(text, text) for text in list(found)[:count]]
        raise DataError(
            f"{self.language.name} has only {len(found)} different problems of {count}: ask for fewer"
        )

    def attempt(self, problem: Problem, answer: str) -> Outcome:
        """See `Environment`: the mean of the share of right steps and of whether the last one is the problem's value."""
        marks = judge(problem.text, answer)
        return Outcome(
            (marks.share + marks.final) / 2, feedback_text(problem.text, answer, self.mode)
        )

    def located(self, problem: Problem, answer: str) -> list[bool | None]:
        """See `Locating`."""
        return symbol_labels(problem.text, answer)
