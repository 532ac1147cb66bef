"""Repair: corrupted strings in, strings out, beside the score of doing nothing.

The suite goes by noise level, kind of corruption and method. A deletion or an insertion shifts all
that follows, so the reference's same-position score (`token_accuracy`) charges one lost symbol as
many; `aligned_accuracy` charges it as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from maskdiff import metrics, tasks
from maskdiff.config import NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.evaluation.noisy_ngram import NoiseRates
from maskdiff.evaluation.rows import Plan, Settings, SuiteRun, timed_call, validity_figures
from maskdiff.evaluation.yardsticks import UNKNOWN, KnownDamage, fit_yardsticks
from maskdiff.languages import HasValue
from maskdiff.metrics import Estimate, Unit
from maskdiff.noise import mixed_corruption, pad
from maskdiff.tasks.repairing import SIGMAS

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

KINDS = ("mask", "replace", "swap", "delete", "insert")
CORRUPTIONS = ("mixed", "reference", *KINDS)
UNDER_GRAMMAR = "+grammar"  # ends the name of a method under the grammar
AND_TRUTH = "+holds"  # true strings before false ones
CHANNEL = "channel"  # begins the names of the methods that search with the model's probabilities
MODELLESS = "least_edits"  # the baseline that knows the grammar and nothing else
USUAL_SIGMA = 0.2  # of the reference's figures


# ------------------------------------------------------------------------- corruptions and methods


def corruption(kind: str) -> NoiseConfig:
    """Return the noise of one kind: `mixed` and `reference` have the default shares.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind in ("mixed", "reference"):
        return NoiseConfig()
    if kind not in KINDS:
        raise ConfigError(f"corruption {kind!r} is unknown; give one of {', '.join(CORRUPTIONS)}")
    shares: dict[str, Any] = {f"{name}_share": float(name == kind) for name in KINDS}
    return replace(NoiseConfig(), **shares)


def check_methods(names: Sequence[str], grammar: bool = False) -> tuple[str, ...]:
    """Return the methods, each once; with `grammar` also under it, with truth, and without a
    model.

    Raises:
        ConfigError: A method is unknown.
    """
    ends = ("", UNDER_GRAMMAR, UNDER_GRAMMAR + AND_TRUTH)
    known = {name + end for name in tasks.REPAIR_METHODS for end in ends}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"repair method {name!r} is unknown; give one of {', '.join(tasks.REPAIR_METHODS)}"
            )
    if not grammar:
        return tuple(dict.fromkeys(names))
    plain = [name for name in names if name in tasks.REPAIR_METHODS and name != MODELLESS]
    under = [name + UNDER_GRAMMAR for name in plain]
    more = [*under, "channel" + UNDER_GRAMMAR + AND_TRUTH, MODELLESS]
    return tuple(dict.fromkeys((*names, *more)))


def needs_grammar(method: str) -> bool:
    """Return whether a method of repair needs a grammar."""
    return method == MODELLESS or UNDER_GRAMMAR in method


def fitting_methods(names: Sequence[str], language: Language) -> tuple[str, ...]:
    """Return the methods that the language has the means for, each once."""
    grammar, truth = language.lark_grammar() is not None, isinstance(language, HasValue)
    return tuple(
        name
        for name in dict.fromkeys(names)
        if (grammar or not needs_grammar(name)) and (truth or AND_TRUTH not in name)
    )


def corrupt(
    language: Language, texts: Sequence[str], sigma: float, kind: str, seed: int
) -> list[str]:
    """Return corrupted texts, with masks as `?`; lengths may change.

    `reference` is the mixed corruption as in the reference, whose rows were full of padding, so
    that no insertion ever found room.
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


# -------------------------------------------------------------------------------- repair and scores


def repair_figures(
    texts: Sequence[str], clean: Sequence[str], language: Language, plan: Plan
) -> dict[str, Estimate]:
    """Return every metric of repaired texts against the clean ones."""
    pairs = list(zip(texts, clean, strict=True))
    same_position = [metrics.token_accuracy(a, b) for a, b in pairs]
    aligned = [metrics.aligned_accuracy(a, b) for a, b in pairs]
    return {
        "token_accuracy": metrics.mean(same_position, plan.rng(30), Unit.SHARE),
        "aligned_accuracy": metrics.mean(aligned, plan.rng(31), Unit.SHARE),
        "exact": metrics.rate(a == b for a, b in pairs),
        **validity_figures(texts, language),
    }


@dataclass(frozen=True)
class Fixed:
    """Repaired or filled texts in the order given, and the evaluations of each.

    Attributes:
        probabilities: The calibrated probability of each text, None where there is none.
    """

    texts: list[str]
    evaluations: list[int]
    probabilities: Sequence[float | None] = ()


# (loaded, corrupted, method, sigma or None where the method is not given it, seed, what is known)
Fix = Callable[["Loaded", list[str], str, "float | None", int, KnownDamage], Fixed]


def fix_with_tasks(
    loaded: Loaded,
    texts: list[str],
    method: str,
    sigma: float | None,
    seed: int,
    known: KnownDamage = UNKNOWN,
) -> Fixed:
    """Repair as `maskdiff.tasks.repair` does; a string that it refuses counts as unchanged."""
    results = tasks.repair(
        loaded,
        texts,
        method=method.split("+")[0],
        sigma=sigma,
        grammar=UNDER_GRAMMAR in method,
        holds=AND_TRUTH in method,
        seed=seed,
        broken=known.broken,
        edits=None if known == UNKNOWN else known.edits,
    )
    pairs = zip(texts, results, strict=True)
    fixed = [text if result.error else result.text for text, result in pairs]
    probabilities = [result.probability for result in results]
    return Fixed(fixed, [result.evaluations for result in results], probabilities)


# -------------------------------------------------------------------------------------------- suite


def damage_levels(plan: Plan) -> list[tuple[str, float, bool]]:
    """Return each kind of corruption, its noise level, and whether methods are given the level.

    They are given it always but once, because a user may not know it.
    """
    given = [(kind, sigma, True) for kind, sigma in plan.damages()]
    levels = [sigma for kind, sigma, _ in given if kind == "mixed"]
    if not levels:
        return given
    return [*given, ("mixed", USUAL_SIGMA if USUAL_SIGMA in levels else levels[0], False)]


def count_repair(plan: Plan) -> int:
    """Return the number of measurements of `repair_suite` at most."""
    yardsticks = 3  # the n-gram, the fitted grammar, the nearest line
    return len(damage_levels(plan)) * (len({*plan.repair_methods, MODELLESS}) + yardsticks)


def repair_suite(run: SuiteRun, fix: Fix = fix_with_tasks) -> None:
    """Add the figures of each method, yardstick and corruption, then the paired differences.

    The baseline is the corrupted text itself.
    """
    plan, language, clean = run.plan, run.language, run.texts
    methods = fitting_methods((*plan.repair_methods, MODELLESS), language)
    simple = fit_yardsticks(language, plan.seed).repairers()
    noise, symbols = run.subject.loaded.config.noise, len(language.vocabulary.inner_ids)
    for kind, sigma, given in damage_levels(plan):
        noisy = corrupt(language, clean, sigma, kind, plan.seed)
        identity = repair_figures(noisy, clean, language, plan)
        settings = run.subject.settings(corruption=kind, sigma=sigma)
        settings |= {} if given else {"level": "untold"}
        level, levels = (sigma, (sigma,)) if given else (None, SIGMAS)
        known = KnownDamage(noise=tuple(NoiseRates.of(noise, each, symbols) for each in levels))
        right = {}
        for name in (*methods, *simple):
            with run.progress(f"repair, {name}, {kind} {sigma:g}"):
                if name in simple:
                    texts, seconds = timed_call(simple[name], noisy, known)
                    fixed = Fixed(texts, [0] * len(texts))
                else:
                    fixed, seconds = timed_call(
                        fix, run.subject.loaded, noisy, name, level, plan.seed, UNKNOWN
                    )
            rows = run.group(name, settings)
            rows.add_all(repair_figures(fixed.texts, clean, language, plan), identity, 1.0)
            rows.add_cost(fixed.evaluations, seconds, plan.rng(32))
            right[name] = [a == b for a, b in zip(fixed.texts, clean, strict=True)]
        add_gains(run, "exact_gain", settings, right, (MODELLESS, *simple))


def add_gains(
    run: SuiteRun,
    metric: str,
    settings: Settings,
    right: Mapping[str, Sequence[bool]],
    others: Sequence[str],
    own: str = CHANNEL,
) -> None:
    """Add the gain in exact recovery of the methods of the model over the best of `others`.

    Args:
        right: Whether each repairer restored each string.
        others: Names of yardsticks; those that are not in `right` do not count.
        own: What the names of the methods of the model begin with.
    """
    present = [name for name in others if name in right]
    if not present:
        return
    best = max(present, key=lambda name: sum(right[name]))
    for name in right:
        if name.startswith(own):
            rows = run.group(f"{name} against {best}", settings)
            rows.add(metric, metrics.paired_difference(right[name], right[best]))
