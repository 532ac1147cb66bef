"""Training in other processes: signals, resumption, and two processes that equal one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from maskdiff import checkpoint
from maskdiff.cli import train
from maskdiff.cli.arguments import run_cli
from maskdiff.training.loop import Trainer
from tests.helpers.training import assert_same_run, curves, environment, flags, tiny

SIGNALLED = """
import os, signal, sys
from maskdiff.cli import train
from maskdiff.cli.arguments import run_cli
from maskdiff.training.loop import Trainer

def step(self, *args, original=Trainer.step):
    if self.progress.step == 7 and self.world.rank == RANK:
        os.kill(os.getpid(), NUMBER)
    return original(self, *args)

Trainer.step = step
sys.exit(run_cli(train.main))
"""


def signalled(folder: Path, number: int, rank: int = 0) -> Path:
    """Return a program that trains and receives a signal in step 7 in process `rank`."""
    path = folder / "train_universal.py"
    path.write_text(SIGNALLED.replace("RANK", str(rank)).replace("NUMBER", str(int(number))))
    return path


def assert_resumes(parts: Path, step: int, whole: Path) -> None:
    """A run stopped at `step` resumes to an equal of the uninterrupted run."""
    assert checkpoint.load(parts / "last.pt")["training"]["progress"]["step"] == step
    assert train.main(["--checkpoint_dir", str(parts), "--resume"]) == 0
    assert_same_run(whole, parts)
    assert curves(whole) == curves(parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    Trainer(tiny(), folder).run()
    return folder


@pytest.mark.slow
def test_a_killed_process_resumes_from_its_last_checkpoint(tmp_path: Path, whole: Path) -> None:
    program, parts = signalled(tmp_path, signal.SIGKILL), tmp_path / "parts"
    done = subprocess.run(
        [sys.executable, str(program), *flags(parts)],
        env=environment(),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    assert_resumes(parts, 6, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_command_and_the_run_resumes(
    tmp_path: Path,
    whole: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts, original = tmp_path / "parts", Trainer.step

    def step(self: Trainer, *args: object) -> object:
        if self.progress.step == 7:
            os.kill(os.getpid(), number)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(sys, "argv", ["train_universal.py", *flags(parts)])
    monkeypatch.setattr(Trainer, "step", step)
    assert run_cli(train.main) == 128 + number
    again = capsys.readouterr().err.splitlines()[-1].partition("go on with: ")[2]
    assert again == f"python train_universal.py --checkpoint_dir {parts} --resume"
    assert_resumes(parts, 8, whole)


OF_TWO: dict[str, object] = {"use_coupling": True, "dropout": 0.1, "shards": 4}


# Two processes of a group without a launcher, which share one import of torch.
PAIR = """
import os, sys
import torch._dynamo
from maskdiff.cli import train
from maskdiff.cli.arguments import run_cli
from maskdiff.training import loop

processes = []
for rank in range(2):
    if not (process := os.fork()):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        sys.exit(run_cli(train.main))
    processes.append(process)
sys.exit(max(abs(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1])) for p in processes))
"""


@pytest.fixture(scope="module")
def whole_run_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two processes with two shards each."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = subprocess.run(
        [sys.executable, "-c", PAIR, *flags(folder, **OF_TWO)],
        env={**environment(), **group},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_two_processes_equal_one_bit_for_bit(tmp_path: Path, whole_run_of_two: Path) -> None:
    Trainer(tiny(**OF_TWO), tmp_path).run()
    assert_same_run(tmp_path, whole_run_of_two)
    assert curves(tmp_path) == curves(whole_run_of_two)
    weights = checkpoint.load(whole_run_of_two / "last.pt")
    assert weights["provenance"]["processes"] == 2
    assert float(weights["weights"]["coupling.weight"].abs().max()) > 1e-3  # the data was used


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_and_the_run_resumes(
    tmp_path: Path, whole_run_of_two: Path
) -> None:
    program, parts = signalled(tmp_path, signal.SIGTERM, rank=1), tmp_path / "parts"
    launch = [sys.executable, "-m", "torch.distributed.run"]
    launch += ["--nproc_per_node=2", "--master_port=0", "--standalone"]
    stopped = subprocess.run(
        [*launch, str(program), *flags(parts, **OF_TWO)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert stopped.returncode != 0
    again = f"torchrun --nproc_per_node=2 {program} --checkpoint_dir {parts} --resume"
    assert f"SIGTERM: stopped after step 8; go on with: {again}" in stopped.stderr
    assert "benchmark it with" not in stopped.stdout
    assert checkpoint.load(parts / "last.pt")["training"]["progress"]["step"] == 8
    Trainer(tiny(**OF_TWO), parts, resume=True).run()  # in one process
    assert_same_run(whole_run_of_two, parts)
