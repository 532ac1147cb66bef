"""train_universal.py as a user mistypes it: one line that names what is wrong and what is nearest, status 2, and no files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import train_universal  # noqa: E402
from maskdiff.cli import run_door  # noqa: E402


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that a run that starts by mistake shows as files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *argv: str) -> str:
    """The one line with which the door refuses ``argv``."""
    before = sorted(folder.rglob("*"))
    assert run_door(train_universal.main, list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
    return err


@pytest.mark.parametrize(
    "argv, said",
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
        (["--config", "none.yaml"], "cannot read configuration 'none.yaml': No such file"),
    ],
)  # fmt: skip
def test_bad_flags(capsys: pytest.CaptureFixture[str], elsewhere: Path, argv: list[str], said: str) -> None:
    assert said in refused(capsys, elsewhere, *argv)


@pytest.mark.parametrize(
    "text, said",
    [
        ("n_layers: 2", "unknown key 'n_layers'; the nearest valid one is 'n_layer'"),
        ("model: {n_layer: 0}", "n_layer is '0'; allowed is 1 to 64"),
        ("model: {lr: 0.1}", "key 'lr' belongs in section 'train'"),
        ("n_layer: 2\nn_layer: 3", "line 2: key 'n_layer' stands twice"),
        ("- 1", "it must hold `key: value` lines"),
        ("extends: bad.yaml", "extends itself"),
    ],
)
def test_bad_files(capsys: pytest.CaptureFixture[str], elsewhere: Path, text: str, said: str) -> None:
    (elsewhere / "bad.yaml").write_text(text)
    line = refused(capsys, elsewhere, "--config", "bad.yaml")
    assert said in line
    assert "bad.yaml" in line


def test_a_second_process_answers_a_typing_error_with_one_line(elsewhere: Path) -> None:
    command = [sys.executable, str(ROOT / "train_universal.py"), "--max_it", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=elsewhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("train_universal.py: unknown flag '--max_it'")
    assert list(elsewhere.iterdir()) == []


def test_help_lists_every_group_and_answers_without_torch(elsewhere: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import train_universal as t; from maskdiff.cli import run_door\n"
        "status = run_door(t.main, ['--help']); assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("--config YAML", "--resume", "--init PT", "--n_layer INT", "--max_iters INT"))
