"""Scalars that a user wrote, in a YAML file or as a flag, as values: the one reader of both.

For: `whole`, `decimal` and `truth`, which read text, and `Plain`, which marks text that YAML has
without quotes. Not for: ranges (`config.py`) or files (`configio.py`). Easy to get wrong: YAML gives
unquoted text other meanings (`007` is octal, `1_000` a thousand, `12:30` 750, `on` true), so its
scalars stay text until the field that wants them is known. A text field keeps them as written; a
number field takes plain decimal forms only. The readers raise ValueError with a hint, perhaps empty.
"""

from __future__ import annotations

import math
import re

MAX_DIGITS = (
    40  # more than any range has; longer numbers are cut to so many, and still out of range
)

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TRUTHS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
NULLS = ("", "~", "null")
EXAMPLE = "write it in plain decimal digits, such as 1000 or 0.003"


class Plain(str):
    """A scalar of YAML without quotes, as it is written; `str` itself is one in quotes or a flag."""

    __slots__ = ()

    @property
    def is_null(self) -> bool:
        """Whether YAML takes it for no value: nothing at all, `~` or `null`."""
        return self.lower() in NULLS

    @property
    def is_truth(self) -> bool:
        """Whether YAML takes it for a truth value, such as `no` and `on`."""
        return self.lower() in _TRUTHS and self not in ("0", "1")


def parse_integer(text: str) -> int:
    """The whole number that `text` is: decimal digits without leading zeros, perhaps a sign.

    Raises ValueError.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(_hint(text))
    return int(text[:MAX_DIGITS])


def parse_decimal(text: str) -> float:
    """The finite number that `text` is: a decimal fraction, perhaps with an exponent.

    Raises ValueError, also for a number that is not 0 and too small for a float; -0 is 0.
    """
    if not _DECIMAL.fullmatch(text):
        raise ValueError(_hint(text))
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("this one is too large")
    if value == 0.0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise ValueError("this one is too small: a float cannot tell it from 0")
    return value + 0.0  # -0.0 + 0.0 is 0.0


def parse_boolean(text: str) -> bool:
    """The truth value that `text` is: true, yes, on or 1, false, no, off or 0, in any case.

    Raises ValueError.
    """
    if text.lower() not in _TRUTHS:
        raise ValueError("true and yes, on and 1 are one, false and no, off and 0 the other")
    return _TRUTHS[text.lower()]


def _hint(text: str) -> str:
    return EXAMPLE if any(c.isdigit() for c in text) else ""
