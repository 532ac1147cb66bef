"""Small grammars, an independent parser for them, and all their strings, found without the code
under test."""

from __future__ import annotations

import itertools
import random
from functools import lru_cache

from lark import Lark
from lark.exceptions import LarkError

from maskdiff.languages.cfg import NormalForm

BRACKETS = 'start: e\ne: "1" | "(" e "+" e ")"'
EQUATION = 'start: e "=" V\ne: "1" | "(" e e ")"\nV: /1+|\\(/'
DYCK = 'start: s\ns: "a" s "b" s |'
TERMS = 'start: e\ne: DIGIT | "(" e OPERATOR e ")"\nDIGIT: "1" | "2"\nOPERATOR: "+" | "*"'
PAIRS = 'start: s\ns: "a" s "b" s | "c" s "d" s |'
PAIRED = 'start: s\ns: "(" s ")" s | "+" s "*" s |'
CALCULATION = (
    'start: e "=" NUMBER\ne: DIGIT | "(" e OP e ")"\nDIGIT: "0".."3"\n'
    'NUMBER: /0|[1-3][0-3]*/\nOP: "+" | "*"'
)
PALINDROMES = 'start: "a" start "a" | "b" start "b" | "a" | "b" | "aa" | "bb"'
SMALL = (
    (TERMS, "12(+*)", 5),
    (PAIRS, "abcd", 6),
    (PALINDROMES, "ab", 8),
)  # grammar, symbols, longest string to enumerate
AMBIGUOUS = 'start: e\ne: e "+" e | "1"'


# LALR(1) grammars in which the state of the parser tells all terminals apart.
LALR = (BRACKETS, DYCK, TERMS, PAIRS, PAIRED, CALCULATION)


@lru_cache(maxsize=256)
def parser(grammar: str) -> Lark:
    """Lark's own parser, which shares no code with the chart; that of LALR is much faster."""
    if grammar in LALR:
        return Lark(grammar, parser="lalr")
    return Lark(grammar, parser="earley", lexer="dynamic_complete")


@lru_cache(maxsize=2**16)
def accepts(grammar: str, text: str) -> bool:
    try:
        parser(grammar).parse(text)
    except LarkError:
        return False
    return True


@lru_cache(maxsize=256)
def strings(grammar: str, symbols: str, length: int) -> tuple[tuple[int, ...], ...]:
    """Symbol indices of every string of one length, by trying all of them."""
    every = itertools.product(range(len(symbols)), repeat=length)
    return tuple(row for row in every if accepts(grammar, "".join(symbols[i] for i in row)))


def recognises(grammar: NormalForm, text: str) -> bool:
    """Textbook CYK on sets."""
    n, rules = len(text), list(zip(grammar.parent, grammar.left, grammar.right))
    if not n >= 1 or any(symbol not in grammar.symbols for symbol in text):
        return False
    cell = {}
    for i, symbol in enumerate(text):
        cell[i, 1] = {
            a for a in range(len(grammar)) if grammar.emits[a, grammar.symbols.index(symbol)]
        }
    for w in range(2, n + 1):
        for i in range(n - w + 1):
            cell[i, w] = {
                p
                for p, b, c in rules
                if any(b in cell[i, k] and c in cell[i + k, w - k] for k in range(1, w))
            }
    return 0 in cell[0, n]


def random_grammar(rng: random.Random) -> str:
    """Three rules with empty bodies, left recursion, chains and options."""
    names = ["start", "x", "y"]

    def body() -> str:
        return " ".join(
            rng.choice(['"a"', '"b"', '"c"', *names, '("a" | y)', "x?"])
            for _ in range(rng.randint(0, 3))
        )

    return "\n".join(
        f"{name}: {' | '.join(body() for _ in range(rng.randint(1, 3)))}" for name in names
    )
