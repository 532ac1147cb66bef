"""Candidates for the repair of a string: what they are worth, and which is taken.

For: `repair` under a grammar, with truth, with several answers or with symbols that are certain. Not for: where candidates come
from (`proposing.py`). Easy to get wrong: candidates of different origin are comparable only by the same exact total,
log p(x | n) + log p(n) + log p(y | x); the beam's own is that, all others are computed here. How many answers are asked for
must not change the first of them.
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
    """What is asked of a repaired string, beside being probable.

    grammar: it parses. holds: what it states is true, if that can be had. max_edits: of the input, at most. top: how many
    answers. look: how many candidates are looked at for a valid one, `top` at least. by_edits:
    fewer edits are better, whatever is probable. same_length: it is as long as the input, if that
    can be had; lengths have no probability then.
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
    """A string to repair: its token ids, its text, and the positions of symbols that are certain.

    foreign: symbols that the language does not have, by position; the text has blanks for them.
    """

    tokens: list[int]
    text: str
    certain: frozenset[int] = frozenset()
    foreign: Mapping[int, str] = field(default_factory=dict)

    def script(self, text: str, blank: str) -> tuple[Edit, ...] | None:
        """The edits that make `text` of what was given; None where none keep what is certain."""
        script = edit_script(self.text, text, blank, self.certain)
        if script is None or not self.foreign:
            return script
        return tuple(
            replace(edit, old=self.foreign.get(edit.position, edit.old)) if edit.old else edit
            for edit in script
        )

    def change(self, script: Sequence[Edit], blank: str) -> Change:
        """What such edits leave of the symbols that were given."""
        gone = {e.position for e in script if e.operation in ("delete", "replace")}
        blanks = {i for i, symbol in enumerate(self.text) if symbol == blank} - self.foreign.keys()
        changed = (gone | self.foreign.keys()) - blanks
        return Change(len(changed), len(self.text) - len(blanks), len(self.foreign))


@dataclass(frozen=True)
class RepairCandidate:
    """A string that `damaged` may have been; log_prior is NaN and total -inf where the model has no room for it."""

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

    def fits(self, wishes: RepairConstraints) -> bool:
        """Whether it is what must be; that it holds is a wish, not a must."""
        if wishes.grammar and not self.parses:
            return False
        return self.script is not None and (
            wishes.max_edits is None or self.edits <= wishes.max_edits
        )

    def key(self, wishes: RepairConstraints) -> tuple[bool, bool, float, float]:
        """Smaller is better; of equal candidates the one found first."""
        wrong = wishes.holds and not self.holds
        resized = wishes.same_length and len(self.text) != len(self.damaged.text)
        if wishes.by_edits:
            return resized, wrong, self.edits, 0.0
        return resized, wrong, -self.total, self.edits if self.total == -math.inf else 0.0


@dataclass
class CandidatePool:
    """Candidates for one damaged string by their texts, in the order in which they were found."""

    damaged: Damaged
    candidates: dict[str, RepairCandidate] = field(default_factory=dict)
    evaluations: int = 0
    trace: tuple[str, ...] | None = None

    def fitting(self, wishes: RepairConstraints) -> list[RepairCandidate]:
        """Those that are what must be, the best first.

        Where truth is wished and not to be had, a text that needs no repair otherwise stays what it is.
        """
        fitting = sorted(
            (c for c in self.candidates.values() if c.fits(wishes)), key=lambda c: c.key(wishes)
        )
        if wishes.holds and fitting and not fitting[0].holds:
            fitting.sort(key=lambda c: c.text != self.damaged.text)
        return fitting


@dataclass(frozen=True)
class CandidateScorer:
    """Weighs candidates: log p(x | n) by the model, log p(n) by the language, log p(y | x) by the channel."""

    loaded: Loaded
    channel: Channel
    wishes: RepairConstraints

    def take(
        self, pool: CandidatePool, found: Sequence[Repaired], trace: tuple[str, ...] | None
    ) -> None:
        """Add what a beam found and has weighed."""
        for item in found:
            self._add(pool, item.tokens, item.log_prior, item.total)
        pool.evaluations += found[0].evaluations if found else 0
        pool.trace = trace if pool.trace is None else (*pool.trace, *(trace or ()))

    def weigh(self, pools: Sequence[CandidatePool], proposed: Sequence[Iterable[Tokens]]) -> None:
        """Add what was proposed for each pool and is not there yet, in one evaluation of the causal mode."""
        language = self.loaded.language
        decode, prior = (
            language.vocabulary.decode,
            length_prior(language, 0 if self.wishes.same_length else 1),
        )
        new = [
            [tokens for tokens in dict.fromkeys(strings) if decode(tokens) not in pool.candidates]
            for pool, strings in zip(pools, proposed, strict=True)
        ]
        log_priors = iter(
            log_probs(self.loaded, [list(tokens) for strings in new for tokens in strings])
        )
        for pool, strings in zip(pools, new, strict=True):
            damaged = pool.damaged
            log_channel = channel_log_probs(
                self.channel, damaged.tokens, strings, language.vocabulary, damaged.certain
            )
            for tokens, explained in zip(strings, log_channel.tolist(), strict=True):
                log_prior = next(log_priors)
                self._add(pool, tokens, log_prior, log_prior + prior(len(tokens)) + explained)

    def _add(
        self, pool: CandidatePool, tokens: Sequence[int], log_prior: float, total: float
    ) -> None:
        text = self.loaded.language.vocabulary.decode(tokens)
        weight = total if math.isfinite(total) else -math.inf
        pool.candidates.setdefault(
            text, RepairCandidate(self.loaded.language, pool.damaged, text, log_prior, weight)
        )


def best_result(
    pool: CandidatePool, language: Language, wishes: RepairConstraints
) -> Result | None:
    """The best candidate of a pool as a result; None where none is what it must be."""
    fitting = pool.fitting(wishes)
    if not fitting:
        return None
    looked = None
    if language.validity and not wishes.grammar:  # what fits a grammar is valid
        fitting, looked = valid_first(fitting, lambda c: c.parses, wishes.look, wishes.top)
    best = fitting[0]
    made = judged(
        language, best.text, best.log_prior, pool.evaluations, with_answer(pool.trace, best.text)
    )
    listed = _listed(fitting, wishes.top) if wishes.top > 1 else ()
    change = pool.damaged.change(best.script or (), language.vocabulary.blank)
    return replace(made, edits=best.script, alternatives=listed, candidates=looked, change=change)


def _listed(fitting: Sequence[RepairCandidate], top: int) -> tuple[Alternative, ...]:
    """The first `top`, with their shares of all."""
    best = max(c.total for c in fitting)
    weights = [math.exp(c.total - best) if best > -math.inf else 1.0 for c in fitting]
    whole = sum(weights)
    return tuple(
        Alternative(
            c.text,
            c.parses if c.language.validity else None,
            c.holds,
            c.total if math.isfinite(c.total) else None,
            weight / whole,
            c.script or (),
        )
        for c, weight in list(zip(fitting, weights))[:top]
    )


def too_many_edits(what: str, edits: float, wishes: RepairConstraints) -> str:
    """The message for too many edits."""
    return (
        f"{what} needs {edits:g} edit{'s' * (edits != 1)}, and max_edits allows {wishes.max_edits}"
    )


def positions(spans: Collection[tuple[int, int]]) -> frozenset[int]:
    """The positions in spans (first, last + 1)."""
    return frozenset(i for first, last in spans for i in range(first, last))
