"""Parses a pattern with Python's own parser into a tree over sets of characters.

`re` itself evaluates what one character matches (categories, ranges, case, `.`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from maskdiff.errors import quote
from maskdiff.languages.regex.limits import MAX_CHARACTERS, Budget, RegexError
from maskdiff.languages.regex.tree import (
    EMPTY,
    NOTHING,
    Characters,
    Choice,
    Look,
    Node,
    Repeat,
    Sequence,
)
from maskdiff.languages.regex.unparsing import parser, unparse_node

_TYPE_FLAGS = int(re.ASCII | re.LOCALE | re.UNICODE)
_LEAVES = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_IRREGULAR = {
    "GROUPREF": "a backreference {} is not regular",
    "GROUPREF_IGNORE": "a backreference {} is not regular",
    "GROUPREF_EXISTS": "a conditional group {} is not supported",
    "ATOMIC_GROUP": "an atomic group {} is not supported",
    "POSSESSIVE_REPEAT": "a possessive quantifier {} is not supported",
}
# Before Python 3.14, `\B` does not match in the empty string.
_EMPTY_IS_NO_BOUNDARY = re.match(r"\B", "") is not None


@dataclass(frozen=True)
class Construct:
    """A look-around, an anchor or a word boundary, as the pattern writes it."""

    text: str
    kind: str


@dataclass(frozen=True)
class ParsedPattern:
    """A syntax tree, its alphabet, and the constructs of the pattern that look around."""

    tree: Node
    symbols: frozenset[str]
    constructs: tuple[Construct, ...]


def parse_pattern(
    pattern: str, symbols: Collection[str], flags: int | Collection[str] = 0
) -> ParsedPattern:
    """Return the syntax tree of a pattern over the characters `symbols`.

    Args:
        pattern: A regular expression of Python.
        symbols: The alphabet, strings of one character each.
        flags: Flags of `re`, or their letters.

    Raises:
        RegexError: The pattern is not valid, not regular, or too long.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise RegexError(
            f"the pattern has {len(pattern)} characters; at most {MAX_CHARACTERS} are read"
        )
    bits = flags if isinstance(flags, int) else flag_bits(flags)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern, bits)  # checks more than the parser does
            parsed = parser.parse(pattern, bits)
        builder = _TreeBuilder(frozenset(symbols))
        tree = builder.sequence(parsed, parsed.state.flags)
    except (re.error, OverflowError, ValueError) as error:
        if isinstance(error, RegexError):
            raise
        raise RegexError(str(error)) from None
    return ParsedPattern(tree, builder.symbols, tuple(builder.constructs))


def flag_bits(letters: Collection[str]) -> int:
    """Return the flags of `re` for letters such as `"im"`. Raises `RegexError`."""
    bits = 0
    for letter in letters:
        if letter not in parser.FLAGS:
            raise RegexError(f"{quote(letter)} is no flag; the flags are {''.join(parser.FLAGS)}")
        bits |= parser.FLAGS[letter]
    return bits


class _TreeBuilder:
    def __init__(self, symbols: frozenset[str]) -> None:
        if any(len(symbol) != 1 for symbol in symbols):
            raise ValueError("symbols must be single characters")
        self.symbols = symbols
        self.constructs: list[Construct] = []
        self._budget = Budget()
        self._text = "".join(sorted(symbols))
        self._sets: dict[tuple[str, int], Characters] = {}
        self._looks: dict[tuple[Any, ...], Node] = {}
        self._construct: int | None = None  # the outermost one around the present node

    def sequence(self, items: Any, flags: int) -> Node:
        parts = tuple(self.node(op.name, value, flags) for op, value in items)
        return parts[0] if len(parts) == 1 else Sequence(parts)

    def node(self, name: str, value: Any, flags: int) -> Node:
        if name in _LEAVES:
            return self.characters(unparse_node(name, value), flags)
        if name == "BRANCH":
            return Choice(tuple(self.sequence(items, flags) for items in value[1]))
        if name == "SUBPATTERN":
            _, added, removed, items = value
            return self.sequence(items, _combine(flags, added, removed))
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, items = value
            return Repeat(
                self.sequence(items, flags),
                least,
                None if most == parser.MAXREPEAT else most,
                lazy=name == "MIN_REPEAT",
            )
        if name in ("ASSERT", "ASSERT_NOT"):
            return self.look_around(name, value, flags)
        if name == "AT":
            return self.anchor(value.name, flags)
        if name == "FAILURE":
            return NOTHING
        if name in _IRREGULAR:
            raise RegexError(_IRREGULAR[name].format(quote(unparse_node(name, value))))
        raise RegexError(f"the construct {name} of Python's regular expressions is not supported")

    def characters(self, text: str, flags: int) -> Characters:
        """The characters that a pattern of one character matches."""
        key = text, flags & int(re.IGNORECASE | re.ASCII | re.DOTALL)
        if key not in self._sets:
            self._budget.spend(400 + len(self.symbols) // 8)
            self._sets[key] = Characters(frozenset(re.compile(*key).findall(self._text)))
        return self._sets[key]

    def look_around(self, name: str, value: Any, flags: int) -> Node:
        direction, items = value
        text, negative = unparse_node(name, value), name == "ASSERT_NOT"
        kind = f"{'negative ' if negative else ''}look-{'ahead' if direction > 0 else 'behind'}"
        return self._cached(
            Construct(text, kind),
            flags,
            lambda construct: Look(self.sequence(items, flags), direction > 0, negative, construct),
        )

    def anchor(self, name: str, flags: int) -> Node:
        text = unparse_node("AT", parser.__dict__[name])
        kind = "word boundary" if name.endswith("BOUNDARY") else "anchor"
        return self._cached(
            Construct(text, kind), flags, lambda construct: self._anchor(name, flags, construct)
        )

    def _anchor(self, name: str, flags: int, construct: int) -> Node:
        """An anchor or word boundary as look-arounds."""
        any_one = Characters(self.symbols)
        newline = Characters(self.symbols & {"\n"})
        no_newline = Characters(self.symbols - {"\n"})

        def look(body: Node, ahead: bool, negative: bool = True) -> Look:
            return Look(body, ahead, negative, construct)

        several_lines = bool(flags & re.MULTILINE)
        if name == "AT_BEGINNING_STRING" or (name == "AT_BEGINNING" and not several_lines):
            return look(any_one, ahead=False)
        if name == "AT_BEGINNING":
            return look(no_newline, ahead=False)
        if name == "AT_END_STRING":
            return look(any_one, ahead=True)
        if name == "AT_END" and several_lines:
            return look(no_newline, ahead=True)
        if name == "AT_END":  # also matches before a final newline
            return look(Choice((no_newline, Sequence((newline, any_one)))), ahead=True)
        if name not in ("AT_BOUNDARY", "AT_NON_BOUNDARY"):
            raise RegexError(f"the anchor {name} of Python's regular expressions is not supported")
        word = self.characters("\\w", flags)
        after, not_after = look(word, False, False), look(word, False)
        before, not_before = look(word, True, False), look(word, True)
        if name == "AT_BOUNDARY":
            return Choice((Sequence((after, not_before)), Sequence((not_after, before))))
        filled = Choice((look(any_one, False, False), look(any_one, True, False)))
        outside = Sequence((not_after, not_before, EMPTY if _EMPTY_IS_NO_BOUNDARY else filled))
        return Choice((Sequence((after, before)), outside))

    def _cached(self, construct: Construct, flags: int, make: Any) -> Node:
        """One node for equal look-arounds; nested ones belong to the outermost construct."""
        outer = self._construct
        key = (construct, flags, outer)
        if key not in self._looks:
            if outer is None:
                self._construct = len(self.constructs)
                self.constructs.append(construct)
            try:
                self._looks[key] = make(self._construct)
            finally:
                self._construct = outer
        return self._looks[key]


def _combine(flags: int, added: int, removed: int) -> int:
    """The flags inside a group such as `(?a-i:...)`."""
    if added & _TYPE_FLAGS:
        flags &= ~_TYPE_FLAGS
    return (flags | added) & ~removed
