"""Finds an answer in a longer output: the first string of a language, or the first code block.

Of Markdown only the blocks that determine fenced code are read; HTML is plain lines. A parser that
ignores white space, as that of `arithmetic`, reads across it: the first string of `1=1\\n2=2` is
`1=1\\n2`. Wrap such a language in `Unspaced` if white space ends an answer.

Positions count characters from 0; `text[start:end]` is the answer (a `Fence` may lose indentation).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from maskdiff.utils.lines import LINE_END

# Lines end as in CommonMark.
_LINE = re.compile(rf"(?P<body>[^\r\n]*)(?:{LINE_END})|(?P<last>[^\r\n]+)")
_OPENING = re.compile(r"(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)")
_ITEM = re.compile(r"(?:[-+*]|(?P<number>[0-9]{1,9})[.)])(?=[ \t]|$)")
_HEADING = re.compile(r"#{1,6}(?:[ \t]|$)")
_UNDERLINE = re.compile(r"(?:=+|-+)[ \t]*")
_BLANKS = " \t"
MAX_DEPTH = 32  # of quotes and list items in each other; marks beyond it are text
_TAB_STOP = 4


class HasParser(Protocol):
    """The part of a language that recognises its strings."""

    def parses(self, text: str) -> bool: ...


@dataclass(frozen=True)
class Span:
    """A part of a longer text, from `start` to before `end`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Fence:
    """A fenced code block.

    Attributes:
        text: The content with its last line ending; `[start:end]` of the document without the
            indentation of the opening fence and the marks of quotes.
        info: The text after the opening fence, such as `python`.
        closed: A closing fence ends it; otherwise its quote or list item, or the document does.
        opening: Position of the line of the opening fence.
    """

    text: str
    start: int
    end: int
    info: str
    closed: bool = True
    opening: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Unspaced:
    """A language whose strings hold no white space, whatever its parser overlooks."""

    language: HasParser

    def parses(self, text: str) -> bool:
        """Return whether `text` is a string of the language and has no white space."""
        return not any(symbol.isspace() for symbol in text) and self.language.parses(text)


# -------------------------- strings of a language


def first_complete(text: str, language: HasParser) -> Span | None:
    """Return the string that begins first in `text`, and there the longest; None if none parses.

    A shorter one would be an accident: `=45` would end as `=4`. A string is not empty and has no
    white space at its ends; within it, the parser decides. The parser is called at most
    n (n + 1) / 2 times for n characters: 20,000 times for 200.
    """
    return next(_complete(text, language), None)


def all_complete(text: str, language: HasParser) -> list[Span]:
    """Return the string of `first_complete`, the first one in the text after it, and so on.

    The parser is called at most n (n + 1) / 2 times for n characters.
    """
    return list(_complete(text, language))


def _complete(text: str, language: HasParser) -> Iterator[Span]:
    """Yield the strings of `all_complete`."""
    start = 0
    while start < len(text):
        end = _longest(text, start, language)
        if end is not None:
            yield Span(text[start:end], start, end)
        start = start + 1 if end is None else end


def _longest(text: str, start: int, language: HasParser) -> int | None:
    """The end of the longest string that begins at `start`, None if none does."""
    if text[start].isspace():
        return None
    ends = (end for end in range(len(text), start, -1) if not text[end - 1].isspace())
    return next((end for end in ends if language.parses(text[start:end])), None)


# -------------------------- code blocks


def first_fence(text: str) -> Fence | None:
    """Return the first closed fenced code block of a Markdown text, or None."""
    return next((fence for fence in fences(text) if fence.closed), None)


def fences(text: str) -> list[Fence]:
    """Return the fenced code blocks of a Markdown text, by the rules of CommonMark 0.31.

    Blocks in quotes and list items are found, and lose the indentation and marks of these; HTML
    blocks are read as plain lines. An unclosed fence takes all that follows it in its quote or
    item, other fences included. Line endings stay as they are. `info` has no spaces and tabs around
    it, and its escapes are left in. Takes O(n); quotes and items nest to `MAX_DEPTH` at most.
    """
    blocks = _Blocks()
    for line in _LINE.finditer(text):
        body = line["body"] if line["last"] is None else line["last"]
        blocks.read(body, line[0][len(body) :], line.start(), line.end())
    blocks.end(len(text))
    return blocks.found


@dataclass
class _Open:
    """A fence that is open: its marks and indentation, the block so far and where that began."""

    marks: str
    indent: int
    info: str
    opening: int
    start: int
    content: list[str] = field(default_factory=list)


class _Blocks:
    """The state of CommonMark's block structure after some lines, as far as fences depend on it."""

    def __init__(self) -> None:
        self.found: list[Fence] = []
        self.open: _Open | None = None
        # Open quotes (0) and list items (the columns that their content is indented by).
        self.containers: list[int] = []
        self.empty = False  # whether the innermost item has had no content yet
        self.paragraph = False  # whether the innermost block is a paragraph

    def read(self, body: str, ending: str, start: int, end: int) -> None:
        """Take a line, its ending, and where it begins and ends."""
        text, column, matched = self._continued(body)
        whole = matched == len(self.containers)
        if self.open is not None and whole:
            if _closes(text, column, self.open.marks):
                self.end(start, closed=True)
            else:
                self.open.content.append(_cut(text, column, self.open.indent)[0] + ending)
            return
        self.end(start)
        if not text.strip(_BLANKS):
            del self.containers[matched:]
            self.paragraph = False
            return
        self._start(text, column, matched, start, end)

    def end(self, position: int, closed: bool = False) -> None:
        """End the open block, if there is one, before a position."""
        if self.open is not None:
            fence, self.open = self.open, None
            text = "".join(fence.content)
            self.found.append(Fence(text, fence.start, position, fence.info, closed, fence.opening))

    def _continued(self, text: str) -> tuple[str, int, int]:
        """The line behind the marks of the open containers, its column, and how many go on."""
        column = 0
        empty, self.empty = self.empty, False
        for number, columns in enumerate(self.containers):
            width = _width(text, column)
            if not columns:
                if width >= _TAB_STOP or text.lstrip(_BLANKS)[:1] != ">":
                    return text, column, number
                text, column = _unquoted(text, column)
            elif width >= columns:
                text, column = _cut(text, column, columns)
            elif text.strip(_BLANKS) or (empty and number == len(self.containers) - 1):
                return text, column, number
            else:
                text, column = "", column + width
        if empty and not text.strip(_BLANKS):
            return text, column, len(self.containers) - 1  # an item begins with one blank line
        return text, column, len(self.containers)

    def _start(self, text: str, column: int, matched: int, start: int, end: int) -> None:
        """Open what begins in a line that is not blank, behind `matched` containers."""
        goes_on = self.paragraph and matched == len(self.containers)
        while (width := _width(text, column)) < _TAB_STOP:
            body = text.lstrip(_BLANKS)
            fence = _OPENING.fullmatch(body)
            if fence is not None or _is_leaf(body, goes_on):
                del self.containers[matched:]
                self.paragraph = False
                if fence is not None:
                    info = fence["info"].strip(_BLANKS)
                    self.open = _Open(fence["fence"], width, info, start, end)
                return
            begun = _container(text, column, goes_on)
            if begun is None or matched == MAX_DEPTH:
                break
            text, column, columns = begun
            self.containers[matched:] = [columns]
            matched += 1
            self.paragraph = goes_on = False
            if not text.strip(_BLANKS):
                self.empty = columns > 0
                return
        # A paragraph goes on, if lazily without the marks of its containers.
        if not self.paragraph:
            del self.containers[matched:]
            self.paragraph = _width(text, column) < _TAB_STOP


def _is_leaf(body: str, after_paragraph: bool) -> bool:
    """Whether a line is a heading, the underline of one, or a break."""
    if after_paragraph and _UNDERLINE.fullmatch(body) is not None:
        return True
    kinds = set(body).difference(_BLANKS)
    is_break = kinds in ({"*"}, {"-"}, {"_"}) and body.count(body[0]) >= 3
    return is_break or _HEADING.match(body) is not None


def _container(text: str, column: int, after_paragraph: bool) -> tuple[str, int, int] | None:
    """What stands behind the mark that begins a quote or an item: text, its column, and the
    columns that belong to the item (0: a quote); None for a line without one."""
    body, width = text.lstrip(_BLANKS), _width(text, column)
    if body[:1] == ">":
        return (*_unquoted(text, column), 0)
    found = _ITEM.match(body)
    if found is None:
        return None
    rest, blank = body[found.end() :], not body[found.end() :].strip(_BLANKS)
    if after_paragraph and (blank or int(found["number"] or 1) != 1):
        return None
    column += width + found.end()
    gap = _width(rest, column)
    columns = 1 if blank or gap > _TAB_STOP else gap
    return (*_cut(rest, column, columns), width + found.end() + columns)


def _unquoted(text: str, column: int) -> tuple[str, int]:
    """A line behind the mark of a quote and one column of blanks, and its column."""
    width = _width(text, column)
    return _cut(text.lstrip(_BLANKS)[1:], column + width + 1, 1)


def _closes(text: str, column: int, marks: str) -> bool:
    """Whether a line without its ending closes the block that `marks` opened."""
    found = text.strip(_BLANKS)
    fits = set(found) == {marks[0]} and len(found) >= len(marks)
    return fits and _width(text, column) < _TAB_STOP


def _width(text: str, column: int) -> int:
    """The columns of the blanks that a text at a column begins with; a tab ends at a stop."""
    at = column
    for symbol in text:
        if symbol not in _BLANKS:
            break
        at += 1 if symbol == " " else _TAB_STOP - at % _TAB_STOP
    return at - column


def _cut(text: str, column: int, columns: int) -> tuple[str, int]:
    """A text at a column without `columns` columns of blanks, as far as it begins with them, and
    its new column; a tab that is cut leaves spaces."""
    index, at, end = 0, column, column + columns
    while at < end and text[index : index + 1] in (" ", "\t"):
        at += 1 if text[index] == " " else _TAB_STOP - at % _TAB_STOP
        index += 1
    return " " * (at - end) + text[index:], min(at, end)
