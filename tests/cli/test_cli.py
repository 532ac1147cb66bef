"""Code shared by all commands: exit statuses, one-line errors, and reading of lines."""

from __future__ import annotations

import argparse
import errno
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from maskdiff.cli import arguments as cli
from maskdiff.errors import DataError, UserError
from maskdiff.utils.lines import MAX_LINE, open_lines


def fail(error: BaseException) -> Callable[[list[str] | None], int]:
    def main(argv: list[str] | None) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    "error, status, message",
    [
        (UserError("length 2\nis impossible"), 2, "length 2\\nis impossible"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.pt"),
            2,
            "'x.pt': No space left on device",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 2, "Permission denied"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory"),
        (ValueError("embedded null byte"), 2, "a path or text cannot be used"),
        (
            UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
            2,
            "cannot be used",
        ),
        (RuntimeError("CUDA out of memory. Tried to"), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_give_one_line_and_an_exit_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    assert cli.run_cli(fail(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_unexpected_exceptions_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run_cli(lambda argv: 1 // 0)
    with pytest.raises(RuntimeError):
        cli.run_cli(fail(RuntimeError("shape mismatch")))


def test_closed_pipe_is_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_closed_pipe", lambda: cli.CLOSED_PIPE)  # the test's own stdout stays
    assert cli.run_cli(fail(BrokenPipeError())) == 141
    assert capsys.readouterr().err == ""


def test_exit_status_of_main_is_returned() -> None:
    assert cli.run_cli(lambda argv: 2) == 2
    assert cli.run_cli(lambda argv: None) == 0
    assert cli.run_cli(fail(SystemExit(0))) == 0


def test_long_usage_is_abbreviated() -> None:
    parser = cli.Parser(prog="x")
    parser.add_argument("texts", nargs="*")
    for index in range(20):
        parser.add_argument(f"--flag_{index}")
    assert parser.format_help().startswith("usage: x texts [--flag VALUE ...]\n")
    assert "--flag_19" in parser.format_help()


def test_length_range_is_parsed_or_refused() -> None:
    assert cli.length_range("24") == (24, 24)
    assert cli.length_range("3..62") == (3, 62)
    for text in ("", "x", "5..", "..5", "5..3", "0", "-3", "3...5", "3.5", "9" * 30, "٣"):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.length_range(text)


def test_span_is_parsed_or_refused() -> None:
    assert cli.span("3:5") == (3, 5)
    assert cli.span("0") == (0, 1)
    for text in ("", "5:3", "3:3", ":3", "3:", "a:b", "-1:2"):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.span(text)


def test_numbers_are_parsed_or_refused() -> None:
    assert (cli.positive("1"), cli.natural("0"), cli.share("0.5")) == (1, 0, 0.5)
    for flag, text in [
        (cli.positive, "0"),
        (cli.natural, "-1"),
        (cli.natural, "1e3"),
        (cli.share, "0"),
        (cli.share, "nan"),
    ]:
        with pytest.raises(argparse.ArgumentTypeError):
            flag(text)


@pytest.mark.parametrize("flag", [cli.positive, cli.natural])
def test_long_numbers_are_refused_and_not_truncated(flag: Callable[[str], int]) -> None:
    assert flag("1000000") == 10**6
    for text in ("1000001", "9" * 19, "1" + "0" * 20, "1" * 100_000):
        with pytest.raises(argparse.ArgumentTypeError, match="to 1000000"):
            flag(text)


def test_input_lines_of_every_kind_are_read(tmp_path: Path) -> None:
    long = b"(" * 1_000_000
    data = (
        b"\xef\xbb\xbfone\r\n\n" + long + b"\n\xff\xfe\nf\xc3\xa9\n" + b"x" * MAX_LINE + b"\nlast"
    )
    (tmp_path / "in").write_bytes(data)
    lines = list(open_lines(str(tmp_path / "in")))
    assert lines[0] == "one"
    assert lines[1] == ""
    assert isinstance(lines[2], DataError)
    assert isinstance(lines[3], DataError)
    assert "0xff" in str(lines[3])
    assert lines[4] == "fé"
    assert lines[5] == "x" * MAX_LINE
    assert lines[6] == "last"
    assert len(lines) == 7


def test_a_huge_line_without_line_end_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 1_000_000)
    assert [type(line) for line in open_lines(str(tmp_path / "in"))] == [DataError]


def test_standard_input_is_read_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    assert list(open_lines("-")) == ["a", "b"]


def test_closed_streams_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        list(open_lines("-"))
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.run_cli(lambda argv: 0) == 2
    assert "standard output is closed; send it to a file" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.run_cli(fail(UserError("an error without a stream"))) == 2
    assert capsys.readouterr().out == ""


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match="cannot read input"):
            list(open_lines(str(path)))
