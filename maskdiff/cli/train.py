"""Train a universal denoiser.

A minute on a laptop:       python train_universal.py --max_iters 200 --name tiny
The quick-start model:      python train_universal.py --config configs/quickstart.yaml
Flags go on top of a file:  python train_universal.py --config configs/quickstart.yaml --sigma_max 0.9 --k_iter 3
Continue after a stop:      python train_universal.py --name quickstart --resume
Two processes:              torchrun --nproc_per_node=2 train_universal.py --config configs/quickstart.yaml

Files go to runs/NAME: best.pt (best by validation), last.pt (to resume from), config.yaml, tensorboard/.
"""

from __future__ import annotations

import argparse

from maskdiff.cli.arguments import Parser
from maskdiff.config_io import add_config_flags, config_from_dict, load_config, overrides


def build_parser() -> Parser:
    """Every option of the configuration as a flag, and three that belong to this program alone."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--config", metavar="YAML", help="configuration file; flags go on top of it"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the run in the same folder")
    start.add_argument(
        "--init",
        metavar="PT",
        help="start from the weights of this checkpoint, with a fresh optimiser",
    )
    add_config_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train, and print the command that benchmarks the result."""
    args: argparse.Namespace = build_parser().parse_args(argv)
    given = overrides(args)
    own = args.resume and args.config is None  # the flags go on top of the run's own configuration
    config = config_from_dict(given) if own else load_config(args.config, given)
    from maskdiff.cli.training_run import (
        run_config,
        run_folder,
        train,
    )  # now, so that --help and a typing error answer at once

    folder = run_folder(config.train, args.resume)
    if own:
        config = run_config(folder, given)
    return train(config, folder, resume=args.resume, init=args.init)
