"""Draws problems: expressions whose derivations stay within given bounds.

For: `draw_problems`, `problem_to_copy`. Not for: probabilities. The distribution is that of the arithmetic language
(`arithmetic/generator.py`): a depth d is uniform on a range, an operation of depth d has one argument of depth d-1 and another
of uniform depth 0..d-1, in random order, and each argument stops early as a number with probability 0.2; but the root is always
an operation. Easy to get wrong: a draw with a value or a derivation beyond the bounds is thrown away whole, but its depth is
kept (for `PATIENCE` draws, since at some depths next to nothing may fit), or deep problems, which fit less often, would become
rare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import DataError
from maskdiff.languages.arithmetic.grammar import COIN, apply
from maskdiff.languages.arithmetic_steps.expressions import OPERATORS, REDEX, replaced, value

PATIENCE = 200  # draws of one depth before another is drawn
TRIES = 20_000  # draws for one problem before it counts as impossible


def draw_problems(
    count: int,
    rng: np.random.Generator,
    config: LanguageConfig,
    fits: Callable[[list[str]], bool],
    depths: tuple[int, int] | None = None,
) -> list[list[str]]:
    """`count` derivations that `fits` accepts, each a list of expressions; depths are `config`'s or `depths` (low, high).

    Every decision spends one uniform number of `rng` in order, so the first ones do not depend on `count`. (The state in which
    `rng` is left does: numbers are drawn in blocks.) Raises DataError where next to nothing fits.
    """
    uniform: Callable[[], float] = chain.from_iterable(
        _blocks(rng, max(64, min(32768, 16 * count)))
    ).__next__
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
            tried = f"no problem of depth {low} to {high} in {TRIES} draws fits"
            raise DataError(f"{tried}: raise max_len or max_value, or lower max_int")
    return found


def bounded_derivation(problem: str, max_value: int, max_symbols: int) -> list[str] | None:
    """The derivation of `problem`; None where a value or its length with a separator between steps goes beyond the bounds."""
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
    """A problem such as `(+ 739 (+ 4 5))`: its first step is easy, but for a random number that it must copy.

    The number has three different digits, or two where values of three are beyond `max_value` (all two may be, then).
    """
    operator = min(config.operators, key=OPERATORS.index)
    easy = [(a, b) for a in range(1, 10) for b in range(1, 10) if 0 < apply(operator, a, b) < 10]

    least = min(apply(operator, *pair) for pair in easy)

    def fits(number: int, inner: int) -> bool:
        return max(number, apply(operator, number, inner)) <= config.max_value

    different = [n for n in range(10, 1000) if len(set(str(n))) == len(str(n))]
    small = [n for n in different if fits(n, least)] or [n for n in different if n < 100]
    numbers = [n for n in small if len(str(n)) == len(str(small[-1]))]
    number = numbers[rng.integers(len(numbers))]
    pairs = [pair for pair in easy if fits(number, apply(operator, *pair))] or easy
    first, second = pairs[rng.integers(len(pairs))]
    return f"({operator} {number} ({operator} {first} {second}))"


def _blocks(rng: np.random.Generator, block: int) -> Iterator[list[float]]:
    while True:
        yield rng.random(block).tolist()


def _operation(uniform: Callable[[], float], config: LanguageConfig, depth: int) -> str:
    operator = config.operators[int(uniform() * len(config.operators))]
    deep, other = depth - 1, int(uniform() * depth)
    left, right = (deep, other) if uniform() < 0.5 else (other, deep)
    return f"({operator} {_argument(uniform, config, left)} {_argument(uniform, config, right)})"


def _argument(uniform: Callable[[], float], config: LanguageConfig, depth: int) -> str:
    if depth == 0 or uniform() < COIN:
        return str(config.min_int + int(uniform() * (config.max_int - config.min_int + 1)))
    return _operation(uniform, config, depth)
