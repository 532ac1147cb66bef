"""Editing: held-out strings with blanks, to be filled without touching the rest.

For: whether anchors stay, and what the filled strings are worth.  Not for: choosing where a user edits; blanks are uniformly
random.  Easy to get wrong: several fillings are right, so ``exact`` is bounded by the data and ``parses`` is the figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maskdiff import metrics
from maskdiff.evaluation.repair import Fixed
from maskdiff.evaluation.rows import Ledger, Plan, Row, Subject, throughput, verdicts
from maskdiff.languages import Language
from maskdiff.metrics import Estimate

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded


def blanked(
    texts: Sequence[str], share: float, rng: np.random.Generator, blank: str = "?"
) -> list[str]:
    """Each text with max(1, floor(share n)) of its symbols blank, as in the reference's editing benchmark."""
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
    """The baseline: every blank filled with a symbol drawn by its frequency in ``real``."""
    symbols = list("".join(real))
    return [
        "".join(str(rng.choice(symbols)) if s == blank else s for s in template)
        for template in templates
    ]


def score(
    texts: Sequence[str],
    templates: Sequence[str],
    clean: Sequence[str],
    language: Language,
    plan: Plan,
) -> dict[str, Estimate]:
    """Every metric of filled texts."""
    blank = language.vocabulary.blank
    kept = [
        metrics.anchors_kept(text, template, blank)
        for text, template in zip(texts, templates, strict=True)
    ]
    return {
        "anchors_kept": metrics.mean(kept, plan.rng(40)),
        "anchors_all_kept": metrics.rate(share == 1.0 for share in kept),
        **verdicts(texts, language),
        "exact": metrics.rate(a == b for a, b in zip(texts, clean, strict=True)),
    }


Fill = Callable[["Loaded", list[str], int], Fixed]  # (loaded, templates, seed) -> filled


def fill_with_tasks(loaded: Loaded, templates: list[str], seed: int) -> Fixed:
    """What a user gets from ``maskdiff.tasks.edit``; a template that it refuses counts as left as it was."""
    from maskdiff import tasks

    results = tasks.edit(loaded, templates, seed=seed)
    texts = [
        template if result.error else result.text
        for template, result in zip(templates, results, strict=True)
    ]
    return Fixed(texts, [result.evaluations for result in results])


def editing(
    subject: Subject, plan: Plan, clean: Sequence[str], fill: Fill = fill_with_tasks
) -> list[Row]:
    """Rows of the editing suite on held-out ``clean`` texts; the baseline fills the blanks without looking."""
    ledger = Ledger("editing")
    blank = subject.language.vocabulary.blank
    templates = blanked(clean, plan.blank_share, plan.rng(41), blank)
    floor = score(
        blind_fill(templates, clean, plan.rng(42), blank), templates, clean, subject.language, plan
    )
    start = time.perf_counter()
    filled = fill(subject.loaded, templates, plan.seed)
    seconds = time.perf_counter() - start
    settings = subject.settings(blanks=plan.blank_share)
    for metric, estimate in score(filled.texts, templates, clean, subject.language, plan).items():
        ledger.add("edit", settings, metric, estimate, baseline=floor[metric], ceiling=1.0)
    ledger.add("edit", settings, "evaluations", metrics.mean(filled.evaluations, plan.rng(43)))
    ledger.add("edit", settings, "strings_per_second", throughput(len(clean), seconds))
    return ledger.rows
