"""Train a universal denoiser.

A minute on a laptop:    python train_universal.py --max_iters 200 --name tiny
Your own lines:          python train_universal.py --language FOLDER --for repair --minutes 10
The quick-start model:   python train_universal.py --config configs/quickstart.yaml
Flags override a file:   python train_universal.py --config configs/quickstart.yaml --k_iter 3
Continue after a stop:   python train_universal.py --name quickstart --resume
Two processes:           torchrun --nproc_per_node=2 train_universal.py --config FILE

For a folder, options that are not given are chosen from its lines (maskdiff/training/recipe.py).
Files go to runs/NAME: best.pt (best by validation), last.pt (to resume from), config.yaml and
tensorboard/.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdiff.cli.arguments import Parser
from maskdiff.config import Config, LanguageConfig, TrainConfig
from maskdiff.config_io import add_config_flags, config_from_dict, explicit, load_config, overrides
from maskdiff.errors import CheckpointError, ConfigError, quote
from maskdiff.training.folder import check_free, in_use

if TYPE_CHECKING:
    from maskdiff.training.loop import Trainer
    from maskdiff.training.state import RunProgress

# Modules that import torch are imported in functions, so that --help and errors answer at once.

CLOSING_TOKENS = 200  # tokens of training for each symbol on which the prior is fitted


def build_parser() -> Parser:
    """The parser: every option of the configuration, and three flags of this program."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", metavar="YAML", help="configuration file; flags override it")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the run in the same folder")
    start.add_argument(
        "--init", metavar="PT", help="start from the weights of this checkpoint, as a new run"
    )
    add_config_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train, and print the command that benchmarks the result."""
    started = time.monotonic()
    args: argparse.Namespace = build_parser().parse_args(argv)
    given = overrides(args)
    resumes_own = args.resume and args.config is None  # flags change the configuration of the run
    config = config_from_dict(given) if resumes_own else load_config(args.config, given)
    folder = run_folder(config.train, args.resume)
    expected: list[str] = []
    if resumes_own:
        config = run_config(folder, given)
    else:
        from maskdiff.training.recipe import with_recipe

        fixed_model = args.init is not None
        config, expected = with_recipe(config, explicit(args.config, given), fixed_model)
    return train(config, folder, args.resume, args.init, expected, started)


def run_folder(config: TrainConfig, resume: bool) -> Path:
    """The folder of a run: `checkpoint_dir`, or `runs/NAME`.

    A number is added to the default name if it is taken. A fit (`maskdiff fit`) may be replaced.

    Raises:
        ConfigError: the name is not the name of a folder; or the folder contains a run and `resume`
            is False, or contains none and it is True.
        FolderError: another process trains in the folder.
    """
    name = config.name
    plain = name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\")
    if not config.checkpoint_dir and not plain:
        raise ConfigError(
            f"name is {quote(name)}; it must name one folder in runs/ (give --checkpoint_dir for "
            "others)"
        )
    folder = Path(config.checkpoint_dir) if config.checkpoint_dir else Path("runs") / name

    def taken() -> bool:
        return (folder / "last.pt").exists() or _is_trained(folder / "best.pt")

    if resume:
        check_free(folder)
        if not (folder / "last.pt").exists():
            raise ConfigError(
                f"{folder} holds no last.pt to resume from; give the --name or --checkpoint_dir of "
                "the run"
            )
        return folder
    if not config.checkpoint_dir and name == TrainConfig.name:
        number = 1
        while taken() or in_use(folder):
            number += 1
            folder = Path("runs") / f"{name}-{number}"
    check_free(folder)
    if taken():
        raise ConfigError(
            f"{folder} already holds a run; continue it with --resume, or give another --name"
        )
    return folder


def run_config(folder: Path, given: Mapping[str, Any]) -> Config:
    """The configuration of the run in `folder`, overridden by `given`.

    It is read from config.yaml, or from last.pt if that is missing.

    Raises:
        ConfigError: the run has a checker that is not given again. Run folders are shared, and code
            that a folder of somebody else names must not be imported.
    """
    last = folder / "last.pt"
    written = folder / "config.yaml"
    if written.exists():
        config = load_config(written, given)
    else:
        config = load_config(None, given, base=_saved_config(last))
    if "language" not in given:
        config = replace(config, language=_existing(config.language, last))
    checker = config.language.validity
    if checker and given.get("validity") != checker:
        raise ConfigError(
            f"the run in {folder} checks texts with {quote(checker)}; allow it with "
            f"--validity {checker}"
        )
    module = Path(config.language.language) / f"{checker.partition(':')[0]}.py"
    if checker and "language" not in given and module.is_file():
        shown = quote(str(module), 200)
        raise ConfigError(
            f"the run in {folder} checks texts with {shown}; allow it with --language DIR"
        )
    return config


def _is_trained(best: Path) -> bool:
    """Whether a file is there that training must not replace: any but an n-gram alone."""
    if not best.exists():
        return False
    from maskdiff import checkpoint

    try:
        return not checkpoint.is_fit(checkpoint.load(best))
    except CheckpointError:
        return True


def _saved_config(last: Path) -> Config:
    from maskdiff import checkpoint

    return checkpoint.read_config(checkpoint.load(last), quote(str(last)))


def _existing(language: LanguageConfig, last: Path) -> LanguageConfig:
    """`language` with a path that exists: as typed, which `last.pt` stores, or as given."""
    from maskdiff.languages import LANGUAGES

    given = Path(language.language)
    if language.language in LANGUAGES:
        return language
    typed = Path(_saved_config(last).language.language)
    if typed.exists() and (not given.exists() or given.samefile(typed)):
        return replace(language, language=str(typed))
    if not given.exists():
        shown = quote(language.language, 200)
        raise ConfigError(f"the language {shown} of the run is no folder; give it with --language")
    return language


def command(program: str, *words: str, processes: int = 1) -> str:
    """The shell command of a `program` in the folder of the running one."""
    running = Path(sys.argv[0])
    path = running.with_name(program) if running.name == "train_universal.py" else Path(program)
    launcher = ["python"] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}"]
    return shlex.join([*launcher, str(path), *words])


def train(
    config: Config,
    folder: Path,
    resume: bool = False,
    init: str | None = None,
    expected: Sequence[str] = (),
    started: float | None = None,
) -> int:
    """Train, and print the result; files go to `folder`.

    Args:
        config: the options.
        folder: of the run.
        resume: whether to continue the run in `folder`.
        init: a checkpoint of initial weights.
        expected: lines to print before the first step.
        started: `time.monotonic()` at the start of the command; now by default.

    Returns:
        The exit code: 0, or 128 plus the number of the signal that ended the run early.
    """
    from maskdiff.training.console import write_line
    from maskdiff.training.loop import Trainer

    trainer = Trainer(config, folder, resume, init)
    if started is not None:
        trainer.time_limit.started = started
    world = trainer.world
    if world.is_leader:
        for line in (*expected, *introduction(trainer)):
            write_line(line)
    progress = trainer.run()
    if not world.is_leader:
        return 0  # also after a signal: at a failure the launcher would kill the leader
    if trainer.stop_signal is not None:
        name = signal.Signals(trainer.stop_signal).name
        again = command(
            "train_universal.py", "--checkpoint_dir", str(folder), "--resume", processes=world.size
        )
        write_line(f"{name}: stopped after step {progress.step}; go on with: {again}")
        return 128 + trainer.stop_signal
    print(result(progress))
    if (folder / "best.pt").exists():
        for line in comparison(trainer):
            print(line)
        words, language = ["--checkpoint", str(folder / "best.pt")], config.language
        if language.validity:
            words += ["--language", language.language, "--validity", language.validity]
        print(f"benchmark it with: {command('benchmark.py', *words)}")
    return 0


def comparison(trainer: Trainer) -> list[str]:
    """Fit the prior of the best checkpoint of a run on a corpus; compare it with an n-gram."""
    from maskdiff.checkpoint import load, load_denoiser, save
    from maskdiff.languages import LANGUAGES
    from maskdiff.tasks.calibrating import SYMBOLS
    from maskdiff.training.comparison import closing_comparison, fit_checkpoint_prior
    from maskdiff.training.time_limit import CLOSING_SHARE, closing_seconds

    if trainer.config.language.language in LANGUAGES:
        return []
    best, seconds = trainer.folder / "best.pt", closing_seconds(trainer.config.train.minutes)
    loaded = load_denoiser(best, trainer.device)
    # Short runs take as little time for it; the number of lines does not depend on the clock.
    symbols = min(SYMBOLS, trainer.progress.tokens // CLOSING_TOKENS)
    seconds = min(seconds / 2, CLOSING_SHARE * trainer.progress.seconds)
    alone = fit_checkpoint_prior(loaded, trainer.language, symbols)
    if loaded.fitted_prior is not None:  # all else stays, the name of a checker too
        mixture = {"mixture": loaded.mixture} if loaded.mixture else {}
        save(best, {**load(best), "prior": loaded.fitted_prior.state(), **mixture})
    return closing_comparison(loaded, trainer.language, alone, seconds)


def introduction(trainer: Trainer) -> list[str]:
    """The lines that are printed before the first step."""
    import torch

    from maskdiff.languages import is_corpus
    from maskdiff.text.near_duplicates import split_report

    train, processes = trainer.config.train, trainer.world.size
    lines = [
        f"{trainer.model.parameter_count():,} parameters on {trainer.device}, "
        f"{torch.get_num_threads()} threads, {processes} process{'es' * (processes > 1)}, "
        f"seed {train.seed}; files go to {trainer.folder}",
        trainer.note,
    ]
    texts = trainer.language.texts() if is_corpus(trainer.config.language) else None
    if texts and not trainer.resumed:
        lines.append(split_report(texts))
    if trainer.finished and trainer.resumed:
        lines.append(
            f"nothing to train: {trainer.progress.step:,} steps are made and max_iters is "
            f"{train.max_iters:,}; give a larger --max_iters to go on"
        )
    return [line for line in lines if line]


def result(progress: RunProgress) -> str:
    """The result of a run, in one line."""
    validated = "not validated yet"
    if math.isfinite(progress.best):
        validated = (
            f"best validation loss {progress.best:.4f} nats per token at step "
            f"{progress.best_step:,}"
        )
        if "floor" in progress.metrics:
            validated += f" (entropy floor {progress.metrics['floor']:.4f})"
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return (
        f"{progress.step:,} steps, {progress.tokens:,} tokens in {progress.seconds:,.0f} s of "
        f"training ({speed:,.0f} tokens/s); {validated}"
    )
