"""`python -m maskdiff.distillation`: mistakes are one line, seed files run again, and a killed run
goes on where it was."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskdiff.checkpoint import make_payload, save
from maskdiff.cli.arguments import default_checkpoint, run_cli
from maskdiff.config import Config, LanguageConfig, ModelConfig
from maskdiff.errors import ConfigError
from maskdiff.experiments.distillation import cli as distillation_cli
from maskdiff.experiments.distillation.runner import RunSettings
from maskdiff.languages import make_language, model_vocabulary
from maskdiff.models.universal import UniversalDenoiser
from tests.helpers.distillation import parts_of
from tests.helpers.forked import Forked
from tests.helpers.paths import REPOSITORY

SHIPPED = "arithmetic-corrections.pt"
SETTINGS = [
    "--experiment",
    "rewards",
    "tokens",
    "--threads",
    "1",
    "--no_pictures",
    "--seeds",
    "5",
    "--rollouts",
    "2",
]


def tiny_model(path: Path, seed: int = 0) -> Path:
    """An untrained checkpoint of the right language."""
    config = replace(
        Config(),
        language=LanguageConfig(
            language="arithmetic-corrections", max_depth=2, min_depth=2, max_len=256
        ),
        model=ModelConfig(
            n_layer=1, k_iter=1, n_head=2, n_embd=16, mlp_ratio=1.0, block_size=256,
            end_positions=False, causal_length=False,
        ),
    )  # fmt: skip
    language = make_language(config.language)
    vocabulary = model_vocabulary(language, config.model)
    config = replace(config, model=replace(config.model, vocab_size=len(vocabulary)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UniversalDenoiser(config.model)
        weights = {
            name: weight + 0.3 * torch.randn(weight.shape)
            for name, weight in model.state_dict().items()
        }
    save(
        path,
        make_payload(
            config,
            vocabulary,
            weights,
            metrics={"elbo": 3.0},
            provenance={"steps": 0, "seed": seed},
        ),
    )
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that a run that starts by mistake shows as files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--out", "x", "--experiment", "reward"],
            "unknown experiment 'reward'; the nearest valid one is 'rewards'",
        ),
        (
            ["--out", "x", "--experiment", "rewards", "window"],
            "experiment 'window'; the nearest valid one is 'windows'",
        ),
        (["--out", "x", "--experiment", "al"], "the nearest valid one is 'all'"),
        (["--out", "x", "--experiment"], "expected at least one argument"),
        ([], "--out"),
        (
            ["--out", "x", "--max_token", "5"],
            "unknown flag '--max_token'; the nearest valid one is --max_tokens",
        ),
        (["--out", "x", "--steps", "0"], "steps is '0'; allowed is 1 to 100000"),
        (["--out", "x", "--steps", "two"], "it must be a whole number"),
        (["--out", "x", "--teacher_rate", "1.5"], "allowed is 0 to 1"),
        (["--out", "x", "--temperature", "nan"], "it must be a number"),
        (["--out", "x", "--divergence", "kl"], "divergence is 'kl'"),
        (["--out", "x", "--divergence", "revers"], "the nearest is 'reverse'"),
        (["--out", "x", "--threads", "-1"], "'-1' is no whole number from 0 to 1024"),
        (["--out", "x", "--model", "no.pt"], "'no.pt' does not exist"),
        (["--out", "x", "--seed_file", "no.json"], "cannot read 'no.json': No such file"),
        (
            ["--out", "x", "--seed_file", "no.json", "--steps", "3"],
            "--seed_file says everything; leave out --steps",
        ),
        (["--out", "x", "--seed_file", "no.json", "--quick"], "leave out --quick"),
        (["--out", "x", "--seed_file", "no.json", "--model", "a.pt"], "leave out --model"),
        (["--out", "x", "--seed_file", "no.json", "--threads", "1"], "leave out --threads"),
    ],
)
def test_user_errors_print_one_line_and_write_no_files(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, argv: list[str], message: str
) -> None:
    assert run_cli(distillation_cli.main, argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert list(elsewhere.iterdir()) == []


def test_a_model_of_another_language_or_environment_is_refused(elsewhere: Path) -> None:
    with pytest.raises(
        ConfigError, match="this is a model of arithmetic; self-distillation needs one"
    ):
        distillation_cli.main(
            ["--out", "x", "--no_pictures", "--model", default_checkpoint("best.pt")]
        )
    model = str(tiny_model(elsewhere / "tiny.pt"))
    with pytest.raises(ConfigError, match="give --environment arithmetic"):
        distillation_cli.main(
            ["--out", "x", "--no_pictures", "--model", model, "--environment", "python"]
        )
    assert [path.name for path in elsewhere.iterdir()] == ["tiny.pt"]


@pytest.mark.slow
def test_a_seed_file_of_the_command_runs_again_only_with_its_own_model(elsewhere: Path) -> None:
    tiny_model(elsewhere / "tiny.pt")
    few = [
        "--seeds",
        "1",
        "--problems",
        "2",
        "--max_tokens",
        "16",
        "--resamples",
        "100",
        "--steps",
        "1",
        "--window_steps",
        "1",
    ]
    argv = ["--experiment", "all", "--threads", "1", "--rollouts", "2", *few, "--no_pictures"]
    assert distillation_cli.main([*argv, "--model", "tiny.pt", "--out", "first"]) == 0
    made = (elsewhere / "first/results.json").read_bytes()
    assert "revision" in made.decode()  # our models have a bidirectional mode
    assert b"tiny" not in made
    again = ["--seed_file", "first/seeds.json", "--no_pictures", "--out", "second"]
    assert distillation_cli.main(again) == 0
    assert (elsewhere / "second/results.json").read_bytes() == made
    known = RunSettings.read("first/seeds.json")
    assert (known.threads, known.device, known.dtype, known.records) == (1, "cpu", "float32", "")
    assert RunSettings.read("second/seeds.json") == known
    tiny_model(elsewhere / "tiny.pt", seed=1)
    with pytest.raises(ConfigError, match=r"the model is another than that of 'first/seeds.json'"):
        distillation_cli.main([*again[:-1], "third"])
    with pytest.raises(ConfigError, match="holds a run with another weights"):
        distillation_cli.main([*argv, "--model", "tiny.pt", "--out", "first"])
    assert not (elsewhere / "third").exists()
    assert (elsewhere / "first/results.json").read_bytes() == made


COMMAND = ["-m", "maskdiff.experiments.distillation"]


def test_a_user_error_in_a_second_process_prints_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *COMMAND, "--out", "x", "--problems", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "problems" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL between its parts: nothing is half written, and the same command gives what it gives
    undisturbed."""
    model, size = tiny_model(tmp_path / "tiny.pt"), ["--problems", "2", "--max_tokens", "24"]
    argv = [*SETTINGS, *size, "--quick", "--model", str(model), "--out"]
    assert distillation_cli.main([*argv, str(tmp_path / "whole")]) == 0
    total = 10
    assert len(parts_of(tmp_path / "whole")) == total

    until = time.monotonic() + 300
    parts = tmp_path / "killed/parts"
    log = (tmp_path / "log").open("w")
    with log, Forked([*COMMAND, *argv, "killed"], tmp_path, stdout=log, stderr=log) as victim:
        while (
            victim.poll() is None
            and time.monotonic() < until
            and not (parts.is_dir() and len(list(parts.glob("*.json"))) >= 2)
        ):
            time.sleep(0.002)
        victim.kill()
        assert victim.wait() == -signal.SIGKILL
    done = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert 2 <= len(done) < total
    assert not (tmp_path / "killed/results.json").exists()

    capsys.readouterr()
    assert distillation_cli.main([*argv, str(tmp_path / "killed")]) == 0
    assert "tokens     controlled" in capsys.readouterr().out
    assert (tmp_path / "killed/results.json").read_bytes() == (
        tmp_path / "whole/results.json"
    ).read_bytes()
    assert all((parts / name).stat().st_mtime_ns == when for name, when in done.items())
    assert str(tmp_path) not in (tmp_path / "killed/results.json").read_text()


@pytest.mark.parametrize("module", ["distillation.__main__", "distillation.attempts"])
def test_the_short_name_of_a_command_is_an_alias(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both names print the same help."""
    results = []
    for package in ("", "experiments."):
        monkeypatch.setattr(sys, "argv", ["", "--help"])
        name = f"maskdiff.{package}{module}"
        with pytest.raises(SystemExit) as end, monkeypatch.context() as patch:
            patch.delitem(sys.modules, name, raising=False)
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        results.append((end.value.code or 0, *capsys.readouterr()))
    assert results[0] == results[1]
    assert results[0][0] == 0
    assert "usage: " in results[0][1]
