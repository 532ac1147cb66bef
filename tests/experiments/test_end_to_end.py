"""All five experiments from the command line, with a model of transformers and real programs as
attempts."""

from __future__ import annotations

import functools
import json
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("transformers")

from maskdiff.errors import ConfigError
from maskdiff.experiments.distillation import python_programs
from maskdiff.experiments.distillation.cli import main
from maskdiff.experiments.distillation.sandbox.run import isolation_problem, run_program
from tests.helpers.hugging_face import saved

TESTS = json.dumps([{"input": "", "output": "1", "testtype": "stdin"}])
SMALL = [
    "--seeds",
    "1",
    "--problems",
    "2",
    "--rollouts",
    "1",
    "--max_tokens",
    "8",
    "--steps",
    "1",
    "--window_steps",
    "1",
]


def records(where):
    """Problems of few words, so that a model of bytes reads short prompts."""
    lines = [
        {
            "question_title": f"P{i}", "question_content": f"Print {i}.", "platform": "own",
            "question_id": f"p{i}", "contest_id": "c", "contest_date": "2026-01-01T00:00:00",
            "starter_code": "", "difficulty": "easy", "public_test_cases": TESTS,
            "private_test_cases": TESTS, "metadata": "{}",
        }
        for i in range(3)
    ]  # fmt: skip
    where.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return where


broken = functools.cache(lambda: run_program("("))


def run(program, *given):
    """Runs a program in the sandbox, and one program for all that do not compile."""
    try:
        compile(program, "program.py", "exec")
    except (SyntaxError, ValueError):
        return broken()
    return run_program(program, *given)


@pytest.mark.slow
def test_a_transformers_model_runs_all_experiments(tmp_path, capsys, monkeypatch):
    """A random model solves nothing: what counts is that everything is measured, of ids alone, and
    the verdicts follow."""
    if reason := isolation_problem():
        pytest.skip(f"programs cannot be isolated here: {reason}")
    monkeypatch.setattr(python_programs, "run_program", run)
    folder = saved(tmp_path / "model", "qwen3", positions=4096)
    out = tmp_path / "out"
    asked = ["--model", str(folder), "--records", str(records(tmp_path / "r.jsonl")), *SMALL]
    asked += ["--environment", "python", "--out", str(out), "--threads", "1", "--resamples", "100"]
    assert main(asked) == 0
    assert "tokens     controlled" in capsys.readouterr().out
    made = json.loads((out / "results.json").read_text())["experiments"]
    assert list(made) == ["rewards", "positions", "training", "windows", "tokens"]
    assert (
        made["positions"]["notes"][0]
        == "A teacher with the student's own prompt is 0 nats away (it must be 0)."
    )
    claims = {
        claim["name"]: claim["estimate"] for part in made.values() for claim in part["claims"]
    }
    assert claims["backtracking, late: told - untold"]["count"] > 0
    assert all(
        estimate["value"] is not None for name, estimate in claims.items() if "failed" in name
    )
    assert not any("revision" in name for name in claims)  # it has no bidirectional mode
    for name in made:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_environment_and_model_must_fit(tmp_path):
    folder = saved(tmp_path / "model", "qwen3")
    with pytest.raises(ConfigError, match="give --environment python"):
        main(["--model", str(folder), "--out", str(tmp_path / "out"), "--quick"])
