"""inference.py in process, and in a second process where that matters."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from maskdiff.cli import inference
from maskdiff.cli.arguments import run_cli
from tests.helpers.forked import PIPE, Forked
from tests.helpers.paths import CHECKPOINTS, REPOSITORY
from tests.helpers.tiny import tiny_checkpoint

GOOD = "(+(*75)10)=45"
FIELDS = {
    "schema",
    "verb",
    "index",
    "text",
    "parses",
    "holds",
    "score",
    "evaluations",
    "finish_reason",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def run_main(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = run_cli(inference.main, list(argv))
    out, err = capsys.readouterr()
    return status, out, err


def test_generate_prints_json_objects(capsys: pytest.CaptureFixture[str], checkpoint: str) -> None:
    argv = [
        "generate",
        "--num",
        "3",
        "--length",
        "10..12",
        "--sampler",
        "hybrid",
        "--json",
        "--checkpoint",
        checkpoint,
    ]
    status, out, err = run_main(capsys, *argv)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, err, len(rows)) == (0, "", 3)
    assert all(
        set(row) == FIELDS and row["schema"] == 2 and 10 <= len(row["text"]) <= 12 for row in rows
    )
    assert [row["index"] for row in rows] == [1, 2, 3]
    assert run_main(capsys, *argv)[1] == out


def test_generate_prints_text_columns(capsys: pytest.CaptureFixture[str], checkpoint: str) -> None:
    status, out, _ = run_main(capsys, "repair", GOOD, "--sigma", "1e-6", "--checkpoint", checkpoint)
    text, verdict, score, evaluations, notes = out.rstrip("\n").split("\t")
    assert (status, text, verdict, notes) == (0, GOOD, "holds", "p=1.00")
    assert float(score) < 0 < int(evaluations)
    _, out, _ = run_main(
        capsys, "repair", GOOD, "--sigma", "1e-6", "--pretty", "--checkpoint", checkpoint
    )
    assert out.split("\t")[0].replace(" ", "") == GOOD
    assert " " in out.split("\t")[0]


def test_edit_accepts_its_flags(capsys: pytest.CaptureFixture[str], checkpoint: str) -> None:
    status, out, _ = run_main(
        capsys, "edit", GOOD, "--mask", "3:5", "--mask", "12", "--json", "--checkpoint", checkpoint
    )
    text = json.loads(out)["text"]
    assert (status, text[:3], text[5:12]) == (0, GOOD[:3], GOOD[5:12])


@pytest.mark.slow
def test_every_verb_accepts_the_grammar_flag(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    for verb, *given in (
        ("generate", "--num", "5", "--sampler", "maskgit", "--steps", "1"),
        ("edit", "(+?(*24))=1?"),
        ("edit", "(+?(*24))=1?", "--sampler", "maskgit", "--steps", "1"),
        ("repair", "(+(*75)10=45"),
        ("repair", "(+(*75)1?=45", "--method", "draft"),
    ):
        status, out, err = run_main(
            capsys, verb, *given, "--grammar", "--json", "--checkpoint", checkpoint
        )
        assert (status, err) == (0, "")
        assert all(json.loads(line)["parses"] for line in out.splitlines())
    status, _, err = run_main(
        capsys, "edit", "(+?(*24)=1?", "--grammar", "--checkpoint", checkpoint
    )
    assert status == 2
    assert err.count("\n") == 1
    assert "symbol 8 cannot be '='" in err


@pytest.mark.slow
def test_a_question_mark_that_is_a_symbol_is_not_read_as_a_blank(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped = str(CHECKPOINTS / "json.pt")
    status, out, err = run_main(
        capsys, "edit", "[1,?]", "[1,2]", "--grammar", "--checkpoint", shipped
    )
    assert (status, err.count("\n")) == (2, 1)
    assert "a blank is written ¿" in err
    assert out.startswith("[1,2]\t")


def test_edit_with_holds_gives_true_strings(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    status, out, err = run_main(
        capsys, "edit", "(+?(*24))=1?", "(+75)=1?", "--holds", "--json", "--checkpoint", checkpoint
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, err, rows[1]["text"]) == (0, "", "(+75)=12")
    assert all(
        set(row) == FIELDS | {"input"} and row["holds"] and row["finish_reason"] == "eos"
        for row in rows
    )
    status, out, err = run_main(capsys, "edit", "(*11)=2?", "--holds", "--checkpoint", checkpoint)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "the only candidate was checked" in err
    status, out, err = run_main(
        capsys, "edit", "(*?(*?(*??)))=5041", "--holds", "--bound", "9", "--checkpoint", checkpoint
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "raise the bound" in err


@pytest.mark.slow
def test_edit_replaces_a_span(capsys: pytest.CaptureFixture[str], checkpoint: str) -> None:
    for extra in ([], ["--grammar"], ["--holds"], ["--sampler", "maskgit", "--seed", "3"]):
        argv = [
            "edit",
            GOOD,
            "--replace",
            "2:7",
            "--length",
            "4..7",
            *extra,
            "--json",
            "--checkpoint",
            checkpoint,
        ]
        status, out, err = run_main(capsys, *argv)
        row = json.loads(out)
        assert (status, err, row["text"][:2], row["text"][-6:]) == (0, "", GOOD[:2], GOOD[7:])
        assert 4 <= len(row["text"]) - 8 <= 7
        assert row["parses"] or extra not in (["--grammar"], ["--holds"])
        assert row["holds"] or extra != ["--holds"]
    _, out, _ = run_main(
        capsys, "edit", GOOD, "--replace", "2:7", "--length", "0", "--checkpoint", checkpoint
    )
    assert out.split("\t")[0] == "(+10)=45"
    _, out, _ = run_main(
        capsys, "edit", GOOD, "--replace", "13:13", "--length", "1", "--checkpoint", checkpoint
    )
    assert out.startswith(GOOD)
    status, _, err = run_main(
        capsys, "edit", GOOD, "--replace", "12:14", "--checkpoint", checkpoint
    )
    assert (status, err.count("\n")) == (2, 1)
    assert "12:14 does not fit a text of 13 symbols" in err


@pytest.mark.slow
def test_repair_prints_alternatives_and_edits(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    flags = ["--holds", "--top", "3", "--certain", "0:3", "--beam", "4", "--checkpoint", checkpoint]
    argv = ["repair", "(+(*75)10=45", GOOD, *flags]
    status, out, err = run_main(capsys, *argv, "--json")
    broken, whole = (json.loads(line) for line in out.splitlines())
    fields = FIELDS | {"input", "change", "edits", "alternatives", "probability"}
    assert (status, err, set(broken)) == (0, "", fields)
    assert len(broken["alternatives"]) == 3
    assert set(broken["alternatives"][0]) == {"text", "parses", "holds", "score", "share", "edits"}
    assert broken["probability"] == broken["alternatives"][0]["share"]
    assert set(broken["edits"][0]) == {"operation", "position", "old", "new"}
    assert all(item["text"].startswith("(+(") and item["holds"] for item in broken["alternatives"])
    assert (whole["text"], whole["edits"], len(whole["alternatives"])) == (GOOD, [], 1)
    status, out, _ = run_main(capsys, *argv, "--script")
    lines = out.splitlines()
    assert (status, len(lines)) == (0, 5 + 3)
    assert [line.startswith("  ") for line in lines] == [False, *[True] * 4, False, True, True]
    rank, text, verdict, share, edits = lines[2].strip().split("\t")
    assert (rank, text, verdict, lines[1].strip()) == ("1", broken["text"], "holds", edits)
    assert 0 <= float(share) <= 1
    assert lines[6].strip() == "unchanged"
    status, _, err = run_main(
        capsys, "repair", "(((((((", "--grammar", "--max_edits", "1", "--checkpoint", checkpoint
    )
    assert (status, err.count("\n")) == (2, 1)
    assert "max_edits allows 1" in err


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["repair", "edit"])
def test_a_batch_with_bad_lines_answers_the_others(
    capsys: pytest.CaptureFixture[str], checkpoint: str, tmp_path: Path, verb: str
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(
        b"\n".join([GOOD.encode(), b"", b"(+z5)=1", b"\xff", b"(" * 1_000_000, GOOD.encode()])
    )
    status, out, err = run_main(
        capsys, verb, "--input", str(path), "--json", "--checkpoint", checkpoint
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, err, len(rows)) == (2, "", 6)
    good = {0, 5} if verb == "edit" else {0, 2, 5}  # a foreign symbol is unreadable to `repair`
    assert {i for i, row in enumerate(rows) if "error" not in row} == good
    assert all(set(row) >= FIELDS | {"input"} for row in rows)
    bad = [row for row in rows if "error" in row]
    assert all(row["text"] is None and row["finish_reason"] == "error" for row in bad)
    if verb == "edit":
        assert "position 2" in rows[2]["error"]
    else:
        assert rows[2]["foreign"] == [{"position": 2, "symbol": "z"}]
    status, out, err = run_main(capsys, verb, "--input", str(path), "--checkpoint", checkpoint)
    assert (status, len(out.splitlines()), len(err.splitlines())) == (2, 6, 6 - len(good))
    assert ("string 3:" in err) == (verb == "edit")
    assert ("read as unreadable: 'z' at 2" in out) == (verb == "repair")


def test_a_bad_argument_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    status, out, err = run_main(capsys, "edit", "abc", GOOD, "--checkpoint", checkpoint)
    assert (status, out.split("\t")[0], err.count("\n")) == (2, GOOD, 1)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["generate", "--length", "2"], "3 to 62 symbols"),
        (["generate", "--length", "1000"], "3 to 62 symbols"),
        (["generate", "--num", "-1"], "--num"),
        (["generate", "--temperature", "x"], "temperature"),
        (["generate", "--sampler", "hybird"], "hybrid"),
        (["generate", "--nmu", "3"], "--num"),
        (["generate", "extra"], "unexpected argument 'extra'"),
        (["generate", "--device", "gpu"], "this machine has auto, cpu"),
        (["edit"], "give strings as arguments, or --input"),
        (["edit", GOOD, "--mask", "5:3"], "5:3"),
        (["edit", GOOD, "--replace", "5:3"], "5:3"),
        (["edit", GOOD, "--replace", "3:3"], "changes nothing"),
        (["edit", GOOD, "--length", "3"], "--replace A:B, too"),
        (["edit", GOOD, "--bound", "3"], "--holds, too"),
        (["edit", GOOD, "--holds", "--temperature", "0.5"], "leave out --temperature"),
        (["edit", "--input", "/nonexistent"], "cannot read input"),
        (["repair", GOOD, "--method", "draf"], "'draft'"),
        (["repair", GOOD, "--sigma", "2"], "at most 1"),
        (["repare", GOOD], "invalid choice"),
        ([], "VERB"),
    ],
)
def test_bad_requests_are_refused(
    capsys: pytest.CaptureFixture[str], checkpoint: str, argv: list[str], message: str
) -> None:
    extra = ["--checkpoint", checkpoint] if argv and argv[0] != "repare" else []
    status, out, err = run_main(capsys, *argv, *extra)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_bad_checkpoints_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"junk")
    for path in (tmp_path / "bad.pt", tmp_path / "none.pt", tmp_path):
        status, out, err = run_main(capsys, "generate", "--checkpoint", str(path))
        assert (status, out, err.count("\n")) == (2, "", 1)


def test_help_lists_every_sampler_setting(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run_main(capsys, "generate", "--help")
    assert status == 0
    for flag in (
        "num",
        "length",
        "sampler",
        "steps",
        "num_ar_tokens",
        "temperature",
        "top_p",
        "seed",
        "checkpoint",
        "trace",
    ):
        assert f"--{flag}" in out


def command(checkpoint: str, *argv: str) -> list[str]:
    return [str(REPOSITORY / "inference.py"), *argv, "--checkpoint", checkpoint, "--threads", "1"]


def test_standard_input_is_read(
    capsys: pytest.CaptureFixture[str], checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"(+??)=12\nbad\n")))
    argv = ["edit", "--input", "-", "--json", "--checkpoint", checkpoint]
    status, out, err = run_main(capsys, *argv)
    assert (status, len(out.splitlines()), err) == (2, 2, "")


@pytest.mark.slow
def test_second_process_with_a_closed_pipe_ends_quietly(checkpoint: str) -> None:
    words = command(checkpoint, "generate", "--num", "400", "--steps", "1", "--json")
    with Forked(words, stdout=PIPE, stderr=PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait() == 141
    assert err == ""


@pytest.mark.slow
def test_second_process_reports_a_full_disk(checkpoint: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    with full, Forked(command(checkpoint, "generate"), stdout=full, stderr=PIPE) as process:
        err = process.stderr.read()
        assert process.wait() == 2
    assert "No space left on device" in err
    assert err.count("\n") == 1


def test_repair_takes_the_damage_of_a_file(
    capsys: pytest.CaptureFixture[str], checkpoint: str, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("(+(*75)10=45\t(+(*75)10)=45\n(+12)=3\t(+12)=3\n")
    argv = ["repair", "(+(*75)10=45", "--broken", "--edits", "1", "--checkpoint", checkpoint]
    status, out, err = run_main(capsys, *argv, "--damage", str(pairs), "--json", "--grammar")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["parses"]
    assert 0 < found["probability"] <= 1
    pairs.write_text("(+12)=3\t(+12)=3\n(+12)=3\n")
    status, out, err = run_main(capsys, *argv, "--damage", str(pairs))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "line 2: '(+12)=3\\n' is no pair" in err
    status, _, err = run_main(capsys, *argv, "--damage", "keyborad")
    assert (status, err.count("\n")) == (2, 1)
    assert "'keyboard'" in err
    status, _, err = run_main(capsys, *argv, "--damage", "none.csv")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot read pairs from 'none.csv'" in err
