"""Reads integers, numbers and booleans from text of a YAML file or a flag.

YAML gives text without quotes other meanings (`007` is octal, `1_000` a thousand, `12:30` 750, `on`
true). Here scalars stay text until the field that uses them is known: a text field keeps them, a
number field accepts plain decimal forms only. The readers raise ValueError, perhaps with a hint.
"""

from __future__ import annotations

import math
import re

MAX_DIGITS = 40  # more than any range allows; longer integers are cut to so many

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
    """A scalar of YAML without quotes, as written; one in quotes, or a flag, is a plain `str`."""

    __slots__ = ()

    @property
    def is_null(self) -> bool:
        """Whether YAML reads it as no value: empty, `~` or `null`."""
        return self.lower() in NULLS

    @property
    def is_truth(self) -> bool:
        """Whether YAML reads it as a boolean, such as `no` and `on`."""
        return self.lower() in _TRUTHS and self not in ("0", "1")


def parse_integer(text: str) -> int:
    """Return the integer of `text`: a sign, decimal digits without leading zeros.

    Raises ValueError.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(_hint(text))
    return int(text[:MAX_DIGITS])


def parse_decimal(text: str) -> float:
    """Return the finite number of `text`: a decimal fraction, perhaps with an exponent.

    Raises ValueError, also for a number other than 0 that a float rounds to 0. -0 becomes 0.
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
    """Return the boolean of `text`: true, yes, on or 1, false, no, off or 0, in any case.

    Raises ValueError.
    """
    if text.lower() not in _TRUTHS:
        raise ValueError("true and yes, on and 1 are one, false and no, off and 0 the other")
    return _TRUTHS[text.lower()]


def _hint(text: str) -> str:
    return EXAMPLE if any(c.isdigit() for c in text) else ""
