"""`rewrite`: replaces a span by one of another length.

`edit` or `fill` fills the new span for each length. Strings of different lengths are compared by
log p(x) of the causal mode, not per symbol. It is log p(x | n) + log p(n) for a model that is given
the length; other models draw the end of a string, so that log p(x) includes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace as changed
from functools import partial
from typing import TYPE_CHECKING

import torch

from maskdiff.config import CANDIDATES, SamplerConfig
from maskdiff.errors import CanvasError, ConfigError, DataError, one_line
from maskdiff.repair.fill import BOUND
from maskdiff.sampling import Canvas, Sampler
from maskdiff.tasks.arguments import verb
from maskdiff.tasks.editing import edit, hide_spans
from maskdiff.tasks.filling import fill
from maskdiff.tasks.results import Result, encode_requests, merge
from maskdiff.tasks.running import BATCH
from maskdiff.tasks.search import length_prior

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

MAX_LISTED_ERRORS = 3  # of different lengths


@verb()
def rewrite(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    *,
    replace: tuple[int, int],
    length: int | tuple[int, int] | None = None,
    masks: Sequence[tuple[int, int]] = (),
    holds: bool = False,
    bound: int = BOUND,
    sampler: SamplerConfig | Sampler | None = None,
    beam: int = 16,
    candidates: int = CANDIDATES,
    grammar: bool = False,
    seed: int = 0,
    source: torch.Generator | None = None,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """Replace symbols `replace` (first, last + 1) of each text by new ones, and fill its blanks.

    The result is the likeliest over the lengths that fit, by log p(x) of the causal mode. If the
    language has a validity check, valid results come first, and `candidates` fillings are tested
    for each length. A text whose span is out of range, or that no length fits, is an error.

    Args:
        replace: The span; an empty one inserts before its first symbol.
        length: Number of new symbols: a number, 0 removes the span, or a range with both ends;
            None keeps the length.
        masks: Spans of other symbols that are blanks, too; they count in the given text.
        holds: Fill by `fill`, with `bound`, instead of `edit`, which takes the other settings.

    Raises ConfigError as `edit` and `fill` do.
    """
    low, high = _length_range(replace, length)
    if holds and sampler is not None:
        raise ConfigError("a search for what holds draws nothing; leave out the sampler")
    # A template for each text and length that fits.
    check = partial(_spanned, loaded, masks=masks, span=replace)
    good, results = encode_requests(loaded, texts, check)
    grammar = grammar or holds or (isinstance(sampler, SamplerConfig) and sampler.grammar)
    fitting = {i: _fitting(loaded, ids, replace, grammar, low, high) for i, ids in good.items()}
    jobs = [(i, size) for i, sizes in fitting.items() for size in sizes]
    decode = loaded.language.vocabulary.decode
    templates = [decode(_resized(loaded, good[i], replace, size)) for i, size in jobs]
    # The fillings of all templates, and the best length for each text.
    if holds:
        filled = fill(loaded, templates, bound=bound, batch_size=batch_size, trace=trace)
    else:
        filled = edit(
            loaded, templates, sampler=sampler, beam=beam, candidates=candidates, grammar=grammar,
            seed=seed, source=source, batch_size=batch_size, trace=trace,
        )  # fmt: skip
    choices: dict[int, list[Result]] = {i: [] for i in good}
    for (i, _), result in zip(jobs, filled, strict=True):
        choices[i].append(result)
    made = [
        _best(loaded, found) if found else _refusal(loaded, good[i], replace, grammar, low, high)
        for i, found in choices.items()
    ]
    return merge(texts, results, good, made)


def _length_range(span: tuple[int, int], length: int | tuple[int, int] | None) -> tuple[int, int]:
    """The range of the number of new symbols. Raises ConfigError."""
    first, last = span
    if length is None:
        length = last - first
    low, high = (length, length) if isinstance(length, int) else length
    if not 0 <= first <= last:
        raise ConfigError(f"replace is {first}:{last}; give A:B with 0 <= A <= B")
    if not 0 <= low <= high:
        raise ConfigError(f"length is {low}..{high}; give N..M with 0 <= N <= M")
    if first == last and high == 0:
        raise ConfigError(
            f"replace {first}:{last} by nothing changes nothing; "
            "give the length of what to insert there"
        )
    return low, high


def _spanned(
    loaded: Loaded, ids: list[int], masks: Sequence[tuple[int, int]], span: tuple[int, int]
) -> list[int]:
    """The ids with blanks at `masks`. Raises CanvasError for a mask or span out of range."""
    if span[1] > len(ids):
        raise CanvasError(
            f"replace {span[0]}:{span[1]} does not fit a text of {len(ids)} symbols; "
            f"give A:B with 0 <= A <= B <= {len(ids)}"
        )
    return hide_spans(loaded.language, ids, masks)


def _resized(loaded: Loaded, ids: list[int], span: tuple[int, int], size: int) -> list[int]:
    return [*ids[: span[0]], *[loaded.language.vocabulary.mask] * size, *ids[span[1] :]]


def _fitting(
    loaded: Loaded,
    ids: list[int],
    span: tuple[int, int],
    grammar: bool,
    low: int = 0,
    high: int | None = None,
) -> list[int]:
    """The numbers of new symbols, from `low` to `high`, for which some string fits."""
    constraint = None
    if grammar and loaded.language.lark_grammar() is not None:
        constraint = loaded.constraint("cpu")
    room = loaded.language.max_symbols - len(ids) + span[1] - span[0]
    rows = {}
    for size in range(low, (room if high is None else min(room, high)) + 1):
        row = _resized(loaded, ids, span, size)
        try:
            loaded.language.check_length(len(row))
        except CanvasError:
            continue
        rows[size] = row
    if constraint is None or not rows:
        return list(rows)
    canvas = Canvas.of(list(rows.values()), None, loaded.language.vocabulary)
    fits = constraint.fits(canvas.tokens, canvas.length).tolist()
    return [size for size, possible in zip(rows, fits, strict=True) if possible]


def _best(loaded: Loaded, choices: Sequence[Result]) -> Result:
    """The likeliest result, valid ones first, with the counts of all, or their errors."""
    prior = length_prior(loaded, 1)

    def rank(result: Result) -> tuple[bool, float]:
        n, valid = len(result.text), result.parses is not False
        if result.score is None:
            return valid, -math.inf
        return valid, n * result.score + prior(n)

    spent = sum(result.evaluations for result in choices)
    counts = [result.candidates for result in choices if result.candidates is not None]
    found = [result for result in choices if result.error is None]
    if not found:
        errors = list(dict.fromkeys(result.error or "" for result in choices))
        more = (
            [f"and so for {len(errors) - MAX_LISTED_ERRORS} other lengths"]
            if len(errors) > MAX_LISTED_ERRORS
            else []
        )
        return changed(
            choices[0],
            error=one_line("; ".join([*errors[:MAX_LISTED_ERRORS], *more])),
            evaluations=spent,
        )
    looked = sum(counts) if counts else None
    return changed(max(found, key=rank), evaluations=spent, candidates=looked)


def _refusal(
    loaded: Loaded, ids: list[int], span: tuple[int, int], grammar: bool, low: int, high: int
) -> Result:
    """The error of a text that no length from `low` to `high` fits."""
    wanted = str(low) if low == high else f"{low}..{high}"
    sizes = _fitting(loaded, ids, span, grammar)
    stays, longest = len(ids) - span[1] + span[0], loaded.language.max_symbols
    if stays > longest:
        remedy = f"what stays has {stays} symbols, and strings have at most {longest}"
    elif sizes:
        remedy = f"possible are {_ranges(sizes)}"
    else:
        remedy = "nor does any other length; change what stands beside it"
    error = f"no string has {wanted} symbols in place of the span; {remedy}"
    return Result(finish_reason="error", error=error)


def _ranges(sizes: Sequence[int]) -> str:
    """Numbers in ascending order, neighbours as ranges: `1..3, 5`."""
    starts = [n for n in sizes if n - 1 not in sizes]
    ends = [n for n in sizes if n + 1 not in sizes]
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))
