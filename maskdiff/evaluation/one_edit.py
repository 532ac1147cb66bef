"""One random edit: strings with a single replacement, insertion or deletion, and their originals.

Exact recovery stands beside the least-edit parser, which knows the grammar and no model, and beside
the optimum. The ceiling is not 1: a replaced operand can leave a string that many others explain as
well. Where the generator's probabilities are known, every string within one edit is tried; how
often the most probable one is the original is the ceiling (Bayes-optimal).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from maskdiff.evaluation.repair import (
    MODELLESS,
    Fix,
    fitting_methods,
    fix_with_tasks,
    repair_figures,
)
from maskdiff.evaluation.rows import Plan, SuiteRun, timed_call
from maskdiff.languages import HasExactProbability

if TYPE_CHECKING:
    from maskdiff.languages import Language

OPERATIONS = ("replace", "insert", "delete")
OPTIMAL = "bayes_optimal"


def symbols_of(language: Language) -> str:
    """Return the symbols that an edit may write."""
    return "".join(language.vocabulary.symbols[token] for token in language.vocabulary.inner_ids)


def damage(text: str, symbols: str, rng: np.random.Generator) -> str:
    """Return `text` after one edit: a uniform operation at a uniform place.

    An insertion writes a uniform symbol, a replacement another one than the present. A text of one
    symbol is never deleted, and nothing is replaced where the language has no other symbol.
    """
    possible = [name for name in OPERATIONS if not (name == "delete" and len(text) == 1)]
    possible = [name for name in possible if not (name == "replace" and len(symbols) == 1)]
    operation = possible[rng.integers(len(possible))]
    at = int(rng.integers(len(text) + (operation == "insert")))
    if operation == "delete":
        return text[:at] + text[at + 1 :]
    if operation == "insert":
        return text[:at] + symbols[rng.integers(len(symbols))] + text[at:]
    others = symbols.replace(text[at], "")
    return text[:at] + others[rng.integers(len(others))] + text[at + 1 :]


def damage_prob(clean: str, damaged: str, symbols: str) -> float:
    """Return the probability that `damage` turns `clean` (two symbols or more) into `damaged`."""
    n, count = len(clean), len(symbols)
    if len(damaged) == n:
        differing = sum(a != b for a, b in zip(clean, damaged, strict=True))
        return (differing == 1) / (3 * n * (count - 1))
    longer, shorter = (clean, damaged) if len(damaged) < n else (damaged, clean)
    if len(longer) != len(shorter) + 1:
        return 0.0
    ways = sum(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
    return ways / (3 * n) if longer is clean else ways / (3 * (n + 1) * count)


def edit_neighbours(text: str, symbols: str) -> Iterator[str]:
    """Yields every string that one edit may have turned into `text`, each once."""
    seen = {text}
    for i in range(len(text) + 1):
        made = [text[:i] + symbol + text[i:] for symbol in symbols]
        if i < len(text):
            made += [text[:i] + symbol + text[i + 1 :] for symbol in symbols]
            made.append(text[:i] + text[i + 1 :])
        for found in made:
            if found not in seen:
                seen.add(found)
                yield found


def most_probable(damaged: str, language: HasExactProbability, symbols: str) -> str:
    """Return the most probable original of `damaged` under the generator; `damaged` if none
    fits."""
    best, found = -math.inf, damaged
    for text in edit_neighbours(damaged, symbols):
        log_prob = language.log_prob(text)
        likelihood = damage_prob(text, damaged, symbols) if log_prob > -math.inf else 0.0
        if likelihood > 0 and log_prob + math.log(likelihood) > best:
            best, found = log_prob + math.log(likelihood), text
    return found


def count_one_edit(plan: Plan) -> int:
    """Return the number of measurements of `one_edit_suite` at most."""
    return len({*plan.repair_methods, MODELLESS}) + 1


def one_edit_suite(run: SuiteRun, fix: Fix = fix_with_tasks) -> None:
    """Add each method, beside the damaged text (baseline) and the optimum (ceiling)."""
    plan, language, clean, loaded = run.plan, run.language, run.texts, run.subject.loaded
    symbols, rng = symbols_of(language), run.plan.rng(60)
    noisy = [damage(text, symbols, rng) for text in clean]
    settings, best = run.subject.settings(), None
    baseline = repair_figures(noisy, clean, language, plan)
    if isinstance(language, HasExactProbability):
        with run.progress(f"one edit, {OPTIMAL}"):
            optimal = [most_probable(text, language, symbols) for text in noisy]
            figures = repair_figures(optimal, clean, language, plan)
        run.group(OPTIMAL, settings).add_all(figures, baseline)
        best = {"exact": figures["exact"]}  # the most probable string bounds no other metric
    for method in fitting_methods((*plan.repair_methods, MODELLESS), language):
        with run.progress(f"one edit, {method}"):
            fixed, seconds = timed_call(fix, loaded, noisy, method, None, plan.seed)
        rows = run.group(method, settings)
        rows.add_all(repair_figures(fixed.texts, clean, language, plan), baseline, best)
        rows.add_cost(fixed.evaluations, seconds, plan.rng(61))
