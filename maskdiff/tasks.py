"""The verbs: `generate`, `repair` and `edit`; the Python API that users import.

    from maskdiff.checkpoint import load_denoiser
    from maskdiff import tasks
    loaded = load_denoiser("checkpoints/best.pt")
    for result in tasks.repair(loaded, ["(+(*75)10=45"]):
        print(result.text, result.holds, result.score)

Not for: command lines, or any sampling algorithm (`maskdiff.sampling`, `maskdiff.repair`). Easy to get wrong: one bad string
must not take the others down, so a string that nothing can be made of is a `Result` with `error` in its place; only settings
that fit no string at all raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskdiff.config import SamplerConfig
from maskdiff.errors import CanvasError, ConfigError, DataError, UserError, nearest, quote
from maskdiff.languages.cfg import UNREADABLE, closest
from maskdiff.noise import pad
from maskdiff.repair import Channel, Repaired, candidate_lengths, repair_channel
from maskdiff.sampling import (
    Canvas,
    Constraint,
    Everything,
    GrammarConstraint,
    Linear,
    Sample,
    Sampler,
    Unmask,
    causal_log_prob,
    constrained,
)

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

BATCH = 256
SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5)  # noise levels that repair sums over when none is given
REPAIR_METHODS = ("channel", "draft", "least_edits")
CERTAIN = Unmask(order="entropy", schedule=Linear(), steps=0, temperature=0.0)  # most certain blank first, its likeliest symbol

REWRITE = Unmask(schedule=Everything(), steps=0, own=1, temperature=0.0, rewrite=True)  # every symbol anew, the likeliest


@dataclass(frozen=True)
class Result:
    """What became of one request.

    text: the string, `?` where a sampler left a blank, empty with an `error`. parses, holds: strictly, by the language.
    score: log p(text | its length) per symbol in nats under the causal mode; None where there is no text. evaluations: calls
    of the denoiser that this string needed. finish_reason: `complete`, `incomplete` (blanks are left) or `error`.
    """

    text: str = ""
    parses: bool = False
    holds: bool = False
    score: float | None = None
    evaluations: int = 0
    finish_reason: str = "complete"
    input: str | None = None
    error: str | None = None
    trace: tuple[str, ...] | None = None


def generate(
    loaded: Loaded,
    num: int,
    *,
    length: int | tuple[int, int] | None = None,
    sampler: SamplerConfig | Sampler | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """`num` new strings. `length` counts symbols: one number, a range with both ends, or None for the language's own lengths.

    Raises CanvasError for a length that no string has, ConfigError for a sampler that makes no sense.
    """
    return list(generating(loaded, num, length=length, sampler=sampler, seed=seed, batch_size=batch_size, trace=trace))


def generating(
    loaded: Loaded,
    num: int,
    *,
    length: int | tuple[int, int] | None = None,
    sampler: SamplerConfig | Sampler | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> Iterator[Result]:
    """The results of `generate`, a batch at a time."""
    if num < 0:
        raise ConfigError(f"num is {num}; ask for 0 strings or more")
    if num == 0:
        return
    lengths = draw_lengths(loaded.language, num, length, seed)
    canvas = Canvas.blank(lengths, loaded.language.vocabulary, _generator(seed), loaded.device)
    filler = _sampler(sampler or SamplerConfig(), loaded)
    for rows in torch.arange(num, device=loaded.device).split(batch_size):
        yield from _results(loaded, filler, canvas[rows], [None] * len(rows), batch_size, trace)


def draw_lengths(language: Language, num: int, length: int | tuple[int, int] | None, seed: int) -> list[int]:
    """`num` lengths in symbols: the one given, or drawn from the language's distribution within a range. CanvasError."""
    if isinstance(length, int):
        return [language.check_length(length)] * num
    low, high = length or (language.min_symbols, language.max_symbols)
    if low == high:
        return [language.check_length(low)] * num
    probs = np.array(language.length_probs(), dtype=np.float64)
    sizes = np.arange(len(probs))
    probs[(sizes < low) | (sizes > high)] = 0.0
    if not probs.sum() > 0:
        raise CanvasError(
            f"length {low}..{high} is impossible for {language.name}: "
            f"its strings have {language.min_symbols} to {language.max_symbols} symbols"
        )
    drawn = np.random.default_rng([seed, 1]).choice(sizes, size=num, p=probs / probs.sum())
    return [int(n) for n in drawn]


def edit(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    *,
    masks: Sequence[tuple[int, int]] = (),
    sampler: SamplerConfig | Sampler | None = None,
    beam: int = 16,
    grammar: bool = False,
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """Fill the blanks (`?`) of each text, and the symbols in `masks` (first, last + 1); all other symbols stay as they are.

    Without a `sampler`, the likelier, by the causal mode, of two fillings: that of a beam search with the causal mode, which
    weighs whole strings but meets what stands to the right of a blank too late, and that of the bidirectional mode, most
    certain blank first, which sees both sides. The seed changes nothing then. With a `sampler`, the filling is drawn from it.

    With `grammar` (or a configured sampler that asks for it) every result parses; a text that no string fits is an error.
    """
    _check_beam(beam)
    grammar = grammar or (isinstance(sampler, SamplerConfig) and sampler.grammar)
    constraint = GrammarConstraint.of(loaded.language) if grammar else None
    good, results = _prepare(loaded, texts, lambda ids: _blanked(loaded.language, ids, masks, constraint))
    if not good:
        return _merge(texts, results, good, [])
    vocabulary, rows = loaded.language.vocabulary, list(good.values())
    known = [[i != vocabulary.mask for i in row] for row in rows]
    canvas = Canvas.of(rows, known, vocabulary, _generator(seed), device=loaded.device)
    filler = _sampler(CERTAIN if sampler is None else sampler, loaded, grammar)
    drawn = _results(loaded, filler, canvas, [None] * len(rows), batch_size, trace)
    if sampler is not None:
        return _merge(texts, results, good, drawn)
    found = _search(loaded, good, Channel.blanks(), beam, 0, trace)
    pairs = [(a if a.parses or not grammar else replace(a, score=None), b) for a, b in zip(found, drawn)]
    return _merge(texts, results, good, [_likelier(b, a) for a, b in pairs])


def _likelier(a: Result, b: Result) -> Result:
    """The one of the higher score, with the evaluations of both."""
    best = max(a, b, key=lambda result: -math.inf if result.score is None else result.score)
    return replace(best, evaluations=a.evaluations + b.evaluations)


def repair(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    *,
    method: str = "channel",
    sigma: float | None = None,
    beam: int = 16,
    slack: int = 2,
    steps: int = 3,
    grammar: bool = False,
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """What each damaged text was meant to be; `?` is an unreadable symbol.

    method `channel`: the most probable explanation under the noisy channel (see `maskdiff.repair`), whose length may differ by
    up to `slack`; `sigma` is the share of symbols thought to be damaged, None sums over several levels. method `draft`: the
    length stays, blanks are filled and all symbols rewritten `steps` times by the bidirectional mode told `sigma`. method
    `least_edits`: the string of the grammar that is fewest insertions, deletions and replacements away, of whatever length,
    without any model.

    With `grammar` every result parses: a text that parses comes back unchanged; an explanation that does not parse gives way to
    the most probable one that does, by the same search among completable prefixes; a draft is rewritten under the grammar.
    """
    _check_beam(beam)
    if method not in REPAIR_METHODS:
        raise ConfigError(
            f"method {quote(method)} is unknown; the nearest of {REPAIR_METHODS} is {nearest(method, REPAIR_METHODS)!r}"
        )
    if sigma is not None and not 0.0 < sigma <= 1.0:
        raise ConfigError(f"sigma is {sigma:g}; give the share of damaged symbols, above 0 and at most 1")
    if slack < 0 or steps < 1:
        raise ConfigError(f"slack is {slack} and steps {steps}; slack must be at least 0 and steps at least 1")
    slack = 0 if method == "draft" else slack
    language = loaded.language
    grammar = grammar or method == "least_edits"
    good, results = _prepare(loaded, texts, lambda ids: _repairable(language, ids, slack))
    if grammar:
        whole = [i for i, ids in good.items() if language.parses(language.vocabulary.decode(ids))]
        results |= dict(zip(whole, _scored(loaded, [good.pop(i) for i in whole])))
    if not good:
        return _merge(texts, results, good, [])
    if method == "least_edits":
        made = _least_edits(loaded, list(good.values()))
    elif method == "channel":
        levels = SIGMAS if sigma is None else (sigma,)
        channel = Channel.of(loaded.config.noise, levels, len(language.vocabulary.inner_ids))
        made = _explain(loaded, good, channel, beam, slack, trace, grammar)
    else:
        canvas = Canvas.of(
            list(good.values()), [[False] * len(row) for row in good.values()], language.vocabulary, _generator(seed),
            sigma or 0.2, loaded.device,
        )  # fmt: skip
        made = _results(loaded, refiner(steps, loaded if grammar else None), canvas, [None] * len(good), batch_size, trace)
    return _merge(texts, results, good, made)


def _explain(
    loaded: Loaded, good: dict[int, list[int]], channel: Channel, beam: int, slack: int, trace: bool, grammar: bool
) -> list[Result]:
    """The most probable explanations; under the grammar, those that do not parse are searched for again among what does."""
    found = _search(loaded, good, channel, beam, slack, trace)
    lost = {index: place for place, index in enumerate(good) if not found[place].parses}
    if not grammar or not lost:
        return found
    constraint = GrammarConstraint.of(loaded.language)  # on the CPU, as the search is
    again = _search(loaded, {index: good[index] for index in lost}, channel, beam, slack, trace, constraint)
    for place, result in zip(lost.values(), again, strict=True):
        found[place] = replace(result, evaluations=result.evaluations + found[place].evaluations)
    return found


def _least_edits(loaded: Loaded, rows: Sequence[list[int]]) -> list[Result]:
    """The closest strings of the grammar."""
    inner, grammar = loaded.language.vocabulary.inner_ids, GrammarConstraint.of(loaded.language).grammar
    place = {token: i for i, token in enumerate(inner)}
    found = [closest(grammar, [place.get(token, UNREADABLE) for token in ids]) for ids in rows]
    return _scored(loaded, [[inner[i] for i in item.symbols] for item in found])


def refiner(steps: int, under: Loaded | None = None) -> Sampler:
    """Draft repair: fill the blanks one by one, then write every symbol anew `steps` times, always the likeliest.

    `under` the grammar of a language every rewriting is its most probable string, and blanks need no filling of their own.
    """
    if under is not None:
        return replace(REWRITE, own=steps, constraint=GrammarConstraint.of(under.language, under.device))
    return CERTAIN.then(replace(REWRITE, own=steps))


# --------------------------------------------------------------------------------------------------------------- requests


def _check_beam(beam: int) -> None:
    if not 1 <= beam <= 1024:
        raise ConfigError(f"beam is {beam}; give 1 to 1024 hypotheses")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _sampler(sampler: SamplerConfig | Sampler, loaded: Loaded, grammar: bool = False) -> Sampler:
    if not isinstance(sampler, SamplerConfig):
        return constrained(sampler, GrammarConstraint.of(loaded.language, loaded.device)) if grammar else sampler
    from maskdiff.sampling.presets import sampler_for

    return sampler_for(replace(sampler, grammar=grammar or sampler.grammar), loaded.language, loaded.device)


def _prepare(
    loaded: Loaded, texts: Sequence[str | DataError], check: Callable[[list[int]], list[int]]
) -> tuple[dict[int, list[int]], dict[int, Result]]:
    """Token ids of the usable texts, and an error result for each other one, both by index."""
    good: dict[int, list[int]] = {}
    bad: dict[int, Result] = {}
    longest = loaded.language.max_symbols
    for index, text in enumerate(texts):
        shown = "" if isinstance(text, DataError) else text
        try:
            if isinstance(text, DataError):
                raise text
            if not text.strip():
                raise CanvasError("the text is empty; give at least one symbol or blank")
            if len(text) > 100 * (longest + 10):  # white space may be long, but encoding gigabytes helps nobody
                raise CanvasError(f"the text has {len(text)} characters; strings have at most {longest} symbols")
            good[index] = check(loaded.language.vocabulary.encode(text, blanks=True))
        except UserError as error:
            bad[index] = Result(finish_reason="error", input=shown, error=str(error))
    return good, bad


def _blanked(
    language: Language, ids: list[int], masks: Sequence[tuple[int, int]], constraint: Constraint | None
) -> list[int]:
    """The ids with blanks at `masks`; CanvasError where they do not fit, or where no string of the constraint does."""
    language.check_length(len(ids))
    for first, last in masks:
        if not 0 <= first < last <= len(ids):
            raise CanvasError(
                f"mask {first}:{last} does not fit a text of {len(ids)} symbols; give A:B with 0 <= A < B <= {len(ids)}"
            )
        ids[first:last] = [language.vocabulary.mask] * (last - first)
    if constraint is not None:
        known = [i != language.vocabulary.mask for i in ids]
        canvas = Canvas.of([ids], [known], language.vocabulary)
        constraint.check(canvas.tokens, ~canvas.known, canvas.length)
    return ids


def _repairable(language: Language, ids: list[int], slack: int) -> list[int]:
    if slack == 0:
        language.check_length(len(ids))
    if len(ids) > language.max_symbols + slack:
        raise CanvasError(
            f"the text has {len(ids)} symbols; {language.name} strings have {language.min_symbols} to "
            f"{language.max_symbols}, and repair changes the length by at most {slack}"
        )
    return ids


# ---------------------------------------------------------------------------------------------------------------- results


def _merge(
    texts: Sequence[str | DataError], bad: dict[int, Result], good: dict[int, list[int]], made: Sequence[Result]
) -> list[Result]:
    """All results in the order of `texts`, each with its input."""
    by_index = {**bad, **dict(zip(good, made))}
    return [replace(by_index[i], input="" if isinstance(text, DataError) else text) for i, text in enumerate(texts)]


def _results(
    loaded: Loaded, sampler: Sampler, canvas: Canvas, inputs: Sequence[str | None], batch_size: int, trace: bool
) -> list[Result]:
    """Run `sampler` on the canvas, similar lengths together; results in the order of the canvas."""
    order = canvas.length.cpu().argsort(stable=True)
    results: list[Result] = [Result()] * len(canvas)
    for rows in order.split(1 if trace else batch_size):
        part = canvas[rows.to(canvas.tokens.device)].trim()
        try:
            sample = sampler(loaded.denoiser, part.traced() if trace else part)
        except CanvasError as error:  # a constrained sampler, and a string that it can make nothing of
            if len(rows) == 1:
                results[int(rows)] = Result(finish_reason="error", error=str(error), input=inputs[int(rows)])
            else:  # the others are not taken down with it
                for row in rows.tolist():
                    results[row] = _results(loaded, sampler, canvas[[row]], [inputs[row]], 1, trace)[0]
            continue
        for row, result in zip(rows.tolist(), _read(loaded, sample)):
            results[row] = replace(result, input=inputs[row])
    return results


def _read(loaded: Loaded, sample: Sample) -> list[Result]:
    vocabulary = loaded.language.vocabulary
    log_probs = causal_log_prob(loaded.denoiser, sample.tokens, sample.length).tolist()
    trace = None if sample.trace is None else tuple(sample.trace.render(0, vocabulary).splitlines())
    triples = zip(sample.texts(vocabulary), log_probs, sample.evaluations.tolist())
    return [_result(loaded.language, text, log_p, count, trace) for text, log_p, count in triples]


def _result(language: Language, text: str, log_prob: float, evaluations: int, trace: tuple[str, ...] | None) -> Result:
    score = log_prob / len(text) if text and math.isfinite(log_prob) else None
    reason = "incomplete" if "?" in text or "#" in text else "complete"
    return Result(text, language.parses(text), language.holds(text), score, evaluations, reason, trace=trace)


def _search(
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
    scores = iter(_log_probs(loaded, [item.tokens for item in found if item is not None]))
    results = []
    for index, item in enumerate(found):
        trace = tuple(notes[index]) if notes is not None else None
        if item is None:
            results.append(Result(finish_reason="error", error="no string of a possible length explains the text", trace=trace))
        else:
            text = vocabulary.decode(item.tokens)
            # The leader of the last step is the best prefix of the longest candidate, not always the best explanation.
            trace = None if trace is None else (*trace, f"   =  {text}")
            results.append(_result(loaded.language, text, next(scores), item.evaluations, trace))
    return results


def _log_probs(loaded: Loaded, rows: Sequence[list[int]]) -> list[float]:
    """log p(string | its length) of each string of inner ids under the causal mode; NaN for one that it has no room for."""
    fitting = [i for i, row in enumerate(rows) if len(row) <= loaded.language.max_symbols]
    log_probs = [math.nan] * len(rows)
    for start in range(0, len(fitting), BATCH):
        part = fitting[start : start + BATCH]
        strings = pad([rows[i] for i in part], loaded.language.vocabulary)
        found = causal_log_prob(loaded.denoiser, strings.tokens.to(loaded.device), strings.length.to(loaded.device)).tolist()
        for i, log_prob in zip(part, found):
            log_probs[i] = log_prob
    return log_probs


def _scored(loaded: Loaded, rows: Sequence[list[int]]) -> list[Result]:
    """Results that are the given strings as they are; no evaluation was needed to find them."""
    texts = [loaded.language.vocabulary.decode(row) for row in rows]
    pairs = zip(texts, _log_probs(loaded, rows), strict=True)
    return [_result(loaded.language, text, log_prob, 0, None) for text, log_prob in pairs]
