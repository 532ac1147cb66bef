"""Expressions with spaces, such as `(+ 3 (* 2 4))`, and their reductions.

A reduction replaces an innermost operation by its value, so it rewrites text and needs no tree.
Integers have no leading zeros, and there is no `-0`. A text of more than `MAX_SYMBOLS` symbols is
no expression and has no reductions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError
from maskdiff.languages.arithmetic.grammar import OPERATORS, apply_operator, check_ranges
from maskdiff.languages.vocabulary import DIGITS

INTEGER = r"(?:0|-?[1-9][0-9]*)"
SYMBOLS = DIGITS + "()+-* "
# A reducible operation: one on two integers, not directly behind another symbol.
REDEX = re.compile(rf"(?<![^ ])\(([-+*]) ({INTEGER}) ({INTEGER})\)")
MAX_SYMBOLS = 4096  # values have no more digits; Python converts integers of up to 4,300 digits
_IS_INTEGER = re.compile(INTEGER)


def is_integer(text: str) -> bool:
    """Return whether `text` is an integer without leading zeros."""
    return _IS_INTEGER.fullmatch(text) is not None


def is_expression(text: str, operators: str = OPERATORS) -> bool:
    """Return whether `text` is an integer or an operation on expressions, with single spaces.

    Integers may be negative if `-` is one of the operators.
    """
    foreign = (symbol for symbol in OPERATORS if symbol not in operators)
    if len(text) > MAX_SYMBOLS or any(symbol in text for symbol in foreign):
        return False
    while True:
        text, count = REDEX.subn("0", text)
        if not count:
            return is_integer(text)


def is_operation(text: str, operators: str = OPERATORS) -> bool:
    """Return whether `text` is an expression other than an integer."""
    return not is_integer(text) and is_expression(text, operators)


def value(redex: re.Match[str]) -> int:
    """Return the value of a match of `REDEX`."""
    return apply_operator(redex[1], int(redex[2]), int(redex[3]))


def replaced(text: str, redex: re.Match[str]) -> str:
    """Return `text` with the value of a match of `REDEX` in its place."""
    return f"{text[: redex.start()]}{value(redex)}{text[redex.end() :]}"


def reduced(text: str) -> str | None:
    """Return the expression after the first reduction in reading order; None for an integer."""
    return next(reductions(text), None)


def reductions(text: str) -> Iterator[str]:
    """Yields the expressions after each possible reduction, in reading order."""
    return (replaced(text, redex) for redex in REDEX.finditer(text) if len(text) <= MAX_SYMBOLS)


def derivation(text: str) -> list[str]:
    """Return `text` and the results of its first reductions, down to an integer."""
    steps = [text]
    while (after := reduced(steps[-1])) is not None:
        steps.append(after)
    return steps


def bracket_depth(text: str) -> int:
    """Return the largest number of brackets around an integer."""
    depth = most = 0
    for symbol in text:
        depth += (symbol == "(") - (symbol == ")")
        most = max(most, depth)
    return most


def expression_rules(operators: str, more: str = "") -> str:
    """Return rules of Lark for `operation`, `expr`, `value`, `more` and the terminals."""
    sign = '"-"? ' if "-" in operators else ""
    either = " | ".join(f'"{symbol}"' for symbol in operators)
    return f"""operation: "(" OPERATOR " " expr " " expr ")"
expr: value | operation
value: "0" | {sign}NATURAL
{more}NATURAL: /[1-9][0-9]*/
OPERATOR: {either}
"""


def check_options(config: LanguageConfig, name: str, shortest: int) -> None:
    """Checks the options of a language of such problems.

    Args:
        config: The configuration.
        name: The language.
        shortest: The least `max_len`.

    Raises:
        ConfigError: An option is impossible.
    """
    if config.notation != "prefix" or config.separator:
        raise ConfigError(
            f"{name} is written in prefix notation with spaces: leave notation and separator alone"
        )
    check_ranges(config)
    if config.max_int > config.max_value:
        raise ConfigError(
            f"max_int {config.max_int} is above max_value {config.max_value}, "
            "which bounds operands, too"
        )
    if config.max_depth < 1:
        raise ConfigError("max_depth is 0: a problem has at least one operation")
    if config.max_len < shortest:
        raise ConfigError(f"max_len is {config.max_len}; {name} needs {shortest} or more")
