"""The checked options of the arithmetic grammar, and its form in Lark's EBNF.

Prefix notation without a separator is unambiguous for operands 0..10 (`(+110)` is 1 and 10, since
11 is no operand) and ambiguous for 0..11. `ambiguity` decides it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from numpy.typing import NDArray

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, quote
from maskdiff.languages.vocabulary import DIGITS, Vocabulary

OPERATORS = "+-*"
SEPARATORS = ("", ",", "_")
COIN = 0.2  # probability that a node becomes an operand early, as in the reference generator
MIN_ACCEPTANCE = 1e-4  # the least share of draws that fit max_len

Number = TypeVar("Number", int, NDArray[Any])


@dataclass(frozen=True)
class Grammar:
    """Checked options.

    Attributes:
        notation: `prefix` or `infix`.
        operators: Some of `+-*`.
        min_int, max_int: The range of operands.
        separator: The symbol between two arguments; may be empty.
    """

    notation: str
    operators: str
    min_int: int
    max_int: int
    separator: str

    @property
    def operands(self) -> int:
        """The number of operands."""
        return self.max_int - self.min_int + 1

    @property
    def brackets(self) -> int:
        """The number of symbols of an operation outside its arguments."""
        return 3 + len(self.separator)

    def is_operand(self, digits: str) -> bool:
        """Return whether `digits` is an operand: in range and without leading zeros."""
        if not 0 < len(digits) <= len(str(self.max_int)) or (digits[0] == "0" and len(digits) > 1):
            return False
        return self.min_int <= int(digits) <= self.max_int

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary: `0`-`9 ( ) + * =`, `-` and the separator if used, `<DIGIT>`."""
        extra = ("-" if "-" in self.operators else "") + self.separator
        return Vocabulary.of(DIGITS + "()+*=" + extra)


def checked_grammar(config: LanguageConfig) -> Grammar:
    """Return the grammar of a configuration.

    Raises:
        ConfigError: The options are impossible, the notation is ambiguous, or almost no string fits
            `max_len`.
    """
    if config.notation not in ("prefix", "infix"):
        raise ConfigError(f"notation {quote(config.notation)} is unknown; it is prefix or infix")
    if config.separator not in SEPARATORS:
        raise ConfigError(
            f"separator {quote(config.separator)} is not allowed; it is empty, ',' or '_'"
        )
    check_ranges(config)
    if config.notation == "infix" and config.separator:
        raise ConfigError(
            f"separator {quote(config.separator)} has no place in infix notation, whose operator "
            "stands between the operands; leave separator empty"
        )
    if config.notation == "prefix" and not config.separator:
        clash = ambiguity(config.min_int, config.max_int)
        if clash is not None:
            (a, b), (c, d) = clash
            raise ConfigError(
                f"prefix notation with operands {config.min_int}..{config.max_int} is ambiguous "
                f"without a separator: {a} {b} and {c} {d} are both written {a}{b}; "
                "set separator to ',' or '_', or choose infix notation"
            )
    grammar = Grammar(
        config.notation, config.operators, config.min_int, config.max_int, config.separator
    )
    _check_room(config, grammar)
    return grammar


def check_ranges(config: LanguageConfig) -> None:
    """Raises `ConfigError` for impossible operators, operands or depths."""
    given = config.operators
    if not given or len(set(given)) != len(given) or not set(given) <= set(OPERATORS):
        raise ConfigError(
            f"operators {quote(given)} are not allowed; "
            "give one or more of + - *, each at most once"
        )
    for low, high in (("min_int", "max_int"), ("min_depth", "max_depth")):
        smallest, largest = getattr(config, low), getattr(config, high)
        if not 0 <= smallest <= largest:
            raise ConfigError(
                f"{low} {smallest} and {high} {largest} leave no choice; "
                f"0 <= {low} <= {high} is needed"
            )


def _check_room(config: LanguageConfig, grammar: Grammar) -> None:
    """Checks that enough of the shortest strings, such as `7=7`, fit; they bound the acceptance."""
    room = config.max_len - 2
    shortest = 2 * len(str(grammar.min_int)) + 1
    largest = min(grammar.max_int, 10 ** ((room - 1) // 2) - 1)
    share = COIN * max(0, largest - grammar.min_int + 1) / grammar.operands
    if share < MIN_ACCEPTANCE:
        raise ConfigError(
            f"max_len {config.max_len} leaves {room} symbols between BOS and EOS; strings with "
            f"operands {grammar.min_int}..{grammar.max_int} have {shortest} symbols or more and "
            "next to none fits; raise max_len"
        )


@lru_cache(maxsize=64)
def ambiguity(low: int, high: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return two different pairs of operands with the same digits; None if there are none.

    In fully bracketed prefix notation, only two adjacent operands can be misread. Two readings
    `a|ud` and `au|d` share the digits `a u d`, and a, ud, au and d are operands. For given u and
    numbers of digits, a and d range over intervals, so a loop over u decides it exactly.

    Args:
        low, high: The range of operands.
    """
    longest = len(str(high))
    for ud_digits in range(2, longest + 1):
        for d_digits in range(1, ud_digits):
            u_digits = ud_digits - d_digits
            for u in range(10 ** (u_digits - 1), 10**u_digits):
                d = _smallest(low, high, d_digits, low - u * 10**d_digits, high - u * 10**d_digits)
                if d is None:
                    continue
                for a_digits in range(1, longest - u_digits + 1):
                    shift = 10**u_digits
                    a = _smallest(
                        max(low, 1), high, a_digits, -((u - low) // shift), (high - u) // shift
                    )
                    if a is not None:
                        return (a, u * 10**d_digits + d), (a * shift + u, d)
    return None


def _smallest(low: int, high: int, digits: int, at_least: int, at_most: int) -> int | None:
    """The smallest integer with `digits` digits in both intervals, or None."""
    smallest = max(low, at_least, 10 ** (digits - 1) if digits > 1 else 0)
    return smallest if smallest <= min(high, at_most, 10**digits - 1) else None


def largest_length(config: LanguageConfig, grammar: Grammar) -> int:
    """Return the largest length of a string, by `max_len` or by `max_depth`.

    The bound by depth is exact for + and *, whose longest expression has the largest value.
    """
    room = config.max_len - 2
    longest = len(str(grammar.max_int))
    low, high = grammar.min_int, grammar.max_int
    for _ in range(config.max_depth):
        if longest >= room:
            return room
        longest = 2 * longest + grammar.brackets
        bounds = low, high
        ends = [apply_operator(o, a, b) for o in grammar.operators for a in bounds for b in bounds]
        low, high = min(ends), max(ends)
    return min(room, longest + 1 + max(len(str(low)), len(str(high))))


def apply_operator(operator: str, left: Number, right: Number) -> Number:
    """Return the value of `left operator right`, of integers or of arrays."""
    if operator == "+":
        return left + right
    return left * right if operator == "*" else left - right


def as_lark(grammar: Grammar) -> str:
    """Return the grammar of the strings that the parser accepts in Lark's EBNF."""
    between = f' "{grammar.separator}"' if grammar.separator else ""
    operation = (
        "expr OPERATOR expr" if grammar.notation == "infix" else f"OPERATOR expr{between} expr"
    )
    sign = '"-"? ' if "-" in grammar.operators else ""
    operators = " | ".join(f'"{symbol}"' for symbol in grammar.operators)
    return "\n".join(
        (
            'start: expr "=" value',
            f'expr: OPERAND | "(" {operation} ")"',
            f'value: "0" | {sign}NATURAL',
            f"OPERAND: /{range_pattern(grammar.min_int, grammar.max_int)}/",
            f"OPERATOR: {operators}",
            "NATURAL: /[1-9][0-9]*/",
        )
    )


def range_pattern(low: int, high: int) -> str:
    """Return a regular expression for the decimal numbers from `low` >= 0 to `high`."""
    parts = []
    while low <= high:
        # A block of `step` numbers shares all digits but the last ones.
        step = 1
        while low and low % (10 * step) == 0 and low + 10 * step - 1 <= high:
            step *= 10
        last = low  # the start of the last block that differs from the first in one digit
        while last % (10 * step) < 9 * step and last + 2 * step - 1 <= high:
            last += step
        place = len(str(low)) - len(str(step))
        parts.append(
            f"{str(low)[:place]}[{str(low)[place]}-{str(last)[place]}]"
            + "[0-9]" * (len(str(step)) - 1)
        )
        low = last + step
    return "|".join(parts)
