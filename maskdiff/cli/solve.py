"""The verb `solve` of `inference.py`: flags, problems in, solutions out.

For: `add_verb` and `solve`. Not for: solving. Easy to get wrong: one bad problem must not stop the others; it is reported in
its place, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from maskdiff.cli import arguments as cli
from maskdiff.config import BackendConfig, StepConfig
from maskdiff.config_io import add_config_flags, build, overrides
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.utils.batches import ProgressBar, Requests, answered, growing
from maskdiff.utils.deadline import Deadline
from maskdiff.utils.lines import Line, count_lines, open_lines

if TYPE_CHECKING:
    from maskdiff.stepwise.solver import Solution, Solver
    from maskdiff.stepwise.strategies import ChosenStep

SCHEMA = 1
CHECKPOINT = "arithmetic-steps.pt"
OURS = ("causal", "blocks")
COHORT = 32  # problems that are solved together, at most


def add_solve_command(verbs: Any) -> None:
    """Add `solve` to the verbs of a door."""
    verb = verbs.add_parser(
        "solve",
        help="solve problems step by step",
        description="Answers, written step by step; see docs/stepwise.md.",
    )
    verb.add_argument(
        "texts", nargs="*", metavar="PROBLEM", help='problems, such as "(+ 3 (* 2 4))"'
    )
    verb.add_argument(
        "--input", metavar="FILE", help="read problems from FILE, one a line; - is standard input"
    )
    verb.add_argument("--json", action="store_true", help="one JSON object a line")
    verb.add_argument(
        "--show",
        action="store_true",
        help="print every step, how unsure it was, and its candidates",
    )
    verb.add_argument(
        "--probe",
        action="store_true",
        help="only say whether the backend goes on from a partial answer",
    )
    add_config_flags(verb, StepConfig)
    add_config_flags(verb, BackendConfig)
    cli.add_timeout_flag(
        verb, "each problem, between and within steps; problems are then solved one by one"
    )
    cli.add_machine_flags(verb)
    told = {
        "checkpoint": f"our model, and the language of the problems (default checkpoints/{CHECKPOINT} for our backends)"
    }
    for action in verb._actions:
        action.help = told.get(action.dest, action.help)
    cli.add_language_flags(verb)


def make_solver(args: argparse.Namespace) -> Solver:
    """The solver that the flags ask for. Raises UserError."""
    from maskdiff.checkpoint import LanguageOverride, load_denoiser
    from maskdiff.languages import Stepwise
    from maskdiff.stepwise.backends import make_backend
    from maskdiff.stepwise.solver import Solver

    config, backend = (
        build(StepConfig, overrides(args, StepConfig)),
        build(BackendConfig, overrides(args, BackendConfig)),
    )
    if args.probe:
        config = replace(
            config, strategy="best-of-n", scorer="vote"
        )  # nothing is solved, so nothing is refused
    loaded = language = None
    if backend.backend in OURS or args.checkpoint:
        override = LanguageOverride.of(args)
        loaded = load_denoiser(
            args.checkpoint or cli.default_checkpoint(CHECKPOINT), args.device, override
        )
        if isinstance(loaded.language, Stepwise):
            language = loaded.language
        elif backend.backend in OURS:
            raise ConfigError(
                f"{loaded.language.name} is no language of problems and steps; take a checkpoint of arithmetic-steps, "
                "or fill blanks with: edit --holds"
            )
    generator = make_backend(backend, loaded, language, args.device)
    return Solver(generator, config, language, loaded)


def problems(args: argparse.Namespace) -> Requests:
    """The arguments, then the lines of --input. Raises DataError where there is none."""
    if args.input is None and not args.texts:
        raise DataError(
            'nothing to solve; give problems such as "(+ 3 (* 2 4))", or --input FILE (- is standard input)'
        )
    return Requests(args.texts, None if args.input is None else open_lines(args.input))


def run_solve(args: argparse.Namespace) -> int:
    """Answer; 2 if any problem failed, 124 if any had too little time. Raises UserError."""
    solver = make_solver(args)
    if args.probe:
        return _probe(args, solver)
    if solver.fell_back:
        told = f"{solver.generator.name} does not go on from a partial answer: {solver.config.strategy} instead"
        print(f"inference.py: {told}", file=sys.stderr)
    lines = 0 if args.input is None else count_lines(args.input)
    status = 0
    with (
        ProgressBar(
            "inference.py", "problem", None if lines is None else len(args.texts) + lines
        ) as progress,
        closing(problems(args)) as asked,
    ):
        batches = growing(asked, COHORT if args.timeout is None else 1)
        for number, _, solution in answered(batches, worker(args, solver, progress)):
            progress.hide()
            print_solution(args, number, solution)
            progress.finished(number)
            status = cli.worse(status, solution.finish_reason)
    return status


def worker(
    args: argparse.Namespace, solver: Solver, progress: ProgressBar
) -> Callable[[Sequence[Line]], Iterable[tuple[int, Solution]]]:
    """What solves a batch of problems, within --timeout."""
    import torch

    source = torch.Generator().manual_seed(args.seed)
    denoiser = None if solver.loaded is None else solver.loaded.denoiser

    def work(batch: Sequence[Line]) -> Iterable[tuple[int, Solution]]:
        deadline = Deadline(args.timeout, progress.tick)
        with nullcontext() if denoiser is None else denoiser.until(deadline):
            return enumerate(solver.together(batch, source, deadline))

    return work


def print_solution(args: argparse.Namespace, number: int, solution: Solution) -> None:
    """Print one solution; in text an error goes to the error stream, and an empty line keeps its
    place in a batch."""
    if args.json:
        print(json.dumps(solution_object(number, solution), allow_nan=False), flush=True)
    elif solution.error is None:
        print(
            "\n".join([*(step_lines(solution) if args.show else ()), solution_line(solution)]),
            flush=True,
        )
    else:
        if args.input is not None:
            print(flush=True)
        print(f"inference.py: problem {number}: {solution.error}", file=sys.stderr)


def _probe(args: argparse.Namespace, solver: Solver) -> int:
    made = solver.probe()
    if args.json:
        item = {"schema": SCHEMA, "verb": "probe", "backend": solver.generator.name, "verdict": made.verdict.name,
                "seen": list(made.seen)}  # fmt: skip
        print(json.dumps(item))
        return 0
    print(
        f"{made.verdict.name}: given a partial answer, {solver.generator.name} {made.verdict.value}"
    )
    print("\n".join(f"  {seen}" for seen in made.seen))
    return 0


def solution_object(number: int, solution: Solution) -> dict[str, Any]:
    """The JSON object of a solution; `error` only where there is one."""
    answer = solution.answer
    item: dict[str, Any] = {
        "schema": SCHEMA, "verb": "solve", "index": number, "input": solution.problem,
        "text": None if answer is None else answer.text, "answer": solution.result or None, "correct": solution.correct,
        "first_wrong": solution.first_wrong, "steps": 0 if answer is None else len(answer.steps),
        "tokens": 0 if answer is None else answer.tokens, "strategy": solution.strategy,
        "finish_reason": solution.finish_reason,
    }  # fmt: skip
    if answer is not None:
        item |= {
            "scaled": sum(step.scaled for step in answer.steps),
            "restarts": answer.restarts,
            "spent": asdict(answer.spent),
        }
        item["trace"] = [_step(step) for step in answer.steps]
    if solution.error is not None:
        item["error"] = solution.error
    return item


def _step(step: ChosenStep) -> dict[str, Any]:
    """A step as JSON takes it, which knows no infinite score."""
    return asdict(step) | {
        "scores": [score if math.isfinite(score) else None for score in step.scores]
    }


def solution_line(solution: Solution) -> str:
    """Four columns: problem and answer, whether that is right, why it ended, forward tokens."""
    assert solution.answer is not None
    right = "unchecked" if solution.correct is None else "correct" if solution.correct else "wrong"
    if solution.correct is not None and solution.first_wrong is not None:
        right += f" (step {solution.first_wrong})"
    answer = solution.answer
    told = solution.result or quote(answer.text)
    spent = answer.spent.forward_tokens
    return "\t".join(
        [
            cli.printable(solution.problem),
            cli.printable(told),
            right,
            answer.finish_reason,
            str(spent),
        ]
    )


def step_lines(solution: Solution) -> Iterator[str]:
    """A line for every step, and one for every candidate of a step that had several."""
    assert solution.answer is not None
    yield cli.printable(solution.problem)
    for number, step in enumerate(solution.answer.steps, start=1):
        told = "" if step.uncertainty is None else f"  u {step.uncertainty:.3f}"
        told += "" if step.level is None else f"  M {step.level:.3f}"
        yield f"  {number}  {cli.printable(step.text)}{told}"
        yield from _candidates(step)


def _candidates(step: ChosenStep) -> Iterator[str]:
    counts: dict[str, list[int]] = {}
    for i, text in enumerate(step.proposals):
        counts.setdefault(text, []).append(i)
    for text, numbers in counts.items():
        mark = "*" if step.chosen in numbers else " "
        yield f"     {mark} {len(numbers)}x {cli.printable(text)}  score {step.scores[numbers[0]]:.3f}"
