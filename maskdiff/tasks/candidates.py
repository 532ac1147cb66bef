"""Candidates for the repair of a string: their scores, and the choice among them.

All candidates, of whatever origin, are compared by the same exact total log p(x) + log p(y | x).
The prior p(x) combines log p(x) of the causal mode, of the n-gram and of the fitted grammar, by the
weights of the checkpoint (`Prior`). For a causal mode that is given the length, log p(x) is
log p(x | n) + log p(n); others draw the end of a string, so that log p(x) includes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from maskdiff.config import CANDIDATES
from maskdiff.languages import truth_of
from maskdiff.repair import Channel, EditWeights, FewEdits, Repaired, Truncation
from maskdiff.tasks.results import Alternative, Change, Result, judged, valid_first
from maskdiff.tasks.running import log_probs
from maskdiff.tasks.search import length_prior, with_answer
from maskdiff.text.edits import Edit, edit_cost, edit_distance, edit_script

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class RepairConstraints:
    """Constraints and preferences on a repaired string.

    Attributes:
        grammar: It must parse.
        holds: Strings whose statement is true come first.
        max_edits: Maximal number of edits of the input.
        edits: Least and greatest number of edits of the input, where a transposition is one.
        broken: It differs from the input, if the input has no blanks.
        top: Number of answers.
        look: Number of candidates (at least `top`) among which a valid one is sought.
        by_edits: Fewer edits are better, whatever the probability.
        slack: Strings whose length differs by at most so much from that of the input come first;
            if it is 0, log p(n) is left out. None for no such bound.
    """

    grammar: bool = False
    holds: bool = False
    max_edits: int | None = None
    edits: tuple[int, int] | None = None
    broken: bool = False
    top: int = 1
    look: int = CANDIDATES
    by_edits: bool = False
    slack: int | None = None

    @property
    def may_stay(self) -> bool:
        """Whether an input without blanks may be its own answer."""
        return not self.broken and (self.edits is None or self.edits[0] == 0)

    def resizes(self, candidate: RepairCandidate) -> bool:
        """Return whether it changes the length by more than `slack`."""
        change = abs(len(candidate.text) - len(candidate.damaged.text))
        return self.slack is not None and change > self.slack


@dataclass(frozen=True)
class Damaged:
    """A string to repair: token ids, text, and the positions of symbols that are certain.

    `foreign` maps positions to symbols that the language lacks; the text has blanks for them.
    """

    tokens: list[int]
    text: str
    certain: frozenset[int] = frozenset()
    foreign: Mapping[int, str] = field(default_factory=dict)

    def script(self, text: str, blank: str) -> tuple[Edit, ...] | None:
        """Return the edits that lead to `text`; None if certain symbols would change."""
        script = edit_script(self.text, text, blank, self.certain)
        if script is None or not self.foreign:
            return script
        return tuple(
            replace(edit, old=self.foreign.get(edit.position, edit.old)) if edit.old else edit
            for edit in script
        )

    def change(self, script: Sequence[Edit], blank: str) -> Change:
        """Return how many of the given symbols the edits change."""
        gone = {e.position for e in script if e.operation in ("delete", "replace")}
        blanks = {i for i, symbol in enumerate(self.text) if symbol == blank} - self.foreign.keys()
        changed = (gone | self.foreign.keys()) - blanks
        return Change(len(changed), len(self.text) - len(blanks), len(self.foreign))


@dataclass(frozen=True)
class RepairCandidate:
    """A possible original of `damaged`; all log-probabilities are in nats.

    Attributes:
        log_model: log p(x | n) by the causal mode, or log p(x) if it draws the end of x; NaN for a
            string too long for the model.
        log_length: log p(n), or 0 where the length is given or drawn by the model.
        log_ngram: log p(x) by the n-gram; 0 where it has no weight.
        log_grammar: log p(x) by the fitted grammar, smoothed; 0 where it has no weight.
        log_channel: log p(y | x).
        total: Sum of the weighted prior and log p(y | x); -inf for a string too long.
    """

    language: Language
    damaged: Damaged
    text: str
    log_model: float
    log_length: float
    log_ngram: float
    log_grammar: float
    log_channel: float
    total: float

    @cached_property
    def parses(self) -> bool:
        return self.language.parses(self.text)

    @cached_property
    def holds(self) -> bool | None:
        return truth_of(self.language, self.text)

    @cached_property
    def script(self) -> tuple[Edit, ...] | None:
        return self.damaged.script(self.text, self.language.vocabulary.blank)

    @cached_property
    def edits(self) -> float:
        return math.inf if self.script is None else edit_cost(self.script)

    @cached_property
    def distance(self) -> int:
        """Number of edits, where a transposition is one."""
        return edit_distance(self.damaged.text, self.text, self.language.vocabulary.blank)

    def fits(self, constraints: RepairConstraints) -> bool:
        """Return whether it satisfies all but `holds`, which is a preference."""
        if self.script is None or (constraints.grammar and not self.parses):
            return False
        if constraints.broken and self.text == self.damaged.text:
            return False
        if constraints.edits is not None:
            least, most = constraints.edits
            if not least <= self.distance <= most:
                return False
        return constraints.max_edits is None or self.edits <= constraints.max_edits

    def key(self, constraints: RepairConstraints) -> tuple[bool, bool, float, float]:
        """Return the key to sort by, best first; ties keep the order in which they were found."""
        wrong = constraints.holds and not self.holds
        resized = constraints.resizes(self)
        if constraints.by_edits:
            return resized, wrong, self.edits, 0.0
        return resized, wrong, -self.total, self.edits if self.total == -math.inf else 0.0


@dataclass
class CandidatePool:
    """Candidates for one damaged string by text, in the order in which they were found."""

    damaged: Damaged
    candidates: dict[str, RepairCandidate] = field(default_factory=dict)
    evaluations: int = 0
    trace: tuple[str, ...] | None = None

    def fitting(self, constraints: RepairConstraints) -> list[RepairCandidate]:
        """Return the candidates that fit, best first.

        If `holds` is asked for and no candidate holds, the unchanged text comes first.
        """
        fitting = sorted(
            (c for c in self.candidates.values() if c.fits(constraints)),
            key=lambda c: c.key(constraints),
        )
        if constraints.holds and fitting and not fitting[0].holds:
            fitting.sort(key=lambda c: c.text != self.damaged.text)
        return fitting


@dataclass(frozen=True)
class CandidateScorer:
    """Scores candidates.

    log p(x) comes from the causal mode, the n-gram and the fitted grammar, log p(y | x) from the
    channel. A model that is given the length n has log p(x | n), to which log p(n) of the language
    is added. `weights` are those of edits, for the search; `wide` asks for a beam, for many edits.
    """

    loaded: Loaded
    channel: Channel | FewEdits | Truncation
    constraints: RepairConstraints
    weights: EditWeights = field(default_factory=EditWeights)
    wide: bool = False

    def add_found(
        self, pool: CandidatePool, found: Sequence[Repaired], trace: tuple[str, ...] | None
    ) -> None:
        """Add what a beam found, with the beam's scores by the model."""
        rows, damaged = [item.tokens for item in found], pool.damaged
        vocabulary = self.loaded.language.vocabulary
        log_channel = self.channel.log_probs(damaged.tokens, rows, vocabulary, damaged.certain)
        fitted = zip(
            self._by_ngram(rows), self._by_grammar(rows), log_channel.tolist(), strict=True
        )
        for item, (by_ngram, by_grammar, log_p) in zip(found, fitted, strict=True):
            parts = item.log_prior, item.log_length, by_ngram, by_grammar, log_p
            self._add(pool, item.tokens, parts)
        pool.evaluations += found[0].evaluations if found else 0
        pool.trace = trace if pool.trace is None else (*pool.trace, *(trace or ()))

    def add_proposed(
        self, pools: Sequence[CandidatePool], proposed: Sequence[Iterable[Tokens]]
    ) -> None:
        """Score proposals and add them; the causal mode evaluates those of all pools together."""
        language = self.loaded.language
        decode = language.vocabulary.decode
        prior = length_prior(self.loaded, 0 if self.constraints.slack == 0 else 1)
        # log p(x | n), or log p(x), of all proposals that no pool has yet.
        new = [
            [tokens for tokens in dict.fromkeys(strings) if decode(tokens) not in pool.candidates]
            for pool, strings in zip(pools, proposed, strict=True)
        ]
        rows = [list(tokens) for strings in new for tokens in strings]
        log_priors = iter(log_probs(self.loaded, rows))
        by_ngram, by_grammar = iter(self._by_ngram(rows)), iter(self._by_grammar(rows))
        # log p(y | x), pool by pool.
        for pool, strings in zip(pools, new, strict=True):
            damaged = pool.damaged
            log_channel = self.channel.log_probs(
                damaged.tokens, strings, language.vocabulary, damaged.certain
            )
            for tokens, log_p in zip(strings, log_channel.tolist(), strict=True):
                by_models = next(by_ngram), next(by_grammar)
                parts = next(log_priors), prior(len(tokens)), *by_models, log_p
                self._add(pool, tokens, parts)

    def _by_ngram(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """log p of strings by the n-gram; 0 where it has no weight."""
        ngram = self.loaded.ngram
        if ngram is None or self.loaded.prior.ngram == 0.0 or not rows:
            return [0.0] * len(rows)
        return [float(log_p) for log_p in ngram.log_probs(rows)]

    def _by_grammar(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """log p of strings by the fitted grammar, smoothed; 0 where it has no weight."""
        model = self.loaded.grammar_model
        if model is None or self.loaded.prior.grammar == 0.0 or not rows:
            return [0.0] * len(rows)
        return [float(log_p) for log_p in model.smoothed_log_probs(rows)]

    def _add(
        self,
        pool: CandidatePool,
        tokens: Sequence[int],
        parts: tuple[float, float, float, float, float],
    ) -> None:
        """Add a string with its parts, in the order of the fields of `RepairCandidate`."""
        language, prior = self.loaded.language, self.loaded.prior
        log_model, log_length, log_ngram, log_grammar, log_channel = parts
        terms = (
            (prior.neural, log_model + log_length),
            (prior.ngram, log_ngram),
            (prior.grammar, log_grammar),
        )
        # A model without a weight excludes no string, but one too long for the model (NaN) is out.
        total = log_channel + sum(weight * log_p for weight, log_p in terms if weight > 0)
        total = total if math.isfinite(total) and not math.isnan(log_model) else -math.inf
        text = language.vocabulary.decode(tokens)
        candidate = RepairCandidate(language, pool.damaged, text, *parts, total)
        pool.candidates.setdefault(text, candidate)


def best_result(
    pool: CandidatePool, language: Language, constraints: RepairConstraints
) -> Result | None:
    """Return the best candidate of a pool as a result; None if no candidate fits."""
    fitting = pool.fitting(constraints)
    ordered, looked = fitting, None
    if fitting and language.validity and not constraints.grammar:  # with a grammar all are valid
        ordered, looked = valid_first(
            fitting, lambda c: c.parses, constraints.look, constraints.top
        )
    return _result(pool, ordered[: constraints.top], fitting, constraints, looked)


def unchanged_result(pool: CandidatePool, constraints: RepairConstraints) -> Result | None:
    """Return the text as the only answer, whose rivals are in the pool; None if it does not fit."""
    fitting = pool.fitting(constraints)
    same = [candidate for candidate in fitting if candidate.text == pool.damaged.text]
    return _result(pool, same, fitting, constraints)


def _result(
    pool: CandidatePool,
    answers: Sequence[RepairCandidate],
    fitting: Sequence[RepairCandidate],
    constraints: RepairConstraints,
    looked: int | None = None,
) -> Result | None:
    """The result of answers, best first, among the candidates that fit; None without answers."""
    if not answers:
        return None
    best, shares = answers[0], _shares(answers, fitting, constraints)
    trace = with_answer(pool.trace, best.text)
    unknown = constraints.by_edits or best.total == -math.inf
    pairs = zip(answers, shares, strict=True)
    return replace(
        judged(best.language, best.text, best.log_model, pool.evaluations, trace),
        edits=best.script,
        alternatives=tuple(_alternative(*pair) for pair in pairs) if constraints.top > 1 else (),
        candidates=looked,
        change=pool.damaged.change(best.script or (), best.language.vocabulary.blank),
        probability=None if unknown else shares[0],
    )


def _shares(
    answers: Sequence[RepairCandidate],
    fitting: Sequence[RepairCandidate],
    constraints: RepairConstraints,
) -> list[float]:
    """The share of each answer in the probability of the candidates that the best one leaves.

    If the best answer is valid, those that the check refuses are excluded; if it is within the
    slack, those beyond. They have the share 0. Candidates behind the best one are tested only if
    they are answers, so they count, and the shares do not depend on the number of answers.
    """
    best = answers[0]
    checked = best.language.validity and not constraints.grammar and best.parses
    possible = fitting[fitting.index(best) :] if checked else fitting
    if not constraints.resizes(best):
        possible = [c for c in possible if not constraints.resizes(c)]
    most = max(c.total for c in possible)
    weights = {c.text: math.exp(c.total - most) if most > -math.inf else 1.0 for c in possible}
    total = sum(weights.values())
    refused = {c.text for c in answers if checked and not c.parses}
    return [0.0 if c.text in refused else weights.get(c.text, 0.0) / total for c in answers]


def _alternative(candidate: RepairCandidate, share: float) -> Alternative:
    return Alternative(
        candidate.text,
        candidate.parses if candidate.language.validity else None,
        candidate.holds,
        candidate.total if math.isfinite(candidate.total) else None,
        share,
        candidate.script or (),
    )


def too_many_edits(what: str, edits: float, constraints: RepairConstraints) -> str:
    """Return the message for more edits than `max_edits`."""
    needed = f"{edits:g} edit{'s' * (edits != 1)}"
    return f"{what} needs {needed}, and max_edits allows {constraints.max_edits}"


def positions(spans: Collection[tuple[int, int]]) -> frozenset[int]:
    """Return the positions in spans (first, last + 1)."""
    return frozenset(i for first, last in spans for i in range(first, last))
