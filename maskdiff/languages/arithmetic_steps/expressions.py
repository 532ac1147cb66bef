"""Expressions with spaces, `(+ 3 (* 2 4))`, and what one reduction makes of them.

For: `is_expression`, `reduced`, `reductions`, `derivation`, `depth`. Not for: strings of the language (`language.py`). Easy to
get wrong: a reduction replaces one *innermost* operation, so its result is found by rewriting text alone, and no tree is ever
built; numbers are written without leading zeros, and there is no `-0`; and an operation right behind a digit, as in
`1(+ 2 3)`, is none. Texts of more than `MAX_SYMBOLS` symbols are no expressions, and nothing follows from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from maskdiff.languages.arithmetic.grammar import apply

NUMBER = r"(?:0|-?[1-9][0-9]*)"
IS_NUMBER = re.compile(NUMBER)
OPERATORS = "+-*"
REDEX = re.compile(
    rf"(?<![^ ])\(([-+*]) ({NUMBER}) ({NUMBER})\)"
)  # operation on two numbers: what a step replaces
MAX_SYMBOLS = 4096  # of an expression; its values have no more digits, and Python writes integers of up to 4,300


def is_number(text: str) -> bool:
    """Whether `text` is an integer as it is written here."""
    return IS_NUMBER.fullmatch(text) is not None


def is_expression(text: str, operators: str = OPERATORS) -> bool:
    """Whether `text` is a number or an operation on expressions, with single spaces where they belong.

    Numbers may be negative where `-` is an operator.
    """
    if len(text) > MAX_SYMBOLS or any(
        symbol in text for symbol in OPERATORS if symbol not in operators
    ):
        return False
    while True:
        text, count = REDEX.subn("0", text)
        if not count:
            return is_number(text)


def value(redex: re.Match[str]) -> int:
    """What the operation that `REDEX` found comes to."""
    return apply(redex[1], int(redex[2]), int(redex[3]))


def replaced(text: str, redex: re.Match[str]) -> str:
    """`text` with that operation's value in its place."""
    return f"{text[: redex.start()]}{value(redex)}{text[redex.end() :]}"


def reduced(text: str) -> str | None:
    """The expression `text` after the reduction that comes first in reading order; None for a number."""
    return next(reductions(text), None)


def reductions(text: str) -> Iterator[str]:
    """All expressions that one right reduction of `text` leads to, in reading order of what they replace."""
    return (replaced(text, redex) for redex in REDEX.finditer(text) if len(text) <= MAX_SYMBOLS)


def derivation(text: str) -> list[str]:
    """`text` and what its reductions in reading order lead to, down to a number."""
    steps = [text]
    while (after := reduced(steps[-1])) is not None:
        steps.append(after)
    return steps


def depth(text: str) -> int:
    """The most brackets around a number."""
    now = most = 0
    for symbol in text:
        now += (symbol == "(") - (symbol == ")")
        most = max(most, now)
    return most
