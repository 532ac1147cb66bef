"""Whether a text is a JSON document of printable ASCII.

For: `valid(text)`, the judge of this language: Python's `json`, and `SYMBOLS`, its alphabet. Not for: positions of errors, or
other white space than the space. Easy to get wrong: `json.loads` accepts more than JSON, namely NaN, Infinity and -Infinity,
which are refused here; and it fails with more than its own error, on deep nesting and on integers of thousands of digits.
"""

from __future__ import annotations

import json
from typing import NoReturn

SYMBOLS = tuple(map(chr, range(0x20, 0x7F)))  # printable ASCII in the order of its codes


def valid(text: str) -> bool:
    """Whether `text`, as it stands, is one JSON value with or without spaces around it; a key may come twice."""
    if not (text.isascii() and text.isprintable()):
        return False
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # what json.loads makes anew at each call
