"""Dataclass fields that document and check themselves.

Each option is a field with a default, a help text, and a range or choices. Its name is also the
name of a command-line flag, so names are unique across the sections of a run. Ranges hold however a
section is made: from a file, from flags, or in Python.
"""

from __future__ import annotations

import math
import operator
import os
from dataclasses import Field, field, fields
from typing import Any

from maskdiff.errors import ConfigError, nearest, quote

MODE = "mode"  # key of the metadata of shares of training objectives
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "tuple[str, ...]": "a text or a list of texts",
}


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    flag: str = "",
) -> Any:
    """A dataclass field with a help text, and a range (`low` and `high` inclusive) or choices.

    `flag` is a second name of its command-line flag, such as a word that Python reserves.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "flag": flag}
    return field(default=default, metadata=metadata)


def fraction(default: float, help: str) -> Any:
    """An option in [0, 1]."""
    return option(default, help, low=0.0, high=1.0)


def mode_share(default: float, help: str) -> Any:
    """An option for the share of a batch's strings that one training objective takes."""
    metadata = {"help": help, "low": 0.0, "high": 1.0, "choices": None, MODE: True}
    return field(default=default, metadata=metadata)


def range_text(option: Field[Any]) -> str:
    """The allowed range or choices of a field in words; empty when anything goes."""
    choices, low, high = (option.metadata.get(key) for key in ("choices", "low", "high"))
    if choices:
        return ", ".join(choice or "''" for choice in choices)
    return "" if low is None else f"{_number(low)} to {_number(high)}"


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def checked(option: Field[Any], value: Any, given: Any = None) -> Any:
    """`value` as the type of the field `option`.

    Integers may be of any library (`operator.index`), a number may be an integer, a text may be a
    path, and a list of texts may be one text.

    Args:
        option: the field.
        value: what to check.
        given: what messages quote, `value` by default.

    Raises:
        ConfigError: the type is wrong, a number is not finite or out of its range, or the value is
            not one of the choices.
    """
    shown = quote(value if given is None else given)
    try:
        value = _typed(str(option.type), value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"{option.name} is {shown}; it must be {KINDS[str(option.type)]}"
        ) from None
    choices, low, high = (option.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        hint = f"; the nearest is {nearest(value, choices)!r}" if value else ""
        allowed = ", ".join(map(repr, choices))
        raise ConfigError(f"{option.name} is {shown}; allowed are {allowed}{hint}")
    if low is not None and not low <= value <= high:
        raise ConfigError(f"{option.name} is {shown}; allowed is {range_text(option)}")
    return value


def _typed(kind: str, value: Any) -> Any:
    """`value` as the type of that name. Raises TypeError, ValueError or OverflowError."""
    truth = type(value).__name__ in ("bool", "bool_")  # of Python or NumPy
    if kind == "bool" and truth:
        return bool(value)
    if kind == "int" and not truth:
        return operator.index(value)
    if kind == "float" and not truth and not isinstance(value, (str, bytes)):
        if not math.isfinite(number := float(value)):
            raise ValueError
        return number + 0.0  # no -0.0
    if kind == "str" and isinstance(path := os.fspath(value), str):
        return str(path)
    if kind == "tuple[str, ...]":
        texts = (value,) if isinstance(value, str) else value
        if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
            return tuple(map(str, texts))
    raise TypeError


class Section:
    """A group of options whose values are checked when it is made.

    Raises:
        ConfigError: a value is of a wrong type, or out of its range.
    """

    def __post_init__(self) -> None:
        for option in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, option.name, checked(option, getattr(self, option.name)))
