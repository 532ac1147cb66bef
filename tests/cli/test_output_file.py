"""`repair` and `edit` that write a file: its bytes, what is left, and files never half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from maskdiff.cli import inference
from maskdiff.cli.arguments import run_cli
from maskdiff.tasks import Result
from maskdiff.utils.lines import Line
from tests.helpers.tiny import tiny_checkpoint

ROWS = (
    b'\xef\xbb\xbfid;rule;"no te"\r\n1;(+12)=3;"a;""b"""\r\n2;(+12)=4;x\r\n\r\n3;"(+1)=1";\r\n4;y'
)
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def answer(text: Line) -> Result:
    """A stub of repair: `=4` is surely `=3`, `(+1)` is perhaps `(+10)`, `y` takes too long."""
    if isinstance(text, Exception):
        return Result(finish_reason="error", error=str(text))
    if text == "y":
        return Result("z", finish_reason="timeout", input=text, probability=1.0)
    fixed = text.replace("=4", "=3").replace("(+1)", "(+10)")
    return Result(fixed, input=text, probability=0.4 if "(+1)" in text else 0.95)


@pytest.fixture
def run(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run `repair` with the stub; return the exit status and the error stream."""

    def stub(args: object, loaded: object, batch: Sequence[Line], source: object) -> list[Result]:
        return [answer(text) for text in batch]

    monkeypatch.setattr(inference, "run_repair", stub)

    def call(*argv: object) -> tuple[int, str]:
        status = run_cli(inference.main, ["repair", *map(str, argv), "--checkpoint", checkpoint])
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return call


def test_a_column_is_repaired_and_all_else_stays(tmp_path: Path, run: Run) -> None:
    source, target = tmp_path / "data.csv", tmp_path / "fixed.csv"
    source.write_bytes(ROWS)
    column = "--input", source, "--column", "rule", "--output", target
    status, err = run(*column, "--min_probability", "0.9")
    assert target.read_bytes() == ROWS.replace(b"(+12)=4", b"(+12)=3")
    assert err.splitlines() == [
        f"inference.py: 1 repaired, 1 unchanged, 2 left; written to {target}",
        "row\tinput\tanswer\tprobability",
        "5\t(+1)=1\t(+10)=1\t0.400",
        "6\t-\ta row of 2 cells; the header has 3\t-",
    ]
    assert status == 2  # of the bad row
    assert source.read_bytes() == ROWS
    run(*column)
    assert target.read_bytes() == ROWS.replace(b"=4", b"=3").replace(b"(+1)", b"(+10)")


def test_nothing_repaired_is_the_same_file(tmp_path: Path, run: Run) -> None:
    source, target = tmp_path / "data.csv", tmp_path / "fixed.csv"
    source.write_bytes(ROWS)
    run("--input", source, "--column", "rule", "--output", target, "--min_probability", "0.99")
    assert target.read_bytes() == ROWS


def test_json_lines_and_text_in_place(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": 1, "rule": "ä=4"}\n\n{"rule":"b", "x": [4.50]}')
    os.chmod(path, 0o600)
    status, err = run("--input", path, "--column", "rule", "--output", path)
    assert (status, path.read_text()) == (
        0,
        '{"id": 1, "rule": "ä=3"}\n\n{"rule":"b", "x": [4.50]}',
    )
    assert "1 repaired, 1 unchanged, 0 left" in err
    assert path.stat().st_mode & 0o777 == 0o600
    text = tmp_path / "lines.txt"
    text.write_bytes(b"a=4\r\n\r\n\xff\ry\n=4")
    status, err = run("--input", text, "--output", text)
    assert (status, text.read_bytes()) == (2, b"a=3\r\n\r\n\xff\ry\n=3")
    assert "3\t-\tthe line is not UTF-8 text\t-" in err
    assert "4\ty\tz\t1.000" in err


def test_an_interrupted_run_writes_nothing(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(
        args: object, loaded: object, batch: Sequence[Line], source: object
    ) -> list[Result]:
        if "b=4" in batch:
            raise KeyboardInterrupt
        return [answer(text) for text in batch]

    path = tmp_path / "data.txt"
    path.write_text("a=4\nb=4\n")
    monkeypatch.setattr(inference, "run_repair", interrupt)
    assert run("--input", path, "--output", path)[0] == 130
    assert path.read_text() == "a=4\nb=4\n"
    assert os.listdir(tmp_path) == ["data.txt"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["(+12)=3", "--output", "o"], "give --input and no strings"),
        (["--input", "i.csv", "--column", "rule"], "--column is for a file of answers"),
        (["--input", "i.csv", "--min_probability", "0.5"], "--min_probability is for a file"),
        (["--input", "i.csv", "--output", "o", "--json"], "--json changes what is printed"),
        (["--input", "i.csv", "--output", "o", "--pretty"], "--pretty changes what is printed"),
        (["--input", "i.csv", "--output", "o", "--top", "2"], "leave out --top"),
        (["--input", "i.csv", "--output", "no/o"], "there is no such folder"),
        (["--input", "i.csv", "--output", "."], "it is no file"),
        (["--input", "i.txt", "--output", "o", "--column", "rule"], "for .csv, .tsv and .jsonl"),
        (["--input", "i.csv", "--output", "o", "--column", "rul"], "the nearest is 'rule'"),
        (["--input", "e.csv", "--output", "o", "--column", "rule"], "the input is empty"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("i.csv").write_text("id,rule\n1,a\n")
    Path("e.csv").write_text("id,rule\n1,\n")
    status, err = run(*flags)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("o").exists()


def test_edit_fills_the_lines_of_a_file(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("(+1?)=3\n(+12)=?\n")
    argv = ["edit", "--input", str(source), "--checkpoint", checkpoint]
    assert run_cli(inference.main, [*argv, "--json"]) == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert run_cli(inference.main, [*argv, "--output", str(target)]) == 0
    assert target.read_text().splitlines() == texts
    assert source.read_text() == "(+1?)=3\n(+12)=?\n"
