"""Results as JSON and as a page.

For: `results_json`, `to_markdown`, `summary`. Not for: pictures (`plots.py`). Easy to get wrong: infinite and unknown numbers
are null in JSON, and an interval that is not known is shown as such, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.runner import SCHEMA, Result, Setting
from maskdiff.experiments.distillation.studies import EXPERIMENTS, Table
from maskdiff.experiments.distillation.verdicts import Finding
from maskdiff.metrics import Estimate

RULE = (
    "A claim is a number that the thesis says is above zero, with a margin: the least that would matter. Of its 95% "
    "interval: *supported* where the whole of it lies above 0 and it reaches the margin; *not supported* where the whole of it "
    "lies below the margin; *undecided* otherwise, and instead of *not supported* where what is compared is itself smaller "
    "than the margin (too little to see). Problems are resampled, where training ties them together seeds first."
)


def results_json(results: Sequence[Result], setting: Setting) -> dict[str, Any]:
    """Everything that was concluded; the same for the same seed file, model and number of threads."""
    return {
        "schema": SCHEMA,
        "model": setting.weights,
        "config": asdict(setting.config),
        "upper_bound": bounded(setting.config),
        "experiments": {
            result.name: {
                "title": EXPERIMENTS[result.name].title,
                "predicts": EXPERIMENTS[result.name].predicts,
                "verdict": result.primary(False).verdict,
                "verdict_controlled": result.primary(True).verdict,
                "claims": [_finding(finding) for finding in result.findings],
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


def _finding(finding: Finding) -> dict[str, Any]:
    made = {
        name: getattr(finding, name)
        for name in ("name", "text", "control", "margin", "seen", "verdict")
    }
    return {**made, "estimate": _estimate(finding.estimate)}


def _table(table: Table) -> dict[str, Any]:
    rows = [
        [_estimate(cell) if isinstance(cell, Estimate) else cell for cell in row]
        for row in table.rows
    ]
    return {"title": table.title, "header": list(table.header), "rows": rows}


# ------------------------------------------------------------------------------------------------------------------ text


def shown(estimate: Estimate, digits: int = 3) -> str:
    """`0.123 [0.100, 0.150]`, or a value without an interval where there is none."""
    if not math.isfinite(estimate.value):
        return "-"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.{digits}f} [unknown]"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def digits_for(margin: float) -> int:
    """Decimal places that show a tenth of the margin."""
    return max(3, 1 - math.floor(math.log10(margin)))


def summary(results: Sequence[Result]) -> str:
    """A line for each experiment: both verdicts with their figures."""
    lines = []
    for result in results:
        for control in (False, True):
            found = result.primary(control)
            when = "controlled" if control else "as described"
            figure = shown(found.estimate, digits_for(found.margin))
            lines.append(f"{result.name:10} {when:13} {found.verdict:14} {found.name}: {figure}")
    return "\n".join(lines)


def bounded(config: DistillationConfig) -> bool:
    """Whether feedback holds what was asked for, so that the figures bound from above what feedback can do."""
    return config.environment == "arithmetic" and config.feedback == "leak"


def to_markdown(
    results: Sequence[Result], setting: Setting, command: str, pictures: bool = True
) -> str:
    """The page `report.md`."""
    config = setting.config
    lines = [
        "# Prefix corruption in self-distillation",
        "",
        f"`{command}`: {config.seeds} seeds (from {config.first_seed}) of {config.problems} problems with {config.rollouts} "
        f"answers each, environment `{config.environment}`, feedback `{config.feedback}`, model `{setting.model or 'shipped'}` "
        f"(weights {setting.weights}), {setting.threads} threads.",
        "",
        RULE,
        *(
            ["", "The feedback tells the result: what follows is an upper bound."]
            if bounded(config)
            else []
        ),
        "",
        "| experiment | as described | | after controls | |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        cells = []
        for control in (False, True):
            found = result.primary(control)
            figure = shown(found.estimate, digits_for(found.margin))
            cells.append(f"**{found.verdict}** | {found.name}: {figure} (margin {found.margin:g})")
        lines.append(f"| {result.name} | {cells[0]} | {cells[1]} |")
    for number, result in enumerate(results, 1):
        lines += ["", *_section(number, result, pictures)]
    return "\n".join(lines) + "\n"


def _section(number: int, result: Result, pictures: bool) -> list[str]:
    experiment = EXPERIMENTS[result.name]
    lines = [f"## {number}. {experiment.title}", "", f"Predicted: {experiment.predicts}.", ""]
    lines += ["| claim, above 0 if | figure | margin | verdict |", "|---|---|---|---|"]
    for found in result.findings:
        kind = " (control)" if found.control else ""
        figure = shown(found.estimate, digits_for(found.margin))
        verdict = found.verdict if found.seen else f"{found.verdict} (too little to see)"
        lines.append(
            f"| {found.name}{kind}: {found.text} | {figure} | {found.margin:g} | {verdict} |"
        )
    for table in result.conclusion.tables:
        lines += [
            "",
            f"{table.title}:",
            "",
            f"| {' | '.join(table.header)} |",
            "|" + "---|" * len(table.header),
        ]
        for row in table.rows:
            lines.append(
                f"| {' | '.join(shown(cell) if isinstance(cell, Estimate) else cell for cell in row)} |"
            )
    if pictures:
        lines += ["", f"![{experiment.title}]({result.name}.png)"]
    if result.conclusion.notes:
        lines += ["", *[f"- {note}" for note in result.conclusion.notes]]
    return lines


__all__ = ["RULE", "results_json", "shown", "summary", "to_markdown"]
