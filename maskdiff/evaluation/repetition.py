"""Repetition and run-on: the effect and the price of each control, and the collapse of parallel
samplers.

A model that ends its strings itself gets a sweep of controls over prompts with known answers, and
its diagnosis. A model that is given the length cannot run on; it gets tokens committed at an
evaluation against equal neighbours, by order, schedule and remasking. Limits, stop texts and
extraction are cuts of the *same* draws, so their rows differ by the cut alone; penalties and
temperatures are draws of their own with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maskdiff import metrics
from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.evaluation.diagnosis import probe_endings
from maskdiff.evaluation.generation import sample_texts
from maskdiff.evaluation.outputs import (
    Output,
    PromptTask,
    draw_outputs,
    extracted,
    impossible_in_answers,
    limited,
    make_tasks,
    output_figures,
    real_outputs,
    stopped,
    unlooped,
)
from maskdiff.evaluation.rows import Plan, Settings, SuiteRun, control_settings, sorted_lengths
from maskdiff.evaluation.samplers import fitting
from maskdiff.metrics import Estimate, Unit
from maskdiff.text.repetition import adjacent_duplicates

if TYPE_CHECKING:
    from maskdiff.languages import Language

TIMES = 8  # the limit, in units of the longest string of the training
TEMPERATURES = (0.0, 0.5, 0.7, 1.0)
PENALTIES = (1.0, 1.05, 1.15, 1.3)
PRESETS_SWEPT = (
    "maskgit_reference", "entropy", "margin", "random", "left_to_right", "dilated", "spaced",
    "spaced_bound", "remdm_conf", "naive", "coupled",
)  # fmt: skip
STEPS = (1, 2, 4, 12, 0)
COLD_AND_WARM = (0.0, 1.0)


@dataclass(frozen=True)
class ControlSetting:
    """One way of drawing: a temperature, and the controls that differ from the defaults."""

    temperature: float
    control: ControlConfig
    name: str


def control_sweep(given: ControlConfig) -> list[ControlSetting]:
    """Return temperatures by penalties; other controls, and the given ones, at 0 and 1."""
    plain = ControlConfig()
    made = [
        ControlSetting(
            t, replace(plain, repetition_penalty=p), "none" if p == 1.0 else f"penalty {p:g}"
        )
        for t in TEMPERATURES
        for p in PENALTIES
    ]
    others = {
        "penalty 1.3, prompt exempt": replace(plain, repetition_penalty=1.3, exempt_prompt=True),
        "frequency 0.5": replace(plain, frequency_penalty=0.5),
        "no repeated 3-gram": replace(plain, no_repeat_ngram=3),
        "DRY 0.8": replace(plain, dry_multiplier=0.8),
        "min-p 0.1": replace(plain, min_p=0.1),
    }
    if given != plain:
        name = " ".join(f"{name} {value}" for name, value in control_settings(given).items())
        others[name] = given
    return made + [
        ControlSetting(t, control, name) for name, control in others.items() for t in COLD_AND_WARM
    ]


def count_repetition(plan: Plan) -> int:
    """Return the number of measurements of `repetition_suite` at most."""
    sweep = control_sweep(plan.control)
    warm = sum(setting.temperature == 1.0 for setting in sweep)
    return max(len(sweep) + warm + 1, len(PRESETS_SWEPT) * len(STEPS) * len(COLD_AND_WARM))


def repetition_suite(run: SuiteRun) -> None:
    """Add run-on by control for a model that ends its strings itself, else parallel collapse."""
    if run.subject.loaded.length_conditioned:
        _add_parallel(run)
        return
    _add_diagnosis(run)
    tasks = make_tasks(run.language, run.plan.num_samples, run.plan.seed)
    _add_sweep(run, "prompts", tasks)
    _add_sweep(run, "free", [replace(task, prompt="", answer=None) for task in tasks])


# ------------------------------------------------------------------------------------------- causal


def _add_diagnosis(run: SuiteRun) -> None:
    plan, subject = run.plan, run.subject
    with run.progress("repetition, diagnosis"):
        found = probe_endings(subject.loaded, plan.num_samples, plan.seed, TIMES)
    rows = run.group("diagnosis", subject.settings())
    rows.add_all(found.figures)
    for name in found.causes:
        yes = float(name == found.cause)
        rows.add(f"is_{name}", Estimate(yes, float("nan"), float("nan"), 1))


def _add_sweep(run: SuiteRun, prompts: str, tasks: Sequence[PromptTask]) -> None:
    """Add the figures of each control and cut; without prompts at temperature 1 alone."""
    plan, loaded, language = run.plan, run.subject.loaded, run.language
    once = loaded.config.model.block_size - 1
    stops = impossible_in_answers(tasks, language)
    ideal = output_figures(real_outputs(tasks), language, plan.rng(90))
    for setting in control_sweep(plan.control):
        temperature, name = setting.temperature, setting.name
        if prompts == "free" and temperature != 1.0:
            continue
        where = run.subject.settings(on=prompts, temperature=temperature, control=name)
        with run.progress(f"repetition, {prompts}, {name} at {temperature:g}"):
            drawn = draw_outputs(
                loaded, tasks, TIMES * once, temperature, setting.control, plan.seed
            )
            for cut, outputs in _cuts(drawn, once, stops, setting, language):
                figures = output_figures(outputs, language, plan.rng(91))
                run.group("autoregressive", {**where, **cut}).add_all(figures, None, ideal)
            whole = run.group("autoregressive", {**where, "limit": f"{TIMES}x"})
            whole.add_all(accuracy_by_copying(drawn))


def _cuts(
    drawn: Sequence[Output],
    once: int,
    stops: Sequence[str],
    setting: ControlSetting,
    language: Language,
) -> Iterator[tuple[Settings, list[Output]]]:
    """The draws and their cuts: under a limit and, without a penalty, ended by each other rule."""
    whole = {"limit": f"{TIMES}x"}
    yield whole, list(drawn)
    yield {"limit": "1x"}, [limited(output, once) for output in drawn]
    if setting.name != "none":
        return
    yield {**whole, "cut": "loops"}, [unlooped(output) for output in drawn]
    yield {**whole, "cut": "extraction"}, [extracted(output, language) for output in drawn]
    if stops:
        ended = [stopped(output, stops) for output in drawn]
        yield {**whole, "cut": "stop"}, ended
        both = [extracted(output, language) for output in ended]
        yield {**whole, "cut": "stop, extraction"}, both


def accuracy_by_copying(drawn: Sequence[Output]) -> dict[str, Estimate]:
    """Return accuracy by whether the answer shares a symbol with the prompt.

    Penalties act on such an answer from its start.
    """
    pairs = [
        (bool(set(answer) & set(output.task.prompt)), output.generated == answer)
        for output in drawn
        if (answer := output.task.answer) is not None
    ]
    if not pairs:
        return {}
    return {
        "accuracy_if_copied": metrics.rate(ok for shared, ok in pairs if shared),
        "accuracy_if_not": metrics.rate(ok for shared, ok in pairs if not shared),
    }


# ----------------------------------------------------------------------------------------- parallel


def _swept_samplers(language: Language) -> Iterator[SamplerConfig]:
    """The parallel samplers by steps and temperature; `entropy` also under the grammar."""
    for name in PRESETS_SWEPT:
        has_grammar = name == "entropy" and language.lark_grammar() is not None
        for steps in STEPS:
            for temperature in COLD_AND_WARM:
                if (name, steps) == ("naive", 0):
                    continue
                if (name, temperature) == ("coupled", 0.0):  # there it is entropy_bound
                    continue
                for grammar in (False, True)[: 1 + has_grammar]:
                    yield SamplerConfig(name, steps=steps, temperature=temperature, grammar=grammar)


def _add_parallel(run: SuiteRun) -> None:
    """Add equal neighbours, one-token strings and validity, by tokens committed at an
    evaluation."""
    plan, language, denoiser = run.plan, run.language, run.subject.loaded.denoiser
    lengths = sorted_lengths(language, plan.num_samples, plan.lengths, plan.rng(92))
    real_texts = language.sample_many(max(plan.num_samples, 1000), plan.rng(93))
    real = _duplicates(real_texts, plan)
    for config in fitting(_swept_samplers(language), denoiser):
        name, steps, temperature = config.sampler, config.steps, config.temperature
        with run.progress(f"repetition, {name} in {steps} at {temperature:g}"):
            sampler = run.subject.sampler(config)
            made = sample_texts(denoiser, sampler, lengths, plan.seed, plan.batch_size)
        where = run.subject.settings(steps=steps, temperature=temperature)
        rows = run.group(name, where | ({"grammar": True} if config.grammar else {}))
        at_once = metrics.ratio(made.lengths, made.evaluations, plan.rng(95))
        rows.add("committed_at_once", at_once)
        rows.add("adjacent_duplicates", _duplicates(made.texts, plan), ceiling=real)
        rows.add("one_token", metrics.rate(len(set(text)) == 1 for text in made.texts))
        rows.add("distinct", metrics.distinct(made.texts))
        if language.validity:
            parsed = metrics.rate(metrics.parses(made.texts, language))
            rows.add("parses", parsed, ceiling=1.0)


def _duplicates(texts: Sequence[str], plan: Plan) -> Estimate:
    """The share of equal neighbours among all neighbours."""
    counts = [adjacent_duplicates(text) for text in texts]
    same, pairs = [n for n, _ in counts], [n for _, n in counts]
    return metrics.ratio(same, pairs, plan.rng(94), Unit.SHARE)
