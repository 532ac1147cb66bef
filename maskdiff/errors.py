"""Errors that a user can cause and mend, every one a single line, and how text is shown in them.

The line says what was given, what is allowed and what to do. The doors (the command-line programs) print it on the error
stream and exit with status 2; a traceback always means a bug. Not for internal invariants: those are plain assertions and
ValueErrors. Easy to get wrong: a message of several lines breaks every reader that takes one line per failure, so the
constructor escapes line ends and shortens what is too long. Text of the user stays exact: blanks
are never folded, what has no shape is escaped, and joined characters (emoji, letters with marks)
are never cut apart.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Iterable

MAX_MESSAGE = 400

# Characters without a shape that join others and are shown as they are: joiners between characters
# beyond Latin-1 (emoji
# and scripts that need them), and the tags behind a black flag that name a region.
_JOINING = re.compile(
    "(?<=[^\x00-\xff])[\u200c\u200d](?=[^\x00-\xff])"
    "|(?<=\U0001f3f4)[\U000e0020-\U000e007e]+\U000e007f"
)
_JOINERS, _ZWJ = "\u200c\u200d", "\u200d"
_FLAG_LETTERS, _SKIN_TONES = ("\U0001f1e6", "\U0001f1ff"), ("\U0001f3fb", "\U0001f3ff")
_TAGS, _VOWELS_AND_FINALS = (
    ("\U000e0020", "\U000e007f"),
    ("\u1160", "\u11ff"),
)  # the latter of Hangul written as letters


# ------------------------------------------------------------------------------------- showing text


def visible(text: str) -> str:
    """`text` as one line: line ends, control characters and others without a shape are escaped.

    They are written as in Python's literals. Blanks stay as they are, and so do joiners of emoji.
    """
    if text.isprintable():
        return text
    joining = {i for match in _JOINING.finditer(text) for i in range(*match.span())}
    return "".join(
        c if c.isprintable() or i in joining else c.encode("unicode_escape").decode()
        for i, c in enumerate(text)
    )


def clusters(text: str) -> list[str]:
    """The characters of `text` as a reader counts them: grapheme clusters of Unicode (UAX 29)."""
    found: list[str] = []
    for c in text:
        if found and _joins(found[-1], c):
            found[-1] += c
        else:
            found.append(c)
    return found


def _joins(cluster: str, c: str) -> bool:
    """Whether `c` is shown as a part of the cluster before it."""
    last = cluster[-1]
    if unicodedata.category(last) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not (
        last in _JOINERS or _TAGS[0] <= last <= _TAGS[1]
    ):
        return False
    if _FLAG_LETTERS[0] <= c <= _FLAG_LETTERS[1]:
        return len(cluster) == 1 and _FLAG_LETTERS[0] <= last <= _FLAG_LETTERS[1]
    if last == _ZWJ and _is_picture(
        c
    ):  # pictures join where one stands before the joiner, whatever marks it has
        return next(
            (
                _is_picture(before)
                for before in cluster[-2::-1]
                if before == _ZWJ or not _extends(before)
            ),
            False,
        )
    return _extends(c) or _VOWELS_AND_FINALS[0] <= c <= _VOWELS_AND_FINALS[1]


def _extends(c: str) -> bool:
    in_range = any(low <= c <= high for low, high in (_SKIN_TONES, _TAGS))
    return in_range or c in _JOINERS or unicodedata.category(c) in ("Mn", "Me", "Mc")


def _is_picture(c: str) -> bool:
    return unicodedata.category(c) == "So" and not _FLAG_LETTERS[0] <= c <= _FLAG_LETTERS[1]


def display_width(text: str) -> int:
    """Columns of a terminal that `text` takes: 2 for a wide cluster (emoji, East Asian), else 1."""
    return sum(_cluster_width(cluster) for cluster in clusters(text))


def _cluster_width(cluster: str) -> int:
    first = cluster[0]
    if unicodedata.category(first) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    flag = len(cluster) > 1 and _FLAG_LETTERS[0] <= first <= _FLAG_LETTERS[1]
    wide = unicodedata.east_asian_width(first) in "WF" or flag or "\ufe0f" in cluster
    return 2 if wide else 1


def clip(text: str, limit: int) -> str:
    """`text`, or as much of it as fits `limit` characters with `...` behind; clusters stay whole."""
    if len(text) <= limit:
        return text
    return _fitting(clusters(text[:limit]), limit - 3) + "..."


def _fitting(parts: list[str], limit: int) -> str:
    """The first of the parts that have at most `limit` characters together."""
    size = count = 0
    for part in parts:
        if (size := size + len(part)) > limit:
            break
        count += 1
    return "".join(parts[:count])


def one_line(message: str, limit: int = MAX_MESSAGE) -> str:
    """`message` as one line (see `visible`), its middle cut out beyond `limit` characters."""
    # Cut before escaping too: a message that quotes a gigabyte of input should not be read
    # character by character first.
    if len(message) > 16 * limit:
        message = message[: 8 * limit] + " ... " + message[-8 * limit :]
    text = visible(message)
    if len(text) <= limit:
        return text
    parts, head = clusters(text), limit * 2 // 3
    tail = _fitting([part[::-1] for part in reversed(parts)], limit - head - 5)[::-1]
    return f"{_fitting(parts, head)} ... {tail}"


def folded(problem: BaseException | str) -> str:
    """What another program says in several lines, in one; not for text of the user."""
    return re.sub(r"\s*[\r\n]\s*", " ", str(problem).strip())


class _Short(reprlib.Repr):
    """`repr` of a bounded size, whatever is nested or how long a number is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 4, 20, 20, 20, 20
        self.maxstring, self.maxother, self.maxlong = 200, 200, 200

    def repr_int(self, x: int, level: int) -> str:
        """A long number as its length: Python refuses to print one of over 4300 digits."""
        return (
            repr(x)
            if abs(x) < 10**100
            else f"a number of about {int(x.bit_length() * 0.30103)} digits"
        )


_SHORT = _Short()


def quote(given: object, limit: int = 60) -> str:
    """What the user gave, in quotes, as one line of about `limit` characters at most; blanks stay."""
    text = given if isinstance(given, str) else _SHORT.repr(given)
    return f"'{clip(visible(text[: limit + 1]), limit)}'"


# ------------------------------------------------------------------------------------------- errors


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
