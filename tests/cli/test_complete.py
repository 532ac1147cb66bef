"""Tests of `inference.py complete`: its output, streams, files of prefixes and error messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskdiff.cli import inference
from maskdiff.cli.arguments import run_cli
from tests.helpers.streams import closed_pipe
from tests.helpers.tiny import PIECES, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("pieces"), **PIECES))


def run_main(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = run_cli(inference.main, ["complete", *argv])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.slow
def test_the_command_prints_columns_objects_and_streams(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    ours = ("--checkpoint", checkpoint, "--num", "3", "--seed", "2")
    status, out, err = run_main(capsys, "(+ 3", *ours)
    rows = [line.split("\t") for line in out.splitlines()]
    assert (status, err, len(rows)) == (0, "", 3)
    assert all(len(row) == 5 and row[0].startswith("(+3") for row in rows)
    # A stream prints the same, character by character.
    assert run_main(capsys, "(+ 3", "--stream", *ours)[1] == out
    _, out, _ = run_main(capsys, "(+ 3", "--json", *ours)
    items = [json.loads(line) for line in out.splitlines()]
    assert [item["text"] for item in items] == [row[0] for row in rows]
    assert set(items[0]["completion"]) == {
        "mode",
        "log_z",
        "dropped",
        "histories",
        "calls",
        "positions",
    }
    _, out, _ = run_main(capsys, "(+ 3", "--json", "--stream", *ours)
    events = [json.loads(line) for line in out.splitlines()]
    for number in range(3):
        deltas = [
            event["delta"] for event in events if event["sample"] == number + 1 and "delta" in event
        ]
        assert "".join(deltas) == rows[number][0]


@pytest.mark.slow
def test_requests_are_numbered_and_samples_within_them(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    argv = ["(+ 3", "(x", "(*", ")x", "--num", "2", "--checkpoint", checkpoint]
    _, out, _ = run_main(capsys, *argv, "--json")
    items = [json.loads(line) for line in out.splitlines()]
    assert [(item["index"], item["sample"]) for item in items] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (3, 1),
        (3, 2),
        (4, 1),
    ]
    _, _, err = run_main(capsys, *argv)
    assert ["string 2:" in line or "string 4:" in line for line in err.splitlines()] == [True, True]
    _, out, _ = run_main(capsys, *argv, "--json", "--stream")
    deltas = [json.loads(line) for line in out.splitlines() if "delta" in line]
    assert {(event["index"], event["sample"]) for event in deltas} == {
        (1, 1),
        (1, 2),
        (3, 1),
        (3, 2),
    }


@pytest.mark.slow
def test_a_beam_that_may_have_left_out_much_is_reported(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    status, out, err = run_main(
        capsys,
        "(+(*75)10)=45",
        "--mode",
        "beam",
        "--beam",
        "1",
        "--num",
        "2",
        "--checkpoint",
        checkpoint,
    )
    assert (status, out.count("\n"), err.count("\n")) == (0, 2, 1)
    assert "widen --beam" in err
    assert run_main(capsys, "(+3", "--mode", "beam", "--checkpoint", checkpoint)[2] == ""


@pytest.mark.slow
def test_the_command_reads_lines_and_reports_bad_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    (tmp_path / "prefixes.txt").write_text("(+ 3\nhello\n(*\n")
    status, out, err = run_main(
        capsys, "--input", str(tmp_path / "prefixes.txt"), "--checkpoint", checkpoint
    )
    assert status == 2
    assert [line.split("\t")[0][:2] for line in out.splitlines()] == ["(+", "", "(*"]
    assert err.count("\n") == 1
    assert "unknown symbol 'h'" in err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["(", "--mode", "exakt"], "the nearest is 'exact'"),
        (["(", "--budget", "0"], "allowed is 1"),
        (["(", "--temprature", "1"], "--temperature"),
        (["(", "--stream", "--pretty"], "give one of them"),
        ([], "nothing to complete"),
        (["(", "--suffix", "=z"], "unknown symbol 'z'"),
        (["(", "--num", "0"], "from 1 to"),
    ],
)
def test_bad_arguments_are_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], checkpoint: str, argv: list[str], message: str
) -> None:
    status, out, err = run_main(capsys, *argv, "--checkpoint", checkpoint)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_closed_pipe_ends_a_stream_quietly(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    with closed_pipe():
        argv = ["complete", "(+", "--num", "200", "--stream", "--checkpoint", checkpoint]
        assert run_cli(inference.main, argv) == 141
    assert capsys.readouterr().err == ""
