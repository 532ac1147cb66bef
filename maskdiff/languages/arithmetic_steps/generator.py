"""Draw problems: expressions whose derivations stay within bounds.

The distribution is that of `arithmetic/generator.py`, except that the root is always an operation.
A draw with a value or a derivation beyond the bounds is rejected as a whole, but its depth is kept
for `PATIENCE` draws: otherwise deep problems, which fit less often, would become rare.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import DataError
from maskdiff.languages.arithmetic.grammar import COIN, OPERATORS, apply_operator
from maskdiff.languages.arithmetic_steps.expressions import REDEX, replaced, value
from maskdiff.languages.uniform import uniform_stream

PATIENCE = 200  # draws of one depth before another depth is drawn
TRIES = 20_000  # draws for one problem


def draw_problems(
    count: int,
    rng: np.random.Generator,
    config: LanguageConfig,
    fits: Callable[[list[str]], bool] = lambda steps: True,
    depths: tuple[int, int] | None = None,
) -> list[list[str]]:
    """Return the derivations of random problems. The first ones do not depend on `count`.

    Args:
        count: The number of problems.
        rng: The random number generator. Each decision uses one uniform number, in order.
        config: The configuration of the language.
        fits: Accepts a derivation.
        depths: The smallest and largest depth; by default those of `config`.

    Raises:
        DataError: None of `TRIES` draws fits.
    """
    uniform = uniform_stream(rng, 16 * count)
    low, high = depths or (max(1, config.min_depth), config.max_depth)
    found: list[list[str]] = []
    missed = depth = 0
    while len(found) < count:
        if missed % PATIENCE == 0:
            depth = low + int(uniform() * (high - low + 1))
        problem = _operation(uniform, config, depth)
        steps = bounded_derivation(problem, config.max_value, config.max_len - 2)
        if steps is not None and fits(steps):
            found.append(steps)
            missed = 0
        elif (missed := missed + 1) > TRIES:
            raise DataError(
                f"no problem of depth {low} to {high} in {TRIES} draws fits: "
                "raise max_len or max_value, or lower max_int"
            )
    return found


def bounded_derivation(problem: str, max_value: int, max_symbols: int) -> list[str] | None:
    """Return the derivation of `problem`; None if a value or its length exceeds the bounds.

    The length includes a separator between steps.
    """
    steps, symbols = [problem], len(problem)
    while (redex := REDEX.search(steps[-1])) is not None:
        if abs(value(redex)) > max_value:
            return None
        steps.append(replaced(steps[-1], redex))
        symbols += 1 + len(steps[-1])
        if symbols > max_symbols:
            return None
    return steps


def problem_to_copy(rng: np.random.Generator, config: LanguageConfig) -> str:
    """Return a problem such as `(+ 739 (+ 4 5))`: an easy step that copies a random number.

    The number has three different digits, or two if `max_value` allows no more.
    """
    operator = min(config.operators, key=OPERATORS.index)
    digits = range(1, 10)
    easy = [(a, b) for a in digits for b in digits if 0 < apply_operator(operator, a, b) < 10]
    least = min(apply_operator(operator, *pair) for pair in easy)

    def fits(number: int, inner: int) -> bool:
        return max(number, apply_operator(operator, number, inner)) <= config.max_value

    # Choose the number, then the operation on digits.
    different = [n for n in range(10, 1000) if len(set(str(n))) == len(str(n))]
    small = [n for n in different if fits(n, least)] or [n for n in different if n < 100]
    numbers = [n for n in small if len(str(n)) == len(str(small[-1]))]
    number = numbers[rng.integers(len(numbers))]
    pairs = [pair for pair in easy if fits(number, apply_operator(operator, *pair))] or easy
    first, second = pairs[rng.integers(len(pairs))]
    return f"({operator} {number} ({operator} {first} {second}))"


def _operation(uniform: Callable[[], float], config: LanguageConfig, depth: int) -> str:
    operator = config.operators[int(uniform() * len(config.operators))]
    deep, other = depth - 1, int(uniform() * depth)
    left, right = (deep, other) if uniform() < 0.5 else (other, deep)
    return f"({operator} {_argument(uniform, config, left)} {_argument(uniform, config, right)})"


def _argument(uniform: Callable[[], float], config: LanguageConfig, depth: int) -> str:
    if depth == 0 or uniform() < COIN:
        return str(config.min_int + int(uniform() * (config.max_int - config.min_int + 1)))
    return _operation(uniform, config, depth)
