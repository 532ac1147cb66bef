"""Training in other processes: signals, resumption, and two processes that equal one."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from maskdiff import checkpoint
from maskdiff.cli import train
from maskdiff.cli.arguments import run_cli
from maskdiff.training.loop import Trainer
from tests.helpers.forked import PIPE, Forked, run
from tests.helpers.training import assert_same_run, command, curves, flags, tiny

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
    assert run([str(program), *flags(parts)]).returncode == -signal.SIGKILL
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


@pytest.fixture(scope="module")
def whole_run_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two processes with two shards each."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    first, second = (
        Forked(command(folder, **OF_TWO), environment=place, stderr=PIPE) for place in places
    )
    with first, second:  # a group without a launcher
        assert first.wait() == 0, first.stderr.read()
        assert second.wait() == 0, second.stderr.read()
    return folder


@pytest.mark.slow
def test_two_processes_equal_one_bit_for_bit(tmp_path: Path, whole_run_of_two: Path) -> None:
    Trainer(tiny(**OF_TWO), tmp_path).run()
    assert_same_run(tmp_path, whole_run_of_two)
    assert curves(tmp_path) == curves(whole_run_of_two)
    weights = checkpoint.load(whole_run_of_two / "last.pt")
    assert weights["provenance"]["processes"] == 2
    assert float(weights["weights"]["coupling.weight"].abs().max()) > 1e-3  # the data was used


# `torchrun --nproc_per_node=2 --standalone`, except that it forks its processes.
LAUNCHED = """
import runpy, sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

sys.argv[:1] = []
group = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "one"}
config = LaunchConfig(1, 1, 2, **group, max_restarts=0, start_method="fork")
elastic_launch(config, runpy.run_path)(sys.argv[0], None, "__main__")
"""


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_and_the_run_resumes(
    tmp_path: Path, whole_run_of_two: Path
) -> None:
    program, parts = signalled(tmp_path, signal.SIGTERM, rank=1), tmp_path / "parts"
    stopped = run(["-c", LAUNCHED, str(program), *flags(parts, **OF_TWO)])
    assert stopped.returncode != 0
    again = f"torchrun --nproc_per_node=2 {program} --checkpoint_dir {parts} --resume"
    assert f"SIGTERM: stopped after step 8; go on with: {again}" in stopped.stderr
    assert "benchmark it with" not in stopped.stdout
    assert checkpoint.load(parts / "last.pt")["training"]["progress"]["step"] == 8
    Trainer(tiny(**OF_TWO), parts, resume=True).run()  # in one process
    assert_same_run(whole_run_of_two, parts)
