"""Replacing a span by one of another length: `rewrite`.

For: choosing the length; what fills it is `edit`, or `solve` where the result has to hold. Not for: damaged strings, whose
length is unknown everywhere (`repair`). Easy to get wrong: scores of strings of different lengths are comparable only as
log p(x | n) + log p(n), not per symbol and not given their lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace as changed
from typing import TYPE_CHECKING

import torch

from maskdiff.config import CANDIDATES, SamplerConfig
from maskdiff.errors import CanvasError, ConfigError, DataError, one_line
from maskdiff.repair.fill import BOUND
from maskdiff.sampling import Sampler
from maskdiff.tasks.editing import edit, hide_spans, with_blanks
from maskdiff.tasks.filling import fill
from maskdiff.tasks.reading import verb
from maskdiff.tasks.results import BATCH, Result, encode_requests, merge

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

MAX_LISTED_ERRORS = 3  # failures that are told one by one


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
    """Replace symbols `replace` (first, last + 1) of each text by new ones, and fill its blanks; all else stays on its side.

    `length` counts the new symbols: a number from 0 (the span is removed) or a range with both ends; None keeps the length. An
    empty span inserts. The result is the likeliest over the lengths that fit, by log p(x | n) + log p(n) of the causal mode and
    the language; where something tells what is valid, a valid one of whatever length comes before
    all others, and each length looks at `candidates` fillings for it. `masks` count in the text as
    it is given. `holds` asks `solve`, otherwise `edit` fills, with the other settings as there. A
    text whose span is out of range, or that no length fits, is an error; ConfigError as in
    `edit`/`solve`.
    """
    first, last = replace
    low, high = (
        (last - first,) * 2
        if length is None
        else (length, length)
        if isinstance(length, int)
        else length
    )
    if not 0 <= first <= last:
        raise ConfigError(f"replace is {first}:{last}; give A:B with 0 <= A <= B")
    if not 0 <= low <= high:
        raise ConfigError(f"length is {low}..{high}; give N..M with 0 <= N <= M")
    if first == last and high == 0:
        raise ConfigError(
            f"replace {first}:{last} by nothing changes nothing; give the length of what to insert there"
        )
    if holds and sampler is not None:
        raise ConfigError("a search for what holds draws nothing; leave out the sampler")
    good, results = encode_requests(
        loaded, texts, lambda ids: _spanned(loaded, ids, masks, replace)
    )
    grammar = grammar or holds or (isinstance(sampler, SamplerConfig) and sampler.grammar)
    jobs = [
        (i, size)
        for i, ids in good.items()
        for size in _fitting(loaded, ids, replace, grammar, low, high)
    ]
    templates = [
        loaded.language.vocabulary.decode(_resized(loaded, good[i], replace, size))
        for i, size in jobs
    ]
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


def _spanned(
    loaded: Loaded, ids: list[int], masks: Sequence[tuple[int, int]], span: tuple[int, int]
) -> list[int]:
    """The ids with blanks at `masks`; CanvasError where these or the span do not fit."""
    if span[1] > len(ids):
        raise CanvasError(
            f"replace {span[0]}:{span[1]} does not fit a text of {len(ids)} symbols; give A:B with 0 <= A <= B <= {len(ids)}"
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
    """How many symbols, from `low` to `high`, may take the place of the span so that some string of the language fits."""
    constraint = None
    if grammar and loaded.language.lark_grammar() is not None:
        constraint = loaded.constraint("cpu")
    room = loaded.language.max_symbols - len(ids) + span[1] - span[0]
    fitting = []
    for size in range(low, (room if high is None else min(room, high)) + 1):
        try:
            with_blanks(loaded.language, _resized(loaded, ids, span, size), (), constraint)
        except CanvasError:
            continue
        fitting.append(size)
    return fitting


def _best(loaded: Loaded, choices: Sequence[Result]) -> Result:
    """The likeliest of results of different lengths, valid ones first, with the evaluations and the
    candidates of all; an error if all of them are."""

    def worth(result: Result) -> tuple[bool, float]:
        n, valid = len(result.text), result.parses is not False
        if result.score is None:
            return valid, -math.inf
        return valid, n * result.score + loaded.language.length_log_prob(n)

    spent = sum(result.evaluations for result in choices)
    counts = [result.candidates for result in choices if result.candidates is not None]
    found = [result for result in choices if result.error is None]
    if not found:
        said = list(dict.fromkeys(result.error or "" for result in choices))
        more = (
            [f"and so for {len(said) - MAX_LISTED_ERRORS} other lengths"]
            if len(said) > MAX_LISTED_ERRORS
            else []
        )
        return changed(
            choices[0],
            error=one_line("; ".join([*said[:MAX_LISTED_ERRORS], *more])),
            evaluations=spent,
        )
    looked = sum(counts) if counts else None
    return changed(max(found, key=worth), evaluations=spent, candidates=looked)


def _refusal(
    loaded: Loaded, ids: list[int], span: tuple[int, int], grammar: bool, low: int, high: int
) -> Result:
    """The error of a text that no length asked for fits."""
    asked = str(low) if low == high else f"{low}..{high}"
    sizes, stays, longest = (
        _fitting(loaded, ids, span, grammar),
        len(ids) - span[1] + span[0],
        loaded.language.max_symbols,
    )
    told = (
        f"possible are {_ranges(sizes)}"
        if sizes
        else "nor does any other length; change what stands beside it"
    )
    if stays > longest:
        told = f"what stays has {stays} symbols, and strings have at most {longest}"
    return Result(
        finish_reason="error", error=f"no string has {asked} symbols in place of the span; {told}"
    )


def _ranges(sizes: Sequence[int]) -> str:
    """Numbers in ascending order, neighbours as ranges: `1..3, 5`."""
    starts = [n for n in sizes if n - 1 not in sizes]
    ends = [n for n in sizes if n + 1 not in sizes]
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))
