"""Turns syntax trees of Python's parser of regular expressions back into patterns."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

_CATEGORIES = {
    "CATEGORY_DIGIT": "\\d", "CATEGORY_NOT_DIGIT": "\\D", "CATEGORY_SPACE": "\\s",
    "CATEGORY_NOT_SPACE": "\\S", "CATEGORY_WORD": "\\w", "CATEGORY_NOT_WORD": "\\W",
}  # fmt: skip
_ANCHORS = {
    "AT_BEGINNING": "^", "AT_BEGINNING_STRING": "\\A", "AT_END": "$", "AT_END_STRING": "\\Z",
    "AT_BOUNDARY": "\\b", "AT_NON_BOUNDARY": "\\B",
}  # fmt: skip
_LOOKS = {
    ("ASSERT", 1): "?=",
    ("ASSERT_NOT", 1): "?!",
    ("ASSERT", -1): "?<=",
    ("ASSERT_NOT", -1): "?<!",
}
_LAZY = {"MAX_REPEAT": "", "MIN_REPEAT": "?", "POSSESSIVE_REPEAT": "+"}
_FLAGS = {re.A: "a", re.I: "i", re.L: "L", re.M: "m", re.S: "s", re.U: "u", re.X: "x"}


def unparse(items: Any) -> str:
    """Return the pattern of a sequence of nodes of the parser."""
    if len(items) == 1:
        return unparse_node(items[0][0].name, items[0][1])
    texts = ((op.name, unparse_node(op.name, value)) for op, value in items)
    return "".join(f"(?:{text})" if name == "BRANCH" else text for name, text in texts)


def unparse_node(name: str, value: Any) -> str:
    """Return the pattern of one node, given its operation and its argument."""
    if name == "LITERAL":
        return _character(value)
    if name == "NOT_LITERAL":
        return f"[^{_character(value)}]"
    if name == "ANY":
        return "."
    if name == "IN":
        return _set(value)
    if name == "AT":
        return _ANCHORS[value.name]
    if name == "BRANCH":
        return "|".join(unparse(items) for items in value[1])
    if name == "SUBPATTERN":
        number, added, removed, items = value
        return f"({'?' + _flags(added, removed) + ':' if number is None else ''}{unparse(items)})"
    if name in ("ASSERT", "ASSERT_NOT"):
        return f"({_LOOKS[name, value[0]]}{unparse(value[1])})"
    if name == "FAILURE":
        return "(?!)"
    if name in _LAZY:
        return _repeat(*value) + _LAZY[name]
    if name == "ATOMIC_GROUP":
        return f"(?>{unparse(value)})"
    if name == "GROUPREF":
        return f"\\{value}"
    if name == "GROUPREF_EXISTS":
        number, yes, no = value
        return f"(?({number}){unparse(yes)}{'' if no is None else '|' + unparse(no)})"
    return name.lower()


def _character(code: int) -> str:
    character = chr(code)
    if character.isascii() and character.isprintable():
        return re.escape(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _set(items: Any) -> str:
    if len(items) == 1 and items[0][0].name == "CATEGORY":
        return _CATEGORIES[items[0][1].name]
    text = ""
    for op, value in items:
        if op.name == "NEGATE":
            text += "^"
        elif op.name == "LITERAL":
            text += _character(value)
        elif op.name == "RANGE":
            text += f"{_character(value[0])}-{_character(value[1])}"
        else:
            text += _CATEGORIES[value.name]
    return f"[{text}]"


def _flags(added: int, removed: int) -> str:
    names = [
        "".join(letter for flag, letter in _FLAGS.items() if flag & mask)
        for mask in (added, removed)
    ]
    return names[0] + ("-" + names[1] if names[1] else "")


def _repeat(least: int, most: int, items: Any) -> str:
    body = unparse(items)
    if len(items) != 1 or items[0][0].name in ("BRANCH", *_LAZY):
        body = f"(?:{body})"
    most_text = "" if most == parser.MAXREPEAT else str(most)
    short = {(0, ""): "*", (1, ""): "+", (0, "1"): "?"}.get((least, most_text))
    if short is None:
        short = f"{{{least}}}" if str(least) == most_text else f"{{{least},{most_text}}}"
    return body + short
