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
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from maskdiff.checkpoint import LanguageOverride, load_denoiser
from maskdiff.cli import arguments as cli
from maskdiff.config import MAX_LENGTH, MAX_MEASURED, ControlConfig
from maskdiff.config_io import add_config_flags, build, overrides
from maskdiff.errors import ConfigError, UserError, visible
from maskdiff.evaluation import plots, report, suites
from maskdiff.evaluation.repair import check_methods, corruption
from maskdiff.evaluation.rows import MeasurementProgress, Plan, Row, Subject
from maskdiff.evaluation.samplers import choose_samplers, named_presets
from maskdiff.experiments.reproduction import run as reproduction


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
        "--suite", nargs="+", default=list(suites.DEFAULT_SUITES), metavar="NAME",
        help=f"of {', '.join(suites.SUITES)}, all",
    )  # fmt: skip
    add(
        "--num_samples", type=cli.IntegerRange(1, MAX_MEASURED), default=200, metavar="N",
        help="strings of each figure (default 200)",
    )  # fmt: skip
    add(
        "--length", type=cli.length_range, metavar="N..M",
        help="generate only these inner lengths (symbols)",
    )  # fmt: skip
    add(
        "--sigma", type=cli.share, nargs="+", metavar="LEVEL",
        help="noise levels of the repair suite",
    )  # fmt: skip
    add("--corruption", nargs="+", metavar="KIND", help="kinds of corruption of the repair suite")
    add(
        "--repair_method", nargs="+", default=list(Plan.repair_methods),
        help="methods of the repair suite",
    )  # fmt: skip
    add(
        "--problems", nargs="+", choices=Plan.problems, metavar="SPLIT",
        help=f"of the solve suite: {', '.join(Plan.problems)} (default both)",
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


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the plan that the flags ask for. Raises ConfigError."""
    for kind in args.corruption or ():
        corruption(kind)  # an unknown one fails before anything is measured
    return Plan(
        num_samples=args.num_samples,
        seed=args.seed,
        lengths=args.length,
        samplers=choose_samplers(args),
        sigmas=tuple(dict.fromkeys(args.sigma or Plan.sigmas)),
        corruptions=tuple(dict.fromkeys(args.corruption or Plan.corruptions)),
        only_mixed_varies=not (args.sigma or args.corruption),
        repair_methods=check_methods(args.repair_method, args.grammar),
        control=build(ControlConfig, overrides(args, ControlConfig)),
        problems=tuple(dict.fromkeys(args.problems or Plan.problems)),
        typed=tuple(dict.fromkeys(args.typed or Plan.typed)),
    )


def load_subjects(
    paths: Sequence[str], device: str, override: LanguageOverride | None = None
) -> list[Subject]:
    """Return a subject for each file, named by the shortest ending of its path that is unique."""
    paths = list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]
    parts = [Path(path).with_suffix("").parts for path in paths]
    if len(set(parts)) < len(parts):  # only their endings differ
        parts = [Path(path).parts for path in paths]
    depth = next((n for n in range(1, 20) if len({p[-n:] for p in parts}) == len(parts)), 20)
    return [
        Subject(
            load_denoiser(path, device, override), "/".join(p[-depth:]) if len(paths) > 1 else ""
        )
        for path, p in zip(paths, parts, strict=True)
    ]


@contextmanager
def progress_bar(total: int) -> Iterator[MeasurementProgress]:
    """A bar over `total` measurements on the error stream; silent without a terminal."""
    with tqdm(total=total, unit="measurement", file=sys.stderr, disable=None) as bar:

        @contextmanager
        def measurement(name: str) -> Iterator[None]:
            bar.set_description(name)
            yield
            bar.update()

        yield measurement


def note(text: str) -> None:
    """Print a line on the error stream."""
    print(visible(text), file=sys.stderr, flush=True)


def check_outputs(args: argparse.Namespace) -> None:
    """Raises DataError if an output cannot be written, before hours are spent on it."""
    for path in (args.results,) if args.reproduce else (args.json, args.markdown):
        if path:
            report.check_writable(path)
    if args.plots and not args.reproduce:
        plots.check_plots(args.plots)


def run_reproduction(args: argparse.Namespace) -> None:
    """Train (without `--no_training`) and measure the reference's variants. Raises UserError."""
    reproduction.reproduce(
        range(args.seeds) if args.seeds else None, Path(args.runs), Path(args.results),
        args.variants, args.num_samples, args.threads, note,
        None if args.no_training else reproduction.train_with_loop,
    )  # fmt: skip


def write_outputs(args: argparse.Namespace, made: report.Report) -> list[str]:
    """Write the files, then print the tables; returns a line for each failure.

    The files come first, so that a reader who stops early loses none.
    """
    failures = []
    for path, text in ((args.json, report.to_json), (args.markdown, report.to_markdown)):
        try:
            if path:
                report.write_text(path, text(made))
        except UserError as error:
            failures.append(str(error))
    try:
        drawn = list(plots.write_plots(made, args.plots)) if args.plots else []
        for picture in drawn:
            note(f"wrote {picture}")
        if args.plots and not drawn:
            note("no plot was drawn: the suites that were run have none")
    except UserError as error:
        failures.append(str(error))
    print(report.to_terminal(made))
    return failures


def measure_and_report(
    args: argparse.Namespace, subjects: Sequence[Subject], plan: Plan, names: Sequence[str]
) -> int:
    """Run the suites and write the report; an interrupted run reports its finished suites."""
    rows: list[Row] = []
    finished, total = 0, len(subjects) * len(names)
    header = suites.make_header(subjects, plan, names)
    try:
        with progress_bar(suites.count_measurements(subjects, plan, names)) as progress:
            for part in suites.iter_suites(subjects, plan, names, progress):
                rows += part
                finished += 1
    except BaseException:  # Ctrl-C, memory, a bug: hours may have been spent
        if rows:
            state = f"{finished} of {total} suites are finished and reported"
            note(f"benchmark.py: interrupted, {state}")
            interrupted = report.Report(rows, {**header, "interrupted": state})
            for failure in write_outputs(args, interrupted):
                note(f"benchmark.py: {failure}")
        raise
    failures = write_outputs(args, report.Report(rows, header))
    for failure in failures:
        note(f"benchmark.py: {failure}")
    return cli.BAD_INPUT if failures else 0


def run(args: argparse.Namespace) -> int:
    """Carry out parsed flags; returns the exit status. Raises UserError."""
    cli.use_threads(args.threads)
    plan, names = make_plan(args), suites.check_suites(args.suite)
    if plan.control != ControlConfig() and not {"generation", "repetition"} & set(names):
        raise ConfigError(
            "controls of repetition are of the suites generation and repetition; "
            "add one of them to --suite"
        )
    check_outputs(args)
    if args.reproduce:
        run_reproduction(args)
        return 0
    override = LanguageOverride.of(args)
    subjects = load_subjects(args.checkpoint or [cli.default_checkpoint()], args.device, override)
    for line in filter(None, dict.fromkeys(subject.language.note for subject in subjects)):
        note(line)
    asked = plan.samplers if named_presets(args) else ()
    for line in suites.check_subjects(subjects, plan, asked, names):
        note(line)
    return measure_and_report(args, subjects, plan, names)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the flags ask for; returns the exit status."""
    return run(build_parser().parse_args(argv))
