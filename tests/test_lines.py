"""Lines of byte streams against splitting the whole at once, at random borders of chunks."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
from fuzz_helpers import both_seeds, cases

from maskdiff import lines
from maskdiff.errors import DataError
from maskdiff.lines import Line, LineReader, Splitter, count_lines, open_lines

PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"a",
    b"bc",
    b" ",
    b"\x0b",
    b"\x0c",
    b"\x85",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
]
PIECES += [b"\xef\xbb\xbf", b"\xff", b"\xc3\xa9", b"\xc3", b"x" * 7]


def whole(data: bytes) -> list[str | None]:
    """The lines of the whole, by the method of bytes, which knows CR, LF and CRLF alone; None for a
    bad one."""
    found: list[str | None] = []
    for number, raw in enumerate(data.splitlines()):
        text = raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
        try:
            found.append(text.decode() if len(text) <= lines.MAX_LINE else None)
        except UnicodeDecodeError:
            found.append(None)
    return found


def plain(found: list[Line]) -> list[str | None]:
    return [None if isinstance(line, DataError) else line for line in found]


def in_chunks(data: bytes, rng: random.Random) -> list[Line]:
    splitter, found = Splitter(), []
    while data:
        size = rng.choice([1, 1, 2, 3, 5, 20])
        found += splitter.feed(data[:size])
        data = data[size:]
    return found + splitter.end()


@both_seeds
def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """CR, LF and CRLF alike, wherever chunks are cut, with lines that are no text or too long among
    them."""
    monkeypatch.setattr(lines, "MAX_LINE", 12)
    for rng in cases(3000, seed, 2.0):
        data = b"".join(rng.choice(PIECES) for _ in range(rng.randrange(25)))
        if rng.random() < 0.3:
            data = b"\xef\xbb\xbf" + data
        assert plain(in_chunks(data, rng)) == whole(data), data
        monkeypatch.setattr(lines, "CHUNK", rng.choice([1, 2, 7, 100]))
        assert plain(list(LineReader(io.BytesIO(data)))) == whole(data), data


def test_a_line_that_ends_with_cr_is_there_before_the_next_byte() -> None:
    splitter = Splitter()
    assert splitter.feed(b"one\r") == ["one"]
    assert splitter.feed(b"\n") == []
    assert splitter.feed(b"\n") == [""]
    assert splitter.feed(b"two") == []
    assert splitter.end() == ["two"]
    assert splitter.end() == []


def test_an_unfinished_line_is_bounded() -> None:
    splitter = Splitter()
    for _ in range(100):
        assert splitter.feed(b"x" * 10_000) == []
        assert len(splitter._open) <= lines.MAX_LINE + 3
    (line, after) = splitter.feed(b"\nok\n")
    assert isinstance(line, DataError)
    assert after == "ok"


def test_a_pipe_is_read_as_it_fills() -> None:
    """A reader waits for one line alone, and takes what else is there; it never waits for a full
    batch."""
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", buffering=0) as out:
        reader = LineReader(file)
        out.write(b"a\nb\nc")
        assert reader.take(1) == ["a"]
        assert reader.take(10) == ["b"]  # the last line may go on
        out.write(b"d\r\ne\n")
        assert reader.take(10) == ["cd", "e"]
        out.write(b"f")
        out.close()
        assert reader.take(10) == ["f"]
        assert reader.take(10) == []


def test_a_file_fills_its_batches(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"".join(b"%d\n" % i for i in range(50_000)))
    reader = open_lines(str(path))
    sizes = []
    while part := reader.take(1000):
        sizes.append(len(part))
    reader.close()
    assert sizes == [1000] * 50


def test_lines_are_counted_where_they_can_be(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"a\rb\r\nc\n\nd")
    assert count_lines(str(path)) == 5
    assert count_lines(str(tmp_path / "none")) is None
    assert count_lines(str(tmp_path)) is None
    assert count_lines("-") is None
