"""One training run as the command line asks for it: where its files go, what is printed before and after.

For: ``train_universal.py``.  Not for: the loop.  Easy to get wrong: only the leading process prints.
"""

from __future__ import annotations

import math
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maskdiff import checkpoint
from maskdiff.config import Config, LanguageConfig, TrainConfig
from maskdiff.config_io import load_config
from maskdiff.errors import ConfigError, quote
from maskdiff.languages import LANGUAGES
from maskdiff.training.console import tell
from maskdiff.training.folder import check_free, in_use
from maskdiff.training.loop import Trainer
from maskdiff.training.state import Progress


def run_folder(config: TrainConfig, resume: bool) -> Path:
    """Where the run's files go: ``checkpoint_dir``, or ``runs/NAME`` with a number behind a default name that is taken.

    Raises:
        ConfigError: the name is no name of a folder; or the folder holds a run and ``resume`` is not asked for, or holds none
            and it is.
        FolderError: another process trains in the folder.
    """
    plain = (
        config.name.isprintable()
        and config.name not in ("", ".", "..")
        and not set(config.name) & set("/\\")
    )
    if not config.checkpoint_dir and not plain:
        raise ConfigError(
            f"name is {quote(config.name)}; it must name one folder in runs/ (give --checkpoint_dir for others)"
        )
    folder = Path(config.checkpoint_dir) if config.checkpoint_dir else Path("runs") / config.name

    def taken() -> bool:
        return (folder / "last.pt").exists() or (folder / "best.pt").exists()

    if resume:
        check_free(folder)
        if not (folder / "last.pt").exists():
            raise ConfigError(
                f"{folder} holds no last.pt to resume from; give the run's --name or --checkpoint_dir"
            )
        return folder
    if not config.checkpoint_dir and config.name == TrainConfig().name:
        number = 1
        while taken() or in_use(folder):
            number += 1
            folder = Path("runs") / f"{config.name}-{number}"
    check_free(folder)
    if taken():
        raise ConfigError(
            f"{folder} already holds a run; continue it with --resume, or give another --name"
        )
    return folder


def run_config(folder: Path, given: Mapping[str, Any]) -> Config:
    """The configuration of the run in ``folder``, of its config.yaml or else of its last.pt, under what is ``given``.

    Raises ConfigError for a run with a checker that is not given again: run folders are passed on, and what a stranger's
    names must not be imported.
    """
    last = folder / "last.pt"
    written = folder / "config.yaml"
    if written.exists():
        config = load_config(written, given)
    else:
        config = load_config(None, given, base=_saved_config(last))
    if "language" not in given:
        config = replace(config, language=_found(config.language, last))
    checker = config.language.validity
    if checker and given.get("validity") != checker:
        raise ConfigError(
            f"the run in {folder} checks texts with {quote(checker)}; say that it may, with --validity {checker}"
        )
    module = Path(config.language.language) / f"{checker.partition(':')[0]}.py"
    if checker and "language" not in given and module.is_file():
        shown = quote(str(module), 200)
        raise ConfigError(
            f"the run in {folder} checks texts with {shown}; say that it may, with --language DIR"
        )
    return config


def _saved_config(last: Path) -> Config:
    shown = quote(str(last))
    return checkpoint.read_config(checkpoint.load(last), shown)


def _found(language: LanguageConfig, last: Path) -> LanguageConfig:
    """``language`` with a folder that is here: as typed, which ``last.pt`` keeps, or as given."""
    given = Path(language.language)
    if language.language in LANGUAGES:
        return language
    typed = Path(_saved_config(last).language.language)
    if typed.is_dir() and (not given.is_dir() or given.samefile(typed)):
        return replace(language, language=str(typed))
    if not given.is_dir():
        shown = quote(language.language, 200)
        raise ConfigError(f"the run's language {shown} is no folder; give it with --language")
    return language


def command(program: str, *words: str, processes: int = 1) -> str:
    """What to type for a ``program`` that lies beside the one that is running."""
    running = Path(sys.argv[0])
    path = running.with_name(program) if running.name == "train_universal.py" else Path(program)
    launcher = ["python"] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}"]
    return shlex.join([*launcher, str(path), *words])


def train(config: Config, folder: Path, resume: bool = False, init: str | None = None) -> int:
    """Train as ``config`` says, files in ``folder``; 0, or 128 plus the number of the signal that ended the run early."""
    trainer = Trainer(config, folder, resume, init)
    lead, world = trainer.world.leads, trainer.world
    if lead:
        tell(
            f"{trainer.model.parameter_count():,} parameters on {trainer.device}, {torch.get_num_threads()} threads, "
            f"{world.size} process{'es' * (world.size > 1)}, seed {config.train.seed}; files go to {folder}"
        )
        if trainer.note:
            tell(trainer.note)
        if trainer.finished and resume:
            made, asked = trainer.progress.step, config.train.max_iters
            tell(
                f"nothing to train: {made:,} steps are made and max_iters is {asked:,}; give a larger --max_iters to go on"
            )
    progress = trainer.run()
    if not lead:
        return 0  # after a signal too: a failure here would make the launcher kill the one that still has something to say
    if trainer.stop_signal is not None:
        name = signal.Signals(trainer.stop_signal).name
        again = command(
            "train_universal.py", "--checkpoint_dir", str(folder), "--resume", processes=world.size
        )
        tell(f"{name}: stopped after step {progress.step}; go on with: {again}")
        return 128 + trainer.stop_signal
    print(result(progress))
    if (folder / "best.pt").exists():
        named = config.language
        checker = (
            ("--language", named.language, "--validity", named.validity) if named.validity else ()
        )
        print(
            f"benchmark it with: {command('benchmark.py', '--checkpoint', str(folder / 'best.pt'), *checker)}"
        )
    return 0


def result(progress: Progress) -> str:
    """What a run came to, in one line."""
    validated = "not validated yet"
    if math.isfinite(progress.best):
        validated = f"best validation loss {progress.best:.4f} nats per token at step {progress.best_step:,}"
        if "floor" in progress.metrics:
            validated += f" (entropy floor {progress.metrics['floor']:.4f})"
    return (
        f"{progress.step:,} steps, {progress.tokens:,} tokens in {progress.seconds:,.0f} s of training "
        f"({progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s); {validated}"
    )
