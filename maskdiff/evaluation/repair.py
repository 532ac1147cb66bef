"""Repair: corrupted strings in, strings out, beside the score of doing nothing.

For: repair by noise level, kind of corruption and method, and what it costs.  Not for: training noise (``maskdiff.noise``
makes it; this file only calls it).  Easy to get wrong: a deletion or an insertion shifts all that follows, so the reference's
same-position score (``token_accuracy``) charges one lost symbol as many; ``aligned_accuracy`` charges it as one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from maskdiff import metrics, tasks
from maskdiff.config import NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.evaluation.rows import (
    Ledger,
    Plan,
    Row,
    Subject,
    Watch,
    throughput,
    unwatched,
    verdicts,
)
from maskdiff.languages import HasValue
from maskdiff.metrics import Estimate
from maskdiff.noise import mixed_corruption, pad

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

KINDS = ("mask", "replace", "swap", "delete", "insert")
CORRUPTIONS = ("mixed", "reference", *KINDS)
UNDER_GRAMMAR = "+grammar"  # a method's name under the grammar
AND_TRUTH = "+holds"  # and with what holds before what does not
MODELLESS = "least_edits"  # the baseline that knows the grammar and nothing else
_ENDS = ("", UNDER_GRAMMAR, UNDER_GRAMMAR + AND_TRUTH)
USUAL = 0.2  # the noise level of the reference's figures


def corruption(kind: str) -> NoiseConfig:
    """The noise of one kind: ``mixed`` by the default shares, ``reference`` the same, or one operation alone."""
    if kind in ("mixed", "reference"):
        return NoiseConfig()
    if kind not in KINDS:
        raise ConfigError(f"corruption {kind!r} is unknown; give one of {', '.join(CORRUPTIONS)}")
    shares: dict[str, Any] = {f"{name}_share": float(name == kind) for name in KINDS}
    return replace(NoiseConfig(), **shares)


def check_methods(names: Sequence[str], grammar: bool = False) -> tuple[str, ...]:
    """The names, each once; with ``grammar`` each under it too, and with the truth, and the baseline without a model.

    Raises ``ConfigError`` on an unknown method.
    """
    known = (
        *tasks.REPAIR_METHODS,
        *(name + end for name in tasks.REPAIR_METHODS for end in _ENDS[1:]),
    )
    for name in names:
        if name not in known:
            raise ConfigError(
                f"repair method {name!r} is unknown; give one of {', '.join(tasks.REPAIR_METHODS)}"
            )
    plain = [name for name in names if name in tasks.REPAIR_METHODS and name != MODELLESS]
    under = (
        (
            *(name + UNDER_GRAMMAR for name in plain),
            "channel" + UNDER_GRAMMAR + AND_TRUTH,
            MODELLESS,
        )
        if grammar
        else ()
    )
    return tuple(dict.fromkeys((*names, *under)))


def fitting_methods(names: Sequence[str], language: Language) -> tuple[str, ...]:
    """Those that the language has the means for, each once."""
    grammar, truth = language.lark_grammar() is not None, isinstance(language, HasValue)
    return tuple(
        name
        for name in dict.fromkeys(names)
        if (grammar or not (name == MODELLESS or UNDER_GRAMMAR in name))
        and (truth or AND_TRUTH not in name)
    )


def corrupt(
    language: Language, texts: Sequence[str], sigma: float, kind: str, seed: int
) -> list[str]:
    """Corrupted texts, masks shown as ``?``; lengths may change.

    ``reference`` is the mixed corruption as it acted there: its rows were full of padding, so no insertion ever found room.
    """
    vocabulary = language.vocabulary
    clean = pad([vocabulary.encode(text) for text in texts], vocabulary)
    levels = torch.full((len(texts),), sigma)
    max_len = 0 if kind == "reference" else language.config.max_len
    noisy = mixed_corruption(
        clean, levels, corruption(kind), vocabulary, torch.Generator().manual_seed(seed), max_len
    )
    rows = zip(noisy.tokens.tolist(), noisy.length.tolist(), strict=True)
    return [vocabulary.decode(row[1 : length - 1]) for row, length in rows]


def score(
    texts: Sequence[str], clean: Sequence[str], language: Language, plan: Plan
) -> dict[str, Estimate]:
    """Every metric of repaired texts against the clean ones."""
    pairs = list(zip(texts, clean, strict=True))
    return {
        "token_accuracy": metrics.mean(
            [metrics.token_accuracy(a, b) for a, b in pairs], plan.rng(30)
        ),
        "aligned_accuracy": metrics.mean(
            [metrics.aligned_accuracy(a, b) for a, b in pairs], plan.rng(31)
        ),
        "exact": metrics.rate(a == b for a, b in pairs),
        **verdicts(texts, language),
    }


@dataclass(frozen=True)
class Fixed:
    """Repaired texts in the order given, and the calls of the denoiser that each needed."""

    texts: list[str]
    evaluations: list[int]


# (loaded, corrupted, method, sigma or None where it is not told, seed) -> repaired
Fix = Callable[["Loaded", list[str], str, "float | None", int], Fixed]


def fix_with_tasks(
    loaded: Loaded, texts: list[str], method: str, sigma: float | None, seed: int
) -> Fixed:
    """What a user gets from ``maskdiff.tasks.repair``; a string that it refuses counts as returned unchanged."""
    name, grammar, truth = method.split("+")[0], UNDER_GRAMMAR in method, AND_TRUTH in method
    results = tasks.repair(
        loaded, texts, method=name, sigma=sigma, grammar=grammar, holds=truth, seed=seed
    )
    fixed = [
        text if result.error else result.text for text, result in zip(texts, results, strict=True)
    ]
    return Fixed(fixed, [result.evaluations for result in results])


def blocks(plan: Plan) -> list[tuple[str, float, bool]]:
    """Kind of corruption, noise level, and whether the method is told the level: always, and once it is not, as for a user."""
    told = [(kind, sigma, True) for kind, sigma in plan.damages()]
    levels = [sigma for kind, sigma, _ in told if kind == "mixed"]
    if not levels:
        return told
    return [*told, ("mixed", USUAL if USUAL in levels else levels[0], False)]


def repair(
    subject: Subject,
    plan: Plan,
    clean: Sequence[str],
    fix: Fix = fix_with_tasks,
    watch: Watch = unwatched,
) -> list[Row]:
    """Rows of the repair suite on held-out ``clean`` texts; the baseline returns the corrupted text unchanged."""
    ledger = Ledger("repair")
    for kind, sigma, told in blocks(plan):
        noisy = corrupt(subject.language, clean, sigma, kind, plan.seed)
        identity = score(noisy, clean, subject.language, plan)
        settings = subject.settings(
            corruption=kind, sigma=sigma, **({} if told else {"level": "untold"})
        )
        for method in fitting_methods(plan.repair_methods, subject.language):
            with watch(f"repair, {method}, {kind} {sigma:g}"):
                start = time.perf_counter()
                fixed = fix(subject.loaded, noisy, method, sigma if told else None, plan.seed)
                seconds = time.perf_counter() - start
                for metric, estimate in score(fixed.texts, clean, subject.language, plan).items():
                    ledger.add(
                        method, settings, metric, estimate, baseline=identity[metric], ceiling=1.0
                    )
                ledger.add(
                    method, settings, "evaluations", metrics.mean(fixed.evaluations, plan.rng(32))
                )
                ledger.add(method, settings, "strings_per_second", throughput(len(noisy), seconds))
    return ledger.rows
