"""The suites by name, and one call that runs them on several checkpoints side by side.

For: ``run``.  Not for: flags (``benchmark.py``) or layout (``report.py``).  Easy to get wrong: every subject is measured on
the same held-out strings and the same lengths, because all of them come from the plan's seed; compare nothing else.
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
from maskdiff.evaluation.completion import completion
from maskdiff.evaluation.completion import planned as planned_completions
from maskdiff.evaluation.editing import editing
from maskdiff.evaluation.generation import Seen, generation
from maskdiff.evaluation.likelihood import likelihood
from maskdiff.evaluation.one_edit import one_edit
from maskdiff.evaluation.repair import MODELLESS, UNDER_GRAMMAR, blocks, fitting_methods, repair
from maskdiff.evaluation.repetition import planned as planned_repetition
from maskdiff.evaluation.repetition import repetition
from maskdiff.evaluation.report import Report
from maskdiff.evaluation.rows import Plan, Row, Subject, Watch, draw_lengths, unwatched
from maskdiff.evaluation.samplers import check_fit, fitting
from maskdiff.evaluation.solve import planned as planned_solutions
from maskdiff.evaluation.solve import solve
from maskdiff.evaluation.speed import speed
from maskdiff.languages import split_of

if TYPE_CHECKING:
    from maskdiff.languages import Language


@dataclass(frozen=True)
class Material:
    """What the suites of one subject are fed: held-out strings, and which strings it was trained on."""

    texts: list[str]
    seen: Seen


@dataclass(frozen=True)
class Suite:
    """``run`` measures one subject; ``count`` tells how many measurements of a plan it will show to its watch."""

    about: str
    run: Callable[[Subject, Plan, Material, Watch], list[Row]]
    count: Callable[[Plan], int]


def _whole(
    name: str, run: Callable[[Subject, Plan, list[str]], list[Row]]
) -> Callable[..., list[Row]]:
    """A suite on held-out strings that is a single measurement."""

    def watched(subject: Subject, plan: Plan, material: Material, watch: Watch) -> list[Row]:
        with watch(name):
            return run(subject, plan, material.texts)

    return watched


COMPLETION, REPETITION, SOLVE = "completion", "repetition", "solve"
ENDING = (COMPLETION, REPETITION, SOLVE)  # the suites for models that end their strings themselves
SUITES: dict[str, Suite] = {
    "generation": Suite(
        "strings from nothing, by sampler",
        lambda s, p, m, watch: generation(s, p, m.seen, watch),
        lambda p: len(p.samplers),
    ),
    "repair": Suite(
        "corrupted strings, by noise level and kind",
        lambda s, p, m, watch: repair(s, p, m.texts, watch=watch),
        lambda p: len(blocks(p)) * len(p.repair_methods),
    ),
    "one_edit": Suite(
        "strings with one random edit, by method",
        lambda s, p, m, watch: one_edit(s, p, m.texts, watch=watch),
        lambda p: len({*p.repair_methods, MODELLESS}) + 1,
    ),
    "editing": Suite("strings with blanks", _whole("editing", editing), lambda p: 1),
    "likelihood": Suite(
        "nats per token, beside the exact entropy if it is known",
        _whole("likelihood", likelihood),
        lambda p: 1,
    ),
    COMPLETION: Suite(
        "what was typed completed, beside what is done instead",
        lambda s, p, m, watch: completion(s, p, watch),
        planned_completions,
    ),
    REPETITION: Suite(
        "run-on by control and its cause; equal neighbours by tokens committed at once",
        lambda s, p, m, watch: repetition(s, p, watch),
        planned_repetition,
    ),
    SOLVE: Suite(
        "problems solved step by step: accuracy against forward tokens, by strategy and scorer",
        lambda s, p, m, watch: solve(s, p, watch),
        planned_solutions,
    ),
    "speed": Suite(
        "strings per second, training tokens per second",
        lambda s, p, m, watch: speed(s, p, watch),
        lambda p: len(p.samplers) + 2,
    ),
}
DEFAULT_SUITES = ("generation", "repair", "editing", "likelihood")


def seen_in_training(config: Config, language: Language) -> Seen:
    """The training set of a run with a fixed one, or the training split of a corpus; else whatever belongs to that split.

    The last counts a string as seen if it *could* have been: ``novel`` is then a lower bound.
    """
    train, texts = config.train, language.texts()
    if texts is not None:
        return {text for text in texts if split_of(text) == "train"}
    if train.num_samples == 0:
        return lambda text: split_of(text) == "train"
    return training_texts(
        Batches(
            language, train.num_samples, train.batch_size, train.seed, length_tilt=train.length_tilt
        )
    )


def check_suites(names: Sequence[str]) -> tuple[str, ...]:
    """The names themselves, ``all`` spelled out.  Raises ``ConfigError`` on an unknown one."""
    if "all" in names:
        return tuple(SUITES)
    for name in names:
        if name not in SUITES:
            raise ConfigError(
                f"suite {name!r} is unknown; the nearest is {nearest(name, list(SUITES))!r} of {', '.join(SUITES)}, all"
            )
    return tuple(dict.fromkeys(names))


def check_subjects(
    subjects: Sequence[Subject],
    plan: Plan,
    samplers: Sequence[SamplerConfig] = (),
    names: Sequence[str] = (),
) -> list[str]:
    """See that the plan can be carried out, for the suites of ``names``; lines that tell what will be left out.

    ``samplers`` are those that somebody asked for: each must fit a subject; any other is left out without a word.  Raises
    ``UserError``.
    """
    for subject in subjects:
        if (subject.loaded.vocabulary.merges or not subject.loaded.length_conditioned) and (
            other := [n for n in names if n not in ENDING]
        ):
            raise ConfigError(
                f"{subject.name or 'the checkpoint'} reads pieces of several characters, or ends its strings itself; "
                f"{', '.join(other)} measure symbol by symbol: give --suite {' or '.join(ENDING)}"
            )
    grammar = any(config.grammar for config in plan.samplers)
    grammar = grammar or any(
        name == MODELLESS or UNDER_GRAMMAR in name for name in plan.repair_methods
    )
    for subject in subjects:
        draw_lengths(subject.language, 1, plan.lengths, plan.rng())
        if grammar:
            subject.loaded.constraint()
    return check_fit(
        samplers,
        {subject.name or "the checkpoint": subject.loaded.denoiser for subject in subjects},
    )


def own_plan(subject: Subject, plan: Plan) -> Plan:
    """The plan with the samplers that the subject can run, and the methods of repair that its language has the means for."""
    methods = fitting_methods(plan.repair_methods, subject.language)
    return replace(
        plan, samplers=fitting(plan.samplers, subject.loaded.denoiser), repair_methods=methods
    )


def planned(subjects: Sequence[Subject], plan: Plan, suites: Sequence[str]) -> int:
    """How many measurements ``measure`` will show to its watch."""
    names = check_suites(suites)
    return sum(
        SUITES[name].count(own_plan(subject, plan)) for subject in subjects for name in names
    )


def measure(
    subjects: Sequence[Subject], plan: Plan, suites: Sequence[str], watch: Watch = unwatched
) -> Iterator[list[Row]]:
    """The rows of each suite of each subject, as soon as they are there; ``watch`` is entered for each measurement."""
    names = check_suites(suites)
    for subject in subjects:
        language, own = subject.language, own_plan(subject, plan)
        material = Material(
            held_out(language, plan.split, plan.num_samples, plan.seed),  # type: ignore[arg-type]
            seen_in_training(subject.loaded.config, language) if "generation" in names else (),
        )
        for name in names:
            yield SUITES[name].run(subject, own, material, watch)


def run(
    subjects: Sequence[Subject],
    plan: Plan,
    suites: Sequence[str] = DEFAULT_SUITES,
    watch: Watch = unwatched,
) -> Report:
    """Measure every subject; ``watch`` is entered for each measurement.  Raises ``ConfigError`` on an unknown suite."""
    rows = [row for part in measure(subjects, plan, suites, watch) for row in part]
    return Report(rows, header(subjects, plan, check_suites(suites)))


def header(subjects: Sequence[Subject], plan: Plan, suites: Sequence[str]) -> dict[str, Any]:
    """What stands above the tables and in the JSON beside the rows."""
    return {
        "measured": ", ".join(f"{name} ({SUITES[name].about})" for name in suites),
        "samples": plan.num_samples,
        "seed": plan.seed,
        "threads": torch.get_num_threads(),
        "held_out": f"{plan.split} split, never trained on",
        "intervals": "95%",
        "versions": f"maskdiff {__version__}, torch {torch.__version__}, {platform.machine()}",
        "checkpoints": [about(subject) for subject in subjects],
        **{f"checkpoint {s.name}".rstrip(): describe(about(s)) for s in subjects},
    }


def about(subject: Subject) -> dict[str, Any]:
    """Path, provenance and size of a subject."""
    loaded = subject.loaded
    model = getattr(loaded.denoiser, "model", None)
    parameters = sum(weight.numel() for weight in model.parameters()) if model is not None else None
    return {
        "name": subject.name,
        "path": getattr(loaded, "path", ""),
        "parameters": parameters,
        "provenance": dict(loaded.provenance),
    }


def describe(facts: Mapping[str, Any]) -> str:
    """One line about a checkpoint."""
    trained = facts["provenance"]
    parts = [str(facts["path"] or "model")]
    if facts["parameters"]:
        parts.append(f"{facts['parameters']:,} parameters")
    if trained.get("tokens"):
        parts.append(f"trained on {trained['tokens']:,} tokens in {trained.get('step', '?')} steps")
    if isinstance(before := trained.get("parent_tokens"), int) and before:
        parts.append(f"started from weights trained on {before:,} tokens")
    return ", ".join(parts)
