"""Draw strings from the reference distribution.

A depth d is uniform on min_depth..max_depth. A node at depth d is an operand if d = 0, or with
probability 0.2. Otherwise it is an operation with a uniform operator; one argument has depth d - 1,
the other one a uniform depth 0..d - 1, in random order. A draw that is too long is rejected as a
whole, its depth included: to redraw a part would change the distribution.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.languages.arithmetic.grammar import COIN, Grammar
from maskdiff.languages.uniform import uniform_stream

Choice = tuple[str, int, int]  # operator, depth of the left argument, depth of the right argument


class _TooLong(Exception):
    """The draw exceeds the maximum length before it is complete."""


def draw_strings(
    n: int, rng: np.random.Generator, config: LanguageConfig, grammar: Grammar
) -> list[str]:
    """Return random strings that fit `config.max_len`. The first ones do not depend on `n`.

    Args:
        n: The number of strings.
        rng: The random number generator. Each decision uses one uniform number, in order.
        config: The configuration of the language.
        grammar: The grammar of `config`.
    """
    room = config.max_len - 2
    uniform = uniform_stream(rng, 16 * n)
    expression = _expression_sampler(uniform, config, grammar, room)
    depths = config.max_depth - config.min_depth + 1
    strings: list[str] = []
    while len(strings) < n:
        depth = config.min_depth + int(uniform() * depths)
        try:
            text, value = expression(depth)
        except _TooLong:
            continue
        # A value has no more digits than its expression has symbols: str() stays within its limit.
        string = f"{text}={value}"
        if len(string) <= room:
            strings.append(string)
    return strings


def _choices(grammar: Grammar, depth: int) -> list[Choice]:
    """The equally likely choices of an operation at `depth`; some occur twice."""
    ways = []
    for operator in grammar.operators:
        for other in range(depth):
            ways += [(operator, depth - 1, other), (operator, other, depth - 1)]
    return ways


def _expression_sampler(
    uniform: Callable[[], float], config: LanguageConfig, grammar: Grammar, room: int
) -> Callable[[int], tuple[str, int]]:
    """A function that draws an expression of a depth and its value, or raises `_TooLong`.

    One uniform number u decides a node: below COIN an operand (u / COIN chooses it), else an
    operation (the rest chooses it). The recursion is as deep as the depth, at most about 12.
    """
    low, operands = grammar.min_int, grammar.operands
    table = [_choices(grammar, depth) for depth in range(config.max_depth + 1)]
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
        choice = min(int((u - COIN) * scale[depth]), last[depth])
        operator, left_depth, right_depth = table[depth][choice]
        left, a = expression(left_depth)
        if len(left) > room:
            raise _TooLong
        right, b = expression(right_depth)
        value = a + b if operator == "+" else a * b if operator == "*" else a - b
        if infix:
            return f"({left}{operator}{right})", value
        return f"({operator}{left}{separator}{right})", value

    return expression
