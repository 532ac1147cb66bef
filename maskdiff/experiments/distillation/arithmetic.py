"""The environment of arithmetic problems that are answered step by step."""

from __future__ import annotations

import numpy as np

from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.experiments.distillation.environment import Outcome, Problem
from maskdiff.languages import ArithmeticCorrections
from maskdiff.languages.arithmetic_corrections import FEEDBACK, feedback_text, judge, symbol_labels

TRIES = 50  # draws a problem before too few of them differ


class ArithmeticEnvironment:
    """Implements `Environment` and `LabelsErrors` for the test problems of a language.

    Args:
        language: The language of the problems.
        mode: What feedback says: "none"; "scalar", the share of right steps in tenths;
            "first_wrong_step", its number and text; or "leak", the value of the problem.

    Raises:
        ConfigError: For another mode.
    """

    name = "arithmetic"

    def __init__(self, language: ArithmeticCorrections, mode: str = "first_wrong_step") -> None:
        if mode not in FEEDBACK:
            raise ConfigError(f"feedback is {quote(mode)}; it must be one of {', '.join(FEEDBACK)}")
        self.language, self.mode, self.reveals = language, mode, mode == "leak"

    def problems(self, count: int, seed: int) -> list[Problem]:
        """See `Environment`; no training string begins with one of these problems."""
        rng, found = np.random.default_rng((0xD157, seed)), dict[str, None]()
        for _ in range(TRIES):
            found.update(dict.fromkeys(self.language.problems(count, rng)))
            if len(found) >= count:
                return [Problem(text, text) for text in list(found)[:count]]
        raise DataError(
            f"{self.language.name} has only {len(found)} different problems of {count}: ask for "
            "fewer"
        )

    def evaluate(self, problem: Problem, answer: str) -> Outcome:
        """See `Environment`; half of the reward is for right steps, half for the right value."""
        marks = judge(problem.text, answer)
        return Outcome(
            (marks.share + marks.final) / 2, feedback_text(problem.text, answer, self.mode)
        )

    def label_characters(self, problem: Problem, answer: str) -> list[bool | None]:
        """See `LabelsErrors`."""
        return symbol_labels(problem.text, answer)
