"""One training run as the command line asks for it: where its files go, what is printed before and after.

For: ``train_universal.py``.  Not for: the loop.  Easy to get wrong: only the leading process prints.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch

from maskdiff.config import Config, TrainConfig
from maskdiff.errors import ConfigError
from maskdiff.training.loop import Trainer


def run_folder(config: TrainConfig, resume: bool) -> Path:
    """Where the run's files go: ``checkpoint_dir``, or ``runs/NAME`` with a number behind a default name that is taken.

    Raises:
        ConfigError: the folder holds a run and ``resume`` is not asked for, or holds none and it is.
    """
    folder = Path(config.checkpoint_dir) if config.checkpoint_dir else Path("runs") / config.name

    def taken() -> bool:
        return (folder / "last.pt").exists() or (folder / "best.pt").exists()

    if resume:
        if not (folder / "last.pt").exists():
            raise ConfigError(f"{folder} holds no last.pt to resume from; give the run's --name or --checkpoint_dir")
        return folder
    if not config.checkpoint_dir and config.name == TrainConfig().name:
        number = 1
        while taken():
            number += 1
            folder = Path("runs") / f"{config.name}-{number}"
    if taken():
        raise ConfigError(f"{folder} already holds a run; continue it with --resume, or give another --name")
    return folder


def train(config: Config, folder: Path, resume: bool = False, init: str | None = None) -> int:
    """Train as ``config`` says, files in ``folder``; 0, or 128 plus the number of the signal that ended the run early."""
    trainer = Trainer(config, folder, resume, init)
    lead, world = trainer.world.leads, trainer.world
    if lead:
        print(
            f"{trainer.model.parameter_count():,} parameters on {trainer.device}, {torch.get_num_threads()} threads, "
            f"{world.size} process{'es' * (world.size > 1)}, seed {config.train.seed}; files go to {folder}",
            file=sys.stderr,
        )
    progress = trainer.run()
    if not lead:
        return 0  # after a signal too: a failure here would make the launcher kill the one that still has something to say
    if trainer.stop_signal is not None:
        name = signal.Signals(trainer.stop_signal).name
        print(f"{name}: stopped after step {progress.step}; add --resume to the same command to go on", file=sys.stderr)
        return 128 + trainer.stop_signal
    print(
        f"{progress.step:,} steps, {progress.tokens:,} tokens in {progress.seconds:,.0f} s of training "
        f"({progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s); best validation loss {progress.best:.4f} "
        f"nats per token at step {progress.best_step:,} (entropy floor {progress.metrics.get('floor', float('nan')):.4f})"
    )
    print(f"benchmark it with: python benchmark.py --checkpoint {folder / 'best.pt'}")
    return 0
