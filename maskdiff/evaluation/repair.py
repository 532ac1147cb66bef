"""Repair: corrupted strings in, strings out, beside the score of doing nothing.

For: repair by noise level, kind of corruption and method.  Not for: training noise (``maskdiff.noise`` makes it; this file
only calls it).  Easy to get wrong: a deletion or an insertion shifts all that follows, so the reference's same-position
score (``token_accuracy``) charges one lost symbol as many; ``aligned_accuracy`` charges it as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from maskdiff import metrics
from maskdiff.config import NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.evaluation.rows import Ledger, Plan, Row, Subject
from maskdiff.metrics import Estimate
from maskdiff.noise import mixed_corruption, pad

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

KINDS = ("mask", "replace", "swap", "delete", "insert")
CORRUPTIONS = ("mixed", "reference", *KINDS)


def corruption(kind: str) -> NoiseConfig:
    """The noise of one kind: ``mixed`` by the default shares, ``reference`` the same, or one operation alone."""
    if kind in ("mixed", "reference"):
        return NoiseConfig()
    if kind not in KINDS:
        raise ConfigError(f"corruption {kind!r} is unknown; give one of {', '.join(CORRUPTIONS)}")
    shares: dict[str, Any] = {f"{name}_share": float(name == kind) for name in KINDS}
    return replace(NoiseConfig(), **shares)


def corrupt(language: Language, texts: Sequence[str], sigma: float, kind: str, seed: int) -> list[str]:
    """Corrupted texts, masks shown as ``?``; lengths may change.

    ``reference`` is the mixed corruption as it acted there: its rows were full of padding, so no insertion ever found room.
    """
    vocabulary = language.vocabulary
    clean = pad([vocabulary.encode(text) for text in texts], vocabulary)
    levels = torch.full((len(texts),), sigma)
    max_len = 0 if kind == "reference" else language.config.max_len
    noisy = mixed_corruption(clean, levels, corruption(kind), vocabulary, torch.Generator().manual_seed(seed), max_len)
    rows = zip(noisy.tokens.tolist(), noisy.length.tolist(), strict=True)
    return [vocabulary.decode(row[1 : length - 1]) for row, length in rows]


def score(texts: Sequence[str], clean: Sequence[str], language: Language, plan: Plan) -> dict[str, Estimate]:
    """Every metric of repaired texts against the clean ones."""
    pairs = list(zip(texts, clean, strict=True))
    return {
        "token_accuracy": metrics.mean([metrics.token_accuracy(a, b) for a, b in pairs], plan.rng(30)),
        "aligned_accuracy": metrics.mean([metrics.aligned_accuracy(a, b) for a, b in pairs], plan.rng(31)),
        "exact": metrics.rate(a == b for a, b in pairs),
        "parses": metrics.rate(metrics.parses(texts, language)),
        "holds": metrics.rate(metrics.holds(texts, language)),
    }


Fix = Callable[["Loaded", list[str], str, float, int], list[str]]  # (loaded, corrupted, method, sigma, seed) -> repaired


def fix_with_tasks(loaded: Loaded, texts: list[str], method: str, sigma: float, seed: int) -> list[str]:
    """What a user gets from ``maskdiff.tasks.repair``; a string that it refuses counts as returned unchanged."""
    from maskdiff import tasks

    results = tasks.repair(loaded, texts, method=method, sigma=sigma, seed=seed)
    return [text if result.error else result.text for text, result in zip(texts, results, strict=True)]


def repair(subject: Subject, plan: Plan, clean: Sequence[str], fix: Fix = fix_with_tasks) -> list[Row]:
    """Rows of the repair suite on held-out ``clean`` texts; the baseline returns the corrupted text unchanged."""
    ledger = Ledger("repair")
    for kind, sigma in plan.damages():
        noisy = corrupt(subject.language, clean, sigma, kind, plan.seed)
        identity = score(noisy, clean, subject.language, plan)
        for method in plan.repair_methods:
            fixed = fix(subject.loaded, noisy, method, sigma, plan.seed)
            settings = subject.settings(corruption=kind, sigma=sigma)
            for metric, estimate in score(fixed, clean, subject.language, plan).items():
                ledger.add(method, settings, metric, estimate, baseline=identity[metric], ceiling=1.0)
    return ledger.rows
