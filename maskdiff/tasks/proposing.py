"""Where candidates for a repair come from: the beam, the nearest strings of the grammar, and more.

Which candidates there are does not depend on how many answers are asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maskdiff.languages import HasValue, truth_of
from maskdiff.languages.cfg import UNREADABLE, NearestString, nearest_strings
from maskdiff.repair import FewEdits, Truncation, likely_continuations, likely_neighbours
from maskdiff.sampling import GrammarConstraint
from maskdiff.tasks.candidates import (
    CandidatePool,
    CandidateScorer,
    Damaged,
    RepairCandidate,
    RepairConstraints,
    Tokens,
    too_many_edits,
)
from maskdiff.tasks.results import Result
from maskdiff.tasks.search import explain
from maskdiff.text.edits import edit_distance, edit_script
from maskdiff.utils.deadline import Deadline

if TYPE_CHECKING:
    from maskdiff.languages import Language

DEPTH, DEEPEST = 2, 8  # edits that are tried by the n-gram, and as long as they help
NEIGHBOURS = 100  # strings one edit away from each string to which an edit is added
SEEDS = 12  # strings to which a second edit is added
EDIT = -3.5  # nats, roughly log p of an edit at some place, to compare numbers of edits
EDITED = 100  # strings that the model scores, and how far below the best they may be, in nats
MARGIN = 25.0
FEWEST = 50  # strings of the fewest edits that it scores even if others are likelier by the n-gram
FILLINGS = 48  # of the blanks of a text, by the n-gram
CONTINUATIONS = 48  # strings of which a text may be the beginning
NEAREST = 64  # strings of least edits that are scored
CLOSE = 8  # likeliest candidates, and as many of fewest edits, whose neighbours are tested
DOUBTFUL = 8  # changed positions of each at which pairs of symbols are replaced
TRIALS = 20_000  # replacements of two symbols anywhere, for one string, if nothing else is true


def channel_candidates(
    scorer: CandidateScorer, damaged: Sequence[Damaged], beam: int, slack: int, trace: bool
) -> list[CandidatePool]:
    """Return candidates by the noisy channel.

    They come from the likely edits by the n-gram and from the beam; under a grammar from the beam
    under it and from the strings of least edits; with `holds` also from true strings near all of
    those. Without a grammar and without blanks the beam is left out where the edits are few and
    there is an n-gram. Of a text that lost its end, they are continuations by the n-gram.
    """
    if isinstance(scorer.channel, Truncation):
        return _continued(scorer, damaged)
    constraints, pools = scorer.constraints, [CandidatePool(item) for item in damaged]
    grammar = scorer.loaded.constraint("cpu") if constraints.grammar else None
    edited = [likely_originals(scorer, item) for item in damaged]
    scorer.add_proposed(pools, edited)
    mask = scorer.loaded.language.vocabulary.mask
    searched = [
        pool
        for pool, strings in zip(pools, edited, strict=True)
        if grammar is not None or trace or scorer.wide or not strings or mask in pool.damaged.tokens
    ]
    rows = [pool.damaged.tokens for pool in searched]
    certain = [pool.damaged.certain for pool in searched]
    channel = scorer.channel
    if isinstance(channel, FewEdits):  # the search takes one channel for texts of all lengths
        channel = channel.damage.channel(scorer.loaded.language.vocabulary, channel.broken)
    found, notes = explain(scorer.loaded, rows, channel, beam, slack, trace, grammar, certain, None)
    for pool, items, steps in zip(searched, found, notes, strict=True):
        scorer.add_found(pool, items, steps)
    for pool, strings in zip(pools, edited, strict=True):
        pool.evaluations += bool(strings)  # of the causal mode, for all candidates together
    if grammar is not None:
        _widen(scorer, pools, grammar)
        for pool in pools:
            pool.evaluations += 1  # of the causal mode, for candidates that the beam did not find
    return pools


def _edited(scorer: CandidateScorer, item: Damaged) -> list[Tokens]:
    """The text with its blanks filled, and strings a few edits away that the n-gram finds likely.

    Edits are added one at a time to the likeliest strings so far: at least `DEPTH` of them, and
    more as long as they help.
    """
    ngram, language = scorer.loaded.ngram, scorer.loaded.language
    if ngram is None or not item.tokens:
        return []
    filled = [tuple(item.tokens)]
    if language.vocabulary.mask in item.tokens:
        filled = likely_continuations(ngram, item.tokens, FILLINGS, len(item.tokens))
    found = dict(zip(filled, ngram.log_probs(filled).tolist(), strict=True))
    seeds = [(0.0, tokens) for tokens in filled[:SEEDS]]
    certain = dict.fromkeys(filled, item.certain)  # the positions in each string
    least, most = scorer.constraints.edits or (0, DEEPEST)
    if scorer.constraints.max_edits is not None:
        most = min(most, scorer.constraints.max_edits)

    def distance(made: Tokens) -> int:
        text = language.vocabulary.decode(made)
        return edit_distance(item.text, text, language.vocabulary.blank)

    fewest: Collection[Tokens] = ()  # strings of one edit, or of `least`
    top, near = -math.inf, set() if least == 0 else {*filled}  # strings with too few edits
    for depth in range(min(DEEPEST, most)):
        reached: dict[Tokens, float] = {}
        for cost, tokens in seeds:
            kept = certain[tokens]
            for score, made in likely_neighbours(ngram, tokens, NEIGHBOURS, scorer.weights, kept):
                if made not in found:
                    reached[made] = max(reached.get(made, -math.inf), score + cost + EDIT)
                    certain.setdefault(made, _shifted(kept, tokens, made))
        found |= reached
        near |= reached.keys() if depth + 1 < least else set()
        fewest = fewest or (reached if depth + 1 >= least else ())
        ranked = sorted(reached, key=lambda made: -reached[made])
        if depth + 1 <= least:  # no edit undoes or repeats an earlier one
            ranked = [made for made in ranked[:NEIGHBOURS] if distance(made) == depth + 1]
        best = ranked[:SEEDS]
        costs = [reached[made] for made in best] - ngram.log_probs(best)
        seeds = list(zip(costs.tolist(), best, strict=True))
        if depth + 1 >= max(DEPTH, least) and (not best or reached[best[0]] <= top):
            break
        top = max(top, reached[best[0]]) if best else top
    low, high = language.min_symbols, language.max_symbols
    wanted = (made for made in found.keys() - near if low <= len(made) <= high)
    ranked = sorted(wanted, key=lambda made: (-found[made], made))
    likely = [made for made in ranked[:EDITED] if found[made] > found[ranked[0]] - MARGIN]
    simple = [made for made in ranked if made in fewest][:FEWEST]
    return list(dict.fromkeys((*likely, *simple)))


def likely_originals(scorer: CandidateScorer, item: Damaged) -> list[Tokens]:
    """Return the strings that are likely by the n-gram: near the text, or continuations of it.

    There are none without an n-gram. Raises TimedOut.
    """
    scorer.loaded.deadline.check()
    if not isinstance(scorer.channel, Truncation):
        return _edited(scorer, item)
    ngram, language = scorer.loaded.ngram, scorer.loaded.language
    assert ngram is not None
    made = likely_continuations(ngram, item.tokens, CONTINUATIONS, language.max_symbols)
    return [string for string in made if len(string) >= language.min_symbols]


def _shifted(places: frozenset[int], tokens: Tokens, made: Tokens) -> frozenset[int]:
    """The positions of symbols of `tokens` in `made`, which is one edit of others away."""
    if not places:
        return places
    pairs = enumerate(zip(tokens, made, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(tokens), len(made)))
    return frozenset(i if i < same else i + len(made) - len(tokens) for i in places)


def _continued(scorer: CandidateScorer, damaged: Sequence[Damaged]) -> list[CandidatePool]:
    """The likeliest strings that begin like each text, by the n-gram."""
    pools = [CandidatePool(item) for item in damaged]
    for pool in pools:
        scorer.add_proposed([pool], [likely_originals(scorer, pool.damaged)])
        pool.evaluations += 1  # of the causal mode, for all candidates together
    return pools


def nearest_candidates(scorer: CandidateScorer, damaged: Sequence[Damaged]) -> list[CandidatePool]:
    """Return the strings of the grammar that are fewest edits away, and true ones near those."""
    pools = [CandidatePool(item) for item in damaged]
    _widen(scorer, pools, scorer.loaded.constraint("cpu"))
    return pools


def no_repair(scorer: CandidateScorer, pool: CandidatePool) -> Result:
    """Return the error for a string without a fitting candidate: the reason and the remedy."""
    constraints = scorer.constraints
    unbound = pool.fitting(replace(constraints, edits=None, broken=False))
    if unbound:
        message = _excluded(unbound, constraints)
    elif constraints.grammar:
        message = _no_string(scorer, pool)
    else:
        keeping = _keeping(pool)
        least = min((c.edits for c in pool.candidates.values()), default=math.inf)
        message = f"no string of a possible length{keeping} explains the text"
        if math.isfinite(least):
            message = too_many_edits(f"the nearest explanation found{keeping}", least, constraints)
    return Result(
        finish_reason="error", error=message, evaluations=pool.evaluations, trace=pool.trace
    )


def _keeping(pool: CandidatePool) -> str:
    return " that keeps what is certain" if pool.damaged.certain else ""


def _excluded(found: Sequence[RepairCandidate], constraints: RepairConstraints) -> str:
    """The message for candidates of which `edits` or `broken` excludes every one."""
    if constraints.edits is None:
        return "the text itself is the only string found, and broken excludes it"
    low, high = constraints.edits
    wanted = f"{low}" if low == high else f"{low} to {high}"
    near = min((c.distance for c in found), key=lambda n: max(low - n, n - high))
    if low <= near <= high:
        return f"the text itself is the only string found with {wanted} edits; broken excludes it"
    advice = f"give edits from 0 to {DEEPEST}" if low > DEEPEST else "change edits"
    return f"no string found needs {wanted} edits, the nearest needs {near}; {advice}"


def _no_string(scorer: CandidateScorer, pool: CandidatePool) -> str:
    """The message for a text without a candidate that parses."""
    language, constraints = scorer.loaded.language, scorer.constraints
    if isinstance(scorer.channel, Truncation):
        return f"no continuation found is a string of {language.name}"
    close = _nearest(scorer.loaded.constraint("cpu"), pool.damaged, 1)
    if not close:
        return f"no string of {language.name} keeps all the symbols that are certain; mark fewer"
    if constraints.max_edits is not None and close[0][1].cost > constraints.max_edits:
        what = f"the nearest string of {language.name}{_keeping(pool)}"
        return too_many_edits(what, close[0][1].cost, constraints)
    return (
        f"the grammar of {language.name} has strings near the text, but the language's own "
        "check refuses them all"
    )


def _widen(
    scorer: CandidateScorer, pools: Sequence[CandidatePool], grammar: GrammarConstraint
) -> None:
    """Add the strings of least edits and, with `holds`, true strings near the candidates."""
    constraints, language = scorer.constraints, scorer.loaded.language
    filtered = constraints.holds or constraints.broken or constraints.edits is not None
    count = constraints.top if constraints.by_edits and not filtered else NEAREST
    near = [_nearest(grammar, pool.damaged, count, constraints.max_edits) for pool in pools]
    scorer.add_proposed(pools, [[tokens for tokens, _ in found] for found in near])
    if constraints.holds and isinstance(language, HasValue):
        encode = language.vocabulary.encode
        deadline = scorer.loaded.deadline
        near_truths = [_true_neighbours(language, pool, constraints, deadline) for pool in pools]
        scorer.add_proposed(
            pools, [[tuple(encode(text)) for text in found] for found in near_truths]
        )
        lost = [pool for pool in pools if not any(c.holds for c in pool.fitting(constraints))]
        far_truths = [_true_at_two_edits(language, pool, constraints, deadline) for pool in lost]
        scorer.add_proposed(lost, [[tuple(encode(text)) for text in found] for found in far_truths])


def _nearest(
    constraint: GrammarConstraint, damaged: Damaged, count: int, max_edits: int | None = None
) -> list[tuple[Tokens, NearestString]]:
    """The strings of the grammar that are fewest edits away, as token ids and as found."""
    inner = constraint.vocabulary.inner_ids
    place = {token: i for i, token in enumerate(inner)}
    given = [place.get(token, UNREADABLE) for token in damaged.tokens]
    most = math.inf if max_edits is None else max_edits
    deadline = constraint.rules.deadline
    found = nearest_strings(
        constraint.grammar, given, count, most, certain=damaged.certain, deadline=deadline
    )
    return [(tuple(inner[i] for i in item.symbols), item) for item in found]


# -------------------------- true strings


def _likely(pool: CandidatePool, constraints: RepairConstraints) -> list[str]:
    """The likeliest candidates that fit, and those of fewest edits."""
    fitting = pool.fitting(constraints)
    nearby = sorted(fitting, key=lambda c: c.edits)
    return list(dict.fromkeys(c.text for c in (*fitting[:CLOSE], *nearby[:CLOSE])))


def _true_neighbours(
    language: Language, pool: CandidatePool, constraints: RepairConstraints, deadline: Deadline
) -> Iterator[str]:
    """True strings that begin like a candidate, or differ from a likely one in one symbol, or in
    two that the repair changed."""
    assert isinstance(language, HasValue)
    yield from _consequences(language, pool.candidates)
    for text in _likely(pool, constraints):
        other = _replacements(language, text)
        changed = (text[:i] + s + text[i + 1 :] for i, symbols in enumerate(other) for s in symbols)
        yield from _true(language, changed, deadline)
        script = edit_script(text, pool.damaged.text) or ()
        doubtful = sorted({edit.position for edit in script} & set(range(len(text))))[:DOUBTFUL]
        yield from _true(language, _pairs(text, other, doubtful), deadline)


def _true_at_two_edits(
    language: Language, pool: CandidatePool, constraints: RepairConstraints, deadline: Deadline
) -> Iterator[str]:
    """True strings that differ from a likely candidate in two symbols, of `TRIALS` tested."""
    trials = itertools.chain.from_iterable(
        _pairs(text, _replacements(language, text), range(len(text)))
        for text in _likely(pool, constraints)
    )
    yield from _true(language, itertools.islice(trials, TRIALS), deadline)


def _true(language: Language, texts: Iterable[str], deadline: Deadline) -> Iterator[str]:
    """The texts that hold. Raises TimedOut."""
    for text in texts:
        deadline.check()
        if truth_of(language, text):
            yield text


def _consequences(language: HasValue, texts: Iterable[str]) -> Iterator[str]:
    """Every prefix of the texts that has one true ending, with that ending."""
    prefixes = (text[:size] for text in texts for size in range(1, len(text) + 1))
    for prefix in dict.fromkeys(prefixes):
        ending = language.forced_ending(prefix)
        if ending is not None:
            yield prefix + ending


def _replacements(language: Language, text: str) -> list[list[str]]:
    """For each position, the other symbols with which the text still parses."""
    symbols = [language.vocabulary.decode([token]) for token in language.vocabulary.inner_ids]
    return [
        [s for s in symbols if s != text[i] and language.parses(text[:i] + s + text[i + 1 :])]
        for i in range(len(text))
    ]


def _pairs(text: str, other: Sequence[Sequence[str]], positions: Iterable[int]) -> Iterator[str]:
    """The text with other symbols at two of the positions."""
    for i, j in itertools.combinations(positions, 2):
        for a, b in itertools.product(other[i], other[j]):
            yield text[:i] + a + text[i + 1 : j] + b + text[j + 1 :]
