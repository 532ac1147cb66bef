"""Measure checkpoints: generation, repair, editing, likelihood and speed, each beside its baseline
and its ceiling.

    # checkpoints/best.pt with the usual samplers
    python benchmark.py
    python benchmark.py --sampler autoregressive --num_samples 1000 --suite generation
    # long strings only
    python benchmark.py --sampler maskgit --length 40..62
    python benchmark.py --checkpoint a.pt b.pt --json out.json --markdown out.md --plots plots/
    # strings that do not end
    python benchmark.py --suite repetition --checkpoint checkpoints/arithmetic-bpe.pt
    # problems, by strategy
    python benchmark.py --suite solve --checkpoint checkpoints/arithmetic-steps.pt
    # the reference, into docs/results.md
    python benchmark.py --reproduce --seeds 3
    # the same of what is trained already
    python benchmark.py --reproduce --no_training

Nothing is constrained or rejected: every string drawn is counted. Metrics are defined in
docs/metrics.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from maskdiff.cli import arguments as cli
from maskdiff.config import MAX_LENGTH, MAX_MEASURED, ControlConfig
from maskdiff.config_io import add_config_flags
from maskdiff.evaluation import names


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all flags, in groups."""
    parser = cli.Parser(prog="benchmark.py", description=__doc__, conflict_handler="resolve")
    cli.add_machine_flags(parser)
    cli.add_language_flags(parser)
    _add_measurements(parser)
    _add_sampling(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--json", metavar="FILE", help="also write the rows as JSON, schema 1")
    out.add_argument("--markdown", metavar="FILE", help="also write the tables as Markdown")
    out.add_argument("--plots", metavar="DIR", help="also draw PNG plots (needs matplotlib)")
    _add_reproduction(parser)
    return parser


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is measured."""
    add = parser.add_argument_group("what is measured").add_argument
    # Replaces the flag for a single checkpoint of the other commands.
    add(
        "--checkpoint", nargs="+", metavar="FILE",
        help="one or more, side by side (default checkpoints/best.pt)",
    )  # fmt: skip
    add(
        "--suite", nargs="+", default=list(names.DEFAULT_SUITES), metavar="NAME",
        help=f"of {', '.join(names.SUITE_NAMES)}, all",
    )  # fmt: skip
    add(
        "--num_samples", type=cli.IntegerRange(1, MAX_MEASURED), default=200, metavar="N",
        help="strings of each figure (default 200)",
    )  # fmt: skip
    add(
        "--length", type=cli.length_range, metavar="N..M",
        help="generate only strings of these lengths in symbols; a model that draws their ends "
        "draws others again",
    )  # fmt: skip
    add(
        "--sigma", type=cli.share, nargs="+", metavar="LEVEL",
        help="noise levels of the repair suite",
    )  # fmt: skip
    add("--corruption", nargs="+", metavar="KIND", help="kinds of corruption of the repair suite")
    add(
        "--repair_method", nargs="+", default=list(names.USUAL_METHODS),
        help="methods of the repair suite",
    )  # fmt: skip
    add(
        "--problems", nargs="+", choices=names.PROBLEM_SPLITS, metavar="SPLIT",
        help=f"of the solve suite: {', '.join(names.PROBLEM_SPLITS)} (default both)",
    )  # fmt: skip
    add(
        "--typed", type=cli.IntegerRange(1, MAX_LENGTH), nargs="+", metavar="N",
        help="characters typed, in the completion suite (default 5 8 12 16 24)",
    )  # fmt: skip


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """The flags that name samplers and set them."""
    group = parser.add_argument_group(
        "sampling",
        "the first six name samplers and add up; without them, the usual samplers are measured",
    )
    add = group.add_argument
    add("--sampler", nargs="+", metavar="NAME", help="presets, see docs/samplers.md")
    for flag, text in {
        "--use_maskgit": "MaskGIT",
        "--no_maskgit": "naive refinement",
        "--use_hybrid": "causal warm start, then parallel or speculative: both",
        "--coarse_to_fine": "skeleton first, digits second",
        "--grammar": "every sampler and repair under the language's grammar, too",
        "--use_self_cond": "self_conditioned: the model sees its last prediction",
    }.items():
        add(flag, action="store_true", help=text)
    add(
        "--num_ar_tokens", type=cli.IntegerRange(0, MAX_LENGTH),
        help="causal tokens of the hybrid (default 3)",
    )  # fmt: skip
    add(
        "--maskgit_steps", type=cli.natural,
        help="evaluations; 0 is one token an evaluation (default 12)",
    )  # fmt: skip
    add(
        "--maskgit_schedule", choices=("cosine", "linear"),
        help="how many tokens an evaluation commits",
    )  # fmt: skip
    add(
        "--temperature", type=cli.NumberRange(0.0, 100.0),
        help="of the token distribution (default 1; 0 is argmax)",
    )  # fmt: skip
    # Of the suites generation and repetition.
    add_config_flags(parser, ControlConfig, skip=("first_complete",))


def _add_reproduction(parser: argparse.ArgumentParser) -> None:
    """The flags that train and measure the variants of the reference."""
    add = parser.add_argument_group("reproduction").add_argument
    add("--reproduce", action="store_true", help="train and measure every variant of the reference")
    add(
        "--no_training", action="store_true",
        help="report the seeds that are trained already, each variant's own",
    )  # fmt: skip
    add(
        "--seeds", type=cli.IntegerRange(1, 1000), metavar="N",
        help="seeds 0..N-1 of each variant (default 3; with --no_training all found)",
    )  # fmt: skip
    add("--variants", nargs="+", metavar="NAME", help="only these variants")
    add(
        "--runs", default="runs/reproduce", metavar="DIR",
        help="where trained variants are kept and found again",
    )  # fmt: skip
    add(
        "--results", default="docs/results.md", metavar="FILE",
        help="the report of the reproduction",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the flags ask for; returns the exit status."""
    args = build_parser().parse_args(argv)
    from maskdiff.cli import measuring  # torch is not imported for --help

    return measuring.run(args)
