"""Explaining strings by the noisy-channel beam, as results; what repairing and editing share.

For: running `maskdiff.repair` over requests and scoring what it finds. Not for: the beam itself. Easy to get wrong: the score
of a result is log p given its length, like that of every other result, not the total that the beam compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maskdiff.repair import Channel, Repaired, candidate_lengths, repair_channel
from maskdiff.sampling import Constraint
from maskdiff.tasks.results import Result, judged, log_probs

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded


def search(
    loaded: Loaded,
    good: dict[int, list[int]],
    channel: Channel,
    beam: int,
    slack: int,
    trace: bool,
    constraint: Constraint | None = None,
) -> list[Result]:
    """Results of the noisy-channel beam for the usable texts."""
    language, rows = loaded.language, list(good.values())
    low, high = language.min_symbols, language.max_symbols
    if slack:
        candidates = [candidate_lengths(len(row), slack, language.length_log_prob, low, high) for row in rows]
    else:
        candidates = [[len(row)] for row in rows]

    def prior(n: int) -> float:
        return language.length_log_prob(n) if slack else 0.0  # a length that is given needs no probability

    notes: list[list[str]] = []
    found: list[Repaired | None] = []
    for part, choices in [([row], [n]) for row, n in zip(rows, candidates)] if trace else [(rows, candidates)]:
        steps: list[str] = []

        def watch(emitted: int, prefix: list[int], steps: list[str] = steps) -> None:
            steps.append(f"{emitted:4d}  {language.vocabulary.decode(prefix)}")

        found += repair_channel(loaded.denoiser, part, choices, prior, channel, beam, watch if trace else None, constraint)
        notes.append(steps)
    return _explained(loaded, found, notes if trace else None)


def _explained(loaded: Loaded, found: Sequence[Repaired | None], notes: Sequence[list[str]] | None) -> list[Result]:
    """Results of what the beam found, scored as every other result is."""
    vocabulary = loaded.language.vocabulary
    scores = iter(log_probs(loaded, [item.tokens for item in found if item is not None]))
    results = []
    for index, item in enumerate(found):
        trace = tuple(notes[index]) if notes is not None else None
        if item is None:
            results.append(Result(finish_reason="error", error="no string of a possible length explains the text", trace=trace))
        else:
            text = vocabulary.decode(item.tokens)
            # The leader of the last step is the best prefix of the longest candidate, not always the best explanation.
            trace = None if trace is None else (*trace, f"   =  {text}")
            results.append(judged(loaded.language, text, next(scores), item.evaluations, trace))
    return results
