"""Decides with Python's own parser whether a text is an expression of one line."""

from __future__ import annotations

import ast
import warnings

MAX_CHARACTERS = 10_000  # far beyond any string of the language; bounds the time to parse


def is_python_expression(text: str) -> bool:
    """Return whether `text` is one expression of printable ASCII, without spaces around it.

    Comments are refused. Faults that only the compiler finds, such as `f(a=1, a=2)`, are not.
    """
    plain = text.isascii() and text.isprintable() and text == text.strip()
    if not plain or len(text) > MAX_CHARACTERS:
        return False
    # Only a comment parses alone and hides a bracket behind it.
    return _parses(text) and ("#" not in text or _parses(f"({text})"))


def _parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unusual escapes and of `1 is 1`
        try:
            ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError):  # deep nesting, long numbers
            return False
    return True
