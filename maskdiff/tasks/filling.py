"""Filling blanks so that the result holds: `solve`.

For: running the search of `maskdiff.repair.fill` over requests, guided by the model, and choosing among what it finds. Not for: the
search itself. Easy to get wrong: the model decides what is tried first and which of several solutions is given, never whether
one is a solution: that is for the language to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.drawing.logits import allowed_symbols, log_distribution
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.languages import HasValue
from maskdiff.repair.fill import BOUND, FillOutcome, FillProblem, Guide, search_fillings
from maskdiff.sampling import Canvas, Constraint
from maskdiff.tasks.editing import with_blanks
from maskdiff.tasks.reading import verb
from maskdiff.tasks.results import (
    BATCH,
    Result,
    encode_requests,
    instead_of_holds,
    judged,
    log_probs,
    merge,
)
from maskdiff.utils.deadline import NEVER

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.drawing.settings import NextSymbol

SOLUTIONS = 16  # of which the likeliest is given
PATIENCE = 2_000  # beginnings looked at after the first solution, for others that may be likelier


@verb()
def fill(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    *,
    masks: Sequence[tuple[int, int]] = (),
    bound: int = BOUND,
    solutions: int = SOLUTIONS,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """Fill the blanks (`?`) of each text, and the symbols in `masks` (first, last + 1), so that the result holds.

    One bidirectional evaluation says what to try first; the evaluator verifies. Of the first
    `solutions` found, the likeliest by the causal mode; the search for others ends soon after the
    first. A text without solution is an error, which says whether all candidates were checked, or
    `bound` beginnings were looked at, or the deadline passed. Nothing is drawn: there is no seed.
    Raises ConfigError for a language whose strings state nothing, and for a bound or number of
    solutions below 1.
    """
    language = loaded.language
    if not isinstance(language, HasValue):
        raise ConfigError(
            f"strings of {language.name} state nothing that could hold; "
            f"{instead_of_holds(language)}"
        )
    constraint = None
    if language.lark_grammar() is not None:  # on the CPU, as the search is
        constraint = loaded.constraint("cpu")
    good, results = encode_requests(
        loaded, texts, lambda ids: with_blanks(language, ids, masks, constraint)
    )
    made = []
    for ids, told in zip(
        good.values(), _guides(loaded, list(good.values()), batch_size), strict=True
    ):
        puzzle = FillProblem(language.vocabulary.decode(ids), language.vocabulary, language.holds, language.forced_ending,
                        _mask(loaded, ids, constraint))  # fmt: skip
        outcome = search_fillings(puzzle, Guide(told), solutions, bound, PATIENCE, loaded.deadline)
        with loaded.denoiser.until(NEVER):  # what was found in time is given, however late
            made.append(_answer(loaded, puzzle.template, outcome, bound, trace))
    return merge(texts, results, good, made)


def _guides(loaded: Loaded, rows: list[list[int]], batch_size: int) -> list[Tensor]:
    """(symbols, vocab) log-probabilities of each template's positions, by one evaluation of the bidirectional mode."""
    vocabulary, guides = loaded.language.vocabulary, []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        known = [[i != vocabulary.mask for i in row] for row in part]
        canvas = Canvas.of(part, known, vocabulary, device=loaded.device)
        logits = loaded.denoiser(canvas.tokens, canvas.length, canvas.suspect, False, None)
        told = log_distribution(logits, allowed_symbols(canvas.tokens, vocabulary)).cpu()
        guides += [told[i, 1 : len(row) + 1] for i, row in enumerate(part)]
    return guides


def _mask(loaded: Loaded, ids: list[int], constraint: Constraint | None) -> NextSymbol | None:
    """What the grammar allows in a template; None without a grammar."""
    if constraint is None:
        return None
    vocabulary = loaded.language.vocabulary
    canvas = Canvas.of([ids], [[i != vocabulary.mask for i in ids]], vocabulary)
    return constraint.mask(canvas.tokens, ~canvas.known, canvas.length)


def _answer(loaded: Loaded, template: str, outcome: FillOutcome, bound: int, trace: bool) -> Result:
    """The likeliest solution, or why there is none."""
    vocabulary = loaded.language.vocabulary
    counted = f"{outcome.candidates} candidate{'s' if outcome.candidates != 1 else ''}"
    steps = (
        (*outcome.solutions, f"{counted} checked{', which is all' if outcome.exhausted else ''}")
        if trace
        else None
    )
    if not outcome.solutions:
        if outcome.exhausted:
            message = f"no filling of {quote(template)} holds: " + (
                f"all {counted} were checked"
                if outcome.candidates != 1
                else "the only candidate was checked"
            )
        elif outcome.timed_out:
            message = f"no filling of {quote(template)} that holds was found in time ({counted} checked); there may be one"
        else:
            message = (
                f"no filling of {quote(template)} that holds is among the first {bound} beginnings ({counted} checked); "
                "there may be one: raise the bound, or give more symbols"
            )
        reason = "timeout" if outcome.timed_out else "error"
        return Result(finish_reason=reason, error=message, evaluations=1, trace=steps)
    likely = torch.tensor(
        log_probs(loaded, [vocabulary.encode(text) for text in outcome.solutions])
    ).nan_to_num(-torch.inf)
    best = int(likely.argmax())
    evaluations = 1 + (len(likely) > 1)  # the guide's, and the choice among several
    result = judged(
        loaded.language, outcome.solutions[best], float(likely[best]), evaluations, steps
    )
    return replace(
        result, holds=True, finish_reason="timeout" if outcome.timed_out else result.finish_reason
    )
