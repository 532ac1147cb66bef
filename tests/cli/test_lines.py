"""Lines read in chunks equal those of the whole text; only CR and LF end a line."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from maskdiff.cli import arguments as cli
from maskdiff.errors import DataError
from maskdiff.utils import lines
from maskdiff.utils.lines import Line, LineReader, Splitter, count_lines, open_lines, split_lines
from tests.helpers.fuzz import both_seeds, cases

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
LONGEST = 12  # bytes of a line


class Chunks(io.BytesIO):
    """A file that returns at most `size` bytes per read."""

    size = 1

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(min(self.size, size if size is not None and size > 0 else self.size))


def universal(text: str) -> list[str]:
    """Return the lines that Python's text-file reader gives."""
    return [
        line.removesuffix("\n")
        for line in io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline=None)
    ]


def lines_by_bytes(data: bytes) -> list[str | None]:
    """Return lines by `bytes.splitlines`, which splits at CR, LF, CRLF; None for a bad one."""
    found: list[str | None] = []
    for number, raw in enumerate(data.splitlines()):
        text = raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
        try:
            found.append(text.decode() if len(text) <= LONGEST else None)
        except UnicodeDecodeError:
            found.append(None)
    return found


def plain(found: list[Line]) -> list[str | None]:
    return [None if isinstance(line, DataError) else line for line in found]


def in_chunks(data: bytes, rng: random.Random) -> list[Line]:
    splitter, found = Splitter(LONGEST), []
    while data:
        size = rng.choice([1, 1, 2, 3, 5, 20])
        found += splitter.feed(data[:size])
        data = data[size:]
    return found + splitter.end()


@both_seeds
def test_lines_equal_those_of_universal_newlines(seed: int) -> None:
    """Compare with `io.TextIOWrapper(newline=None)` for every chunk size."""
    for rng in cases(3000, seed):
        text = "".join(
            rng.choice("a\n\r\r\n\u2028\x85\x0b\x0c\x1c é") for _ in range(rng.randrange(14))
        )
        expected = universal(text)
        assert split_lines(text) == expected
        file = Chunks(text.encode())
        file.size = rng.randrange(1, 6)
        assert list(LineReader(file)) == expected


@both_seeds
def test_long_lines_give_errors_in_their_position(seed: int) -> None:
    for rng in cases(500, seed):
        text = "".join(rng.choice("aaaa\r\n") for _ in range(rng.randrange(30)))
        file = Chunks(text.encode())
        file.size = rng.randrange(1, 6)
        expected = [line if len(line) <= 3 else None for line in universal(text)]
        assert plain(list(LineReader(file, longest=3))) == expected


def test_unicode_separators_and_form_feeds_are_text(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh".encode())
    assert list(open_lines(str(tmp_path / "in"))) == ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", "h"]


def test_a_pipe_is_answered_line_by_line() -> None:
    """A line is yielded before the writer continues, for all three line ends."""
    reading = "for line in open_lines('-'): print(repr(line), flush=True)"
    program = f"from maskdiff.utils.lines import open_lines\n{reading}"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", program]
    started = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
    with started as process:
        answers = []
        for sent in (b"one\r", b"\ntwo\r\n", b"three\n", b"\r"):
            process.stdin.write(sent)
            process.stdin.flush()
            answers.append(process.stdout.readline())
        process.stdin.close()
        assert process.stdout.read() == b""
    assert answers == [b"'one'\n", b"'two'\n", b"'three'\n", b"''\n"]


@pytest.mark.slow
@both_seeds
def test_chunk_size_does_not_change_the_lines(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """CR, LF and CR LF are equal for any chunk boundary, also around lines that are errors."""
    for rng in cases(3000, seed):
        data = b"".join(rng.choice(PIECES) for _ in range(rng.randrange(25)))
        if rng.random() < 0.3:
            data = b"\xef\xbb\xbf" + data
        assert plain(in_chunks(data, rng)) == lines_by_bytes(data), data
        monkeypatch.setattr(lines, "CHUNK", rng.choice([1, 2, 7, 100]))
        assert plain(list(LineReader(io.BytesIO(data), longest=LONGEST))) == lines_by_bytes(data), (
            data
        )


def test_a_line_that_ends_with_cr_is_yielded_before_the_next_byte() -> None:
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


def test_a_pipe_is_read_as_data_arrives() -> None:
    """A reader waits for one line, takes all available lines, and never waits for a full batch."""
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


def test_a_file_gives_full_batches(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"".join(b"%d\n" % i for i in range(50_000)))
    reader = open_lines(str(path))
    sizes = []
    while part := reader.take(1000):
        sizes.append(len(part))
    reader.close()
    assert sizes == [1000] * 50


def test_lines_are_counted_in_regular_files_only(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"a\rb\r\nc\n\nd")
    assert count_lines(str(path)) == 5
    assert count_lines(str(tmp_path / "none")) is None
    assert count_lines(str(tmp_path)) is None
    assert count_lines("-") is None
