"""The command `inference.py solve`: flags, problems in, solutions out."""

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
from maskdiff.errors import ConfigError, quote
from maskdiff.utils.batches import ProgressBar, answer_batches, growing
from maskdiff.utils.deadline import Deadline
from maskdiff.utils.lines import Line

if TYPE_CHECKING:
    from maskdiff.stepwise.solver import Solution, Solver
    from maskdiff.stepwise.strategies import ChosenStep

SCHEMA = 1
CHECKPOINT = "arithmetic-steps.pt"
OURS = ("causal", "blocks")
COHORT = 32  # problems that are solved together, at most


def add_solve_command(verbs: Any) -> None:
    """Add `solve` to the commands."""
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
        "--show", action="store_true", help="print every step, its uncertainty and its candidates"
    )
    verb.add_argument(
        "--probe",
        action="store_true",
        help="only test whether the backend continues a partial answer",
    )
    add_config_flags(verb, StepConfig)
    add_config_flags(verb, BackendConfig)
    cli.add_timeout_flag(
        verb, "each problem, between and within steps; problems are then solved one by one"
    )
    cli.add_machine_flags(
        verb,
        checkpoint="our model, and the language of the problems "
        f"(default checkpoints/{CHECKPOINT} for our backends)",
    )
    cli.add_language_flags(verb)


def make_solver(args: argparse.Namespace) -> Solver:
    """Return the solver of the flags. Raises UserError."""
    from maskdiff.checkpoint import LanguageOverride, load_denoiser
    from maskdiff.languages import Stepwise
    from maskdiff.stepwise.backends import make_backend
    from maskdiff.stepwise.solver import Solver

    config = build(StepConfig, overrides(args, StepConfig))
    backend = build(BackendConfig, overrides(args, BackendConfig))
    if args.probe:  # settings that no backend refuses
        config = replace(config, strategy="best-of-n", scorer="vote")
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
                f"{loaded.language.name} is no language of problems and steps; "
                "take a checkpoint of arithmetic-steps, or fill blanks with: edit --holds"
            )
    generator = make_backend(backend, loaded, language, args.device)
    return Solver(generator, config, language, loaded)


def run_solve(args: argparse.Namespace) -> int:
    """Solve; return 2 if any problem failed, 124 if any timed out. Raises UserError."""
    solver = make_solver(args)
    if args.probe:
        return _probe(args, solver)
    if solver.fell_back:
        print(
            f"inference.py: {solver.generator.name} does not go on from a partial answer: "
            f"{solver.config.strategy} instead",
            file=sys.stderr,
        )
    status = 0
    with (
        ProgressBar("inference.py", "problem", cli.count_requests(args)) as progress,
        closing(cli.read_requests(args, 'problems such as "(+ 3 (* 2 4))"')) as problems,
    ):
        batches = growing(problems, COHORT if args.timeout is None else 1)
        for number, _, solution in answer_batches(batches, worker(args, solver, progress)):
            progress.hide()
            print_solution(args, number, solution)
            progress.finished(number)
            status = cli.worse(status, solution.finish_reason)
    return status


def worker(
    args: argparse.Namespace, solver: Solver, progress: ProgressBar
) -> Callable[[Sequence[Line]], Iterable[tuple[int, Solution]]]:
    """Return a function that solves a batch of problems within --timeout."""
    import torch

    source = torch.Generator().manual_seed(args.seed)
    denoiser = None if solver.loaded is None else solver.loaded.denoiser

    def work(batch: Sequence[Line]) -> Iterable[tuple[int, Solution]]:
        deadline = Deadline(args.timeout, progress.tick)
        with nullcontext() if denoiser is None else denoiser.until(deadline):
            return enumerate(solver.together(batch, source, deadline))

    return work


def print_solution(args: argparse.Namespace, number: int, solution: Solution) -> None:
    """Print one solution; in text an error goes to the error stream."""
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
        head = {"schema": SCHEMA, "verb": "probe", "backend": solver.generator.name}
        print(json.dumps({**head, "verdict": made.verdict.name, "seen": list(made.seen)}))
        return 0
    print(
        f"{made.verdict.name}: given a partial answer, {solver.generator.name} {made.verdict.value}"
    )
    print("\n".join(f"  {seen}" for seen in made.seen))
    return 0


def solution_object(number: int, solution: Solution) -> dict[str, Any]:
    """Return the JSON object of a solution; fields that it lacks are left out."""
    answer = solution.answer
    item: dict[str, Any] = {
        "schema": SCHEMA,
        "verb": "solve",
        "index": number,
        "input": solution.problem,
        "text": None if answer is None else answer.text,
        "answer": solution.result or None,
        "correct": solution.correct,
        "first_wrong": solution.first_wrong,
        "steps": 0 if answer is None else len(answer.steps),
        "tokens": 0 if answer is None else answer.tokens,
        "strategy": solution.strategy,
        "finish_reason": solution.finish_reason,
    }
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
    """A step with None for infinite scores, which JSON lacks."""
    return asdict(step) | {
        "scores": [score if math.isfinite(score) else None for score in step.scores]
    }


def solution_line(solution: Solution) -> str:
    """Return the columns: problem, answer, verdict, reason of the end, forward tokens."""
    answer = solution.answer
    assert answer is not None
    right = "unchecked" if solution.correct is None else "correct" if solution.correct else "wrong"
    if solution.correct is not None and solution.first_wrong is not None:
        right += f" (step {solution.first_wrong})"
    problem, result = map(cli.printable, (solution.problem, solution.result or quote(answer.text)))
    spent = str(answer.spent.forward_tokens)
    return "\t".join([problem, result, right, answer.finish_reason, spent])


def step_lines(solution: Solution) -> Iterator[str]:
    """Yield a line for every step, and one for every candidate of a step that had several."""
    assert solution.answer is not None
    yield cli.printable(solution.problem)
    for number, step in enumerate(solution.answer.steps, start=1):
        figures = "" if step.uncertainty is None else f"  u {step.uncertainty:.3f}"
        figures += "" if step.level is None else f"  M {step.level:.3f}"
        yield f"  {number}  {cli.printable(step.text)}{figures}"
        yield from _candidates(step)


def _candidates(step: ChosenStep) -> Iterator[str]:
    counts: dict[str, list[int]] = {}
    for i, text in enumerate(step.proposals):
        counts.setdefault(text, []).append(i)
    for text, numbers in counts.items():
        mark = "*" if step.chosen in numbers else " "
        score = step.scores[numbers[0]]
        yield f"     {mark} {len(numbers)}x {cli.printable(text)}  score {score:.3f}"
