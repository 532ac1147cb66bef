"""Candidates for the repair of a string: where they come from, what they are worth, and which is taken.

For: `repair` under a grammar, with truth, with several answers or with symbols that are certain. Not for: the searches
themselves (`maskdiff.repair`, `maskdiff.languages.cfg.distance`). Easy to get wrong: candidates of different origin are
comparable only by the same exact total, log p(x | n) + log p(n) + log p(y | x); the beam's own is that, all others are
computed here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from maskdiff.edits import Edit, cost, edit_script
from maskdiff.languages import Evaluable, holds
from maskdiff.languages.cfg import UNREADABLE, Closest, nearest_strings
from maskdiff.repair import Channel, Repaired, channel_log_probs
from maskdiff.sampling import GrammarConstraint
from maskdiff.tasks.results import Alternative, Result, judged, log_probs
from maskdiff.tasks.search import explain, length_prior, with_answer

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

NEAREST = 64  # strings of least edits that are weighed
NEIGHBOURS = 8  # candidates for whose neighbours the truth is asked
DOUBTFUL = 8  # places of each at which two symbols are replaced together

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Wishes:
    """What is asked of a repaired string, beside being probable.

    grammar: it parses. holds: what it states is true, if that can be had. max_edits: of the input, at most. top: how many
    answers. by_edits: fewer edits are better, whatever is probable.
    """

    grammar: bool = False
    holds: bool = False
    max_edits: int | None = None
    top: int = 1
    by_edits: bool = False


@dataclass(frozen=True)
class Damaged:
    """A string to repair: its token ids, and the positions of those that are certain."""

    tokens: list[int]
    certain: frozenset[int] = frozenset()


@dataclass
class Pool:
    """Candidates for one damaged string in the order in which they were found, with the beam's figures where there are any."""

    found: dict[Tokens, Repaired | None] = field(default_factory=dict)
    evaluations: int = 0
    trace: tuple[str, ...] | None = None

    def add(self, strings: Iterable[Sequence[int]]) -> None:
        for tokens in strings:
            self.found.setdefault(tuple(tokens))

    def explained(self, items: Sequence[Repaired], trace: tuple[str, ...] | None) -> None:
        """What a beam found."""
        self.found.update((tuple(item.tokens), item) for item in items)
        self.evaluations += items[0].evaluations if items else 0
        self.trace = trace if self.trace is None else (*self.trace, *(trace or ()))


@dataclass(frozen=True)
class Candidate:
    """A string that `given` may have been; log_prior is NaN and total -inf where the model has no room for it."""

    language: Language
    given: str
    certain: frozenset[int]
    text: str
    log_prior: float
    total: float

    @cached_property
    def parses(self) -> bool:
        return self.language.parses(self.text)

    @cached_property
    def holds(self) -> bool | None:
        return holds(self.language, self.text)

    @cached_property
    def script(self) -> tuple[Edit, ...] | None:
        return edit_script(self.given, self.text, self.language.vocabulary.blank, self.certain)

    @cached_property
    def edits(self) -> float:
        return math.inf if self.script is None else cost(self.script)

    def fits(self, wishes: Wishes) -> bool:
        """Whether it is what must be; that it holds is a wish, not a must."""
        if wishes.grammar and not self.parses:
            return False
        if wishes.max_edits is None and not self.certain:
            return True
        return self.edits <= (math.inf if wishes.max_edits is None else wishes.max_edits) and self.script is not None

    def key(self, wishes: Wishes) -> tuple[bool, float, float]:
        """Smaller is better; of equal candidates the one found first."""
        wrong = wishes.holds and not self.holds
        if wishes.by_edits:
            return wrong, self.edits, 0.0
        return wrong, -self.total, self.edits if self.total == -math.inf else 0.0


# -------------------------------------------------------------------------------------------------------------- where from


def explanations(
    loaded: Loaded, damaged: Sequence[Damaged], channel: Channel, beam: int, slack: int, trace: bool, wishes: Wishes
) -> list[Pool]:
    """Candidates by the noisy channel: the beam's, and where the best of those is not to be had or more are asked for, the
    beam's under the grammar and the strings of least edits; with truth, what is true near all of those."""
    pools = [Pool() for _ in damaged]

    def look(places: Sequence[int], constraint: GrammarConstraint | None) -> None:
        rows, kept = [damaged[i].tokens for i in places], [damaged[i].certain for i in places]
        found, notes = explain(loaded, rows, channel, beam, slack, trace, constraint, kept, None)
        for i, items, steps in zip(places, found, notes, strict=True):
            pools[i].explained(items, steps)

    look(range(len(damaged)), None)
    if not wishes.grammar:
        return pools
    wanting = [i for i, pool in enumerate(pools) if wishes.top > 1 or not _satisfied(loaded.language, damaged[i], pool, wishes)]
    if wanting:
        constraint = GrammarConstraint.of(loaded.language)  # on the CPU, as the search is
        look(wanting, constraint)
        for i in wanting:
            widen(pools[i], damaged[i], constraint, loaded.language, wishes)
            pools[i].evaluations += 1  # scoring what the beams did not find
    for i in set(range(len(damaged))) - set(wanting):
        pools[i].found = dict([next(iter(pools[i].found.items()))])
    return pools


def _satisfied(language: Language, damaged: Damaged, pool: Pool, wishes: Wishes) -> bool:
    """Whether the best of the beam is all that is wished: nothing else can be better then."""
    for tokens in pool.found:
        given, text = (language.vocabulary.decode(row) for row in (damaged.tokens, tokens))
        best = Candidate(language, given, damaged.certain, text, 0.0, 0.0)
        return best.fits(wishes) and (not wishes.holds or bool(best.holds))
    return False


def nearest(
    constraint: GrammarConstraint, damaged: Damaged, count: int, max_edits: int | None = None
) -> list[tuple[Tokens, Closest]]:
    """The strings of the grammar that are fewest edits away, as token ids, and what was found."""
    inner = constraint.vocabulary.inner_ids
    place = {token: i for i, token in enumerate(inner)}
    given = [place.get(token, UNREADABLE) for token in damaged.tokens]
    most = math.inf if max_edits is None else max_edits
    found = nearest_strings(constraint.grammar, given, count, most, certain=damaged.certain)
    return [(tuple(inner[i] for i in item.symbols), item) for item in found]


def widen(pool: Pool, damaged: Damaged, constraint: GrammarConstraint, language: Language, wishes: Wishes) -> None:
    """Add the strings of least edits; where truth is wished, what is true and near to what is there."""
    plain = wishes.by_edits and wishes.top == 1 and not wishes.holds
    count = 1 if plain else max(NEAREST, wishes.top)
    pool.add(tokens for tokens, _ in nearest(constraint, damaged, count, wishes.max_edits))
    if wishes.holds and isinstance(language, Evaluable):
        decode, encode = language.vocabulary.decode, language.vocabulary.encode
        best = sorted(pool.found, key=lambda tokens: -_total(pool.found[tokens]))  # stable: of least edits without figures
        texts = [decode(tokens) for tokens in best]
        likely = [text for text in texts if language.parses(text)][:NEIGHBOURS]
        symbols = [decode([token]) for token in language.vocabulary.inner_ids]
        true = dict.fromkeys(
            (*_consequences(language, texts), *_true_neighbours(language, decode(damaged.tokens), likely, symbols))
        )
        pool.add(encode(text) for text in true)


def _total(item: Repaired | None) -> float:
    return -math.inf if item is None else item.total


def _consequences(language: Evaluable, texts: Iterable[str]) -> Iterator[str]:
    """Every beginning of the texts that leaves no choice, as it must end to hold."""
    for beginning in dict.fromkeys(text[:size] for text in texts for size in range(1, len(text) + 1)):
        ending = language.consequence(beginning)
        if ending is not None:
            yield beginning + ending


def _true_neighbours(language: Language, given: str, texts: Sequence[str], symbols: Sequence[str]) -> Iterator[str]:
    """The texts with one symbol replaced, or with two of those that `given` does not have, where they hold then."""
    for text in texts:
        places = range(len(text))
        other = [[s for s in symbols if s != text[i] and language.parses(text[:i] + s + text[i + 1 :])] for i in places]
        changed = (text[:i] + s + text[i + 1 :] for i in places for s in other[i])
        yield from (found for found in changed if holds(language, found))
        doubtful = sorted({edit.position for edit in edit_script(text, given) or ()} & set(places))[:DOUBTFUL]
        for i, j in itertools.combinations(doubtful, 2):
            changed = (text[:i] + a + text[i + 1 : j] + b + text[j + 1 :] for a in other[i] for b in other[j])
            yield from (found for found in changed if holds(language, found))


# ---------------------------------------------------------------------------------------------------------------- which one


def settle(
    loaded: Loaded, damaged: Sequence[Damaged], pools: Sequence[Pool], channel: Channel, slack: int, wishes: Wishes
) -> list[Result]:
    """The best candidate of every pool, as a result; an error where none is what it must be."""
    results = []
    for item, pool, candidates in zip(damaged, pools, _weighed(loaded, damaged, pools, channel, slack), strict=True):
        fitting = sorted((c for c in candidates if c.fits(wishes)), key=lambda c: c.key(wishes))
        if wishes.grammar and not slack:  # the length was to stay, if it can
            fitting = [c for c in fitting if len(c.text) == len(c.given)] or fitting
        if not fitting:
            error = _refusal(loaded.language, item, candidates, wishes)
            results.append(Result(finish_reason="error", error=error, evaluations=pool.evaluations, trace=pool.trace))
            continue
        best = fitting[0]
        made = judged(loaded.language, best.text, best.log_prior, pool.evaluations, with_answer(pool.trace, best.text))
        listed = _listed(fitting, wishes.top) if wishes.top > 1 else ()
        results.append(replace(made, edits=best.script, alternatives=listed))
    return results


def _weighed(
    loaded: Loaded, damaged: Sequence[Damaged], pools: Sequence[Pool], channel: Channel, slack: int
) -> Iterator[list[Candidate]]:
    """The candidates of every pool with their totals."""
    language, prior = loaded.language, length_prior(loaded.language, slack)
    log_priors = iter(log_probs(loaded, [list(x) for pool in pools for x, item in pool.found.items() if item is None]))
    for item, pool in zip(damaged, pools, strict=True):
        new = [tokens for tokens, explained in pool.found.items() if explained is None]
        log_channel = dict(zip(new, channel_log_probs(channel, item.tokens, new, language.vocabulary, item.certain).tolist()))
        given, candidates = language.vocabulary.decode(item.tokens), []
        for tokens, explained in pool.found.items():
            if explained is None:
                log_prior = next(log_priors)
                total = log_prior + prior(len(tokens)) + log_channel[tokens]
            else:
                log_prior, total = explained.log_prior, explained.total
            text = language.vocabulary.decode(tokens)
            total = total if math.isfinite(total) else -math.inf
            candidates.append(Candidate(language, given, item.certain, text, log_prior, total))
        yield candidates


def _listed(fitting: Sequence[Candidate], top: int) -> tuple[Alternative, ...]:
    """The first `top`, with their shares of all."""
    best = max(c.total for c in fitting)
    weights = [math.exp(c.total - best) if best > -math.inf else 1.0 for c in fitting]
    shares = [weight / sum(weights) for weight in weights]
    return tuple(
        Alternative(
            c.text,
            c.parses if c.language.validity else None,
            c.holds,
            c.total if math.isfinite(c.total) else None,
            share,
            c.script or (),
        )
        for c, share in list(zip(fitting, shares))[:top]
    )


def _refusal(language: Language, damaged: Damaged, candidates: Sequence[Candidate], wishes: Wishes) -> str:
    """Why none of the candidates is taken, and what would help."""
    keeping = " that keeps what is certain" if damaged.certain else ""
    if wishes.grammar:
        close = nearest(GrammarConstraint.of(language), damaged, 1)
        if not close:
            return f"no string of {language.name} keeps all the symbols that are certain; mark fewer"
        return needs(f"the nearest string of {language.name}{keeping}", close[0][1].cost, wishes)
    least = min((c.edits for c in candidates), default=math.inf)
    if not math.isfinite(least):
        return f"no string of a possible length{keeping} explains the text"
    return needs(f"the nearest explanation found{keeping}", least, wishes)


def needs(what: str, edits: float, wishes: Wishes) -> str:
    """The message for too many edits."""
    return f"{what} needs {edits:g} edit{'s' * (edits != 1)}, and max_edits allows {wishes.max_edits}"


def positions(spans: Collection[tuple[int, int]]) -> frozenset[int]:
    """The positions in spans (first, last + 1)."""
    return frozenset(i for first, last in spans for i in range(first, last))
