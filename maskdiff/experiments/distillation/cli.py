"""Experiments on self-distillation with feedback: is a teacher's signal worse late in an answer, and does regenerating mend it?

    python -m maskdiff.distillation --experiment all --out runs/distillation
    python -m maskdiff.distillation --experiment all --quick --out runs/quick          one seed, three problems
    python -m maskdiff.distillation --seed_file runs/distillation/seeds.json --out runs/again    the same results once more
    python -m maskdiff.distillation --model Qwen/Qwen3-1.7B --environment python --out runs/qwen

An interrupted run goes on where it was when the same command is given again. See docs/distillation.md.
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
    from maskdiff.experiments.distillation.runner import Setting

CHECKPOINT = "arithmetic-corrections.pt"
QUICK = {"seeds": 1, "problems": 3, "rollouts": 4, "steps": 3, "window_steps": 2, "resamples": 500}


def build_parser() -> cli.Parser:
    """All flags."""
    parser = cli.Parser(prog="python -m maskdiff.distillation", description=__doc__)
    parser.add_argument(
        "--experiment",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="all, rewards, positions, training, windows or tokens",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where results.json, report.md and pictures go"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, three problems, few steps: to see it work"
    )
    parser.add_argument(
        "--seed_file",
        metavar="FILE",
        help="the seeds.json of a run, which is done again; no other settings",
    )
    models = f"a checkpoint of ours (default checkpoints/{CHECKPOINT}), or a folder or name of a causal model of transformers"
    parser.add_argument("--model", default="", metavar="MODEL", help=models)
    parser.add_argument(
        "--dtype",
        default="float32",
        metavar="NAME",
        help="of a model of transformers (default float32)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps (default auto)",
    )
    parser.add_argument(
        "--threads",
        type=cli.threads,
        default=0,
        metavar="N",
        help="CPU threads (default 0: all cores)",
    )
    parser.add_argument(
        "--no_pictures", action="store_true", help="draw none (they need matplotlib)"
    )
    add_config_flags(parser, DistillationConfig)
    return parser


def chosen(names: Sequence[str]) -> list[str]:
    """The experiments that were asked for, in their order. Raises ConfigError."""
    from maskdiff.experiments.distillation.studies import EXPERIMENTS

    for name in names:
        if name != "all" and name not in EXPERIMENTS:
            known = ["all", *EXPERIMENTS]
            raise ConfigError(
                f"unknown experiment {quote(name)}; the nearest valid one is {nearest(name, known)!r}"
            )
    return [name for name in EXPERIMENTS if name in names or "all" in names]


def load_policy(model: str, device: str, dtype: str) -> Policy:
    """Our checkpoint (a .pt file), or a model of transformers. Raises UserError."""
    if not model or model.endswith(".pt"):
        from maskdiff.checkpoint import load_denoiser
        from maskdiff.experiments.distillation.causal_policy import OwnPolicy

        return OwnPolicy(load_denoiser(model or cli.default_checkpoint(CHECKPOINT), device))
    from maskdiff.experiments.distillation import hugging_face

    return hugging_face.load_policy(model, device, dtype)


def make_environment(config: DistillationConfig, policy: Policy) -> Environment:
    """What judges. Raises UserError for one that does not fit the model."""
    from maskdiff.experiments.distillation.causal_policy import OwnPolicy

    own = isinstance(policy, OwnPolicy)
    if own != (config.environment == "arithmetic"):
        fits = "arithmetic" if own else "python"
        raise ConfigError(
            f"{policy.name} does not know the environment {config.environment}; give --environment {fits}"
        )
    if isinstance(policy, OwnPolicy):
        from maskdiff.experiments.distillation.arithmetic import ArithmeticSteps

        return ArithmeticSteps(policy.language, config.feedback)
    from maskdiff.experiments.distillation.python_tests import PythonTests
    from maskdiff.experiments.distillation.records import read_records, shipped_problems
    from maskdiff.experiments.distillation.sandbox.run import Isolation

    records = read_records(config.records) if config.records else shipped_problems()
    return PythonTests(
        records,
        isolation=cast(Isolation, config.isolation),
        packages=[name.strip() for name in config.packages.split(",") if name.strip()],
        hidden=[config.records] if config.records else [],
    )


def settings_of(args: argparse.Namespace) -> tuple[DistillationConfig, str, bool]:
    """Configuration, model, and whether this is quick. Raises ConfigError."""
    from maskdiff.experiments.distillation.runner import Setting

    given = overrides(args, DistillationConfig)
    if args.seed_file:
        others = [name for name in ("model", "quick", "threads") if getattr(args, name)]
        if given or others:
            said = [*given, *others][0]
            raise ConfigError(f"--seed_file says everything; leave out --{said}")
        known = Setting.read(args.seed_file)
        args.threads, args.dtype = known.threads, known.dtype
        return known.config, known.model, known.quick
    base = replace(DistillationConfig(), **QUICK) if args.quick else DistillationConfig()  # type: ignore[arg-type]
    return build(DistillationConfig, given, base=base), args.model, args.quick


def main(argv: Sequence[str] | None = None) -> int:
    """Run experiments; 0 whatever the verdicts. Raises UserError."""
    args = build_parser().parse_args(argv)
    names = chosen(args.experiment)
    config, model, quick = settings_of(args)
    cli.use_threads(args.threads)
    import torch

    from maskdiff.experiments.distillation import plots, runner

    if not args.no_pictures:
        plots.check_plots()
    policy = load_policy(model, args.device, args.dtype)
    environment = make_environment(config, policy)
    threads = args.threads or torch.get_num_threads()
    device = str(next(policy.module.parameters()).device)
    records = runner.content(config.records) if config.records else ""
    setting = runner.Setting(
        config, model, runner.fingerprint(policy), threads, quick, device, args.dtype, records
    )
    if args.seed_file:
        known = runner.Setting.read(args.seed_file)
        for what, ours, theirs in (
            ("model", setting.weights, known.weights), ("file of problems", setting.records, known.records),
        ):  # fmt: skip
            if ours != theirs:
                raise ConfigError(
                    f"the {what} is another than that of {quote(args.seed_file, 200)}"
                )
    if environment.reveals:
        tqdm.write("feedback tells the result: what follows is an upper bound")
    _experiments(policy, environment, setting, names, Path(args.out), not args.no_pictures)
    return 0


def _experiments(
    policy: Policy,
    environment: Environment,
    setting: Setting,
    names: list[str],
    folder: Path,
    pictures: bool,
) -> None:
    """Run with a progress bar, write the results, and say them."""
    from maskdiff.experiments.distillation import plots, report, runner
    from maskdiff.experiments.distillation.studies import EXPERIMENTS
    from maskdiff.utils.files import write_atomic

    began = time.monotonic()
    total = len(names) * setting.config.seeds
    with tqdm(total=total, unit="part", desc=f"{setting.threads} threads") as bar:

        def tell(name: str, seed: int, what: str) -> None:
            bar.set_postfix_str(f"{name}, seed {seed}{', ' if what else ''}{what}")
            bar.update(what == "done")

        results = runner.run(policy, environment, setting, names, folder, tell)
    runner.write_json(folder / "results.json", report.results_json(results, setting))
    for result in results if pictures else []:
        write_atomic(folder / f"{result.name}.png", plots.draw(result))
    made = [result.name for result in results]
    wanted = "all" if len(made) == len(EXPERIMENTS) else " ".join(made)
    command = f"python -m maskdiff.distillation --experiment {wanted} --seed_file {shlex.quote(str(folder / 'seeds.json'))} --out DIR"
    page = report.to_markdown(results, setting, command, pictures)
    write_atomic(folder / "report.md", page.encode())
    print(report.summary(results))
    print(f"{folder / 'report.md'} ({time.monotonic() - began:.0f} s, {setting.threads} threads)")


__all__ = ["build_parser", "main"]
