"""Where candidates for the repair of a string come from: the beam, the grammar's nearest strings, and what is true near those.

For: `explanations` and `nearest_ones`, whose pools `candidates.best_result` chooses from. Not for: what a candidate is worth
(`candidates.py`), or the searches themselves (`maskdiff.repair`, `maskdiff.languages.cfg.distance`). Easy to get wrong: which
candidates there are must not depend on how many are asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from maskdiff.languages import HasValue, truth_of
from maskdiff.languages.cfg import UNREADABLE, NearestString, nearest_strings
from maskdiff.sampling import GrammarConstraint
from maskdiff.tasks.candidates import (
    CandidatePool,
    CandidateScorer,
    Damaged,
    RepairConstraints,
    Tokens,
    too_many_edits,
)
from maskdiff.tasks.results import Result
from maskdiff.tasks.search import explain
from maskdiff.text.edits import edit_script
from maskdiff.utils.deadline import Deadline

if TYPE_CHECKING:
    from maskdiff.languages import Language

NEAREST = 64  # strings of least edits that are weighed
NEIGHBOURS = (
    8  # likeliest candidates, and as many of fewest edits, for whose neighbours the truth is asked
)
DOUBTFUL = 8  # places of each at which two symbols are replaced together
TRIALS = 20_000  # of two symbols anywhere, for one string, where nothing else is true


def channel_candidates(
    scales: CandidateScorer, damaged: Sequence[Damaged], beam: int, slack: int, trace: bool
) -> list[CandidatePool]:
    """Candidates by the noisy channel: the beam's; under a grammar the beam's there and the strings of least edits; with truth,
    what is true near all of those."""
    wishes, pools = scales.wishes, [CandidatePool(item) for item in damaged]
    constraint = scales.loaded.constraint("cpu") if wishes.grammar else None
    rows, certain = [item.tokens for item in damaged], [item.certain for item in damaged]
    found, notes = explain(
        scales.loaded, rows, scales.channel, beam, slack, trace, constraint, certain, None
    )
    for pool, items, steps in zip(pools, found, notes, strict=True):
        scales.take(pool, items, steps)
    if constraint is not None:
        _widen(scales, pools, constraint)
        for pool in pools:
            pool.evaluations += 1  # of the causal mode, for what the beam did not find
    return pools


def nearest_candidates(scales: CandidateScorer, damaged: Sequence[Damaged]) -> list[CandidatePool]:
    """The strings of the grammar that are fewest edits away; with truth, what is true near those."""
    pools = [CandidatePool(item) for item in damaged]
    _widen(scales, pools, scales.loaded.constraint("cpu"))
    return pools


def no_repair(scales: CandidateScorer, pool: CandidatePool) -> Result:
    """The error of a string for which there is nothing that it must be: why, and what would help."""
    language, wishes = scales.loaded.language, scales.wishes
    keeping = " that keeps what is certain" if pool.damaged.certain else ""
    if not wishes.grammar:
        least = min((c.edits for c in pool.candidates.values()), default=math.inf)
        said = f"no string of a possible length{keeping} explains the text"
        if math.isfinite(least):
            said = too_many_edits(f"the nearest explanation found{keeping}", least, wishes)
    else:
        close = _nearest(scales.loaded.constraint("cpu"), pool.damaged, 1)
        if not close:
            said = (
                f"no string of {language.name} keeps all the symbols that are certain; mark fewer"
            )
        elif wishes.max_edits is not None and close[0][1].cost > wishes.max_edits:
            said = too_many_edits(
                f"the nearest string of {language.name}{keeping}", close[0][1].cost, wishes
            )
        else:
            said = f"the grammar of {language.name} has strings near the text, but the language's own check refuses them all"
    return Result(finish_reason="error", error=said, evaluations=pool.evaluations, trace=pool.trace)


def _widen(
    scales: CandidateScorer, pools: Sequence[CandidatePool], constraint: GrammarConstraint
) -> None:
    """Add the strings of least edits; where truth is wished, what is true and near to what is there."""
    wishes, language = scales.wishes, scales.loaded.language
    count = wishes.top if wishes.by_edits and not wishes.holds else NEAREST
    near = [_nearest(constraint, pool.damaged, count, wishes.max_edits) for pool in pools]
    scales.weigh(pools, [[tokens for tokens, _ in found] for found in near])
    if wishes.holds and isinstance(language, HasValue):
        encode = language.vocabulary.encode
        deadline = scales.loaded.deadline
        near_truths = [_true_neighbours(language, pool, wishes, deadline) for pool in pools]
        scales.weigh(pools, [[tuple(encode(text)) for text in found] for found in near_truths])
        lost = [pool for pool in pools if not any(c.holds for c in pool.fitting(wishes))]
        far_truths = [_true_at_two_edits(language, pool, wishes, deadline) for pool in lost]
        scales.weigh(lost, [[tuple(encode(text)) for text in found] for found in far_truths])


def _nearest(
    constraint: GrammarConstraint, damaged: Damaged, count: int, max_edits: int | None = None
) -> list[tuple[Tokens, NearestString]]:
    """The strings of the grammar that are fewest edits away, as token ids, and what was found."""
    inner = constraint.vocabulary.inner_ids
    place = {token: i for i, token in enumerate(inner)}
    given = [place.get(token, UNREADABLE) for token in damaged.tokens]
    most = math.inf if max_edits is None else max_edits
    deadline = constraint.rules.deadline
    found = nearest_strings(
        constraint.grammar, given, count, most, certain=damaged.certain, deadline=deadline
    )
    return [(tuple(inner[i] for i in item.symbols), item) for item in found]


# -------------------------------------------------------------------------------------------------------------- what is true


def _likely(pool: CandidatePool, wishes: RepairConstraints) -> list[str]:
    """The likeliest of what fits, and what is fewest edits away."""
    fitting = pool.fitting(wishes)
    nearby = sorted(fitting, key=lambda c: c.edits)
    return list(dict.fromkeys(c.text for c in (*fitting[:NEIGHBOURS], *nearby[:NEIGHBOURS])))


def _true_neighbours(
    language: Language, pool: CandidatePool, wishes: RepairConstraints, deadline: Deadline
) -> Iterator[str]:
    """What is true and begins like a candidate, or is a likely one with one symbol replaced, or two that were not given."""
    assert isinstance(language, HasValue)
    yield from _consequences(language, pool.candidates)
    for text in _likely(pool, wishes):
        other = _replacements(language, text)
        changed = (text[:i] + s + text[i + 1 :] for i, symbols in enumerate(other) for s in symbols)
        yield from _true(language, changed, deadline)
        script = edit_script(text, pool.damaged.text) or ()
        doubtful = sorted({edit.position for edit in script} & set(range(len(text))))[:DOUBTFUL]
        yield from _true(language, _pairs(text, other, doubtful), deadline)


def _true_at_two_edits(
    language: Language, pool: CandidatePool, wishes: RepairConstraints, deadline: Deadline
) -> Iterator[str]:
    """What is true once any two symbols of a likely candidate are replaced, as far as `TRIALS` go."""
    trials = itertools.chain.from_iterable(
        _pairs(text, _replacements(language, text), range(len(text)))
        for text in _likely(pool, wishes)
    )
    yield from _true(language, itertools.islice(trials, TRIALS), deadline)


def _true(language: Language, texts: Iterable[str], deadline: Deadline) -> Iterator[str]:
    """Those of the texts that hold. Raises TimedOut."""
    for text in texts:
        deadline.check()
        if truth_of(language, text):
            yield text


def _consequences(language: HasValue, texts: Iterable[str]) -> Iterator[str]:
    """Every beginning of the texts that leaves no choice, as it must end to hold."""
    for beginning in dict.fromkeys(
        text[:size] for text in texts for size in range(1, len(text) + 1)
    ):
        ending = language.forced_ending(beginning)
        if ending is not None:
            yield beginning + ending


def _replacements(language: Language, text: str) -> list[list[str]]:
    """By place: the other symbols with which the text still parses."""
    symbols = [language.vocabulary.decode([token]) for token in language.vocabulary.inner_ids]
    return [
        [s for s in symbols if s != text[i] and language.parses(text[:i] + s + text[i + 1 :])]
        for i in range(len(text))
    ]


def _pairs(text: str, other: Sequence[Sequence[str]], places: Iterable[int]) -> Iterator[str]:
    """The text with other symbols at two of the places."""
    for i, j in itertools.combinations(places, 2):
        for a, b in itertools.product(other[i], other[j]):
            yield text[:i] + a + text[i + 1 : j] + b + text[j + 1 :]
