"""Reads arithmetic strings: `(+(*75)10)=45` to a tree with exact values, or a ParseError that says where and why.

For: `parse`, and the `Tree` it returns. Not for: probabilities, or the generator's limits: the grammar has no largest depth
and no largest length below `MAX_SYMBOLS`, and a string that states a wrong value parses (`Tree.holds` tells).
Easy to get wrong: nesting is bounded only by the length, so nothing here recurses; trees are flat tuples of nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from maskdiff.errors import ParseError, quote
from maskdiff.languages.arithmetic.grammar import Grammar, apply
from maskdiff.languages.vocabulary import DIGITS, squeeze

# No value has more digits than its string has symbols, so 4,096 stays below Python's limit of 4,300 digits for int(str).
MAX_SYMBOLS = 4096


class Node(NamedTuple):
    """An operand (`operator` is "") or an operation on the nodes `left` and `right`.

    `value` is exact; `depth` is 0 for an operand; the symbols are `start` to `end` (exclusive); `left` and `right` are
    indices into `Tree.nodes`, -1 for an operand; `at` is the position of the operator, -1 for an operand.
    """

    operator: str
    value: int
    depth: int
    start: int
    end: int
    left: int = -1
    right: int = -1
    at: int = -1


@dataclass(frozen=True)
class Tree:
    """A parsed string: `nodes` in post-order (children before parents, the whole expression last) and the stated value."""

    nodes: tuple[Node, ...]
    stated: int

    @property
    def root(self) -> Node:
        return self.nodes[-1]

    @property
    def value(self) -> int:
        """The exact value of the expression."""
        return self.root.value

    @property
    def holds(self) -> bool:
        """Whether the stated value is the value."""
        return self.stated == self.root.value

    @property
    def depth(self) -> int:
        """Largest number of brackets around an operand."""
        return self.root.depth

    @property
    def operators(self) -> str:
        """The operators in the order in which the string shows them."""
        return "".join(
            n.operator for n in sorted((n for n in self.nodes if n.operator), key=lambda n: n.at)
        )


def parse(text: str, grammar: Grammar) -> Tree:
    """The tree of `text` (white space is skipped). Raises ParseError.

    Its position is that of the first symbol that cannot follow what stands before it, or the start of a run of digits that
    spells no operands; at the end of a text that stops too early it is the number of symbols.
    Time is linear in the length up to arithmetic on big values; beyond `MAX_SYMBOLS` symbols it fails before reading.
    """
    symbols = squeeze(text)
    if len(symbols) > MAX_SYMBOLS:
        raise ParseError(
            f"the text has {len(symbols)} symbols; at most {MAX_SYMBOLS} are read",
            MAX_SYMBOLS,
            text,
        )
    return _Reader(text, symbols, grammar).equation()


@dataclass
class _Open:
    """An operation whose closing bracket has not been read."""

    start: int
    operator: str = ""
    at: int = -1
    left: int = -1


class _Reader:
    """One pass over the symbols with an explicit stack of open operations."""

    def __init__(self, text: str, symbols: str, grammar: Grammar) -> None:
        self.text, self.symbols, self.grammar = text, symbols, grammar
        self.position = 0
        self.nodes: list[Node] = []
        self.open: list[_Open] = []

    def equation(self) -> Tree:
        """expression `=` value."""
        while not self._argument():
            pass
        self._expect("=", "after the expression")
        stated = self._stated()
        return Tree(tuple(self.nodes), stated)

    def _argument(self) -> bool:
        """Reads up to the end of one operand and closes what ends there; True once the whole expression is read."""
        symbol = self._peek()
        if symbol == "(":
            self.open.append(_Open(self.position))
            self.position += 1
            if self.grammar.notation == "prefix":
                self._operator()
            return False
        if symbol == "" or symbol not in DIGITS:
            self._fail("an operand or '('")
        for digits in self._operands():
            self.nodes.append(Node("", int(digits), 0, self.position, self.position + len(digits)))
            self.position += len(digits)
            done = self._attach()
        return done

    def _operands(self) -> tuple[str, ...]:
        """The operands that the run of digits here spells: one, or two where prefix notation runs them together."""
        start = end = self.position
        while end < len(self.symbols) and self.symbols[end] in DIGITS:
            end += 1
        run, following = self.symbols[start:end], self.symbols[end : end + 1]
        grammar = self.grammar
        together = (
            grammar.notation == "prefix"
            and not grammar.separator
            and self.open
            and self.open[-1].left < 0
        )
        if not together:
            if not grammar.is_operand(run):
                self._fail(
                    f"an operand from {grammar.min_int} to {grammar.max_int} without leading zeros"
                )
            return (run,)
        # Both operands have at most as many digits as max_int: a long run is refused without looking at its splits.
        cuts = range(1, len(run)) if len(run) <= 2 * len(str(grammar.max_int)) else range(0)
        splits = [
            (run[:i], run[i:])
            for i in cuts
            if grammar.is_operand(run[:i]) and grammar.is_operand(run[i:])
        ]
        if following == ")" and splits:
            return splits[0]  # the only one: `ambiguity` has excluded a second
        if following == "(" and grammar.is_operand(run):
            return (run,)
        expected = ["')'"] * bool(splits) + ["a second argument"] * grammar.is_operand(run)
        if not expected:
            self._fail(
                f"operands from {grammar.min_int} to {grammar.max_int} without leading zeros"
            )
        self.position = end
        self._fail(" or ".join(expected))

    def _attach(self) -> bool:
        """Hands the newest node to the innermost open operation, closing all that end here; True if none is open."""
        while self.open:
            top, newest = self.open[-1], len(self.nodes) - 1
            if top.left < 0:
                top.left = newest
                if self.grammar.notation == "infix":
                    self._operator()
                elif self.grammar.separator:
                    self._expect(self.grammar.separator, "between two arguments")
                return False
            self._expect(")", "after the second argument")
            left, right = self.nodes[top.left], self.nodes[newest]
            value = apply(top.operator, left.value, right.value)
            depth = 1 + max(left.depth, right.depth)
            self.nodes.append(
                Node(top.operator, value, depth, top.start, self.position, top.left, newest, top.at)
            )
            self.open.pop()
        return True

    def _operator(self) -> None:
        symbol = self._peek()
        if symbol == "" or symbol not in self.grammar.operators:
            self._fail("one of the operators " + " ".join(self.grammar.operators))
        self.open[-1].operator, self.open[-1].at = symbol, self.position
        self.position += 1

    def _stated(self) -> int:
        """The value after `=`: an integer without leading zeros, signed only if the grammar subtracts."""
        start = self.position
        sign = self._peek() == "-" and "-" in self.grammar.operators
        self.position += sign
        digits = self.symbols[self.position :]
        for i, symbol in enumerate(digits):
            if symbol not in DIGITS or (i == 1 and digits[0] == "0"):
                self.position += i
                self._fail("the end of the string" if i else "a digit of the value")
        if not digits or (sign and digits == "0"):
            self._fail("a digit of the value" if not digits else "a digit from 1 to 9")
        return int(self.symbols[start:])

    def _peek(self) -> str:
        return self.symbols[self.position : self.position + 1]

    def _expect(self, symbol: str, where: str) -> None:
        if self._peek() != symbol:
            self._fail(f"'{symbol}' {where}")
        self.position += 1

    def _fail(self, expected: str) -> NoReturn:
        found = quote(self._peek()) if self.position < len(self.symbols) else "the end"
        raise ParseError(
            f"found {found} at position {self.position}; expected {expected}",
            self.position,
            self.text,
        )
