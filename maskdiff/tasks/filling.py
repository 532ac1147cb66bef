"""`fill`: fills blanks so that the result holds, by the search of `maskdiff.repair.fill`.

The model decides which filling is tried first and which of several solutions is returned; the
language decides what is a solution.
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
from maskdiff.tasks.arguments import verb
from maskdiff.tasks.editing import with_blanks
from maskdiff.tasks.results import Result, encode_requests, instead_of_holds, judged, merge
from maskdiff.tasks.running import BATCH, log_probs
from maskdiff.utils.deadline import NEVER

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.drawing.settings import NextSymbol

SOLUTIONS = 16  # among which the likeliest is chosen
PATIENCE = 2_000  # prefixes examined after the first solution, for likelier ones


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
    """Fill the blanks of each text so that the result holds.

    One evaluation of the bidirectional mode orders the search, and the language verifies. The
    result is the likeliest, by the causal mode, of the first `solutions`. A text without a solution
    has an error, which names the reason: all candidates were checked, `bound` prefixes were
    examined, or the deadline passed. Nothing is random.

    Args:
        masks: Spans (first, last + 1) of symbols that are blanks, too.

    Raises ConfigError for a language whose strings state nothing.
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
    guides = _guides(loaded, list(good.values()), batch_size)
    for ids, log_probs_of_symbols in zip(good.values(), guides, strict=True):
        problem = FillProblem(
            template=language.vocabulary.decode(ids),
            vocabulary=language.vocabulary,
            holds=language.holds,
            forced_ending=language.forced_ending,
            mask=_mask(loaded, ids, constraint),
        )
        outcome = search_fillings(
            problem, Guide(log_probs_of_symbols), solutions, bound, PATIENCE, loaded.deadline
        )
        with loaded.denoiser.until(NEVER):  # solutions found in time are scored after the deadline
            made.append(_answer(loaded, problem.template, outcome, bound, trace))
    return merge(texts, results, good, made)


def _guides(loaded: Loaded, rows: list[list[int]], batch_size: int) -> list[Tensor]:
    """Log-probabilities (symbols, vocab) of each template, by the bidirectional mode."""
    vocabulary, guides = loaded.language.vocabulary, []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        known = [[i != vocabulary.mask for i in row] for row in part]
        canvas = Canvas.of(part, known, vocabulary, device=loaded.device)
        logits = loaded.denoiser(canvas.tokens, canvas.length, canvas.suspect, False, None)
        log_p = log_distribution(logits, allowed_symbols(canvas.tokens, vocabulary)).cpu()
        guides += [log_p[i, 1 : len(row) + 1] for i, row in enumerate(part)]
    return guides


def _mask(loaded: Loaded, ids: list[int], constraint: Constraint | None) -> NextSymbol | None:
    """The mask of what the grammar allows in a template; None without a grammar."""
    if constraint is None:
        return None
    vocabulary = loaded.language.vocabulary
    canvas = Canvas.of([ids], [[i != vocabulary.mask for i in ids]], vocabulary)
    return constraint.mask(canvas.tokens, ~canvas.known, canvas.length)


def _answer(loaded: Loaded, template: str, outcome: FillOutcome, bound: int, trace: bool) -> Result:
    """The likeliest solution, or the reason for none."""
    vocabulary = loaded.language.vocabulary
    counted = f"{outcome.candidates} candidate{'s' if outcome.candidates != 1 else ''}"
    steps = (
        (*outcome.solutions, f"{counted} checked{', which is all' if outcome.exhausted else ''}")
        if trace
        else None
    )
    if not outcome.solutions:
        return Result(
            finish_reason="timeout" if outcome.timed_out else "error",
            error=_no_solution(template, outcome, counted, bound),
            evaluations=1,
            trace=steps,
        )
    likely = torch.tensor(
        log_probs(loaded, [vocabulary.encode(text) for text in outcome.solutions])
    ).nan_to_num(-torch.inf)
    best = int(likely.argmax())
    evaluations = 1 + (len(likely) > 1)  # for the guide, and for the choice among several
    result = judged(
        loaded.language, outcome.solutions[best], float(likely[best]), evaluations, steps
    )
    return replace(
        result, holds=True, finish_reason="timeout" if outcome.timed_out else result.finish_reason
    )


def _no_solution(template: str, outcome: FillOutcome, counted: str, bound: int) -> str:
    """The error of a template without a solution."""
    if outcome.exhausted:
        all_of_them = "the only candidate was checked"
        if outcome.candidates != 1:
            all_of_them = f"all {counted} were checked"
        return f"no filling of {quote(template)} holds: {all_of_them}"
    if outcome.timed_out:
        return (
            f"no filling of {quote(template)} that holds was found in time ({counted} checked); "
            "there may be one"
        )
    return (
        f"no filling of {quote(template)} that holds is among the first {bound} prefixes "
        f"({counted} checked); there may be one: raise the bound, or give more symbols"
    )
