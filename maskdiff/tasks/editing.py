"""Filling blanks: `edit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from maskdiff.config import SamplerConfig
from maskdiff.errors import CanvasError, DataError
from maskdiff.repair import Channel
from maskdiff.sampling import Canvas, Constraint, GrammarConstraint, Linear, Sampler, Unmask
from maskdiff.sampling.random import new_keys
from maskdiff.tasks.results import (
    BATCH,
    Result,
    canvas_of,
    check_beam,
    merge,
    prepare,
    ready_sampler,
    run_sampler,
    seeded,
)
from maskdiff.tasks.search import search

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

CERTAIN = Unmask(order="entropy", schedule=Linear(), steps=0, temperature=0.0)  # most certain blank first, its likeliest symbol


def edit(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    *,
    masks: Sequence[tuple[int, int]] = (),
    sampler: SamplerConfig | Sampler | None = None,
    beam: int = 16,
    grammar: bool = False,
    seed: int | torch.Generator = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """Fill the blanks (`?`, or `¿` where `?` is a symbol) of each text, and the symbols in `masks` (first, last + 1).

    All other symbols stay as they are.

    Without a `sampler`, the likelier, by the causal mode, of two fillings: that of a beam search with the causal mode, which
    weighs whole strings but meets what stands to the right of a blank too late, and that of the bidirectional mode, most
    certain blank first, which sees both sides. The seed changes nothing then. With a `sampler`, the filling is drawn from it.

    With `grammar` (or a configured sampler that asks for it) every result parses; a text that no string fits is an error.
    A generator as the `seed` makes texts given in several calls depend on their place among all of
    them. Raises TimedOut.
    """
    check_beam(beam)
    keys = new_keys(len(texts), seeded(seed))
    grammar = grammar or (isinstance(sampler, SamplerConfig) and sampler.grammar)
    constraint = (
        GrammarConstraint.of(loaded.language, deadline=loaded.deadline) if grammar else None
    )
    good, results = prepare(loaded, texts, lambda ids: blanked(loaded.language, ids, masks, constraint))
    if not good:
        return merge(texts, results, good, [])
    known = [[i != loaded.language.vocabulary.mask for i in row] for row in good.values()]
    canvas = canvas_of(loaded, good, known, keys)
    filler = ready_sampler(CERTAIN if sampler is None else sampler, loaded, grammar)
    drawn = run_sampler(loaded, filler, canvas, [None] * len(good), batch_size, trace)
    if sampler is not None:
        return merge(texts, results, good, drawn)
    found = search(loaded, good, Channel.blanks(), beam, 0, trace)
    pairs = [(a if a.parses or not grammar else replace(a, score=None), b) for a, b in zip(found, drawn)]
    return merge(texts, results, good, [_likelier(b, a) for a, b in pairs])


def _likelier(a: Result, b: Result) -> Result:
    """The one of the higher score, with the evaluations of both."""
    best = max(a, b, key=lambda result: -math.inf if result.score is None else result.score)
    return replace(best, evaluations=a.evaluations + b.evaluations)


def blanked(language: Language, ids: list[int], masks: Sequence[tuple[int, int]], constraint: Constraint | None) -> list[int]:
    """The ids with blanks at `masks`; CanvasError where they do not fit, or where no string of the constraint does."""
    language.check_length(len(ids))
    ids = hidden(language, ids, masks)
    if constraint is not None:
        known = [i != language.vocabulary.mask for i in ids]
        canvas = Canvas.of([ids], [known], language.vocabulary)
        constraint.check(canvas.tokens, ~canvas.known, canvas.length)
    return ids


def hidden(language: Language, ids: list[int], masks: Sequence[tuple[int, int]]) -> list[int]:
    """The ids with blanks at `masks`, of whatever length; CanvasError where a mask does not fit."""
    ids = list(ids)
    for first, last in masks:
        if not 0 <= first < last <= len(ids):
            raise CanvasError(
                f"mask {first}:{last} does not fit a text of {len(ids)} symbols; give A:B with 0 <= A < B <= {len(ids)}"
            )
        ids[first:last] = [language.vocabulary.mask] * (last - first)
    return ids
