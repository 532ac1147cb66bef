"""Mending damaged strings: `repair`, by a noisy channel, by refining a draft, or by least edits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maskdiff.errors import CanvasError, ConfigError, DataError, nearest, quote
from maskdiff.languages.cfg import UNREADABLE, closest
from maskdiff.repair import Channel
from maskdiff.sampling import Canvas, Everything, GrammarConstraint, Sampler, Unmask
from maskdiff.tasks.editing import CERTAIN
from maskdiff.tasks.results import BATCH, Result, check_beam, merge, prepare, run_sampler, scored, seeded
from maskdiff.tasks.search import search

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5)  # noise levels that repair sums over when none is given
REPAIR_METHODS = ("channel", "draft", "least_edits")
REWRITE = Unmask(schedule=Everything(), steps=0, own=1, temperature=0.0, rewrite=True)  # every symbol anew, the likeliest


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
    check_beam(beam)
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
    good, results = prepare(loaded, texts, lambda ids: _repairable(language, ids, slack))
    if grammar:
        whole = [i for i, ids in good.items() if language.parses(language.vocabulary.decode(ids))]
        results |= dict(zip(whole, scored(loaded, [good.pop(i) for i in whole])))
    if not good:
        return merge(texts, results, good, [])
    if method == "least_edits":
        made = _least_edits(loaded, list(good.values()))
    elif method == "channel":
        levels = SIGMAS if sigma is None else (sigma,)
        channel = Channel.of(loaded.config.noise, levels, len(language.vocabulary.inner_ids))
        made = _explain(loaded, good, channel, beam, slack, trace, grammar)
    else:
        canvas = Canvas.of(
            list(good.values()), [[False] * len(row) for row in good.values()], language.vocabulary, seeded(seed),
            sigma or 0.2, loaded.device,
        )  # fmt: skip
        made = run_sampler(loaded, refiner(steps, loaded if grammar else None), canvas, [None] * len(good), batch_size, trace)
    return merge(texts, results, good, made)


def _explain(
    loaded: Loaded, good: dict[int, list[int]], channel: Channel, beam: int, slack: int, trace: bool, grammar: bool
) -> list[Result]:
    """The most probable explanations; under the grammar, those that do not parse are searched for again among what does."""
    found = search(loaded, good, channel, beam, slack, trace)
    lost = {index: place for place, index in enumerate(good) if not found[place].parses}
    if not grammar or not lost:
        return found
    constraint = GrammarConstraint.of(loaded.language)  # on the CPU, as the search is
    again = search(loaded, {index: good[index] for index in lost}, channel, beam, slack, trace, constraint)
    for place, result in zip(lost.values(), again, strict=True):
        found[place] = replace(result, evaluations=result.evaluations + found[place].evaluations)
    return found


def _least_edits(loaded: Loaded, rows: Sequence[list[int]]) -> list[Result]:
    """The closest strings of the grammar."""
    inner, grammar = loaded.language.vocabulary.inner_ids, GrammarConstraint.of(loaded.language).grammar
    place = {token: i for i, token in enumerate(inner)}
    found = [closest(grammar, [place.get(token, UNREADABLE) for token in ids]) for ids in rows]
    return scored(loaded, [[inner[i] for i in item.symbols] for item in found])


def refiner(steps: int, under: Loaded | None = None) -> Sampler:
    """Draft repair: fill the blanks one by one, then write every symbol anew `steps` times, always the likeliest.

    `under` the grammar of a language every rewriting is its most probable string, and blanks need no filling of their own.
    """
    if under is not None:
        return replace(REWRITE, own=steps, constraint=GrammarConstraint.of(under.language, under.device))
    return CERTAIN.then(replace(REWRITE, own=steps))


def _repairable(language: Language, ids: list[int], slack: int) -> list[int]:
    if slack == 0:
        language.check_length(len(ids))
    if len(ids) > language.max_symbols + slack:
        raise CanvasError(
            f"the text has {len(ids)} symbols; {language.name} strings have {language.min_symbols} to "
            f"{language.max_symbols}, and repair changes the length by at most {slack}"
        )
    return ids
