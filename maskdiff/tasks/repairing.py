"""Mending damaged strings: `repair`, by a noisy channel, by refining a draft, or by least edits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maskdiff.edits import cost, edit_script
from maskdiff.errors import CanvasError, ConfigError, DataError, nearest, quote
from maskdiff.languages import Evaluable
from maskdiff.repair import Channel
from maskdiff.sampling import Canvas, Everything, GrammarConstraint, Sampler, Unmask
from maskdiff.tasks.candidates import Damaged, Pool, Wishes, explanations, needs, positions, settle, widen
from maskdiff.tasks.editing import CERTAIN
from maskdiff.tasks.results import BATCH, Result, check_beam, merge, prepare, run_sampler, seeded

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5)  # noise levels that repair sums over when none is given
REPAIR_METHODS = ("channel", "draft", "least_edits")
REWRITE = Unmask(schedule=Everything(), steps=0, own=1, temperature=0.0, rewrite=True)  # every symbol anew, the likeliest
MOST_ALTERNATIVES = 1000


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
    holds: bool = False,
    max_edits: int | None = None,
    top: int = 1,
    certain: Sequence[tuple[int, int]] = (),
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """What each damaged text was meant to be, with the edits that lead there; `?` is an unreadable symbol.

    method `channel`: the most probable explanation under the noisy channel (see `maskdiff.repair`), whose length may differ by
    up to `slack`; `sigma` is the share of symbols thought to be damaged, None sums over several levels. method `draft`: the
    length stays, blanks are filled and all symbols rewritten `steps` times by the bidirectional mode told `sigma`. method
    `least_edits`: the string of the grammar that is fewest insertions, deletions and replacements away, of whatever length,
    chosen without any model.

    With `grammar` every result parses: a text that parses comes back unchanged; where the most probable explanation does not
    parse, candidates are the beam's under the grammar and the strings of least edits, of whatever length, and the most
    probable of all of them is taken. A draft is rewritten under the grammar. `holds` implies it and takes a candidate that is
    true before all that are not; a text comes back unchanged if it holds.

    max_edits: more insertions, deletions and replacements than that are an error; filled blanks are free. certain: spans
    (first, last + 1) of symbols of each text that are neither deleted nor replaced; others may come between them. top: that
    many `alternatives`, as far as there are. What no string can be made of, within all that, is an error in its place.
    """
    wishes = Wishes(grammar or holds or method == "least_edits", holds, max_edits, top, method == "least_edits")
    _check(loaded.language, method, sigma, beam, slack, steps, wishes)
    slack = 0 if method == "draft" else slack
    language = loaded.language
    good, results = prepare(loaded, texts, lambda ids: _repairable(language, ids, slack, certain))
    damaged = {i: Damaged(ids, positions(certain)) for i, ids in good.items()}
    channel = Channel.of(loaded.config.noise, SIGMAS if sigma is None else (sigma,), len(language.vocabulary.inner_ids))
    if wishes.grammar:
        whole = [i for i, ids in good.items() if _valid(language, language.vocabulary.decode(ids), holds)]
        kept = [Pool({tuple(good.pop(i)): None}) for i in whole]
        results |= dict(zip(whole, settle(loaded, [damaged.pop(i) for i in whole], kept, channel, slack, wishes)))
    if not good:
        return merge(texts, results, good, [])
    items = list(damaged.values())
    if method == "draft":
        made = _drafts(loaded, items, sigma or 0.2, steps, seed, batch_size, trace, wishes)
    elif method == "channel":
        pools = explanations(loaded, items, channel, beam, slack, trace, wishes)
        made = settle(loaded, items, pools, channel, slack, wishes)
    else:
        pools, constraint = [Pool() for _ in items], GrammarConstraint.of(language)
        for pool, item in zip(pools, items, strict=True):
            widen(pool, item, constraint, language, wishes)
        made = settle(loaded, items, pools, channel, max(slack, 1), wishes)
    return merge(texts, results, good, made)


def _check(language: Language, method: str, sigma: float | None, beam: int, slack: int, steps: int, wishes: Wishes) -> None:
    """Raises ConfigError for settings that fit no string at all."""
    check_beam(beam)
    if method not in REPAIR_METHODS:
        raise ConfigError(
            f"method {quote(method)} is unknown; the nearest of {REPAIR_METHODS} is {nearest(method, REPAIR_METHODS)!r}"
        )
    if sigma is not None and not 0.0 < sigma <= 1.0:
        raise ConfigError(f"sigma is {sigma:g}; give the share of damaged symbols, above 0 and at most 1")
    if slack < 0 or steps < 1:
        raise ConfigError(f"slack is {slack} and steps {steps}; slack must be at least 0 and steps at least 1")
    if wishes.max_edits is not None and wishes.max_edits < 0:
        raise ConfigError(f"max_edits is {wishes.max_edits}; give 0 or more, or none to allow any number")
    if not 1 <= wishes.top <= MOST_ALTERNATIVES:
        raise ConfigError(f"top is {wishes.top}; give 1 to {MOST_ALTERNATIVES} alternatives")
    if wishes.grammar and language.lark_grammar() is None:
        raise ConfigError(f"{language.name} has no grammar; repair without grammar, or give it one")
    if wishes.holds and not isinstance(language, Evaluable):
        raise ConfigError(f"{language.name} states nothing that could hold; repair with grammar instead of holds")
    if method == "draft" and (wishes.holds or wishes.top > 1):
        raise ConfigError("a draft is rewritten as one string; holds and top need method channel or least_edits")


def _valid(language: Language, text: str, true: bool) -> bool:
    """Whether a text has nothing to repair."""
    return language.parses(text) and not (true and isinstance(language, Evaluable) and not language.holds(text))


def _drafts(
    loaded: Loaded, items: Sequence[Damaged], sigma: float, steps: int, seed: int, batch_size: int, trace: bool, wishes: Wishes
) -> list[Result]:
    """The texts rewritten, but for what is certain."""
    vocabulary, rows = loaded.language.vocabulary, [item.tokens for item in items]
    known = [[i in item.certain and token != vocabulary.mask for i, token in enumerate(item.tokens)] for item in items]
    canvas = Canvas.of(rows, known, vocabulary, seeded(seed), sigma, loaded.device)
    sampler = refiner(steps, loaded if wishes.grammar else None)
    made = run_sampler(loaded, sampler, canvas, [None] * len(rows), batch_size, trace)
    return [_counted(vocabulary.decode(row), result, vocabulary.blank, wishes) for row, result in zip(rows, made, strict=True)]


def _counted(given: str, result: Result, blank: str, wishes: Wishes) -> Result:
    """The result with its edits; an error if they are too many."""
    script = None if result.error else edit_script(given, result.text, blank)
    if script is None or wishes.max_edits is None or cost(script) <= wishes.max_edits:
        return replace(result, edits=script)
    error = needs("the rewritten draft", cost(script), wishes)
    return Result(finish_reason="error", error=error, evaluations=result.evaluations, trace=result.trace)


def refiner(steps: int, under: Loaded | None = None) -> Sampler:
    """Draft repair: fill the blanks one by one, then write every symbol anew `steps` times, always the likeliest.

    `under` the grammar of a language every rewriting is its most probable string, and blanks need no filling of their own.
    """
    if under is not None:
        return replace(REWRITE, own=steps, constraint=GrammarConstraint.of(under.language, under.device))
    return CERTAIN.then(replace(REWRITE, own=steps))


def _repairable(language: Language, ids: list[int], slack: int, certain: Sequence[tuple[int, int]]) -> list[int]:
    for first, last in certain:
        if not 0 <= first < last <= len(ids):
            raise CanvasError(
                f"certain {first}:{last} does not fit a text of {len(ids)} symbols; give A:B with 0 <= A < B <= {len(ids)}"
            )
    if slack == 0:
        language.check_length(len(ids))
    if len(ids) > language.max_symbols + slack:
        raise CanvasError(
            f"the text has {len(ids)} symbols; {language.name} strings have {language.min_symbols} to "
            f"{language.max_symbols}, and repair changes the length by at most {slack}"
        )
    return ids
