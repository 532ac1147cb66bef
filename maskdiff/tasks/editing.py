"""Filling blanks: `edit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from maskdiff.config import CANDIDATES, SamplerConfig
from maskdiff.drawing.random import new_keys
from maskdiff.errors import CanvasError, DataError
from maskdiff.repair import Channel, Repaired
from maskdiff.sampling import Canvas, Constraint, Draw, Linear, Sampler, Unmask
from maskdiff.tasks.reading import verb
from maskdiff.tasks.results import (
    BATCH,
    Result,
    canvas_of,
    encode_requests,
    judged,
    merge,
    ready_sampler,
    run_sampler,
    seeded,
    valid_first,
)
from maskdiff.tasks.search import explain, with_answer

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

# The most certain blank first, its likeliest symbol.
CERTAIN = Unmask(order="entropy", schedule=Linear(), steps=0, draw=Draw(temperature=0.0))


@verb()
def edit(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    *,
    masks: Sequence[tuple[int, int]] = (),
    sampler: SamplerConfig | Sampler | None = None,
    beam: int = 16,
    candidates: int = CANDIDATES,
    grammar: bool = False,
    seed: int = 0,
    source: torch.Generator | None = None,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """Fill the blanks (`?`, or `¿` where `?` is a symbol) of each text, and the symbols in `masks` (first, last + 1).

    All other symbols stay as they are.

    Without a `sampler`, the likelier, by the causal mode, of two fillings: that of a beam search with the causal mode, which
    weighs whole strings but meets what stands to the right of a blank too late, and that of the bidirectional mode, most
    certain blank first, which sees both sides. Where something tells what is valid and the likelier
    one is not, the likeliest valid one of the first `candidates`: the beam's are looked at, too.
    The seed changes nothing then. With a `sampler`, the filling is drawn from it.

    With `grammar` (or a configured sampler that asks for it) every result parses; a text that no string fits is an error.
    A `source` of random keys takes the place of the seed: texts of several calls then get the keys
    that they would get in one. Raises TimedOut.
    """
    keys = new_keys(len(texts), source or seeded(seed))
    grammar = grammar or (isinstance(sampler, SamplerConfig) and sampler.grammar)
    constraint = loaded.constraint("cpu") if grammar else None
    good, results = encode_requests(
        loaded, texts, lambda ids: with_blanks(loaded.language, ids, masks, constraint)
    )
    if not good:
        return merge(texts, results, good, [])
    known = [[i != loaded.language.vocabulary.mask for i in row] for row in good.values()]
    canvas = canvas_of(loaded, good, known, keys)
    filler = ready_sampler(CERTAIN if sampler is None else sampler, loaded, grammar)
    drawn = run_sampler(loaded, filler, canvas, [None] * len(good), batch_size, trace)
    if sampler is not None:
        return merge(texts, results, good, drawn)
    rows = list(good.values())
    found, notes = explain(loaded, rows, Channel.blanks(), beam, 0, trace, top=None)
    chosen = [
        _chosen(loaded, a, b, steps, candidates, grammar)
        for a, b, steps in zip(drawn, found, notes, strict=True)
    ]
    return merge(texts, results, good, chosen)


def _chosen(
    loaded: Loaded,
    drawn: Result,
    found: Sequence[Repaired],
    steps: tuple[str, ...] | None,
    look: int,
    grammar: bool,
) -> Result:
    """The likeliest filling, valid ones first: the one that was drawn, or one of the beam's.

    Under a grammar what was drawn obeys it, and what the beam found may not.
    """
    language, evaluations = loaded.language, drawn.evaluations
    scores = {} if drawn.error else {drawn.text: -math.inf if drawn.score is None else drawn.score}
    log_priors = {language.vocabulary.decode(item.tokens): item.log_prior for item in found}
    for text, log_prior in log_priors.items():
        scores.setdefault(text, log_prior / len(text))
    evaluations += found[0].evaluations if found else 0
    ranked, looked = sorted(scores, key=lambda text: scores[text], reverse=True), None
    if language.validity:
        ranked, looked = valid_first(ranked, language.parses, look)
    if not ranked or ranked[0] == drawn.text or (grammar and not language.parses(ranked[0])):
        return replace(drawn, evaluations=evaluations, candidates=looked)
    shown = with_answer(steps, ranked[0])
    made = judged(language, ranked[0], log_priors[ranked[0]], evaluations, shown)
    return replace(made, candidates=looked)


def with_blanks(
    language: Language,
    ids: list[int],
    masks: Sequence[tuple[int, int]],
    constraint: Constraint | None,
) -> list[int]:
    """The ids with blanks at `masks`; CanvasError where they do not fit, or where no string of the constraint does."""
    language.check_length(len(ids))
    ids = hide_spans(language, ids, masks)
    if constraint is not None:
        known = [i != language.vocabulary.mask for i in ids]
        canvas = Canvas.of([ids], [known], language.vocabulary)
        constraint.check(canvas.tokens, ~canvas.known, canvas.length)
    return ids


def hide_spans(language: Language, ids: list[int], masks: Sequence[tuple[int, int]]) -> list[int]:
    """The ids with blanks at `masks`, of whatever length; CanvasError where a mask does not fit."""
    ids = list(ids)
    for first, last in masks:
        if not 0 <= first < last <= len(ids):
            raise CanvasError(
                f"mask {first}:{last} does not fit a text of {len(ids)} symbols; give A:B with 0 <= A < B <= {len(ids)}"
            )
        ids[first:last] = [language.vocabulary.mask] * (last - first)
    return ids
