"""Draws strings from the reference distribution, fast.

For: `draw_many`. Not for: probabilities of given strings (`probability.py`). The distribution: a depth d is uniform on
min_depth..max_depth; a node at depth d is an operand if d = 0 or with probability 0.2, else an operation with a uniform
operator whose one argument has depth d-1 and whose other has a uniform depth 0..d-1, in random order. Easy to get wrong: a
draw that is longer than allowed is thrown away whole, depth included; redrawing only a part would change the distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.languages.arithmetic.grammar import COIN, Grammar

Choice = tuple[str, int, int]  # operator, depth of the left argument, depth of the right argument


class _TooLong(Exception):
    """The draw already exceeds the room; what is left of it need not be drawn."""


def choices(grammar: Grammar, depth: int) -> list[Choice]:
    """The equally likely ways in which an operation at `depth` >= 1 goes on (some may be listed twice)."""
    ways = []
    for operator in grammar.operators:
        for other in range(depth):
            ways += [(operator, depth - 1, other), (operator, other, depth - 1)]
    return ways


def draw_many(
    n: int, rng: np.random.Generator, config: LanguageConfig, grammar: Grammar
) -> list[str]:
    """`n` strings of at most `config.max_len - 2` symbols.

    Every decision spends one uniform number of `rng` in order, so the first strings do not depend on `n`. (The state in which
    `rng` is left does: numbers are drawn in blocks.)
    """
    room = config.max_len - 2
    block = max(64, min(32768, 16 * n))
    uniform: Callable[[], float] = chain.from_iterable(_blocks(rng, block)).__next__
    expression = _expression(uniform, config, grammar, room)
    depths = config.max_depth - config.min_depth + 1
    strings: list[str] = []
    while len(strings) < n:
        depth = config.min_depth + int(uniform() * depths)
        try:
            text, value = expression(depth)
        except _TooLong:
            continue
        # A value has no more digits than its expression has symbols: str() stays within Python's limit.
        string = f"{text}={value}"
        if len(string) <= room:
            strings.append(string)
    return strings


def _blocks(rng: np.random.Generator, block: int) -> Iterator[list[float]]:
    while True:
        yield rng.random(block).tolist()


def _expression(
    uniform: Callable[[], float], config: LanguageConfig, grammar: Grammar, room: int
) -> Callable[[int], tuple[str, int]]:
    """A function from a depth to a drawn expression and its value; it raises _TooLong beyond `room` symbols.

    One uniform number u decides a node: below COIN an operand (which one: by u / COIN), else an operation (which: by the rest).
    The recursion is as deep as the depth, at most 12 or so.
    """
    low, operands = grammar.min_int, grammar.operands
    table = [choices(grammar, depth) for depth in range(config.max_depth + 1)]
    scale = [len(ways) / (1.0 - COIN) for ways in table]
    last = [len(ways) - 1 for ways in table]
    operand_scale = operands / COIN
    infix, separator = grammar.notation == "infix", grammar.separator

    def expression(depth: int) -> tuple[str, int]:
        u = uniform()
        if depth == 0:
            value = low + int(u * operands)
            return str(value), value
        if u < COIN:
            value = low + min(int(u * operand_scale), operands - 1)
            return str(value), value
        operator, left_depth, right_depth = table[depth][
            min(int((u - COIN) * scale[depth]), last[depth])
        ]
        left, a = expression(left_depth)
        if len(left) > room:
            raise _TooLong
        right, b = expression(right_depth)
        value = a + b if operator == "+" else a * b if operator == "*" else a - b
        if infix:
            return f"({left}{operator}{right})", value
        return f"({operator}{left}{separator}{right})", value

    return expression
