"""`inference.py solve` with an untrained checkpoint: outputs and one-line errors."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from maskdiff.checkpoint import save
from maskdiff.cli import inference
from maskdiff.cli import solve as solve_command
from maskdiff.cli.arguments import run_cli
from maskdiff.config import BackendConfig
from maskdiff.errors import ConfigError
from maskdiff.stepwise import backends
from maskdiff.stepwise.protocol import Capabilities, StepBackend
from tests.helpers.paths import CHECKPOINTS
from tests.helpers.step_trees import read, value_of
from tests.helpers.stepwise import (
    STEPS,
    Scripted,
    make_candidate,
    payload,
    problems,
    solve,
    solver_script,
)
from tests.helpers.streams import closed_pipe

FIELDS = {
    "schema", "verb", "index", "input", "text", "answer", "correct", "first_wrong", "steps",
    "tokens", "strategy",
    "finish_reason", "scaled", "restarts", "spent", "trace",
}  # fmt: skip
GOOD, EASY = "(+ 3 (* 2 4))", "(- 7 2)"
FEW = ("--max_steps", "3", "--max_step_tokens", "6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("checkpoints")
    save(where / "steps.pt", payload())
    save(where / "length_conditioned.pt", payload(causal_length=True))
    save(where / "closed.pt", payload(open_share=0.0))
    return where


def run(
    capsys: pytest.CaptureFixture[str], folder: Path, *argv: str, checkpoint: str = "steps.pt"
) -> tuple[int, str, str]:
    status = run_cli(
        inference.main, ["solve", *argv, "--checkpoint", str(folder / checkpoint), "--threads", "1"]
    )
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def scripted_backend(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Replace the checkpoint's backend by one that knows the answers; candidate 1 is wrong."""
    backend = Scripted(solver_script(lambda request, number: number == 1))
    monkeypatch.setattr(backends, "make_backend", lambda *_: backend)
    return backend


def test_solve_prints_text_columns(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, err = run(capsys, folder, GOOD, EASY, *FEW)
    rows = [line.split("\t") for line in out.splitlines()]
    assert (status, err, [row[0] for row in rows]) == (0, "", [GOOD, EASY])
    assert all(len(row) == 5 and row[2].startswith("wrong") and int(row[4]) > 0 for row in rows)
    assert run(capsys, folder, GOOD, EASY, *FEW)[1] == out


def test_solve_reports_correct_and_wrong_answers(
    capsys: pytest.CaptureFixture[str], folder: Path, scripted_backend: Scripted
) -> None:
    """Check text and JSON of correct answers and of a wrong one."""
    status, out, _ = run(
        capsys, folder, GOOD, EASY, "--strategy", "every-step", "--scorer", "checker"
    )
    assert (status, out) == (0, f"{GOOD}\t11\tcorrect\tend\t8\n{EASY}\t5\tcorrect\tend\t4\n")
    scripted_backend.script = lambda request, number: make_candidate("12")
    assert (
        run(capsys, folder, GOOD, "--strategy", "greedy")[1]
        == f"{GOOD}\t12\twrong (step 1)\tend\t1\n"
    )
    scripted_backend.script = lambda request, number: make_candidate("(+ 3")
    assert (
        run(capsys, folder, GOOD, "--strategy", "greedy")[1] == f"{GOOD}\t'(+ 3'\twrong\tend\t1\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["greedy", "sample", "every-step", "adaptive", "random", "best-of-n"]
)
@pytest.mark.parametrize("backend", ["causal", "blocks"])
def test_solve_prints_json_objects(
    capsys: pytest.CaptureFixture[str], folder: Path, strategy: str, backend: str
) -> None:
    given = [*problems(2), EASY]
    flags = [
        "--strategy",
        strategy,
        "--backend",
        backend,
        "--block",
        "4",
        "--per_call",
        "2",
        "--candidates",
        "3",
        *FEW,
        "--json",
    ]
    status, out, err = run(capsys, folder, *given, *flags)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, err, [row["input"] for row in rows], [row["index"] for row in rows]) == (
        0,
        "",
        given,
        [1, 2, 3],
    )
    for row in rows:
        assert set(row) == FIELDS
        assert (row["schema"], row["verb"], row["strategy"], row["steps"]) == (
            1,
            "solve",
            strategy,
            len(row["trace"]),
        )
        assert row["text"] == "".join(step["text"] for step in row["trace"])
        assert row["finish_reason"] in ("end", "max_steps", "step_length", "restarted")
        assert row["correct"] is (row["answer"] == str(value_of(read(row["input"]))))
        assert row["first_wrong"] == STEPS.first_wrong(STEPS.prompt(row["input"]) + row["text"])
        assert row["tokens"] <= row["spent"]["candidates"] * 18
        assert set(row["spent"]) == {"forward_tokens", "calls", "candidates", "seconds"}
        assert row["scaled"] == sum(step["scaled"] for step in row["trace"])
        assert all(
            len(step["proposals"]) == len(step["scores"]) == 3 * step["scaled"]
            for step in row["trace"]
        )
    assert any(row["scaled"] for row in rows) or strategy in (
        "greedy",
        "sample",
        "adaptive",
        "random",
    )


def test_show_prints_the_steps_and_candidates(
    capsys: pytest.CaptureFixture[str], folder: Path, scripted_backend: Scripted
) -> None:
    scripted_backend.script = solver_script(lambda request, number: number in (0, 2))
    flags = ("--strategy", "every-step", "--scorer", "checker", "--show")
    status, out, _ = run(capsys, folder, GOOD, *flags)
    assert status == 0
    assert out.splitlines() == [
        GOOD,
        "  1  (+ 3 8)>  u 1.000",
        "       2x 9999  score 0.000",
        "     * 2x (+ 3 8)>  score 1.000",
        "  2  11  u 1.000",
        "       2x 9999  score 0.000",
        "     * 2x 11  score 1.000",
        f"{GOOD}\t11\tcorrect\tend\t8",
    ]
    _, out, _ = run(
        capsys,
        folder,
        GOOD,
        "--strategy",
        "adaptive",
        "--momentum",
        "0.5",
        "--scaling",
        "0.4",
        "--show",
    )
    assert out.splitlines()[:2] == [
        GOOD,
        "  1  9999  u 1.000  M 0.000",
    ]  # what the momentum uncertainty was before it


def test_a_bad_line_is_reported_in_its_position(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f"{GOOD}\n(+ 1 x)\n\n{EASY}\r\n".encode() + b"\xff\n" + GOOD.encode()

    def solved(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        return run(capsys, folder, "--input", "-", "--strategy", "greedy", *FEW, *flags)

    status, out, err = solved()
    rows = out.split("\n")
    assert status == 2
    assert [row.split("\t")[0] for row in rows] == [GOOD, "", "", EASY, "", GOOD, ""]
    assert [line.split(":")[1] for line in err.splitlines()] == [
        " problem 2",
        " problem 3",
        " problem 5",
    ]
    assert "unknown symbol" in err
    assert "UTF-8" in err
    status, out, err = solved("--json")
    items = [json.loads(line) for line in out.splitlines()]
    assert (status, err, [item["index"] for item in items]) == (2, "", [1, 2, 3, 4, 5, 6])
    for item in items:
        bad = item["index"] in (2, 3, 5)
        assert ("error" in item, item["finish_reason"] == "error", item["text"] is None) == (
            bad,
            bad,
            bad,
        )
    assert [item["input"] for item in items] == [GOOD, "(+ 1 x)", "", EASY, "", GOOD]
    whole = [row.split("\t") for row in rows if row]
    assert [int(row[4]) for row in whole] == [
        item["spent"]["forward_tokens"] for item in items if "error" not in item
    ]


def test_solve_reads_a_file_and_arguments(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, scripted_backend: Scripted
) -> None:
    (tmp_path / "problems.txt").write_text(f"{EASY}\n")
    status, out, _ = run(
        capsys, folder, GOOD, "--input", str(tmp_path / "problems.txt"), "--strategy", "greedy"
    )
    assert (status, [line.split("\t")[:2] for line in out.splitlines()]) == (
        0,
        [[GOOD, "11"], [EASY, "5"]],
    )
    status, out, err = run(capsys, folder, "--input", str(tmp_path / "none.txt"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "cannot read input" in err
    status, out, err = run(capsys, folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "nothing to solve" in err


@pytest.mark.parametrize(
    ("flags", "checkpoint", "words"),
    [
        (["--scorer", "perplexty"], "steps.pt", ["perplexty", "perplexity"]),
        (["--strategy", "best-of-m"], "steps.pt", ["best-of-m", "best-of-n"]),
        (["--strategi", "greedy"], "steps.pt", ["--strategy"]),
        (["--candidates", "0"], "steps.pt", ["candidates", "0"]),
        (
            ["--min_step_tokens", "9", "--max_step_tokens", "4"],
            "steps.pt",
            ["9", "4", "1 <= min <= max"],
        ),
        (["--step_stop", ""], "steps.pt", ["stop"]),
        ([], "length_conditioned.pt", ["conditioned on the length", "causal_length: false"]),
        (["--scorer", "denoiser"], "closed.pt", ["open_share"]),
        (["--backend", "blocks", "--scorer", "vote"], "closed.pt", ["open_share", "causal"]),
        ([], "none.pt", ["does not exist"]),
        (["--backend", "chat"], "steps.pt", ["--base_url"]),
        (
            ["--backend", "completions", "--base_url", "http://127.0.0.1:1/v1"],
            "steps.pt",
            ["--model"],
        ),
        (["--backend", "hugging-face"], "steps.pt", ["--model"]),
    ],
)
def test_bad_flags_are_refused(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    flags: list[str],
    checkpoint: str,
    words: list[str],
) -> None:
    status, out, err = run(capsys, folder, GOOD, *flags, checkpoint=checkpoint)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert all(word in err for word in words), err


@pytest.mark.parametrize("name", ["best.pt", "json.pt"])
def test_a_checkpoint_of_another_language_is_refused(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The arithmetic checkpoint is length-conditioned, too; the error names missing steps first."""
    status, out, err = run(capsys, CHECKPOINTS, GOOD, checkpoint=name)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "no language of problems and steps" in err
    assert "arithmetic-steps" in err


@pytest.mark.slow
def test_probe_prints_its_verdict(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = run(capsys, folder, "--probe")
    assert (status, err) == (0, "")
    assert out.startswith(
        "UNKNOWN: given a partial answer, causal "
    )  # untrained: it copies nothing
    assert len(out.splitlines()) == 4
    status, out, _ = run(capsys, folder, "--probe", "--json")
    item = json.loads(out)
    assert (status, item["verdict"], item["backend"], len(item["seen"])) == (
        0,
        "UNKNOWN",
        "causal",
        3,
    )
    doubtful = Capabilities(None, True, True, True, True, False)

    def writes(request, number):  # type: ignore[no-untyped-def]
        rest = ">".join(solve(request.prompt[:-1]))
        return make_candidate(rest[len(request.answer) :] if goes_on else rest, finish="end")

    backend = Scripted(writes, doubtful)
    monkeypatch.setattr(backends, "make_backend", lambda *_: backend)
    for goes_on, verdict in ((True, "CONTINUE"), (False, "RESTART")):  # noqa: B007
        status, out, _ = run(capsys, folder, "--probe")
        assert (status, out.split(":")[0]) == (0, verdict)
    status, out, err = run(capsys, folder, GOOD, "--strategy", "greedy")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in ("RESTART", "--strategy best-of-n", "--fallback best-of-n"))
    status, out, err = run(
        capsys,
        folder,
        GOOD,
        "--strategy",
        "greedy",
        "--scorer",
        "vote",
        "--fallback",
        "best-of-n",
        "--json",
    )
    assert (status, json.loads(out)["strategy"], json.loads(out)["correct"]) == (
        0,
        "best-of-n",
        True,
    )
    assert "does not go on from a partial answer: best-of-n instead" in err


def test_backends_are_made_by_name() -> None:
    for name in ("causal", "blocks"):
        with pytest.raises(ConfigError, match="--checkpoint"):
            backends.make_backend(BackendConfig(backend=name))
    chat = BackendConfig(backend="chat", model="m", base_url="http://127.0.0.1:1/v1")
    generator: StepBackend = backends.make_backend(chat, None, STEPS)  # sends nothing yet
    assert generator.capabilities.continues is not True
    assert generator.capabilities.chat


def test_command_has_local_backends_and_a_default_checkpoint() -> None:
    assert set(solve_command.OURS) == {"causal", "blocks"}
    assert solve_command.CHECKPOINT == "arithmetic-steps.pt"


def test_a_closed_pipe_ends_quietly(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many.txt").write_text(f"{EASY}\n" * 3000)
    argv = ["solve", "--input", str(tmp_path / "many.txt"), "--strategy", "greedy", "--show"]
    argv += ["--max_steps", "1", "--max_step_tokens", "2"]
    with closed_pipe():
        assert run_cli(inference.main, [*argv, "--checkpoint", str(folder / "steps.pt")]) == 141
    assert capsys.readouterr().err == ""
