"""Samples a model's own attempts at problems, to train it on feedback.

    python -m maskdiff.experiments.distillation.attempts --num 20000 --out attempts.txt --checkpoint FILE

Artificial mistakes are seldom those that a model makes, so a model trained on them alone does not
learn to use feedback. A file of `problem;attempt` lines is an option of the language
(`--attempts FILE`); three of four training strings then come from it.
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
    """Return lines of attempts at `count` training problems, sampled at temperature 1.

    They are the wrong attempts and half as many right ones; unfinished and malformed attempts are
    left out. Problems of the test split never occur.
    """
    language, rng = policy.language, np.random.default_rng(seed)
    problems = language.problems(count, rng, held_out=False)
    keys = [int(key) for key in bits(torch.tensor(seed), torch.arange(count))]
    wrong, right = list[str](), list[str]()
    for start in tqdm(range(0, count, GROUP), desc="attempts", unit="group"):
        group = problems[start : start + GROUP]
        prompts = [policy.prompt(Problem(text, text)) for text in group]
        answers = policy.sample(prompts, keys[start : start + GROUP], 1.0, LIMIT)
        for problem, answer in zip(group, answers, strict=True):
            attempt = policy.text(answer)
            ended = answer[-1] == policy.vocabulary.eos
            if ended and language.parses(language.prompt(problem) + attempt):
                marks = judge(problem, attempt)
                line = f"{language.prompt(problem, attempt).partition('|')[0]}\n"
                (right if marks.final and marks.first_wrong is None else wrong).append(line)
    return wrong + right[: len(wrong) // 2]


def build_parser() -> cli.Parser:
    """Return the parser of all flags."""
    parser = cli.Parser(
        prog="python -m maskdiff.experiments.distillation.attempts", description=__doc__
    )
    parser.add_argument(
        "--num", type=cli.IntegerRange(1, 10**6), default=20_000, metavar="N",
        help="problems (default 20000)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="where the lines go")
    cli.add_machine_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write a file of attempts. Raises UserError."""
    args = build_parser().parse_args(argv)
    cli.use_threads(args.threads)
    checkpoint = args.checkpoint or cli.default_checkpoint("arithmetic-corrections.pt")
    policy = OwnPolicy(load_denoiser(checkpoint, args.device))
    lines = write_attempts(policy, args.num, args.seed)
    write_atomic(Path(args.out), "".join(lines).encode())
    print(f"{args.out}: {len(lines)} attempts")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_cli(main))
