"""The options of the arithmetic grammar, checked, and the exact decision whether a notation is ambiguous.

For: turning a `LanguageConfig` into a `Grammar` that the parser and the generator can trust. Not for: parsing or drawing.
Easy to get wrong: prefix notation without a separator is *not* ambiguous for operands 0..10 (`(+110)` can only be 1 and 10,
because 11 is no operand) but it is for 0..11; whether two operands run together depends on the range, so it is decided, not
guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, quote
from maskdiff.languages.vocabulary import DIGITS, Vocabulary

OPERATORS = "+-*"
SEPARATORS = ("", ",", "_")
COIN = (
    0.2  # probability that a node stops early and becomes an operand, as in the reference generator
)
MIN_ACCEPTANCE = 1e-4  # a language whose draws nearly all exceed max_len is a mistake, and sampling it would hang


@dataclass(frozen=True)
class Grammar:
    """Checked options. `separator` is "" where the notation needs none."""

    notation: str
    operators: str
    min_int: int
    max_int: int
    separator: str

    @property
    def operands(self) -> int:
        """How many operands there are."""
        return self.max_int - self.min_int + 1

    @property
    def brackets(self) -> int:
        """Symbols of an operation that are not its arguments: brackets, operator and separator."""
        return 3 + len(self.separator)

    def is_operand(self, digits: str) -> bool:
        """Whether `digits` is an operand: in range, and written without leading zeros."""
        if (
            not digits
            or len(digits) > len(str(self.max_int))
            or (digits[0] == "0" and len(digits) > 1)
        ):
            return False
        return self.min_int <= int(digits) <= self.max_int

    def vocabulary(self) -> Vocabulary:
        """Special tokens, `0`-`9 ( ) + * =` (always, at fixed ids), then `-` and the separator if used, then `<DIGIT>`."""
        extra = ("-" if "-" in self.operators else "") + self.separator
        return Vocabulary.of(DIGITS + "()+*=" + extra)


def grammar_of(config: LanguageConfig) -> Grammar:
    """The grammar that `config` asks for. Raises ConfigError on an impossible, ambiguous or nearly empty one."""
    _check_ranges(config)
    if config.notation == "infix" and config.separator:
        raise ConfigError(
            f"separator {quote(config.separator)} has no place in infix notation, whose operator stands between the operands; "
            "leave separator empty"
        )
    if config.notation == "prefix" and not config.separator:
        clash = ambiguity(config.min_int, config.max_int)
        if clash is not None:
            (a, b), (c, d) = clash
            raise ConfigError(
                f"prefix notation with operands {config.min_int}..{config.max_int} is ambiguous without a separator: "
                f"{a} {b} and {c} {d} are both written {a}{b}; set separator to ',' or '_', or choose infix notation"
            )
    grammar = Grammar(
        config.notation, config.operators, config.min_int, config.max_int, config.separator
    )
    _check_room(config, grammar)
    return grammar


def _check_ranges(config: LanguageConfig) -> None:
    if config.notation not in ("prefix", "infix"):
        raise ConfigError(f"notation {quote(config.notation)} is unknown; it is prefix or infix")
    if config.separator not in SEPARATORS:
        raise ConfigError(
            f"separator {quote(config.separator)} is not allowed; it is empty, ',' or '_'"
        )
    given = config.operators
    if not given or len(set(given)) != len(given) or not set(given) <= set(OPERATORS):
        raise ConfigError(
            f"operators {quote(given)} are not allowed; give one or more of + - *, each at most once"
        )
    for low, high in (("min_int", "max_int"), ("min_depth", "max_depth")):
        smallest, largest = getattr(config, low), getattr(config, high)
        if not 0 <= smallest <= largest:
            raise ConfigError(
                f"{low} {smallest} and {high} {largest} leave no choice; 0 <= {low} <= {high} is needed"
            )


def _check_room(config: LanguageConfig, grammar: Grammar) -> None:
    """An operand alone, `7=7`, is the shortest string; enough of them must fit (their share bounds the acceptance)."""
    room = config.max_len - 2
    shortest = 2 * len(str(grammar.min_int)) + 1
    largest = min(grammar.max_int, 10 ** ((room - 1) // 2) - 1)
    share = COIN * max(0, largest - grammar.min_int + 1) / grammar.operands
    if share < MIN_ACCEPTANCE:
        raise ConfigError(
            f"max_len {config.max_len} leaves {room} symbols between BOS and EOS; strings with operands "
            f"{grammar.min_int}..{grammar.max_int} have {shortest} symbols or more and next to none fits; raise max_len"
        )


@lru_cache(maxsize=64)
def ambiguity(low: int, high: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Two different pairs of operands from `low`..`high` with the same run of digits, or None if there are none (exact).

    In fully bracketed prefix notation an operation holds exactly two arguments, so only two adjacent operands can be misread.
    Two readings `a|ud` and `au|d` share the digits `a u d`, u being what changes sides: all of a, ud, au, d are operands.
    For given u and numbers of digits, a and d each range over an interval, so it is enough to run over u.
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
    """The smallest integer of exactly `digits` digits in both intervals, or None."""
    smallest = max(low, at_least, 10 ** (digits - 1) if digits > 1 else 0)
    return smallest if smallest <= min(high, at_most, 10**digits - 1) else None


def largest_length(config: LanguageConfig, grammar: Grammar) -> int:
    """The most inner symbols that a string can have: what max_len leaves, or what max_depth allows if that is less.

    The second is exact for + and *, whose longest expression has the largest value, and an upper bound with -.
    """
    room = config.max_len - 2
    longest = len(str(grammar.max_int))
    low, high = grammar.min_int, grammar.max_int
    for _ in range(config.max_depth):
        if longest >= room:
            return room
        longest = 2 * longest + grammar.brackets
        ends = [apply(o, a, b) for o in grammar.operators for a in (low, high) for b in (low, high)]
        low, high = min(ends), max(ends)
    return min(room, longest + 1 + max(len(str(low)), len(str(high))))


def apply(operator: str, left: int, right: int) -> int:
    """The exact value of `left operator right`."""
    if operator == "+":
        return left + right
    return left * right if operator == "*" else left - right


def as_lark(grammar: Grammar) -> str:
    """The grammar in Lark's EBNF: the strings that the parser accepts, symbol by symbol."""
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
    """A regular expression for the decimal numbers from `low` to `high` without leading zeros, 0 <= low <= high."""
    parts = []
    while low <= high:
        # Blocks of `step` numbers share all digits but the last ones, which run through everything.
        step = 1
        while low and low % (10 * step) == 0 and low + 10 * step - 1 <= high:
            step *= 10
        last = low  # of the blocks that differ from the first in one digit only
        while last % (10 * step) < 9 * step and last + 2 * step - 1 <= high:
            last += step
        place = len(str(low)) - len(str(step))
        parts.append(
            f"{str(low)[:place]}[{str(low)[place]}-{str(last)[place]}]"
            + "[0-9]" * (len(str(step)) - 1)
        )
        low = last + step
    return "|".join(parts)
