"""Editing: held-out strings with uniformly random blanks, to be filled without touching the rest.

Several fillings are right, so `exact` is bounded by the data; `parses` is the figure to read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maskdiff import metrics, tasks
from maskdiff.evaluation.repair import (
    MODELLESS,
    Fix,
    Fixed,
    add_gains,
    fitting_methods,
    fix_with_tasks,
)
from maskdiff.evaluation.rows import Plan, SuiteRun, timed_call, validity_figures
from maskdiff.evaluation.yardsticks import BLANKS, UNKNOWN, fit_yardsticks
from maskdiff.languages import Language
from maskdiff.metrics import Estimate, Unit

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

OWN = "edit"  # the name of the model's rows


def blank_symbols(
    texts: Sequence[str], share: float, rng: np.random.Generator, blank: str = "?"
) -> list[str]:
    """Return each text with max(1, floor(share n)) of its n symbols blank, as in the reference."""
    templates = []
    for text in texts:
        symbols = list(text)
        for index in rng.choice(len(symbols), max(1, int(share * len(symbols))), replace=False):
            symbols[index] = blank
        templates.append("".join(symbols))
    return templates


def blind_fill(
    templates: Sequence[str], real: Sequence[str], rng: np.random.Generator, blank: str = "?"
) -> list[str]:
    """Return the baseline: every blank filled with a symbol drawn by its frequency in `real`."""
    symbols = list("".join(real))
    return [
        "".join(str(rng.choice(symbols)) if s == blank else s for s in template)
        for template in templates
    ]


def editing_figures(
    texts: Sequence[str],
    templates: Sequence[str],
    clean: Sequence[str],
    language: Language,
    plan: Plan,
) -> dict[str, Estimate]:
    """Return every metric of filled texts."""
    blank, pairs = language.vocabulary.blank, zip(texts, templates, strict=True)
    kept = [metrics.anchors_kept(text, template, blank) for text, template in pairs]
    return {
        "anchors_kept": metrics.mean(kept, plan.rng(40), Unit.SHARE),
        "anchors_all_kept": metrics.rate(share == 1.0 for share in kept),
        **validity_figures(texts, language),
        "exact": metrics.rate(a == b for a, b in zip(texts, clean, strict=True)),
    }


Fill = Callable[["Loaded", list[str], int], Fixed]  # (loaded, templates, seed) -> filled


def fill_with_tasks(loaded: Loaded, templates: list[str], seed: int) -> Fixed:
    """Fill as `maskdiff.tasks.edit` does; a template that it refuses counts as unchanged."""
    results = tasks.edit(loaded, templates, seed=seed)
    pairs = zip(templates, results, strict=True)
    texts = [template if result.error else result.text for template, result in pairs]
    return Fixed(texts, [result.evaluations for result in results])


def editing_suite(run: SuiteRun, fill: Fill = fill_with_tasks, fix: Fix = fix_with_tasks) -> None:
    """Add the figures of texts filled by the model and by yardsticks, and the paired difference.

    The baseline fills blindly.
    """
    plan, language, clean = run.plan, run.language, run.texts
    blank = language.vocabulary.blank
    templates = blank_symbols(clean, plan.blank_share, plan.rng(41), blank)
    blind = blind_fill(templates, clean, plan.rng(42), blank)
    floor = editing_figures(blind, templates, clean, language, plan)
    settings = run.subject.settings(blanks=plan.blank_share)
    simple = fit_yardsticks(language, plan.seed).repairers()
    least = fitting_methods([MODELLESS], language)
    right = {}
    for name in (OWN, *least, *simple):
        with run.progress(f"editing, {name}"):
            if name == OWN:
                filled, seconds = timed_call(fill, run.subject.loaded, templates, plan.seed)
            elif name in simple:
                texts, seconds = timed_call(simple[name], templates, BLANKS)
                filled = Fixed(texts, [0] * len(texts))
            else:
                filled, seconds = timed_call(
                    fix, run.subject.loaded, templates, name, None, plan.seed, UNKNOWN
                )
        rows = run.group(name, settings)
        rows.add_all(editing_figures(filled.texts, templates, clean, language, plan), floor, 1.0)
        rows.add_cost(filled.evaluations, seconds, plan.rng(43))
        right[name] = [a == b for a, b in zip(filled.texts, clean, strict=True)]
    add_gains(run, "exact_gain", settings, right, (*least, *simple), OWN)


def count_editing(_: Plan) -> int:
    """Return the number of measurements of `editing_suite` at most."""
    return 5  # the model, the least edits, the n-gram, the fitted grammar, the nearest line
