"""The language `arithmetic-steps`: a problem and its evaluation, one reduction a step, such as `(+ 3 (* 2 4))>(+ 3 8)>11`.

For: `ArithmeticSteps`, a `Language` that is also `HasValue` and `Stepwise`. Not for: solving by a model (`maskdiff.stepwise`).
Easy to get wrong: any right reduction is a right step, while the generator always writes the one that comes first in reading
order; so a string may hold and yet be none that `sample` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, DataError, ParseError, quote
from maskdiff.languages.arithmetic_steps.expressions import (
    OPERATORS,
    depth,
    derivation,
    is_expression,
    is_number,
    reduced,
    reductions,
)
from maskdiff.languages.arithmetic_steps.generator import draw_problems, problem_to_copy
from maskdiff.languages.text import LanguageSpec, TextLanguage
from maskdiff.languages.vocabulary import DIGITS

SEPARATOR = ">"
MIN_SYMBOLS = len("(+ 0 0)>0")
SHORTEST = 16  # tokens: what next to no derivation fits in is no language to learn from


class ArithmeticSteps(TextLanguage):
    """Implements `Language`, `HasValue` and `Stepwise`. Raises ConfigError for options that it cannot obey."""

    separator = SEPARATOR

    def __init__(self, config: LanguageConfig, lengths: Sequence[int] | None = None) -> None:
        check_operations(config, "arithmetic-steps", SHORTEST)
        spec = LanguageSpec(
            symbols=DIGITS + "()+-* " + SEPARATOR,
            draw=self._draw,
            grammar=lark_grammar(config.operators),
            valid=self._well_formed,
            validity="its own parser",
        )
        super().__init__("arithmetic-steps", config, spec, lengths)
        self.min_symbols = MIN_SYMBOLS

    def _draw(self, n: int, rng: np.random.Generator) -> list[str]:
        return [
            SEPARATOR.join(steps)
            for steps in draw_problems(n, rng, self.config, lambda steps: True)
        ]

    def _well_formed(self, text: str) -> bool:
        *expressions, answer = text.split(SEPARATOR)
        ended = is_number(answer) and is_expression(answer, self.config.operators)
        return len(expressions) > 0 and ended and all(map(self._is_operation, expressions))

    def _is_operation(self, text: str) -> bool:
        return not is_number(text) and is_expression(text, self.config.operators)

    @cached_property
    def possible(self) -> np.ndarray:
        """(max_symbols + 1,) whether some string, right or wrong, has that many symbols."""
        return np.arange(self.max_symbols + 1) >= MIN_SYMBOLS

    # -------------------------------------------------------------------------------------------------------------- truth

    def holds(self, text: str) -> bool:
        """Whether `text` parses and every step of it is right."""
        return self.parses(text) and self.first_wrong(text) is None

    def forced_ending(self, prefix: str) -> str | None:
        """The one continuation that makes a string beginning with `prefix` hold.

        None where there is none, where several steps may come next, and before the first separator.
        """
        *done, begun = prefix.split(SEPARATOR)
        if (
            not done
            or not all(map(self._is_operation, done))
            or self.first_wrong(SEPARATOR.join((*done, ""))) is not None
        ):
            return None
        rest: list[str] = []
        options = {step for step in reductions(done[-1]) if step.startswith(begun)}
        while len(options) == 1:
            rest.append(options.pop())
            if is_number(rest[-1]):
                return SEPARATOR.join(rest)[len(begun) :]
            options = set(reductions(rest[-1]))
        return None

    # -------------------------------------------------------------------------------------------------------------- steps

    def problem(self, text: str) -> str:
        """`text` without white space around it, if it is a problem; raises ParseError otherwise."""
        problem = text.strip()
        try:
            self.vocabulary.encode(problem)
        except ParseError as error:
            raise ParseError(
                f"{quote(text)} is no problem of {self.name}: {error}", error.position, text
            ) from None
        if not self._is_operation(problem):
            raise ParseError(
                f"{quote(text)} is no problem of {self.name}: write it like (+ 3 (* 2 4))", 0, text
            )
        return problem

    def prompt(self, problem: str) -> str:
        """What is given to a model: the problem and the separator that its first step follows."""
        return problem + SEPARATOR

    def solution(self, problem: str) -> list[str]:
        """All steps after `problem` as the generator writes them, the answer last."""
        return derivation(problem)[1:]

    def is_final(self, step: str) -> bool:
        """Whether nothing is left to do after `step`."""
        return is_number(step)

    def right_step(self, before: str, step: str) -> bool:
        """Whether `step` is the expression `before` with one operation on two numbers replaced by its value."""
        return step in reductions(before)

    def first_wrong(self, text: str) -> int | None:
        """The number of the first wrong step (from 1) of a finished or unfinished derivation; None where none is wrong.

        What stands after the last separator counts as a step only if it is a number, that is, final: anything else may go on.
        """
        *done, last = text.split(SEPARATOR)
        steps = [*done, last] if is_number(last) and done else done
        for i in range(1, len(steps)):
            if not self.right_step(steps[i - 1], steps[i]):
                return i
        return None

    def answer(self, problem: str) -> str:
        """The number that `problem` comes to."""
        return derivation(problem)[-1]

    def depth(self, problem: str) -> int:
        """The most brackets around a number of `problem`."""
        return depth(problem)

    def problems(self, count: int, rng: np.random.Generator, deeper: int = 0) -> list[str]:
        """`count` problems as `sample` draws them; with `deeper`, of exactly so many levels more than any of those.

        Raises DataError where next to none of them fits.
        """
        if not deeper:
            return [
                steps[0] for steps in draw_problems(count, rng, self.config, lambda steps: True)
            ]
        level = self.config.max_depth + deeper
        least = 3 * level**2 + 5 * level + 1  # symbols of (+ (+ 0 0) 0)>(+ 0 0)>0 and the like
        if least > self.max_symbols:
            raise DataError(
                f"a problem of depth {level} has at least {least} symbols with its steps, and max_len {self.config.max_len} "
                f"leaves room for {self.max_symbols}: raise max_len, or ask for less depth"
            )
        found = draw_problems(
            count, rng, self.config, lambda steps: depth(steps[0]) == level, (level, level)
        )
        return [steps[0] for steps in found]

    def next_step(self, before: str) -> str | None:
        """The step that the generator writes after `before`; None where nothing is left to do."""
        return reduced(before)

    def nonce(self, rng: np.random.Generator) -> tuple[str, str, int]:
        """A problem, its first step, which copies a random number, and how many symbols of the step are to be given.

        The next symbol tells whether somebody continued: of `(+ 739 (+ 4 5))` the step is `(+ 739 9)`, and behind `(+ 7` only
        `3` goes on with it.
        """
        problem = problem_to_copy(rng, self.config)
        step = derivation(problem)[1]
        return problem, step, step.index(" ") + 2


def lark_grammar(operators: str) -> str:
    """The grammar of derivations, right or wrong, in Lark's EBNF."""
    sign = '"-"? ' if "-" in operators else ""
    either = " | ".join(f'"{symbol}"' for symbol in operators)
    return "\n".join(
        (
            f'start: operation "{SEPARATOR}" rest',
            "rest: start | value",
            'operation: "(" OPERATOR " " expr " " expr ")"',
            "expr: value | operation",
            f'value: "0" | {sign}NATURAL',
            "NATURAL: /[1-9][0-9]*/",
            f"OPERATOR: {either}",
            "",
        )
    )


def check_operations(config: LanguageConfig, name: str, shortest: int) -> None:
    """Raises ConfigError for options that no language `name` of problems like these can obey; `shortest`: least `max_len`."""
    if config.notation != "prefix" or config.separator:
        raise ConfigError(
            f"{name} is written in prefix notation with spaces: leave notation and separator alone"
        )
    known = set(config.operators) & set(OPERATORS)
    if not config.operators or len(known) != len(config.operators):
        raise ConfigError(
            f"operators {quote(config.operators)} are not allowed; give one or more of + - *, each at most once"
        )
    for low, high in (("min_int", "max_int"), ("min_depth", "max_depth")):
        if getattr(config, low) > getattr(config, high):
            raise ConfigError(
                f"{low} {getattr(config, low)} is above {high} {getattr(config, high)}"
            )
    if config.max_int > config.max_value:
        raise ConfigError(
            f"max_int {config.max_int} is above max_value {config.max_value}, which bounds operands, too"
        )
    if config.max_depth < 1:
        raise ConfigError("max_depth is 0: a problem has at least one operation")
    if config.max_len < shortest:
        raise ConfigError(f"max_len is {config.max_len}; {name} needs {shortest} or more")
