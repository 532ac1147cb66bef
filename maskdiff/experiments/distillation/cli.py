"""Experiments on self-distillation: is a teacher's signal worse late in an answer?

    python -m maskdiff.experiments.distillation --experiment all --out runs/distillation
    python -m maskdiff.experiments.distillation --experiment all --quick --out runs/quick
    python -m maskdiff.experiments.distillation --seed_file runs/distillation/seeds.json --out runs/again
    python -m maskdiff.experiments.distillation --model Qwen/Qwen3-1.7B --environment python --out runs/qwen

--quick takes one seed and three problems; --seed_file gives the same results once more. The same
command continues an interrupted run. See docs/distillation.md.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tqdm import tqdm

from maskdiff.cli import arguments as cli
from maskdiff.config import DistillationConfig
from maskdiff.config_io import add_config_flags, build, overrides
from maskdiff.errors import ConfigError, nearest, quote

if TYPE_CHECKING:
    from maskdiff.experiments.distillation.environment import Environment
    from maskdiff.experiments.distillation.policy import Policy
    from maskdiff.experiments.distillation.runner import RunSettings

CHECKPOINT = "arithmetic-corrections.pt"
QUICK = {"seeds": 1, "problems": 3, "rollouts": 4, "steps": 3, "window_steps": 2, "resamples": 500}


def build_parser() -> cli.Parser:
    """Return the parser of all flags."""
    parser = cli.Parser(prog="python -m maskdiff.experiments.distillation", description=__doc__)
    parser.add_argument(
        "--experiment", nargs="+", default=["all"], metavar="NAME",
        help="all, rewards, positions, training, windows or tokens",
    )  # fmt: skip
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where results.json, report.md and pictures go"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, three problems, few steps: to see it work"
    )
    parser.add_argument(
        "--seed_file", metavar="FILE", help="the seeds.json of a run to repeat; no other settings"
    )
    parser.add_argument(
        "--model", default="", metavar="MODEL",
        help=f"one of our checkpoints (default checkpoints/{CHECKPOINT}), or a folder or name of a "
        "causal model of transformers",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", default="float32", metavar="NAME",
        help="of a model of transformers (default float32)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps (default auto)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=cli.threads, default=0, metavar="N",
        help="CPU threads (default 0: all cores)",
    )  # fmt: skip
    parser.add_argument(
        "--no_pictures", action="store_true", help="draw none (they need matplotlib)"
    )
    add_config_flags(parser, DistillationConfig)
    return parser


def selected_experiments(names: Sequence[str]) -> list[str]:
    """Return the names of the selected experiments, in their order. Raises ConfigError."""
    from maskdiff.experiments.distillation.studies import EXPERIMENTS

    known = ["all", *EXPERIMENTS]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"unknown experiment {quote(name)}; the nearest valid one is "
                f"{nearest(name, known)!r}"
            )
    return [name for name in EXPERIMENTS if name in names or "all" in names]


def load_policy(model: str, device: str, dtype: str) -> Policy:
    """Return the policy of our checkpoint (a .pt file) or of a model of transformers.

    Raises UserError.
    """
    if not model or model.endswith(".pt"):
        from maskdiff.checkpoint import load_denoiser
        from maskdiff.experiments.distillation.causal_policy import OwnPolicy

        return OwnPolicy(load_denoiser(model or cli.default_checkpoint(CHECKPOINT), device))
    from maskdiff.experiments.distillation import hugging_face

    return hugging_face.load_policy(model, device, dtype)


def make_environment(config: DistillationConfig, policy: Policy) -> Environment:
    """Return the environment. Raises UserError for one that does not fit the model."""
    from maskdiff.experiments.distillation.causal_policy import OwnPolicy

    own = isinstance(policy, OwnPolicy)
    if own != (config.environment == "arithmetic"):
        fits = "arithmetic" if own else "python"
        raise ConfigError(
            f"{policy.name} does not know the environment {config.environment}; "
            f"give --environment {fits}"
        )
    if isinstance(policy, OwnPolicy):
        from maskdiff.experiments.distillation.arithmetic import ArithmeticEnvironment

        return ArithmeticEnvironment(policy.language, config.feedback)
    from maskdiff.experiments.distillation.python_programs import PythonEnvironment
    from maskdiff.experiments.distillation.records import read_records, shipped_problems
    from maskdiff.experiments.distillation.sandbox.run import Isolation

    return PythonEnvironment(
        read_records(config.records) if config.records else shipped_problems(),
        isolation=cast(Isolation, config.isolation),
        packages=[name.strip() for name in config.packages.split(",") if name.strip()],
        hidden=[config.records] if config.records else [],
    )


def read_flags(args: argparse.Namespace) -> tuple[DistillationConfig, RunSettings | None]:
    """Return the configuration, and the settings of the seed file where one is given.

    A seed file replaces the flags of `args` that it determines. Raises ConfigError.
    """
    from maskdiff.experiments.distillation.runner import RunSettings

    given = overrides(args, DistillationConfig)
    if not args.seed_file:
        base = DistillationConfig()
        if args.quick:
            base = replace(base, **QUICK)  # type: ignore[arg-type]
        return build(DistillationConfig, given, base=base), None
    if others := [*given, *(name for name in ("model", "quick", "threads") if getattr(args, name))]:
        raise ConfigError(f"--seed_file says everything; leave out --{others[0]}")
    known = RunSettings.read(args.seed_file)
    for name in ("model", "quick", "threads", "dtype"):
        setattr(args, name, getattr(known, name))
    return known.config, known


def main(argv: Sequence[str] | None = None) -> int:
    """Run experiments and return 0, whatever the verdicts. Raises UserError."""
    args = build_parser().parse_args(argv)
    names = selected_experiments(args.experiment)
    config, known = read_flags(args)
    cli.use_threads(args.threads)
    import torch

    from maskdiff.experiments.distillation import plots, runner

    if not args.no_pictures:
        plots.require_matplotlib()
    policy = load_policy(args.model, args.device, args.dtype)
    environment = make_environment(config, policy)
    settings = runner.RunSettings(
        config,
        args.model,
        weights=runner.weights_fingerprint(policy),
        threads=args.threads or torch.get_num_threads(),
        quick=args.quick,
        device=str(next(policy.module.parameters()).device),
        dtype=args.dtype,
        records=runner.file_fingerprint(config.records) if config.records else "",
    )
    if known is not None:
        for name, what in (("weights", "model"), ("records", "file of problems")):
            if getattr(settings, name) != getattr(known, name):
                raise ConfigError(
                    f"the {what} is another than that of {quote(args.seed_file, 200)}"
                )
    if environment.reveals:
        tqdm.write("feedback tells the result: what follows is an upper bound")
    _run(policy, environment, settings, names, Path(args.out), not args.no_pictures)
    return 0


def _run(
    policy: Policy, environment: Environment, settings: RunSettings, names: list[str],
    folder: Path, pictures: bool,
) -> None:  # fmt: skip
    """Run with a progress bar, write the results and print the summary."""
    from maskdiff.experiments.distillation import plots, report, runner
    from maskdiff.experiments.distillation.studies import EXPERIMENTS
    from maskdiff.utils.files import write_atomic

    start = time.monotonic()
    total = len(names) * settings.config.seeds
    with tqdm(total=total, unit="part", desc=f"{settings.threads} threads") as bar:

        def progress(name: str, seed: int, what: str) -> None:
            bar.set_postfix_str(f"{name}, seed {seed}{', ' if what else ''}{what}")
            bar.update(what == "done")

        results = runner.run_experiments(policy, environment, settings, names, folder, progress)
    runner.write_json(folder / "results.json", report.results_json(results, settings))
    for result in results if pictures else []:
        write_atomic(folder / f"{result.name}.png", plots.plot_png(result))
    made = [result.name for result in results]
    selection = "all" if len(made) == len(EXPERIMENTS) else " ".join(made)
    seed_file = shlex.quote(str(folder / "seeds.json"))
    command = (
        f"python -m maskdiff.experiments.distillation --experiment {selection} --seed_file {seed_file} "
        "--out DIR"
    )
    page = report.to_markdown(results, settings, command, pictures)
    write_atomic(folder / "report.md", page.encode())
    print(report.summary(results))
    seconds = time.monotonic() - start
    print(f"{folder / 'report.md'} ({seconds:.0f} s, {settings.threads} threads)")


__all__ = ["build_parser", "main"]
