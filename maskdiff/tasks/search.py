"""Explaining strings by the noisy-channel beam; what repairing and editing share.

For: running `maskdiff.repair` over requests. Not for: the beam itself, or choosing among what it finds (`candidates.py`).
Easy to get wrong: the score of a result is log p given its length, like that of every other result, not the total that the
beam compares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from maskdiff.repair import Channel, Repaired, candidate_lengths, repair_channel
from maskdiff.sampling import Constraint
from maskdiff.tasks.results import Result, judged, log_probs

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language


def length_prior(language: Language, slack: int) -> Callable[[int], float]:
    """log p(n) of a length; 0 without `slack`: a length that is given needs no probability."""
    return language.length_log_prob if slack else lambda n: 0.0


def explain(
    loaded: Loaded,
    rows: Sequence[Sequence[int]],
    channel: Channel,
    beam: int,
    slack: int,
    trace: bool,
    constraint: Constraint | None = None,
    certain: Sequence[Collection[int]] | None = None,
    top: int | None = 1,
) -> tuple[list[list[Repaired]], list[tuple[str, ...] | None]]:
    """What `repair_channel` finds for rows of token ids, and the steps of each search where a `trace` is asked for."""
    language = loaded.language
    low, high = language.min_symbols, language.max_symbols
    if slack:
        lengths = [candidate_lengths(len(row), slack, language.length_log_prob, low, high) for row in rows]
    else:
        lengths = [[len(row)] for row in rows]
    prior = length_prior(language, slack)
    if not trace:
        job = loaded.denoiser, rows, lengths, prior, channel, beam, None, constraint, top, certain
        return repair_channel(*job), [None] * len(rows)
    found, notes = [], []
    for i, row in enumerate(rows):
        steps: list[str] = []

        def watch(emitted: int, prefix: list[int], steps: list[str] = steps) -> None:
            steps.append(f"{emitted:4d}  {language.vocabulary.decode(prefix)}")

        kept = None if certain is None else [certain[i]]
        found += repair_channel(loaded.denoiser, [row], [lengths[i]], prior, channel, beam, watch, constraint, top, kept)
        notes.append(tuple(steps))
    return found, [*notes]


def search(loaded: Loaded, good: dict[int, list[int]], channel: Channel, beam: int, slack: int, trace: bool) -> list[Result]:
    """Results of the best explanations of the usable texts, scored as every other result is."""
    found, notes = explain(loaded, list(good.values()), channel, beam, slack, trace)
    scores = iter(log_probs(loaded, [items[0].tokens for items in found if items]))
    results = []
    for items, steps in zip(found, notes, strict=True):
        if not items:
            results.append(Result(finish_reason="error", error="no string of a possible length explains the text", trace=steps))
        else:
            text = loaded.language.vocabulary.decode(items[0].tokens)
            shown = with_answer(steps, text)
            results.append(judged(loaded.language, text, next(scores), items[0].evaluations, shown))
    return results


def with_answer(steps: tuple[str, ...] | None, text: str) -> tuple[str, ...] | None:
    """The steps of a search, and what came of it: the leader of the last step is not always the best explanation."""
    return None if steps is None else (*steps, f"   =  {text}")
