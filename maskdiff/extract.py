"""Takes an answer out of a longer output: the first string of a language, or the first code block of a Markdown text.

For: judging what a model said when it also says other things. Not for: judging the answer (`metrics.py`), or rendering
Markdown: containers (quotes, lists with a fence on the line of the bullet) and HTML blocks are read as plain lines. Easy to
get wrong: a parser that overlooks white space, as that of `arithmetic` does, reads on across it, so that the first string of
`1=1\\n2=2` is `1=1\\n2`; wrap such a language in `Unspaced` where white space ends an answer.

Positions count characters of the output from 0; `text[start:end]` is what was found (a `Fence` may have lost indentation).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from maskdiff.lines import LINE_END

# Lines end as CommonMark has them.
_LINE = re.compile(rf"(?P<body>[^\r\n]*)(?:{LINE_END})|(?P<last>[^\r\n]+)")
_OPENING = re.compile(r"(?P<indent> {0,3})(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)")
_TAB_STOP = 4


class Checker(Protocol):
    """The part of a language that tells its strings from others."""

    def parses(self, text: str) -> bool: ...


@dataclass(frozen=True)
class Span:
    """A part of a longer text: `text` is what stands there from `start` to before `end`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Fence:
    """A fenced code block: its content, where that stands in the document, and what the opening fence says (`python`).

    `text` has the line ending of its last line, and is the document's `[start:end]` unless the opening fence is indented:
    then its lines have lost that indentation.
    """

    text: str
    start: int
    end: int
    info: str


@dataclass(frozen=True)
class Unspaced:
    """A language whose strings hold no white space, whatever its parser overlooks."""

    language: Checker

    def parses(self, text: str) -> bool:
        """Whether `text` is a string of the language as it stands, without white space."""
        return not any(symbol.isspace() for symbol in text) and self.language.parses(text)


# ------------------------------------------------------------------------------------------------ strings of a language


def first_complete(text: str, language: Checker) -> Span | None:
    """The string that begins first in `text`, and of those that begin there the longest; None where nothing parses.

    The longest, because a shorter one is an accident: `=45` would end as `=4`. A string is not empty and has no white space
    at its ends; within, white space is the parser's to judge. The parser is asked O(n^2) times at worst, once for each part
    of n characters: n (n + 1) / 2 times where nothing parses. That is 20,000 times for 200 characters.
    """
    return next(_complete(text, language), None)


def all_complete(text: str, language: Checker) -> list[Span]:
    """The first string as of `first_complete`, the first in what follows it, and so on: none overlaps another.

    The parser is asked O(n^2) times at worst, n (n + 1) / 2 for n characters, however many strings there are.
    """
    return list(_complete(text, language))


def _complete(text: str, language: Checker) -> Iterator[Span]:
    """The strings of `all_complete`, each searched for when it is asked for."""
    start = 0
    while start < len(text):
        end = _longest(text, start, language)
        if end is not None:
            yield Span(text[start:end], start, end)
        start = start + 1 if end is None else end


def _longest(text: str, start: int, language: Checker) -> int | None:
    """The end of the longest string that begins at `start`, None if none does."""
    if text[start].isspace():
        return None
    ends = (end for end in range(len(text), start, -1) if not text[end - 1].isspace())
    return next((end for end in ends if language.parses(text[start:end])), None)


# -------------------------------------------------------------------------------------------------------- code blocks


def first_fence(text: str) -> Fence | None:
    """The first closed fenced code block of a Markdown text by the rules of CommonMark 0.31 (section 4.5); None without one.

    An unclosed fence swallows all that follows it, other fences included, so nothing is found after it. Line endings stay
    as they are. `info` has no spaces and tabs around it, and its escapes are left in. Takes O(n).
    """
    opening: re.Match[str] | None = None
    start, content = 0, list[str]()
    for line in _LINE.finditer(text):
        body = line["body"] if line["last"] is None else line["last"]
        if opening is None:
            opening, start = _OPENING.fullmatch(body), line.end()
        elif _closes(body, opening["fence"]):
            return Fence("".join(content), start, line.start(), opening["info"].strip(" \t"))
        else:
            content.append(_outdented(line[0], len(opening["indent"])))
    return None


def _closes(line: str, fence: str) -> bool:
    """Whether a line without its ending closes the block that `fence` opened."""
    marks = line.strip(" \t")
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    # A tab reaches the fourth column from wherever it stands, so that an indent with a tab is too wide.
    return set(marks) == {fence[0]} and len(marks) >= len(fence) and len(indent) < _TAB_STOP and "\t" not in indent


def _outdented(line: str, columns: int) -> str:
    """`line` without its first `columns` columns, as far as they are blank; a tab that is cut leaves spaces."""
    width = index = 0
    while width < columns and line[index : index + 1] in (" ", "\t"):
        width += 1 if line[index] == " " else _TAB_STOP - width % _TAB_STOP
        index += 1
    return " " * (width - columns) + line[index:]
