"""Checks and converts arguments of public functions, by their names.

What is clear is accepted: one text for a list of texts, numbers of numpy, any iterable of texts.
Anything else is a ConfigError of one line that says what to give. A single text is not taken for a
sequence of characters, nor True for an integer.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from maskdiff.errors import ConfigError, DataError, quote

P = ParamSpec("P")
R = TypeVar("R")
ArgumentReader = Callable[[str, Any], Any]  # (name, given) -> value; raises ConfigError


def checked_arguments(**readers: ArgumentReader) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that passes each given argument through the reader of its name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name in readers:
                    bound.arguments[name] = readers[name](name, value)
            return function(*bound.args, **bound.kwargs)

        return called

    return decorate


def refuse(name: str, value: object, wanted: str) -> ConfigError:
    """Return the error for an argument of a wrong type."""
    return ConfigError(f"{name} is {quote(value)} (of type {type(value).__name__}); give {wanted}")


def texts(name: str, value: Any) -> list[str | DataError]:
    """Return the texts of an ordered iterable, or one text as a list; DataErrors are kept."""
    return list(iter_texts(name, value))


def iter_texts(name: str, value: Any) -> Iterator[str | DataError]:
    """As `texts`, one by one; only a wrong type of the iterable is refused at once."""
    if isinstance(value, (str, DataError)):
        value = [value]
    if isinstance(value, os.PathLike):
        raise refuse(name, value, "texts; read the file first: Path(...).read_text().split('\\n')")
    if isinstance(value, (bytes, bytearray, Mapping, AbstractSet)) or not isinstance(
        value, Iterable
    ):
        raise refuse(name, value, "a list of texts")
    return (text_or_error(f"{name}[{i}]", text) for i, text in enumerate(value))


def text(name: str, value: Any) -> str:
    """Return one text."""
    found = text_or_error(name, value)
    if isinstance(found, DataError):
        raise found
    return found


def text_or_error(name: str, value: Any) -> str | DataError:
    """Return one text, or the DataError in its place."""
    if isinstance(value, DataError):
        return value
    if isinstance(value, str):
        return str(value)  # of numpy, too
    raise refuse(
        name, value, "a text; decode bytes first" if isinstance(value, bytes) else "a text"
    )


def path(name: str, value: Any) -> Path:
    """Return the path of a text or an `os.PathLike`."""
    if isinstance(value, bytes) or not isinstance(value, (str, os.PathLike)):
        raise refuse(name, value, "a path, as a text or a Path")
    return Path(value)


def integer(low: int, high: int) -> ArgumentReader:
    """Return a reader of integers from `low` to `high`, of Python or any library."""

    def read(name: str, value: Any) -> int:
        try:
            if is_boolean(value):
                raise TypeError
            found = operator.index(value)
        except TypeError:
            raise refuse(name, value, f"a whole number from {low} to {high}") from None
        if not low <= found <= high:
            raise ConfigError(f"{name} is {quote(found)[1:-1]}; allowed is {low} to {high}")
        return found

    return read


def real(low: float, high: float) -> ArgumentReader:
    """Return a reader of finite numbers from `low` to `high`, of Python or any library."""

    def read(name: str, value: Any) -> float:
        try:
            if is_boolean(value) or isinstance(value, (str, bytes)):
                raise TypeError
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            raise refuse(name, value, f"a number from {low:g} to {high:g}") from None
        if not low <= found <= high or math.isnan(found):
            raise ConfigError(f"{name} is {found:g}; allowed is {low:g} to {high:g}")
        return found

    return read


def is_boolean(value: Any) -> bool:
    """Return whether `value` is a boolean, of Python or numpy."""
    return type(value).__name__ in ("bool", "bool_")


def boolean(name: str, value: Any) -> bool:
    """Return a boolean; texts such as "no" are refused, since they count as true."""
    if not is_boolean(value):
        raise refuse(name, value, "True or False")
    return bool(value)


def pair(low: int, high: int) -> ArgumentReader:
    """Return a reader of two integers, such as the ends of a span."""
    one = integer(low, high)

    def read(name: str, value: Any) -> tuple[int, int]:
        if isinstance(value, (str, bytes, Mapping, AbstractSet)) or not isinstance(value, Iterable):
            raise refuse(name, value, "two whole numbers")
        ends = list(value)
        if len(ends) != 2:
            raise refuse(name, value, "two whole numbers")
        return one(name, ends[0]), one(name, ends[1])

    return read


def pairs(low: int, high: int) -> ArgumentReader:
    """Return a reader of a list of pairs, or of one pair."""
    one = pair(low, high)

    def read(name: str, value: Any) -> tuple[tuple[int, int], ...]:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            raise refuse(name, value, "a list of pairs (first, last + 1)")
        found = list(value)
        if len(found) == 2 and not any(isinstance(item, Iterable) for item in found):
            found = [found]
        return tuple(one(name, item) for item in found)

    return read


def optional(reader: ArgumentReader) -> ArgumentReader:
    """Return a reader that accepts None, too."""
    return lambda name, value: None if value is None else reader(name, value)
