"""What `benchmark.py` does with its flags: plan, measure, write tables, reproduce the reference."""

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
from maskdiff.config import ControlConfig
from maskdiff.config_io import build, overrides
from maskdiff.errors import ConfigError, UserError, visible
from maskdiff.evaluation import plots, report, suites
from maskdiff.evaluation.repair import check_methods, corruption
from maskdiff.evaluation.rows import MeasurementProgress, Plan, Row, Subject
from maskdiff.evaluation.samplers import choose_samplers, named_presets
from maskdiff.experiments.reproduction import run as reproduction


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
