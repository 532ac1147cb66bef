"""Candidates for the repair of a string: their scores, and the choice among them.

All candidates, of whatever origin, are compared by the same exact total
log p(x | n) + log p(n) + log p(y | x). The beam computes it for its own; `CandidateScorer` computes
it for all others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from maskdiff.config import CANDIDATES
from maskdiff.languages import truth_of
from maskdiff.repair import Channel, Repaired, channel_log_probs
from maskdiff.tasks.results import Alternative, Change, Result, judged, log_probs, valid_first
from maskdiff.tasks.search import length_prior, with_answer
from maskdiff.text.edits import Edit, edit_cost, edit_script

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
        top: Number of answers.
        look: Number of candidates (at least `top`) among which a valid one is sought.
        by_edits: Fewer edits are better, whatever the probability.
        same_length: Strings as long as the input come first, and log p(n) is left out.
    """

    grammar: bool = False
    holds: bool = False
    max_edits: int | None = None
    top: int = 1
    look: int = CANDIDATES
    by_edits: bool = False
    same_length: bool = False


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
    """A possible original of `damaged`.

    A string too long for the model has log_prior NaN and total -inf.
    """

    language: Language
    damaged: Damaged
    text: str
    log_prior: float
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

    def fits(self, constraints: RepairConstraints) -> bool:
        """Return whether it satisfies all but `holds`, which is a preference."""
        if self.script is None or (constraints.grammar and not self.parses):
            return False
        return constraints.max_edits is None or self.edits <= constraints.max_edits

    def key(self, constraints: RepairConstraints) -> tuple[bool, bool, float, float]:
        """Return the key to sort by, best first; ties keep the order in which they were found."""
        wrong = constraints.holds and not self.holds
        resized = constraints.same_length and len(self.text) != len(self.damaged.text)
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
    """Scores candidates: log p(x | n) by the model, log p(n) by the language, log p(y | x) by the
    channel."""

    loaded: Loaded
    channel: Channel
    constraints: RepairConstraints

    def add_found(
        self, pool: CandidatePool, found: Sequence[Repaired], trace: tuple[str, ...] | None
    ) -> None:
        """Add what a beam found, with the beam's scores."""
        for item in found:
            self._add(pool, item.tokens, item.log_prior, item.total)
        pool.evaluations += found[0].evaluations if found else 0
        pool.trace = trace if pool.trace is None else (*pool.trace, *(trace or ()))

    def add_proposed(
        self, pools: Sequence[CandidatePool], proposed: Sequence[Iterable[Tokens]]
    ) -> None:
        """Score proposals and add them, by one evaluation of the causal mode for all pools."""
        language = self.loaded.language
        decode = language.vocabulary.decode
        prior = length_prior(language, 0 if self.constraints.same_length else 1)
        # log p(x | n) of all proposals that no pool has yet.
        new = [
            [tokens for tokens in dict.fromkeys(strings) if decode(tokens) not in pool.candidates]
            for pool, strings in zip(pools, proposed, strict=True)
        ]
        log_priors = iter(
            log_probs(self.loaded, [list(tokens) for strings in new for tokens in strings])
        )
        # log p(y | x), pool by pool.
        for pool, strings in zip(pools, new, strict=True):
            damaged = pool.damaged
            log_channel = channel_log_probs(
                self.channel, damaged.tokens, strings, language.vocabulary, damaged.certain
            )
            for tokens, log_p in zip(strings, log_channel.tolist(), strict=True):
                log_prior = next(log_priors)
                self._add(pool, tokens, log_prior, log_prior + prior(len(tokens)) + log_p)

    def _add(
        self, pool: CandidatePool, tokens: Sequence[int], log_prior: float, total: float
    ) -> None:
        text = self.loaded.language.vocabulary.decode(tokens)
        weight = total if math.isfinite(total) else -math.inf
        pool.candidates.setdefault(
            text, RepairCandidate(self.loaded.language, pool.damaged, text, log_prior, weight)
        )


def best_result(
    pool: CandidatePool, language: Language, constraints: RepairConstraints
) -> Result | None:
    """Return the best candidate of a pool as a result; None if no candidate fits."""
    fitting = pool.fitting(constraints)
    if not fitting:
        return None
    looked = None
    if language.validity and not constraints.grammar:  # with a grammar all that fit are valid
        fitting, looked = valid_first(
            fitting, lambda c: c.parses, constraints.look, constraints.top
        )
    best = fitting[0]
    made = judged(
        language, best.text, best.log_prior, pool.evaluations, with_answer(pool.trace, best.text)
    )
    listed = _listed(fitting, constraints.top) if constraints.top > 1 else ()
    change = pool.damaged.change(best.script or (), language.vocabulary.blank)
    return replace(made, edits=best.script, alternatives=listed, candidates=looked, change=change)


def _listed(fitting: Sequence[RepairCandidate], top: int) -> tuple[Alternative, ...]:
    """The first `top`, with their shares of the probability of all."""
    best = max(c.total for c in fitting)
    weights = [math.exp(c.total - best) if best > -math.inf else 1.0 for c in fitting]
    total = sum(weights)
    return tuple(
        Alternative(
            c.text,
            c.parses if c.language.validity else None,
            c.holds,
            c.total if math.isfinite(c.total) else None,
            weight / total,
            c.script or (),
        )
        for c, weight in list(zip(fitting, weights))[:top]
    )


def too_many_edits(what: str, edits: float, constraints: RepairConstraints) -> str:
    """Return the message for more edits than `max_edits`."""
    needed = f"{edits:g} edit{'s' * (edits != 1)}"
    return f"{what} needs {needed}, and max_edits allows {constraints.max_edits}"


def positions(spans: Collection[tuple[int, int]]) -> frozenset[int]:
    """Return the positions in spans (first, last + 1)."""
    return frozenset(i for first, last in spans for i in range(first, last))
