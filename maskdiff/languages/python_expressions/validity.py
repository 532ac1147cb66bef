"""Whether a text is an expression of Python on one line.

For: `valid(text)`, the judge of this language: the parser of the running interpreter, and `SYMBOLS`, its alphabet. Not for:
values, types, or what only the compiler refuses, such as `f(a=1, a=2)`; nothing is ever evaluated. Easy to get wrong: the
parser alone accepts more than an expression of one line. It reads leading blanks, line breaks, tabs, other alphabets and
comments, so those are refused here; and it fails with more than SyntaxError on deep nesting, long numbers and null characters.
"""

from __future__ import annotations

import ast
import warnings

SYMBOLS = tuple(map(chr, range(0x20, 0x7F)))  # printable ASCII in the order of its codes
MAX_CHARACTERS = (
    10_000  # far beyond any string of the language; a longer text could only keep the parser busy
)


def valid(text: str) -> bool:
    """Whether `text`, as it stands, is one expression of printable ASCII: no blanks around it, no comment."""
    if (
        not (text.isascii() and text.isprintable())
        or text != text.strip()
        or len(text) > MAX_CHARACTERS
    ):
        return False
    # A comment swallows the bracket behind it, which nothing else does that parses alone.
    return _parses(text) and ("#" not in text or _parses(f"({text})"))


def _parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape or `1 is 1` only earns a SyntaxWarning
        try:
            ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
    return True
