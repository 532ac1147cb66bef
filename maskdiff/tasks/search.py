"""Runs the beam of the noisy channel over requests, for `repair` and `edit`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maskdiff.repair import Channel, Repaired, candidate_lengths, repair_channel
from maskdiff.sampling import Constraint
from maskdiff.tasks.running import log_probs

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded


def length_prior(loaded: Loaded, slack: int) -> Callable[[int], float]:
    """Return log p(n) as a function; it is 0 without `slack`, where the length is given.

    It is 0, too, for a model that draws the end of its strings, whose log p(x) includes it.
    """
    known = not slack or not loaded.length_conditioned
    return (lambda n: 0.0) if known else loaded.language.length_log_prob


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
    """Return what `repair_channel` finds for rows of token ids, and the steps of each search."""
    language = loaded.language
    low, high = language.min_symbols, language.max_symbols
    if slack:
        lengths = [
            candidate_lengths(len(row), slack, language.length_log_prob, low, high) for row in rows
        ]
    else:
        lengths = [[len(row)] for row in rows]
    prior = length_prior(loaded, slack)
    if not trace:
        job = loaded.denoiser, rows, lengths, prior, channel, beam, None, constraint, top, certain
        return _with_ends(loaded, repair_channel(*job)), [None] * len(rows)
    found, notes = [], []
    for i, row in enumerate(rows):
        steps: list[str] = []

        def note(emitted: int, prefix: list[int], steps: list[str] = steps) -> None:
            steps.append(f"{emitted:4d}  {language.vocabulary.decode(prefix)}")

        kept = None if certain is None else [certain[i]]
        found += repair_channel(
            loaded.denoiser, [row], [lengths[i]], prior, channel, beam, note, constraint, top, kept
        )
        notes.append(tuple(steps))
    return _with_ends(loaded, found), [*notes]


def _with_ends(loaded: Loaded, found: list[list[Repaired]]) -> list[list[Repaired]]:
    """The explanations, best first; the beam leaves out the ends that a model draws itself."""
    if loaded.length_conditioned:
        return found
    scores = iter(log_probs(loaded, [item.tokens for items in found for item in items]))
    scored = [[replace(item, log_prior=next(scores)) for item in items] for items in found]
    return [sorted(items, key=lambda item: -item.total) for items in scored]


def with_answer(steps: tuple[str, ...] | None, text: str) -> tuple[str, ...] | None:
    """Return the steps of a search with its answer, which may differ from the last leader."""
    return None if steps is None else (*steps, f"   =  {text}")
