"""Splits text into lines: corpora, `--input` and files of records.

A line ends at LF, at CR LF or at CR alone. Nothing else ends a line: U+2028, U+0085 (NEL), form
feeds and vertical tabs are text, unlike in `str.splitlines`.
"""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from collections import deque
from collections.abc import Iterator
from typing import IO

from maskdiff.errors import DataError, quote

MAX_LINE = 100_000  # bytes of one input line
CHUNK = 65_536  # bytes read at once
MOST_COUNTED = 16 * 2**20  # bytes of a file whose lines are counted in advance
LINE_END = r"\r\n|\r|\n"
_ENDS, _BYTE_ENDS = re.compile(LINE_END), re.compile(LINE_END.encode())
BOM = b"\xef\xbb\xbf"

Line = str | DataError


def split_lines(text: str) -> list[str]:
    """Return the lines of `text` without their ends; an end of the text begins no further line."""
    lines = _ENDS.split(text)
    return lines if lines[-1] else lines[:-1]


class Splitter:
    """Splits bytes that come in chunks into lines without their ends.

    A line that is not UTF-8, or has over `longest` bytes, becomes a DataError. At most `longest`
    bytes of an unfinished line are kept. A byte order mark before the first line is removed.
    """

    def __init__(self, longest: int = MAX_LINE) -> None:
        self.longest = longest
        self._open = bytearray()  # the unfinished line
        self._too_long = False
        self._after_cr = False  # the last chunk ended with CR, to which a first LF belongs
        self._first = True

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that end in `chunk`, which is not empty."""
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r")
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        *ended, rest = _BYTE_ENDS.split(chunk)
        lines = []
        for part in ended:
            self._append(part)
            lines.append(self._take())
        self._append(rest)
        return lines

    def end(self) -> list[Line]:
        """Return the last line, if it has no end."""
        return [self._take()] if self._open or self._too_long else []

    def _append(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._open) + len(part) > self.longest + len(BOM)
        if self._too_long:
            self._open.clear()
        else:
            self._open += part

    def _take(self) -> Line:
        raw, too_long = bytes(self._open), self._too_long
        self._open.clear()
        self._too_long = False
        if self._first:
            raw, self._first = raw.removeprefix(BOM), False
        if too_long or len(raw) > self.longest:
            return DataError(f"the line has over {self.longest} bytes; give shorter lines")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return DataError(
                f"the line is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x})"
            )


class LineReader:
    """The lines of an open binary file, pipe or terminal, as a `Splitter` makes them."""

    def __init__(self, file: IO[bytes], close: bool = False, longest: int = MAX_LINE) -> None:
        self.file, self._close = file, close
        self._splitter: Splitter | None = Splitter(longest)  # None at the end of the file
        self._lines: deque[Line] = deque()

    def take(self, most: int) -> list[Line]:
        """Return up to `most` lines; none at the end of the file.

        It waits for the first line only; further lines are returned if they are available.
        """
        while self._splitter is not None and (
            not self._lines or (len(self._lines) < most and _ready(self.file))
        ):
            chunk = _read(self.file)
            if chunk:
                self._lines += self._splitter.feed(chunk)
            else:
                self._lines += self._splitter.end()
                self._splitter = None
        return [self._lines.popleft() for _ in range(min(most, len(self._lines)))]

    def __iter__(self) -> Iterator[Line]:
        while lines := self.take(1):
            yield from lines

    def close(self) -> None:
        """Close the file, if it was opened for this reader."""
        if self._close:
            self.file.close()


def open_lines(path: str) -> LineReader:
    """Return a reader of a file (`-`: standard input). Raises DataError."""
    if path == "-":
        if sys.stdin is None:
            raise DataError(
                "standard input is closed; give it a file or a pipe, or give --input a file"
            )
        return LineReader(sys.stdin.buffer)
    try:
        return LineReader(open(path, "rb"), close=True)
    except OSError as error:
        raise DataError(
            f"cannot read input {quote(path)}: {error.strerror or error}; "
            "give a file, or - for standard input"
        ) from None


def _read(file: IO[bytes]) -> bytes:
    """At least one byte as soon as one is available; none at the end of the file."""
    read1 = getattr(file, "read1", file.read)
    return bytes(read1(CHUNK))


def _ready(file: IO[bytes]) -> bool:
    """Whether a read returns at once; False if unknown, so that no line waits for a later one."""
    try:
        number = file.fileno()
        if stat.S_ISREG(os.fstat(number).st_mode):
            return True
        return bool(select.select([number], [], [], 0)[0])
    except (OSError, ValueError, AttributeError):
        return not hasattr(file, "raw")  # a buffer in memory


def count_lines(path: str) -> int | None:
    """Return the number of lines of a regular file; None for a large one or anything else."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > MOST_COUNTED:
            return None
        with open(path, "rb") as file:
            return sum(1 for _ in LineReader(file))
    except OSError:
        return None


__all__ = [
    "CHUNK", "LINE_END", "MAX_LINE", "Line", "LineReader", "Splitter", "count_lines", "open_lines",
    "split_lines",
]  # fmt: skip
