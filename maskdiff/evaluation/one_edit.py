"""One random edit: strings with a single replacement, insertion or deletion, and their originals.

Exact recovery stands beside that of yardsticks (an n-gram, a fitted grammar, the nearest training
line, and the least-edit parser, which knows the grammar and no model), of tools of others, and of
the optimum.
The ceiling is not 1: a replaced operand can leave a string that many others explain as well. Where
the generator's probabilities are known, every string within one edit is tried; how often the most
probable one is the original is the ceiling (Bayes-optimal).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from maskdiff import metrics
from maskdiff.evaluation.peers import configurations, is_json, peers, same_value
from maskdiff.evaluation.repair import (
    CHANNEL,
    MODELLESS,
    Fix,
    Fixed,
    add_gains,
    fitting_methods,
    fix_with_tasks,
    repair_figures,
)
from maskdiff.evaluation.rows import Plan, RowGroup, Settings, SuiteRun, timed_call
from maskdiff.evaluation.yardsticks import UNKNOWN, KnownDamage, Yardsticks, fit_yardsticks
from maskdiff.languages import HasExactProbability
from maskdiff.metrics import Estimate, Unit

if TYPE_CHECKING:
    from maskdiff.languages import Language

OPERATIONS = ("replace", "insert", "delete")
OPTIMAL = "bayes_optimal"
FEW = 100  # strings with two edits, and of JSON documents of another kind


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


def most_probable(damaged: str, log_prob: Callable[[str], float], symbols: str) -> str:
    """Return the most probable original of `damaged`; `damaged` if none is possible.

    Args:
        log_prob: The log-probability of an original, up to a constant; -inf if it is impossible.
    """
    best, found = -math.inf, damaged
    for text in edit_neighbours(damaged, symbols):
        prior = log_prob(text)
        likelihood = damage_prob(text, damaged, symbols) if prior > -math.inf else 0.0
        if likelihood > 0 and prior + math.log(likelihood) > best:
            best, found = prior + math.log(likelihood), text
    return found


# -------------------------------------------------------------------------------------------- suite


@dataclass(frozen=True)
class DamagedStrings:
    """Damaged strings and their originals.

    Attributes:
        edits: The number of random edits of each string.
        documents: The kind of strings, if they are not those of the language; else empty.
        optimum: The exact recovery of a Bayes-optimal repairer, if it is known.
    """

    clean: Sequence[str]
    noisy: list[str]
    edits: int
    documents: str = ""
    optimum: Estimate | None = None

    @classmethod
    def draw(
        cls,
        clean: Sequence[str],
        edits: int,
        symbols: str,
        rng: np.random.Generator,
        documents: str = "",
    ) -> DamagedStrings:
        """Return the strings after `edits` random edits that do not cancel each other."""
        noisy = []
        for text in clean:
            damaged = text
            while damaged == text:
                for _ in range(edits):
                    damaged = damage(damaged, symbols, rng)
            noisy.append(damaged)
        return cls(clean, noisy, edits, documents)

    def settings(self, known: KnownDamage) -> Settings:
        """Return the settings of a row of these strings."""
        kind = {"documents": self.documents} if self.documents else {}
        return {"edits": self.edits, "damage": str(known), **kind}


def count_one_edit(plan: Plan) -> int:
    """Return the number of measurements of `one_edit_suite` at most."""
    methods = {*plan.repair_methods, MODELLESS}
    given = len(_given_damage([*methods]))
    yardsticks = 4  # the n-gram, the fitted grammar, the nearest line, the peer
    return 1 + len(methods) + yardsticks + 4 * (given + yardsticks)


def one_edit_suite(run: SuiteRun, fix: Fix = fix_with_tasks) -> None:
    """Add each method and yardstick, beside the damaged text (baseline) and the optimum (ceiling).

    Methods are given nothing, then that the text is damaged and by how many edits.
    """
    plan, language = run.plan, run.language
    symbols = symbols_of(language)
    methods = fitting_methods((*plan.repair_methods, MODELLESS), language)
    one = DamagedStrings.draw(run.texts, 1, symbols, plan.rng(60))
    if isinstance(language, HasExactProbability):
        one = replace(one, optimum=_add_optimum(run, one, language))
    measured = _Measured(run, fix, fit_yardsticks(language, plan.seed))
    measured.add(one, UNKNOWN, methods)
    given = _given_damage(methods)
    measured.add(one, KnownDamage(True, (1, 1)), given)
    # Fewer strings: two edits take longer.
    two = DamagedStrings.draw(run.texts[:FEW], 2, symbols, plan.rng(62))
    measured.add(two, KnownDamage(True, (2, 2)), given)
    if is_json(language):
        texts = configurations(min(FEW, len(run.texts)), plan.rng(63), language.max_symbols)
        other = DamagedStrings.draw(texts, 1, symbols, plan.rng(64), documents="configuration")
        for known in (UNKNOWN, KnownDamage(True, (1, 1))):
            measured.add(other, known, given)


def _given_damage(methods: Sequence[str]) -> list[str]:
    """The methods that are measured with knowledge of the damage."""
    return [name for name in methods if name.startswith(CHANNEL) or name == MODELLESS]


def _add_optimum(run: SuiteRun, strings: DamagedStrings, language: HasExactProbability) -> Estimate:
    """Add the rows of the optimum; returns its exact recovery."""
    plan, clean, symbols = run.plan, strings.clean, symbols_of(run.language)
    with run.progress(f"one edit, {OPTIMAL}"):
        optimal = [most_probable(text, language.log_prob, symbols) for text in strings.noisy]
    figures = repair_figures(optimal, clean, run.language, plan)
    baseline = repair_figures(strings.noisy, clean, run.language, plan)
    settings = run.subject.settings(**strings.settings(KnownDamage(True, (1, 1))))
    run.group(OPTIMAL, settings).add_all(figures, baseline)
    return figures["exact"]


@dataclass(frozen=True)
class _Measured:
    """Adds the rows of methods, yardsticks and peers on the same damaged strings."""

    run: SuiteRun
    fix: Fix
    yardsticks: Yardsticks

    def add(self, strings: DamagedStrings, known: KnownDamage, methods: Sequence[str]) -> None:
        """Add the rows of each repairer, then the paired differences from the best yardstick."""
        run, plan, noisy = self.run, self.run.plan, strings.noisy
        settings = run.subject.settings(**strings.settings(known))
        baseline = self._figures(noisy, strings)
        ceiling = {"exact": strings.optimum} if strings.optimum else None
        simple = self.yardsticks.repairers() | peers(run.language)
        right: dict[str, list[bool]] = {}
        for name in (*methods, *simple):
            with run.progress(f"{strings.edits} edits, {known}, {name}"):
                if name in simple:
                    texts, seconds = timed_call(simple[name], noisy, known)
                    fixed = Fixed(texts, [0] * len(texts))
                else:
                    given = known if name.startswith(CHANNEL) else UNKNOWN
                    fixed, seconds = timed_call(
                        self.fix, run.subject.loaded, noisy, name, None, plan.seed, given
                    )
            rows = run.group(name, settings)
            rows.add_all(self._figures(fixed.texts, strings), baseline, ceiling)
            rows.add_cost(fixed.evaluations, seconds, plan.rng(61))
            right[name] = [a == b for a, b in zip(fixed.texts, strings.clean, strict=True)]
            self._add_calibration(rows, fixed.probabilities, right[name])
        yardsticks = (MODELLESS, *self.yardsticks.repairers())
        add_gains(run, "exact_gain", settings, right, yardsticks)
        # Tools of others leave a valid document as it is.
        parsed = metrics.parses(noisy, run.language) if peers(run.language) else []
        of_invalid = {
            name: [flag for flag, valid in zip(flags, parsed, strict=True) if not valid]
            for name, flags in right.items()
            if parsed
        }
        add_gains(run, "exact_gain_invalid", settings, of_invalid, [*peers(run.language)])

    def _figures(self, texts: Sequence[str], strings: DamagedStrings) -> dict[str, Estimate]:
        figures = repair_figures(texts, strings.clean, self.run.language, self.run.plan)
        if is_json(self.run.language):
            pairs = zip(texts, strings.clean, strict=True)
            figures["same_value"] = metrics.rate(same_value(a, b) for a, b in pairs)
        return figures

    def _add_calibration(
        self, rows: RowGroup, given: Sequence[float | None], flags: Sequence[bool]
    ) -> None:
        """Add the expected calibration error and the reliability table of probabilities."""
        plan = self.run.plan
        pairs = [(p, flag) for p, flag in zip(given, flags) if p is not None]
        if not pairs:
            return
        probabilities, right = [p for p, _ in pairs], [flag for _, flag in pairs]
        error = metrics.calibration_error(probabilities, right, plan.rng(65))
        by_chance = metrics.calibration_by_chance(probabilities, plan.rng(66))
        rows.add("calibration_error", error, ceiling=by_chance)
        for number, part in enumerate(metrics.reliability(probabilities, right), 1):
            group = self.run.group(rows.sampler, {**rows.settings, "bin": number})
            mean = Estimate(part.probability, math.nan, math.nan, part.right.count, Unit.SHARE)
            group.add("probability", mean)
            group.add("right", part.right)
