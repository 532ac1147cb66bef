"""train_universal.py with mistakes: one line with the nearest name, status 2, no files."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from maskdiff import checkpoint
from maskdiff.cli import train as train_universal
from maskdiff.cli.arguments import run_cli
from tests.helpers.forked import Forked
from tests.helpers.paths import REPOSITORY
from tests.helpers.streams import closed_pipe


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, in which a run started by mistake would create files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *argv: str) -> str:
    """Return the one-line error for `argv`."""
    before = sorted(folder.rglob("*"))
    assert run_cli(train_universal.main, list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
    return err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--max_iter", "5"], "unknown flag '--max_iter'; the nearest valid one is --max_iters"),
        (["--max_it", "5"], "unknown flag '--max_it'; the nearest valid one is --max_iters"),
        (["--res"], "unknown flag '--res'; the nearest valid one is --resume"),
        (["--n-layer=3"], "unknown flag '--n-layer'; the nearest valid one is --n_layer"),
        (["configs/quickstart.yaml"], "unexpected argument 'configs/quickstart.yaml'"),
        (["--max_iters"], "expected one argument"),
        (["--optimizer", "mun"], "the nearest is 'muon'"),
        (["--n_layer", "two"], "it must be a whole number"),
        (["--n_layer", "0"], "allowed is 1 to 64"),
        (["--causal_share", "1.5"], "allowed is 0 to 1"),
        (["--sigma_min", "nan"], "it must be a number"),
        (["--sigma_min", "0.9", "--sigma_max", "0.1"], "lower sigma_min or raise sigma_max"),
        (["--n_head", "3"], "with 3 heads it must be a multiple of 6"),
        (["--resume", "--init", "a.pt"], "argument --init: not allowed with argument --resume"),
        (["--resume", "--name", "nothing"], "holds no last.pt to resume from"),
        (["--name", ""], "name is ''; it must name one folder in runs/"),
        (["--name", "../../.."], "it must name one folder in runs/"),
        (["--block_size", "80"], "unknown flag '--block_size'"),
        (["--config", "none.yaml"], "cannot read configuration 'none.yaml': No such file"),
    ],
)  # fmt: skip
def test_bad_flags_are_refused(
    capsys: pytest.CaptureFixture[str], empty_folder: Path, argv: list[str], message: str
) -> None:
    assert message in refused(capsys, empty_folder, *argv)


@pytest.mark.parametrize(
    "text, message",
    [
        ("n_layers: 2", "unknown key 'n_layers'; the nearest valid one is 'n_layer'"),
        ("model: {n_layer: 0}", "n_layer is '0'; allowed is 1 to 64"),
        ("model: {lr: 0.1}", "key 'lr' belongs in section 'train'"),
        ("n_layer: 2\nn_layer: 3", "line 2: key 'n_layer' stands twice"),
        ("- 1", "it must hold `key: value` lines"),
        ("extends: bad.yaml", "extends itself"),
    ],
)
def test_bad_files_are_refused(
    capsys: pytest.CaptureFixture[str], empty_folder: Path, text: str, message: str
) -> None:
    (empty_folder / "bad.yaml").write_text(text)
    line = refused(capsys, empty_folder, "--config", "bad.yaml")
    assert message in line
    assert "bad.yaml" in line


TINY = [
    "--threads=1", "--device=cpu", "--num_samples=64", "--eval_samples=8", "--live_samples=0",
    "--n_embd=16", "--n_head=2",
    "--n_layer=1", "--batch_size=4", "--warmup_iters=0", "--max_depth=2",
]  # fmt: skip


@pytest.mark.slow
def test_bad_languages_are_refused(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    assert "language 'arithmetics' is unknown" in refused(
        capsys, empty_folder, "--language", "arithmetics"
    )
    assert "language 'no/folder' is no folder" in refused(
        capsys, empty_folder, "--language", "no/folder"
    )
    (empty_folder / "own").mkdir()
    assert "own/corpus.txt" in refused(capsys, empty_folder, "--language", "own")
    (empty_folder / "own/corpus.txt").write_text("ab\nabb\nb\nba\n")
    (empty_folder / "own/grammar.lark").write_text('start: "a" /b+/\n')
    line = refused(capsys, empty_folder, "--language", "own")
    assert (
        "2 of 4 lines are invalid by grammar.lark: line 3 'b', line 4 'ba'; correct or remove them"
        in line
    )
    assert "falls into the validation split" in refused(
        capsys, empty_folder, *TINY, "--language", "own", "--skip_invalid"
    )
    (empty_folder / "own/grammar.lark").write_text("start: a\n")
    assert "own/grammar.lark" in refused(capsys, empty_folder, "--language", "own")
    (empty_folder / "own/grammar.lark").write_text(
        "\n".join(f'start{i or ""}: "a" start{i + 1}' for i in range(10_000))
        + '\nstart10000: "a"\n'
    )
    assert "at most 2000 rules" in refused(capsys, empty_folder, "--language", "own")


def trained(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[str, str]:
    """Return stdout and stderr of a successful run."""
    assert run_cli(train_universal.main, list(argv)) == 0
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.slow
def test_flags_of_a_resumed_run_override_its_configuration(
    capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    trained(
        capsys,
        *TINY,
        "--name",
        "a",
        "--max_iters",
        "1",
        "--sigma_max",
        "1.0",
        "--sigma_min",
        "0.92",
    )
    assert "sigma_max is '0.95', but" in refused(
        capsys, empty_folder, "--name", "a", "--resume", "--sigma_max", "0.95"
    )
    assert "operators is '+', but" in refused(
        capsys, empty_folder, "--name", "a", "--resume", "--operators", "+"
    )
    out, _ = trained(
        capsys, "--name", "a", "--resume", "--max_iters", "2", "--sigma_min", "0.92"
    )  # over the default sigma_max
    assert out.startswith("2 steps")
    (empty_folder / "runs/a/config.yaml").unlink()
    assert "seed is '9', but" in refused(
        capsys, empty_folder, "--name", "a", "--resume", "--seed", "9"
    )
    out, _ = trained(capsys, "--name", "a", "--resume", "--max_iters", "3")
    assert out.startswith("3 steps")
    assert (empty_folder / "runs/a/config.yaml").exists()


@pytest.mark.slow
def test_the_last_lines_name_the_files_that_exist(
    capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    out, err = trained(capsys, *TINY, "--checkpoint_dir", "my run", "--max_iters", "2")
    assert "best validation loss" in out
    assert (
        out.splitlines()[-1]
        == "benchmark it with: python benchmark.py --checkpoint 'my run/best.pt'"
    )
    assert "validation_loss" in err
    last = checkpoint.load(
        "my run/last.pt"
    )  # as if it had been stopped before its first validation
    progress = {
        **last["training"]["progress"],
        "best": float("inf"),
        "best_step": 0,
        "validated": -1,
        "metrics": {},
    }
    checkpoint.save(
        "my run/last.pt", {**last, "training": {**last["training"], "progress": progress}}
    )
    (empty_folder / "my run/best.pt").unlink()
    out, err = trained(capsys, "--checkpoint_dir", "my run", "--resume", "--max_iters", "1")
    assert "nothing to train: 2 steps are made and max_iters is 1; give a larger --max_iters" in err
    assert out.count("\n") == 1
    assert out.endswith("not validated yet\n")


@pytest.mark.slow
def test_closed_streams_do_not_stop_training(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both streams close in a second process, one of them in this process."""
    argv = [*TINY, "--max_iters", "3", "--eval_interval", "1", "--name"]
    with closed_pipe() as pipe:
        words = [str(REPOSITORY / "train_universal.py"), *argv, "both"]
        with Forked(words, stdout=pipe, stderr=pipe) as process:
            assert process.wait() == 141
    with closed_pipe():
        assert run_cli(train_universal.main, [*argv, "out"]) == 141
    assert "Traceback" not in capsys.readouterr().err
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115 - closing it fails, too
    with contextlib.redirect_stderr(full):
        assert run_cli(train_universal.main, [*argv, "err"]) == 0
    with contextlib.suppress(OSError):
        full.close()
    for name in ("both", "out", "err"):
        best, last = (checkpoint.load(f"runs/{name}/{file}.pt") for file in ("best", "last"))
        assert best["provenance"]["step"] >= 1
        assert last["provenance"]["step"] == 3


def test_a_closed_standard_output_is_refused_at_once(empty_folder: Path) -> None:
    line = shlex.join(
        [sys.executable, str(REPOSITORY / "train_universal.py"), *TINY, "--max_iters", "3"]
    )
    done = subprocess.run(
        ["bash", "-c", f"{line} >&-"], capture_output=True, text=True, timeout=120, cwd=empty_folder
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "train_universal.py: standard output is closed; send it to a file, or to /dev/null\n"
    )
    assert list(empty_folder.iterdir()) == []


def test_second_process_reports_a_misspelt_flag_in_one_line(empty_folder: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "train_universal.py"), "--max_it", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=empty_folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("train_universal.py: unknown flag '--max_it'")
    assert list(empty_folder.iterdir()) == []


def test_help_lists_every_group_without_importing_torch(empty_folder: Path) -> None:
    program = (
        "import sys; import train_universal as t; from maskdiff.cli.arguments import run_cli\n"
        "status = run_cli(t.main, ['--help']); assert 'torch' not in sys.modules; sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=empty_folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert all(
        word in done.stdout
        for word in ("--config YAML", "--resume", "--init PT", "--n_layer INT", "--max_iters INT")
    )
