"""Results as JSON and as a Markdown page. Infinite and unknown numbers are null in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.hypotheses import TestedHypothesis
from maskdiff.experiments.distillation.runner import SCHEMA, ExperimentResult, RunSettings
from maskdiff.experiments.distillation.studies import EXPERIMENTS, ResultTable
from maskdiff.metrics import Estimate

RULE = (
    "A claim is a number that the thesis says is above zero, with a margin: the least that would "
    "matter. Of its 95% interval: *supported* where the whole of it lies above 0 and it reaches "
    "the margin; *not supported* where the whole of it lies below the margin; *undecided* "
    "otherwise, and instead of *not supported* where what is compared is itself smaller than the "
    "margin (too little to see). Problems are resampled, where training ties them together seeds "
    "first."
)


def results_json(results: Sequence[ExperimentResult], settings: RunSettings) -> dict[str, Any]:
    """Return all conclusions, a function of the seed file, the model and the thread count."""
    return {
        "schema": SCHEMA,
        "model": settings.weights,
        "config": asdict(settings.config),
        "upper_bound": is_upper_bound(settings.config),
        "experiments": {
            result.name: {
                "title": EXPERIMENTS[result.name].title,
                "predicts": EXPERIMENTS[result.name].predicts,
                "verdict": result.primary(False).verdict,
                "verdict_controlled": result.primary(True).verdict,
                "claims": [_hypothesis(item) for item in result.hypotheses],
                "tables": [_table(table) for table in result.conclusion.tables],
                "notes": result.conclusion.notes,
            }
            for result in results
        },
    }


def _number(value: float) -> float | None:
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _estimate(estimate: Estimate) -> dict[str, Any]:
    numbers = {name: _number(getattr(estimate, name)) for name in ("value", "low", "high")}
    return {**numbers, "count": estimate.count}


def _hypothesis(tested: TestedHypothesis) -> dict[str, Any]:
    item = tested.hypothesis
    return {
        "name": item.name,
        "text": item.text,
        "control": item.control,
        "margin": item.margin,
        "seen": item.measurable,
        "verdict": tested.verdict,
        "estimate": _estimate(tested.estimate),
    }


def _table(table: ResultTable) -> dict[str, Any]:
    rows = [
        [_estimate(cell) if isinstance(cell, Estimate) else cell for cell in row]
        for row in table.rows
    ]
    return {"title": table.title, "header": list(table.header), "rows": rows}


def format_estimate(estimate: Estimate, digits: int = 3) -> str:
    """Return `0.123 [0.100, 0.150]`, or the value with [unknown] for an infinite interval."""
    if not math.isfinite(estimate.value):
        return "-"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.{digits}f} [unknown]"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _figure(tested: TestedHypothesis) -> str:
    """Return the estimate with digits that show a tenth of the margin."""
    digits = max(3, 1 - math.floor(math.log10(tested.hypothesis.margin)))
    return format_estimate(tested.estimate, digits)


def summary(results: Sequence[ExperimentResult]) -> str:
    """Return two lines for each experiment: its verdicts without and with controls."""
    lines = []
    for result in results:
        for control, when in ((False, "as described"), (True, "controlled")):
            tested = result.primary(control)
            figure = f"{tested.hypothesis.name}: {_figure(tested)}"
            lines.append(f"{result.name:10} {when:13} {tested.verdict:14} {figure}")
    return "\n".join(lines)


def is_upper_bound(config: DistillationConfig) -> bool:
    """Return whether feedback holds the expected result."""
    return config.environment == "arithmetic" and config.feedback == "leak"


def to_markdown(
    results: Sequence[ExperimentResult], settings: RunSettings, command: str, pictures: bool = True
) -> str:
    """Return the page `report.md`."""
    config = settings.config
    bound = ["", "The feedback tells the result: what follows is an upper bound."]
    lines = [
        "# Prefix corruption in self-distillation",
        "",
        f"`{command}`: {config.seeds} seeds (from {config.first_seed}) of {config.problems} "
        f"problems with {config.rollouts} answers each, environment `{config.environment}`, "
        f"feedback `{config.feedback}`, model `{settings.model or 'shipped'}` "
        f"(weights {settings.weights}), {settings.threads} threads.",
        "",
        RULE,
        *(bound if is_upper_bound(config) else []),
        "",
        "| experiment | as described | | after controls | |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        cells = []
        for control in (False, True):
            tested = result.primary(control)
            item = tested.hypothesis
            figure = f"{item.name}: {_figure(tested)} (margin {item.margin:g})"
            cells.append(f"**{tested.verdict}** | {figure}")
        lines.append(f"| {result.name} | {cells[0]} | {cells[1]} |")
    for number, result in enumerate(results, 1):
        lines += ["", *_section(number, result, pictures)]
    return "\n".join(lines) + "\n"


def _section(number: int, result: ExperimentResult, pictures: bool) -> list[str]:
    experiment = EXPERIMENTS[result.name]
    lines = [f"## {number}. {experiment.title}", "", f"Predicted: {experiment.predicts}.", ""]
    lines += ["| claim, above 0 if | figure | margin | verdict |", "|---|---|---|---|"]
    for tested in result.hypotheses:
        item = tested.hypothesis
        name = f"{item.name}{' (control)' if item.control else ''}: {item.text}"
        verdict = tested.verdict + ("" if item.measurable else " (too little to see)")
        lines.append(f"| {name} | {_figure(tested)} | {item.margin:g} | {verdict} |")
    for table in result.conclusion.tables:
        lines += ["", f"{table.title}:", "", f"| {' | '.join(table.header)} |"]
        lines.append("|" + "---|" * len(table.header))
        for row in table.rows:
            cells = [format_estimate(cell) if isinstance(cell, Estimate) else cell for cell in row]
            lines.append(f"| {' | '.join(cells)} |")
    if pictures:
        lines += ["", f"![{experiment.title}]({result.name}.png)"]
    if result.conclusion.notes:
        lines += ["", *[f"- {note}" for note in result.conclusion.notes]]
    return lines


__all__ = ["RULE", "format_estimate", "results_json", "summary", "to_markdown"]
