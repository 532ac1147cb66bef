"""Lines: streamed in chunks they are those of the whole text, and only CR and LF end them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from fuzz_helpers import both_seeds, cases

from maskdiff import cli
from maskdiff.lines import split_lines, stream_lines


class Chunks(io.BytesIO):
    """A file that gives at most `size` bytes a read."""

    size = 1

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(min(self.size, size if size is not None and size > 0 else self.size))


def universal(text: str) -> list[str]:
    """The lines as Python's own reader of text files has them."""
    return [
        line.removesuffix("\n")
        for line in io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline=None)
    ]


@both_seeds
def test_lines_are_those_of_universal_newlines(seed: int) -> None:
    """Differential against `io.TextIOWrapper(newline=None)`, with every size of chunk."""
    for rng in cases(3000, seed, 1.0):
        text = "".join(
            rng.choice("a\n\r\r\n\u2028\x85\x0b\x0c\x1c é") for _ in range(rng.randrange(14))
        )
        expected = universal(text)
        assert split_lines(text) == expected
        file = Chunks(text.encode())
        file.size = rng.randrange(1, 6)
        assert [
            line.decode() if line is not None else "" for line in stream_lines(file, 100)
        ] == expected


@both_seeds
def test_long_lines_are_none_in_their_place(seed: int) -> None:
    for rng in cases(500, seed, 1.0):
        text = "".join(rng.choice("aaaa\r\n") for _ in range(rng.randrange(30)))
        file = Chunks(text.encode())
        file.size = rng.randrange(1, 6)
        expected = [line.encode() if len(line) <= 3 else None for line in universal(text)]
        assert list(stream_lines(file, 3)) == expected


def test_unicode_separators_and_form_feeds_are_text(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh".encode())
    assert list(cli.read_lines(str(tmp_path / "in"))) == [
        "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
        "h",
    ]


def test_a_pipe_is_answered_line_by_line() -> None:
    """A line is there before the writer goes on, whichever of the three ends it has."""
    reading = "for line in read_lines('-'): print(repr(line), flush=True)"
    program = f"from maskdiff.cli import read_lines\n{reading}"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, **pipes) as process:  # type: ignore[call-overload]
        answers = []
        for sent in (b"one\r", b"\ntwo\r\n", b"three\n", b"\r"):
            process.stdin.write(sent)
            process.stdin.flush()
            answers.append(process.stdout.readline())
        process.stdin.close()
        assert process.stdout.read() == b""
    assert answers == [b"'one'\n", b"'two'\n", b"'three'\n", b"''\n"]
