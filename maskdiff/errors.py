"""Errors that a user can cause and correct, each a single line, and how text appears in them.

The line names what was given, what is allowed and what to do. Command-line programs print it on the
error stream and exit with status 2; a traceback is always a bug. Internal invariants are assertions
and ValueErrors. The constructor escapes line ends and shortens long messages. Text of the user
stays exact: blanks are kept, invisible characters are escaped, clusters (emoji, letters with marks)
are never cut.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Iterable

MAX_MESSAGE = 400

# Invisible characters that join others and are not escaped: joiners between characters beyond
# Latin-1 (emoji, some scripts), and the tags after a black flag that name a region.
_JOINING = re.compile(
    "(?<=[^\x00-\xff])[\u200c\u200d](?=[^\x00-\xff])"
    "|(?<=\U0001f3f4)[\U000e0020-\U000e007e]+\U000e007f"
)
_JOINERS, _ZWJ = "\u200c\u200d", "\u200d"
_FLAG_LETTERS, _SKIN_TONES = ("\U0001f1e6", "\U0001f1ff"), ("\U0001f3fb", "\U0001f3ff")
_TAGS = ("\U000e0020", "\U000e007f")
_VOWELS_AND_FINALS = ("\u1160", "\u11ff")  # of Hangul in letters


# ------------------------------------------------------------------------------------- showing text


def visible(text: str) -> str:
    """Return `text` as one line: line ends, control and invisible characters are escaped.

    Escapes are those of Python's literals. Blanks and joiners of emoji stay.
    """
    if text.isprintable():
        return text
    joining = {i for match in _JOINING.finditer(text) for i in range(*match.span())}
    return "".join(
        c if c.isprintable() or i in joining else c.encode("unicode_escape").decode()
        for i, c in enumerate(text)
    )


def clusters(text: str) -> list[str]:
    """Return the grapheme clusters of `text` (UAX 29), the characters that a reader sees."""
    found: list[str] = []
    for c in text:
        if found and _joins(found[-1], c):
            found[-1] += c
        else:
            found.append(c)
    return found


def _joins(cluster: str, c: str) -> bool:
    """Whether `c` belongs to the cluster before it."""
    last = cluster[-1]
    if unicodedata.category(last) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not (
        last in _JOINERS or _TAGS[0] <= last <= _TAGS[1]
    ):
        return False
    if _FLAG_LETTERS[0] <= c <= _FLAG_LETTERS[1]:
        return len(cluster) == 1 and _FLAG_LETTERS[0] <= last <= _FLAG_LETTERS[1]
    if last == _ZWJ and _is_picture(c):  # it joins a picture before the joiner and its marks
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
    """Return the columns of `text` on a terminal: 2 for a wide cluster (emoji, East Asian)."""
    return sum(_cluster_width(cluster) for cluster in clusters(text))


def _cluster_width(cluster: str) -> int:
    first = cluster[0]
    if unicodedata.category(first) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    flag = len(cluster) > 1 and _FLAG_LETTERS[0] <= first <= _FLAG_LETTERS[1]
    wide = unicodedata.east_asian_width(first) in "WF" or flag or "\ufe0f" in cluster
    return 2 if wide else 1


def clip(text: str, limit: int) -> str:
    """Return `text` cut to `limit` characters with `...` at its end; clusters stay whole."""
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
    """Return `message` as one line (see `visible`) of at most `limit` characters.

    Its middle is cut out, also before escaping, which would be slow for a gigabyte of input.
    """
    if len(message) > 16 * limit:
        message = message[: 8 * limit] + " ... " + message[-8 * limit :]
    text = visible(message)
    if len(text) <= limit:
        return text
    parts, head = clusters(text), limit * 2 // 3
    tail = _fitting([part[::-1] for part in reversed(parts)], limit - head - 5)[::-1]
    return f"{_fitting(parts, head)} ... {tail}"


def folded(problem: BaseException | str) -> str:
    """Return a message of another program as one line; not for text of the user."""
    return re.sub(r"\s*[\r\n]\s*", " ", str(problem).strip())


class _Short(reprlib.Repr):
    """`repr` of a bounded size, whatever is nested or how long a number is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 4, 20, 20, 20, 20
        self.maxstring, self.maxother, self.maxlong = 200, 200, 200

    def repr_int(self, x: int, level: int) -> str:
        """A long number by its length: Python does not print one of over 4300 digits."""
        if abs(x) < 10**100:
            return repr(x)
        return f"a number of about {int(x.bit_length() * 0.30103)} digits"


_SHORT = _Short()


def quote(given: object, limit: int = 60) -> str:
    """Return a value in quotes, as one line of about `limit` characters at most."""
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
    """Return the allowed name most similar to `given`; `allowed` must not be empty."""
    names = list(allowed)
    lowered = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(given[:64].lower(), lowered, n=1, cutoff=0.0)
    return lowered[close[0]] if close else names[0]
