"""Errors that a user can cause and mend: every one is a single line.

The line says what was given, what is allowed and what to do. The doors (the command-line programs) print it on the error
stream and exit with status 2; a traceback always means a bug. Not for internal invariants: those are plain assertions and
ValueErrors. Easy to get wrong: a message of several lines breaks every reader that takes one line per failure, so the
constructor folds white space and shortens what is too long.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_MESSAGE = 400


def one_line(message: str, limit: int = MAX_MESSAGE) -> str:
    """`message` with every run of white space folded to one space and its middle cut out beyond `limit` characters."""
    # Cut before folding too: a message that quotes a gigabyte of input should not be split word by word first.
    if len(message) > 16 * limit:
        message = message[: 8 * limit] + " ... " + message[-8 * limit :]
    text = " ".join(message.split())
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]} ... {text[-(limit - head - 5) :]}"


def quote(given: object, limit: int = 60) -> str:
    """What the user gave, as one printable line of at most about `limit` characters."""
    text = given if isinstance(given, str) else _repr(given)
    shown = text if len(text) <= limit else text[: limit - 3] + "..."
    return ascii(shown) if not shown.isprintable() else f"'{shown}'"


def _repr(given: object) -> str:
    try:
        return repr(given)
    except ValueError:  # a whole number of thousands of digits, here or inside
        return f"a {type(given).__name__} with a number of too many digits"


class UserError(ValueError):
    """Something the user gave is wrong; `str(error)` is one line that says what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ConfigError(UserError):
    """A configuration key, value or file that is not valid."""


class CheckpointError(UserError):
    """A checkpoint that is missing, foreign, damaged, too new, or that does not fit."""


class LogitsError(CheckpointError):
    """A model whose logits are not numbers, or infinite: no text can be drawn from them."""


class CanvasError(UserError):
    """A template, prefix, draft or length that no canvas can be made of."""


class DataError(UserError):
    """Input data (a file or a line of one) that cannot be used."""


class GrammarError(UserError):
    """A grammar that cannot be read, or that no string can be conditioned on."""


class ParseError(UserError):
    """A text that is not a string of the language.

    `position` counts symbols (not characters) from 0; `text` is the whole input.
    """

    def __init__(self, message: str, position: int = 0, text: str = "") -> None:
        super().__init__(message)
        self.position = position
        self.text = text

    def __reduce__(self) -> tuple[type[ParseError], tuple[str, int, str]]:
        return type(self), (str(self), self.position, self.text)


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The allowed name most like `given` (the first one when nothing is alike); `allowed` must not be empty."""
    names = list(allowed)
    lowered = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(given[:64].lower(), lowered, n=1, cutoff=0.0)
    return lowered[close[0]] if close else names[0]
