"""Parses arithmetic strings such as `(+(*75)10)=45` to trees with exact values.

The grammar has no largest depth, and a string with a wrong value parses. Nesting is bounded only by
the length, so nothing recurses; trees are flat tuples of nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from maskdiff.errors import ParseError, quote
from maskdiff.languages.arithmetic.grammar import Grammar, apply_operator
from maskdiff.languages.vocabulary import DIGITS, squeeze

# No value has more digits than its string has symbols; int(str) takes up to 4,300 digits.
MAX_SYMBOLS = 4096


class Node(NamedTuple):
    """An operand or an operation.

    Attributes:
        operator: The operator; empty for an operand.
        value: The exact value.
        depth: The nesting depth, 0 for an operand.
        start, end: The symbols are `start` to `end` - 1.
        left, right: The indices of the arguments in `Tree.nodes`; -1 for an operand.
        at: The position of the operator; -1 for an operand.
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
    """A parsed string.

    Attributes:
        nodes: The nodes in post-order; the root is the last one.
        stated: The value that the string states.
    """

    nodes: tuple[Node, ...]
    stated: int

    @property
    def root(self) -> Node:
        """The node of the whole expression."""
        return self.nodes[-1]

    @property
    def value(self) -> int:
        """The exact value of the expression."""
        return self.root.value

    @property
    def holds(self) -> bool:
        """Whether the stated value is the value of the expression."""
        return self.stated == self.root.value

    @property
    def depth(self) -> int:
        """The largest number of brackets around an operand."""
        return self.root.depth

    @property
    def operators(self) -> str:
        """The operators from left to right."""
        return "".join(node.operator for node in sorted(self.nodes, key=lambda node: node.at))


def parse_equation(text: str, grammar: Grammar) -> Tree:
    """Return the tree of `text`; white space is skipped. Takes linear time.

    Raises:
        ParseError: The text is no string of the grammar, or has over `MAX_SYMBOLS` symbols. Its
            position is that of the first symbol that cannot follow the text before it, of the first
            digit of a run that contains no operands, or the number of symbols at the end.
    """
    symbols = squeeze(text)
    if len(symbols) > MAX_SYMBOLS:
        raise ParseError(
            f"the text has {len(symbols)} symbols; at most {MAX_SYMBOLS} are read",
            MAX_SYMBOLS,
            text,
        )
    return _Parser(text, symbols, grammar).equation()


@dataclass
class _Open:
    """An operation without its closing bracket."""

    start: int
    operator: str = ""
    at: int = -1
    left: int = -1


class _Parser:
    """One pass over the symbols with a stack of open operations."""

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
        """Reads a bracket or an operand, and the ends of operations; True at the end of all."""
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
        """The operands in the digits here: one, or two in prefix notation without separator."""
        start = end = self.position
        while end < len(self.symbols) and self.symbols[end] in DIGITS:
            end += 1
        run, following = self.symbols[start:end], self.symbols[end : end + 1]
        grammar = self.grammar
        joined = grammar.notation == "prefix" and not grammar.separator
        if not (joined and self.open and self.open[-1].left < 0):
            if not grammar.is_operand(run):
                self._fail(
                    f"an operand from {grammar.min_int} to {grammar.max_int} without leading zeros"
                )
            return (run,)
        # Operands have at most as many digits as max_int, so a long run has no split.
        cuts = range(1, len(run)) if len(run) <= 2 * len(str(grammar.max_int)) else range(0)
        splits = [
            (run[:i], run[i:])
            for i in cuts
            if grammar.is_operand(run[:i]) and grammar.is_operand(run[i:])
        ]
        if following == ")" and splits:
            return splits[0]  # the only one, see `ambiguity`
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
        """Attaches the newest node to the innermost operation, and closes those that end here.

        Returns True if none is open.
        """
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
            value = apply_operator(top.operator, left.value, right.value)
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
        """The value after `=`: an integer without leading zeros, signed only if `-` is allowed."""
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
