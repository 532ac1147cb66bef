"""A model's own attempts at problems, for it to learn from what is said of them.

    python -m maskdiff.distillation.attempts --num 20000 --out attempts.txt --checkpoint runs/NAME/last.pt

Mistakes that are made up are seldom those that a model makes, so a model that is taught with them alone has no use for
feedback: what it says of a mistake that it would not have made is no news. A file of `problem;attempt` lines is a option of the
language (`--attempts FILE`), which makes three of four records of them. For: `write_attempts`. Easy to get wrong: the problems
must not be of the test split.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from maskdiff.checkpoint import load_denoiser
from maskdiff.cli import arguments as cli
from maskdiff.drawing.random import bits
from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.languages.arithmetic_corrections import judge
from maskdiff.utils.files import write_atomic

GROUP = 1024  # problems at a time
LIMIT = 128  # tokens of an attempt


def write_attempts(policy: OwnPolicy, count: int, seed: int) -> list[str]:
    """Lines of attempts at `count` problems, sampled at temperature 1: those that fail, and half as many that do not.

    What does not end, or is no answer by its form, is left out.
    """
    language, rng = policy.language, np.random.default_rng(seed)
    problems = language.problems(count, rng, held_out=False)
    keys = [int(key) for key in bits(torch.tensor(seed), torch.arange(count))]
    failed, right = list[str](), list[str]()
    for start in tqdm(range(0, count, GROUP), desc="attempts", unit="group"):
        group = problems[start : start + GROUP]
        prompts = [policy.prompt(Problem(text, text)) for text in group]
        answers = policy.sample(prompts, keys[start : start + GROUP], 1.0, LIMIT)
        for problem, answer in zip(group, answers, strict=True):
            attempt = policy.text(answer)
            if answer[-1] == policy.vocabulary.eos and language.parses(
                language.prompt(problem) + attempt
            ):
                marks = judge(problem, attempt)
                line = f"{language.prompt(problem, attempt).partition('|')[0]}\n"
                (right if marks.final and marks.first_wrong is None else failed).append(line)
    return failed + right[: len(failed) // 2]


def build_parser() -> cli.Parser:
    """All flags."""
    parser = cli.Parser(prog="python -m maskdiff.distillation.attempts", description=__doc__)
    parser.add_argument(
        "--num",
        type=cli.IntegerRange(1, 10**6),
        default=20_000,
        metavar="N",
        help="problems (default 20000)",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="where the lines go")
    cli.add_machine_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write a file of attempts. Raises UserError."""
    args = build_parser().parse_args(argv)
    cli.use_threads(args.threads)
    policy = OwnPolicy(
        load_denoiser(
            args.checkpoint or cli.default_checkpoint("arithmetic-corrections.pt"), args.device
        )
    )
    lines = write_attempts(policy, args.num, args.seed)
    write_atomic(Path(args.out), "".join(lines).encode())
    print(f"{args.out}: {len(lines)} attempts")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_cli(main))
