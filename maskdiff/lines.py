"""Lines of text: the one rule for corpora, `--input` and files of records.

A line ends at LF, at CR LF or at CR alone (files of old Macintosh programs). Nothing else ends a
line: U+2028, U+0085 (NEL), form feeds and vertical tabs are text, unlike in `str.splitlines`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

LINE_END = r"\r\n|\r|\n"
_ENDS, _BYTE_ENDS = re.compile(LINE_END), re.compile(LINE_END.encode())
CHUNK = 1 << 16  # bytes asked for at a time


def split_lines(text: str) -> list[str]:
    """The lines of `text` without their ends; a line end at the very end begins no further line."""
    lines = _ENDS.split(text)
    return lines if lines[-1] else lines[:-1]


def stream_lines(file: IO[bytes], longest: int) -> Iterator[bytes | None]:
    """Yield the lines of a binary file without their ends; None for a line of over `longest` bytes.

    A line is yielded as soon as its end has been read, so that a pipe is answered line by line. At
    most `longest` bytes and one chunk are held in memory.
    """
    begun = bytearray()  # the line whose end has not been read
    after_cr = False  # whether the byte before this chunk was a CR, whose line was yielded there
    while chunk := file.read1(CHUNK):  # type: ignore[attr-defined]
        *ended, last = _BYTE_ENDS.split(
            chunk[1:] if after_cr and chunk.startswith(b"\n") else chunk
        )
        after_cr = chunk.endswith(b"\r")
        for piece in ended:
            begun += piece
            yield bytes(begun) if len(begun) <= longest else None
            begun.clear()
        if len(begun) <= longest:  # of a longer one, no more is needed
            begun += last
    if begun:
        yield bytes(begun) if len(begun) <= longest else None
