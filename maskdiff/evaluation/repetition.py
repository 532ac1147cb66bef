"""Repetition and run-on: what each control does, and what it costs; why it happens; how parallel samplers collapse.

For: the rows of `--suite repetition`. Of a model that ends its strings itself: a sweep of controls over prompts with known
answers, and what the diagnosis says of it. Of a model that is told the length, which cannot run on: tokens committed at an
evaluation against equal neighbours, by order, schedule and remasking. Not for: how outputs are drawn and judged (`outputs.py`)
or the causes (`diagnosis.py`). Easy to get wrong: limits, stop texts and extraction are cuts of the *same* draws, so their rows
differ by the cut alone; penalties and temperatures are draws of their own with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maskdiff import metrics
from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.evaluation.diagnosis import probe
from maskdiff.evaluation.generation import draw
from maskdiff.evaluation.outputs import (
    Output,
    describe,
    draw_outputs,
    extracted,
    impossible_in_answers,
    limited,
    make_tasks,
    real_outputs,
    stopped,
    unlooped,
)
from maskdiff.evaluation.rows import (
    Ledger,
    Plan,
    Row,
    Settings,
    Subject,
    Watch,
    control_settings,
    draw_lengths,
    unwatched,
)
from maskdiff.evaluation.samplers import fitting
from maskdiff.metrics import Estimate
from maskdiff.text.repetition import adjacent_duplicates

if TYPE_CHECKING:
    from maskdiff.languages import Language

TIMES = 8  # the limit, in units of the longest string of the training
TEMPERATURES = (0.0, 0.5, 0.7, 1.0)
PENALTIES = (1.0, 1.05, 1.15, 1.3)
ORDERS = ("maskgit_reference", "entropy", "margin", "random", "left_to_right", "dilated", "spaced", "spaced_bound",
          "remdm_conf", "naive", "coupled")  # fmt: skip
STEPS = (1, 2, 4, 12, 0)
COLD_AND_WARM = (0.0, 1.0)


@dataclass(frozen=True)
class Setting:
    """One way of drawing; `control` has the settings that are not the usual ones."""

    temperature: float
    control: ControlConfig
    name: str


def sweep(given: ControlConfig) -> list[Setting]:
    """Temperatures by penalties, and at temperature 0 and 1 the other controls, and those that were given."""
    plain = ControlConfig()
    made = [
        Setting(t, replace(plain, repetition_penalty=p), "none" if p == 1.0 else f"penalty {p:g}")
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
        others[" ".join(f"{name} {value}" for name, value in control_settings(given).items())] = (
            given
        )
    return made + [
        Setting(t, control, name) for name, control in others.items() for t in COLD_AND_WARM
    ]


def planned(plan: Plan) -> int:
    """Measurements that the suite shows at most."""
    warm = sum(setting.temperature == 1.0 for setting in sweep(plan.control))
    return max(len(sweep(plan.control)) + warm + 1, len(ORDERS) * len(STEPS) * len(COLD_AND_WARM))


def repetition(subject: Subject, plan: Plan, watch: Watch = unwatched) -> list[Row]:
    """Rows of the suite: of run-on for a model that ends its strings itself, else of parallel collapse."""
    ledger = Ledger("repetition")
    if subject.loaded.length_conditioned:
        _parallel(ledger, subject, plan, watch)
    else:
        _causal(ledger, subject, plan, watch)
    return ledger.rows


# ------------------------------------------------------------------------------------------------------------ causal


def _causal(ledger: Ledger, subject: Subject, plan: Plan, watch: Watch) -> None:
    loaded, language = subject.loaded, subject.language
    with watch("repetition, diagnosis"):
        found = probe(loaded, plan.num_samples, plan.seed, TIMES)
        for name, estimate in found.figures.items():
            ledger.add("diagnosis", subject.settings(), name, estimate)
        for name in found.causes:
            ledger.add("diagnosis", subject.settings(), f"is_{name}", _plain(name == found.cause))
    tasks = make_tasks(language, plan.num_samples, plan.seed)
    free = [replace(task, prompt="", answer=None) for task in tasks]
    once = loaded.config.model.block_size - 1
    for prompts, given in (("prompts", tasks), ("free", free)):
        stops = impossible_in_answers(given, language)
        ideal = describe(real_outputs(given), language, plan.rng(90))
        for setting in sweep(plan.control):
            if prompts == "free" and setting.temperature != 1.0:
                continue
            with watch(f"repetition, {prompts}, {setting.name} at {setting.temperature:g}"):
                drawn = draw_outputs(
                    loaded, given, TIMES * once, setting.temperature, setting.control, plan.seed
                )
                where = subject.settings(
                    on=prompts, temperature=setting.temperature, control=setting.name
                )
                for more, outputs in _cuts(drawn, once, stops, setting, language):
                    for name, estimate in describe(outputs, language, plan.rng(91)).items():
                        ledger.add(
                            "autoregressive",
                            {**where, **more},
                            name,
                            estimate,
                            ceiling=ideal.get(name),
                        )
                for name, estimate in copied(drawn).items():
                    ledger.add("autoregressive", {**where, "limit": f"{TIMES}x"}, name, estimate)


def _cuts(
    drawn: Sequence[Output], once: int, stops: Sequence[str], setting: Setting, language: Language
) -> Iterator[tuple[Settings, list[Output]]]:
    """The draws as they are and under a limit; without a penalty also ended by a loop, stop texts, extraction, and both."""
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
        yield (
            {**whole, "cut": "stop, extraction"},
            [extracted(output, language) for output in ended],
        )


def copied(drawn: Sequence[Output]) -> dict[str, Estimate]:
    """Accuracy by whether the right answer has a symbol that the prompt has, and so is penalised from the start."""
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


def _plain(flag: bool) -> Estimate:
    return Estimate(float(flag), float("nan"), float("nan"), 1)


# ---------------------------------------------------------------------------------------------------------- parallel


def _parallel(ledger: Ledger, subject: Subject, plan: Plan, watch: Watch) -> None:
    """Equal neighbours, one token everywhere, and strings that parse, by how many tokens an evaluation commits."""
    language = subject.language
    lengths = draw_lengths(language, plan.num_samples, plan.lengths, plan.rng(92))
    real = metrics.ratio(
        *_pairs(language.sample_many(max(plan.num_samples, 1000), plan.rng(93))), plan.rng(94)
    )
    samplers = [
        SamplerConfig(name, steps=steps, temperature=t, grammar=grammar)
        for name in ORDERS
        for steps in STEPS
        for t in COLD_AND_WARM
        for grammar in (False, True)[
            : 1 + (name == "entropy" and language.lark_grammar() is not None)
        ]
        if not (name == "naive" and steps == 0)
    ]
    for config in fitting(samplers, subject.loaded.denoiser):
        if config.sampler == "coupled" and config.temperature == 0:
            continue  # there it is entropy_bound
        with watch(f"repetition, {config.sampler} in {config.steps} at {config.temperature:g}"):
            made = draw(
                subject.loaded.denoiser,
                subject.sampler(config),
                lengths,
                plan.seed,
                plan.batch_size,
            )
        where = subject.settings(steps=config.steps, temperature=config.temperature)
        where |= {"grammar": True} if config.grammar else {}
        ledger.add(
            config.sampler,
            where,
            "committed_at_once",
            metrics.ratio(made.lengths, made.evaluations, plan.rng(95)),
        )
        duplicates = metrics.ratio(*_pairs(made.texts), plan.rng(94))
        ledger.add(config.sampler, where, "adjacent_duplicates", duplicates, ceiling=real)
        ledger.add(
            config.sampler,
            where,
            "one_token",
            metrics.rate(len(set(text)) == 1 for text in made.texts),
        )
        ledger.add(config.sampler, where, "distinct", metrics.distinct(made.texts))
        if language.validity:
            ledger.add(
                config.sampler,
                where,
                "parses",
                metrics.rate(metrics.parses(made.texts, language)),
                ceiling=1.0,
            )


def _pairs(texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Equal neighbours and neighbours of each text."""
    counts = [adjacent_duplicates(text) for text in texts]
    return [same for same, _ in counts], [pairs for _, pairs in counts]
