"""One random edit: strings with a single replacement, insertion or deletion, and what they were.

For: exact recovery beside the least-edit parser, which knows the grammar and no model, and beside the best that anybody could
do.  Not for: heavier damage (``repair.py``).  Easy to get wrong: the ceiling is not 1.  A replaced operand can leave a string
that many others explain as well; where the generator's probabilities are known, the most probable of *all* strings within one
edit of what is given is found by trying each of them, and how often that is the right one is the ceiling (Bayes-optimal).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maskdiff import metrics
from maskdiff.evaluation.repair import MODELLESS, Fix, fitting_methods, fix_with_tasks, score
from maskdiff.evaluation.rows import Ledger, Plan, Row, Subject, Watch, throughput, unwatched
from maskdiff.languages import HasExactProbability

if TYPE_CHECKING:
    from maskdiff.languages import Language

OPERATIONS = ("replace", "insert", "delete")
OPTIMAL = "bayes_optimal"


def symbols_of(language: Language) -> str:
    """The characters that an edit may write."""
    return "".join(language.vocabulary.symbols[token] for token in language.vocabulary.inner_ids)


def damage(text: str, symbols: str, rng: np.random.Generator) -> str:
    """``text`` after one edit: a uniform operation, at a uniform place, writing a uniform symbol other than the one there.

    A text of one symbol is never deleted, and nothing is replaced where no other symbol is.
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
    """Probability that ``damage`` makes ``damaged`` of ``clean``, a text of two symbols or more."""
    n, count = len(clean), len(symbols)
    if len(damaged) == n:
        return (sum(a != b for a, b in zip(clean, damaged, strict=True)) == 1) / (
            3 * n * (count - 1)
        )
    longer, shorter = (clean, damaged) if len(damaged) < n else (damaged, clean)
    if len(longer) != len(shorter) + 1:
        return 0.0
    ways = sum(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
    return ways / (3 * n) if longer is clean else ways / (3 * (n + 1) * count)


def neighbours(text: str, symbols: str) -> Iterator[str]:
    """All strings that one edit may have made ``text`` of, each once."""
    seen = {text}
    for i in range(len(text) + 1):
        made = [text[:i] + symbol + text[i:] for symbol in symbols]
        if i < len(text):
            made += [text[:i] + symbol + text[i + 1 :] for symbol in symbols] + [
                text[:i] + text[i + 1 :]
            ]
        for found in made:
            if found not in seen:
                seen.add(found)
                yield found


def most_probable(damaged: str, language: HasExactProbability, symbols: str) -> str:
    """The string that ``damaged`` most probably was, by the generator's own probabilities; ``damaged`` itself if none fits."""
    best, found = -math.inf, damaged
    for text in neighbours(damaged, symbols):
        log_prob = language.log_prob(text)
        if (
            log_prob > -math.inf
            and (likely := damage_prob(text, damaged, symbols)) > 0
            and log_prob + math.log(likely) > best
        ):
            best, found = log_prob + math.log(likely), text
    return found


def one_edit(
    subject: Subject,
    plan: Plan,
    clean: Sequence[str],
    fix: Fix = fix_with_tasks,
    watch: Watch = unwatched,
) -> list[Row]:
    """Rows on held-out ``clean`` texts: each method beside the text left as it is (baseline) and the optimum (ceiling)."""
    language, symbols = subject.language, symbols_of(subject.language)
    rng = plan.rng(60)
    noisy = [damage(text, symbols, rng) for text in clean]
    settings, ledger = subject.settings(), Ledger("one_edit")
    baseline = score(noisy, clean, language, plan)
    ceiling: dict[str, metrics.Estimate] = {}
    if isinstance(language, HasExactProbability):
        with watch(f"one edit, {OPTIMAL}"):
            ceiling = score(
                [most_probable(text, language, symbols) for text in noisy], clean, language, plan
            )
        for metric, estimate in ceiling.items():
            ledger.add(OPTIMAL, settings, metric, estimate, baseline=baseline[metric])
    best = ceiling.get("exact")  # of the other metrics the most probable string is no bound
    for method in fitting_methods((*plan.repair_methods, MODELLESS), language):
        with watch(f"one edit, {method}"):
            start = time.perf_counter()
            fixed = fix(subject.loaded, noisy, method, None, plan.seed)
            seconds = time.perf_counter() - start
        for metric, estimate in score(fixed.texts, clean, language, plan).items():
            ledger.add(
                method,
                settings,
                metric,
                estimate,
                baseline=baseline[metric],
                ceiling=best if metric == "exact" else None,
            )
        ledger.add(method, settings, "evaluations", metrics.mean(fixed.evaluations, plan.rng(61)))
        ledger.add(method, settings, "strings_per_second", throughput(len(noisy), seconds))
    return ledger.rows
