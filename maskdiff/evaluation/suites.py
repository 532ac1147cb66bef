"""The suites by name, and one call that runs them on several checkpoints side by side.

Every subject is measured on the same held-out strings and the same lengths, because all of them
come from the plan's seed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from maskdiff import __version__
from maskdiff.config import Config, SamplerConfig
from maskdiff.data import Batches, held_out, training_texts
from maskdiff.errors import ConfigError, nearest
from maskdiff.evaluation.completion import completion_suite, count_completion
from maskdiff.evaluation.editing import count_editing, editing_suite
from maskdiff.evaluation.generation import generation_suite
from maskdiff.evaluation.likelihood import likelihood_suite
from maskdiff.evaluation.names import PIECE_SUITES, SUITE_NAMES
from maskdiff.evaluation.one_edit import count_one_edit, one_edit_suite
from maskdiff.evaluation.peers import absent_peers
from maskdiff.evaluation.repair import count_repair, fitting_methods, needs_grammar, repair_suite
from maskdiff.evaluation.repetition import count_repetition, repetition_suite
from maskdiff.evaluation.rows import (
    MeasurementProgress,
    Plan,
    Row,
    Seen,
    Subject,
    SuiteRun,
    no_progress,
    sorted_lengths,
)
from maskdiff.evaluation.samplers import check_fit, fitting
from maskdiff.evaluation.solve import count_solve, solve_suite
from maskdiff.evaluation.speed import speed_suite
from maskdiff.languages import split_of

if TYPE_CHECKING:
    from maskdiff.languages import Language


@dataclass(frozen=True)
class Suite:
    """A suite of the benchmark.

    Attributes:
        about: What it measures, for a reader.
        run: Adds the rows of one subject.
        count: Returns how many measurements of a plan it shows as progress.
    """

    about: str
    run: Callable[[SuiteRun], None]
    count: Callable[[Plan], int] = lambda plan: 1


SUITES: dict[str, Suite] = {
    "generation": Suite(
        "strings from nothing, by sampler", generation_suite, lambda plan: len(plan.samplers)
    ),
    "repair": Suite("corrupted strings, by noise level and kind", repair_suite, count_repair),
    "one_edit": Suite("strings with one random edit, by method", one_edit_suite, count_one_edit),
    "editing": Suite("strings with blanks", editing_suite, count_editing),
    "likelihood": Suite(
        "nats per token, beside the exact entropy if it is known", likelihood_suite
    ),
    "completion": Suite(
        "what was typed completed, beside what is done instead", completion_suite, count_completion
    ),
    "repetition": Suite(
        "run-on by control and its cause; equal neighbours by tokens committed at once",
        repetition_suite,
        count_repetition,
    ),
    "solve": Suite(
        "problems solved step by step: accuracy against forward tokens, by strategy and scorer",
        solve_suite,
        count_solve,
    ),
    "speed": Suite(
        "strings per second, training tokens per second",
        speed_suite,
        lambda plan: len(plan.samplers) + 2,
    ),
}
assert tuple(SUITES) == SUITE_NAMES


def seen_in_training(config: Config, language: Language) -> Seen:
    """Return the training set, or the training split of a corpus.

    Without a fixed training set, it is a function: a string counts as seen if it *could* have been.
    `novel` is then a lower bound.
    """
    train, texts = config.train, language.texts()
    if texts is not None:
        return {text for text in texts if split_of(text) == "train"}
    if train.num_samples == 0:
        return lambda text: split_of(text) == "train"
    batches = Batches(
        language, train.num_samples, train.batch_size, train.seed, length_tilt=train.length_tilt
    )
    return training_texts(batches)


def check_suites(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, with `all` spelled out. Raises ConfigError for an unknown one."""
    if "all" in names:
        return tuple(SUITES)
    for name in names:
        if name not in SUITES:
            raise ConfigError(
                f"suite {name!r} is unknown; the nearest is {nearest(name, list(SUITES))!r} "
                f"of {', '.join(SUITES)}, all"
            )
    return tuple(dict.fromkeys(names))


def check_subjects(
    subjects: Sequence[Subject],
    plan: Plan,
    samplers: Sequence[SamplerConfig] = (),
    names: Sequence[str] = (),
) -> list[str]:
    """Check that a plan can be carried out; returns lines that say what is left out.

    Args:
        samplers: Those that the user asked for; each must fit a subject. Others are left out
            silently.
        names: The suites.

    Raises:
        UserError: The plan cannot be carried out.
    """
    other = [name for name in names if name not in PIECE_SUITES]
    for subject in subjects:
        loaded = subject.loaded
        if other and loaded.vocabulary.merges:
            raise ConfigError(
                f"{subject.name or 'the checkpoint'} reads pieces of several characters; "
                f"{', '.join(other)} measure symbol by symbol: "
                f"give --suite {' or '.join(PIECE_SUITES)}"
            )
        if "speed" in names:  # it trains, too
            loaded.neural("the suite speed")
    grammar = any(config.grammar for config in plan.samplers)
    grammar = grammar or any(map(needs_grammar, plan.repair_methods))
    for subject in subjects:
        sorted_lengths(subject.language, 1, plan.lengths, plan.rng())
        if grammar:
            subject.loaded.constraint()
    denoisers = {subject.name or "the checkpoint": subject.loaded.denoiser for subject in subjects}
    return check_fit(samplers, denoisers)


# --------------------------------------------------------------------------------------------- runs


def own_plan(subject: Subject, plan: Plan) -> Plan:
    """Return the plan with the samplers that the subject runs and the methods of its language."""
    methods = fitting_methods(plan.repair_methods, subject.language)
    samplers = fitting(plan.samplers, subject.loaded.denoiser)
    return replace(plan, samplers=samplers, repair_methods=methods)


def count_measurements(subjects: Sequence[Subject], plan: Plan, suites: Sequence[str]) -> int:
    """Return how many measurements `iter_suites` shows as progress."""
    plans = [own_plan(subject, plan) for subject in subjects]
    return sum(SUITES[name].count(own) for own in plans for name in check_suites(suites))


def iter_suites(
    subjects: Sequence[Subject],
    plan: Plan,
    suites: Sequence[str],
    progress: MeasurementProgress = no_progress,
) -> Iterator[list[Row]]:
    """Yields the rows of each suite of each subject as soon as they are measured."""
    names = check_suites(suites)
    for subject in subjects:
        language, own = subject.language, own_plan(subject, plan)
        texts = held_out(language, plan.split, plan.num_samples, plan.seed)
        seen: Seen = ()
        if "generation" in names:
            seen = seen_in_training(subject.loaded.config, language)
        for name in names:
            run = SuiteRun(name, subject, own, texts, seen, progress)
            SUITES[name].run(run)
            yield run.rows


# ------------------------------------------------------------------------------------------- header


def make_header(subjects: Sequence[Subject], plan: Plan, suites: Sequence[str]) -> dict[str, Any]:
    """Return what stands above the tables, and in the JSON beside the rows."""
    facts = [checkpoint_facts(subject) for subject in subjects]
    absent = {absent_peers(s.language) for s in subjects if "one_edit" in suites} - {""}
    return {
        "measured": ", ".join(f"{name} ({SUITES[name].about})" for name in suites),
        "samples": plan.num_samples,
        "seed": plan.seed,
        "threads": torch.get_num_threads(),
        "held_out": f"{plan.split} split, never trained on",
        "intervals": "95%",
        **({"peers": ", ".join(absent)} if absent else {}),
        "versions": f"maskdiff {__version__}, torch {torch.__version__}, {platform.machine()}",
        "checkpoints": facts,
        **{f"checkpoint {f['name']}".rstrip(): checkpoint_line(f) for f in facts},
    }


def checkpoint_facts(subject: Subject) -> dict[str, Any]:
    """Return name, path, size and provenance of a subject."""
    loaded = subject.loaded
    model = getattr(loaded.denoiser, "model", None)
    parameters = sum(weight.numel() for weight in model.parameters()) if model is not None else None
    return {
        "name": subject.name,
        "path": getattr(loaded, "path", ""),
        "parameters": parameters,
        "provenance": dict(loaded.provenance),
    }


def checkpoint_line(facts: Mapping[str, Any]) -> str:
    """Return one line about a checkpoint."""
    trained = facts["provenance"]
    parts = [str(facts["path"] or "model")]
    if facts["parameters"]:
        parts.append(f"{facts['parameters']:,} parameters")
    if trained.get("tokens"):
        parts.append(f"trained on {trained['tokens']:,} tokens in {trained.get('step', '?')} steps")
    if isinstance(before := trained.get("parent_tokens"), int) and before:
        parts.append(f"started from weights trained on {before:,} tokens")
    return ", ".join(parts)
