"""The language `arithmetic-steps`: a problem and the steps of its evaluation.

Any reduction is a right step. The generator writes the first reduction in reading order, so a
string may hold and yet never be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import DataError, ParseError, quote
from maskdiff.languages.arithmetic_steps.expressions import (
    SYMBOLS,
    bracket_depth,
    check_options,
    derivation,
    expression_rules,
    is_expression,
    is_integer,
    is_operation,
    reduced,
    reductions,
)
from maskdiff.languages.arithmetic_steps.generator import draw_problems, problem_to_copy
from maskdiff.languages.text import LanguageSpec, TextLanguage

SEPARATOR = ">"
SHORTEST = 16  # tokens; almost no derivation fits into less


class ArithmeticSteps(TextLanguage):
    """Implements `Language`, `HasValue` and `Stepwise`.

    Raises:
        ConfigError: An option is impossible.
    """

    separator = SEPARATOR

    def __init__(self, config: LanguageConfig, lengths: Sequence[int] | None = None) -> None:
        check_options(config, "arithmetic-steps", SHORTEST)
        spec = LanguageSpec(
            symbols=SYMBOLS + SEPARATOR,
            draw=self._draw,
            grammar=derivation_grammar(config.operators),
            valid=self._well_formed,
            validity="its own parser",
        )
        super().__init__("arithmetic-steps", config, spec, lengths)
        self.min_symbols = len("(+ 0 0)>0")

    def _draw(self, n: int, rng: np.random.Generator) -> list[str]:
        return [SEPARATOR.join(steps) for steps in draw_problems(n, rng, self.config)]

    def _well_formed(self, text: str) -> bool:
        *expressions, answer = text.split(SEPARATOR)
        ended = is_integer(answer) and is_expression(answer, self.config.operators)
        return len(expressions) > 0 and ended and all(map(self._is_operation, expressions))

    def _is_operation(self, text: str) -> bool:
        return is_operation(text, self.config.operators)

    def holds(self, text: str) -> bool:
        """Return whether `text` parses and all its steps are right."""
        return self.parses(text) and self.first_wrong(text) is None

    def forced_ending(self, prefix: str) -> str | None:
        """See `HasValue`; None also before the first separator."""
        *done, begun = prefix.split(SEPARATOR)
        if not done or not all(map(self._is_operation, done)):
            return None
        if self.first_wrong(SEPARATOR.join((*done, ""))) is not None:
            return None
        rest: list[str] = []
        options = {step for step in reductions(done[-1]) if step.startswith(begun)}
        while len(options) == 1:
            rest.append(options.pop())
            if is_integer(rest[-1]):
                return SEPARATOR.join(rest)[len(begun) :]
            options = set(reductions(rest[-1]))
        return None

    # Steps

    def problem(self, text: str) -> str:
        """See `Stepwise`."""
        problem = text.strip()
        fault = f"{quote(text)} is no problem of {self.name}"
        try:
            self.vocabulary.encode(problem)
        except ParseError as error:
            raise ParseError(f"{fault}: {error}", error.position, text) from None
        if not self._is_operation(problem):
            raise ParseError(f"{fault}: write it like (+ 3 (* 2 4))", 0, text)
        return problem

    def prompt(self, problem: str) -> str:
        """See `Stepwise`."""
        return problem + SEPARATOR

    def solution(self, problem: str) -> list[str]:
        """See `Stepwise`."""
        return derivation(problem)[1:]

    def next_step(self, before: str) -> str | None:
        """See `Stepwise`."""
        return reduced(before)

    def answer(self, problem: str) -> str:
        """Return the value of `problem`."""
        return derivation(problem)[-1]

    def is_final(self, step: str) -> bool:
        """See `Stepwise`."""
        return is_integer(step)

    def right_step(self, before: str, step: str) -> bool:
        """Return whether `step` is a reduction of `before`."""
        return step in reductions(before)

    def first_wrong(self, text: str) -> int | None:
        """See `Stepwise`."""
        *done, last = text.split(SEPARATOR)
        steps = [*done, last] if is_integer(last) and done else done
        for i in range(1, len(steps)):
            if not self.right_step(steps[i - 1], steps[i]):
                return i
        return None

    def depth(self, problem: str) -> int:
        """Return the largest number of brackets around an integer of `problem`."""
        return bracket_depth(problem)

    def problems(self, count: int, rng: np.random.Generator, deeper: int = 0) -> list[str]:
        """See `Stepwise`."""
        if not deeper:
            return [steps[0] for steps in draw_problems(count, rng, self.config)]
        level = self.config.max_depth + deeper
        least = 3 * level**2 + 5 * level + 1  # symbols of (+ (+ 0 0) 0)>(+ 0 0)>0 and the like
        if least > self.max_symbols:
            raise DataError(
                f"a problem of depth {level} has at least {least} symbols with its steps, and "
                f"max_len {self.config.max_len} leaves room for {self.max_symbols}: "
                "raise max_len, or ask for less depth"
            )

        def fits(steps: list[str]) -> bool:
            return bracket_depth(steps[0]) == level

        return [steps[0] for steps in draw_problems(count, rng, self.config, fits, (level, level))]

    def nonce(self, rng: np.random.Generator) -> tuple[str, str, int]:
        """See `Stepwise`; the step of `(+ 739 (+ 4 5))` is `(+ 739 9)`, given `(+ 7`."""
        problem = problem_to_copy(rng, self.config)
        step = derivation(problem)[1]
        return problem, step, step.index(" ") + 2


def derivation_grammar(operators: str) -> str:
    """Return the grammar of derivations, right or wrong, in Lark's EBNF."""
    return f"""start: operation "{SEPARATOR}" rest
rest: start | value
{expression_rules(operators)}"""
