"""Runs the beam of the noisy channel over requests, for `repair` and `edit`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from maskdiff.repair import Channel, Repaired, candidate_lengths, repair_channel
from maskdiff.sampling import Constraint

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language


def length_prior(language: Language, slack: int) -> Callable[[int], float]:
    """Return log p(n) as a function; it is 0 without `slack`, where the length is given."""
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
    """Return what `repair_channel` finds for rows of token ids, and the steps of each search."""
    language = loaded.language
    low, high = language.min_symbols, language.max_symbols
    if slack:
        lengths = [
            candidate_lengths(len(row), slack, language.length_log_prob, low, high) for row in rows
        ]
    else:
        lengths = [[len(row)] for row in rows]
    prior = length_prior(language, slack)
    if not trace:
        job = loaded.denoiser, rows, lengths, prior, channel, beam, None, constraint, top, certain
        return repair_channel(*job), [None] * len(rows)
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
    return found, [*notes]


def with_answer(steps: tuple[str, ...] | None, text: str) -> tuple[str, ...] | None:
    """Return the steps of a search with its answer, which may differ from the last leader."""
    return None if steps is None else (*steps, f"   =  {text}")
