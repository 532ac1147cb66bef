"""`edit`: fills blanks."""

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
from maskdiff.tasks.arguments import verb
from maskdiff.tasks.results import Result, encode_requests, judged, merge, valid_first
from maskdiff.tasks.running import BATCH, canvas_of, ready_sampler, run_sampler, seeded
from maskdiff.tasks.search import explain, with_answer

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

# The most certain blank first, with its likeliest symbol.
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
    """Fill the blanks of each text; all other symbols stay.

    Without a `sampler` the result is the likelier, by the causal mode, of two fillings: that of a
    beam search by the causal mode, which scores whole strings but does not see the symbols to the
    right of a blank, and that of the bidirectional mode, most certain blank first. If the language
    has a validity check, the likeliest valid one of the first `candidates` is taken.

    Args:
        masks: Spans (first, last + 1) of symbols that are blanks, too.
        sampler: Draws the filling.
        grammar: Every result parses; a text that no string fits is an error.
        source: Random keys instead of `seed`; several calls then draw the keys of one.

    Raises TimedOut.
    """
    # The texts with blanks, and the filling by the sampler or the bidirectional mode.
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
    # The filling by the beam search, and the better one of both.
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
    """The likeliest filling, valid ones first: the one that was drawn, or one of the beam.

    Under a grammar the beam may find strings that do not parse.
    """
    language, evaluations = loaded.language, drawn.evaluations
    scores = {} if drawn.error else {drawn.text: -math.inf if drawn.score is None else drawn.score}
    log_priors = {language.vocabulary.decode(item.tokens): item.log_prior for item in found}
    for text, log_prior in log_priors.items():
        scores.setdefault(text, log_prior / len(text))
    evaluations += found[0].evaluations if found else 0
    ranked: list[str] = sorted(scores, key=lambda text: scores[text], reverse=True)
    looked = None
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
    """Return the ids with blanks at `masks`.

    Raises CanvasError for masks out of range, and if no string of the constraint fits.
    """
    language.check_length(len(ids))
    ids = hide_spans(language, ids, masks)
    if constraint is not None:
        known = [i != language.vocabulary.mask for i in ids]
        canvas = Canvas.of([ids], [known], language.vocabulary)
        constraint.check(canvas.tokens, ~canvas.known, canvas.length)
    return ids


def hide_spans(language: Language, ids: list[int], masks: Sequence[tuple[int, int]]) -> list[int]:
    """Return the ids with blanks at `masks`, of any length. Raises CanvasError."""
    ids = list(ids)
    for first, last in masks:
        if not 0 <= first < last <= len(ids):
            raise CanvasError(
                f"mask {first}:{last} does not fit a text of {len(ids)} symbols; "
                f"give A:B with 0 <= A < B <= {len(ids)}"
            )
        ids[first:last] = [language.vocabulary.mask] * (last - first)
    return ids
