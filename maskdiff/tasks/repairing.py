"""Mending damaged strings: `repair`, by a noisy channel, by refining a draft, or by least edits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.edits import cost, edit_script
from maskdiff.errors import CanvasError, ConfigError, DataError, nearest, quote
from maskdiff.languages import Evaluable
from maskdiff.repair import Channel
from maskdiff.sampling import Everything, GrammarConstraint, Sampler, Unmask
from maskdiff.sampling.random import new_keys
from maskdiff.tasks.candidates import Damaged, Pool, Scales, Wishes, needs, positions, settle
from maskdiff.tasks.editing import CERTAIN
from maskdiff.tasks.proposing import explanations, nearest_ones, refusal
from maskdiff.tasks.results import BATCH, Result, canvas_of, check_beam, merge, prepare, run_sampler, seeded

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5)  # noise levels that repair sums over when none is given
REPAIR_METHODS = ("channel", "draft", "least_edits")
REWRITE = Unmask(schedule=Everything(), steps=0, own=1, temperature=0.0, rewrite=True)  # every symbol anew, the likeliest
MOST_ALTERNATIVES = 1000
MOST_TIMES = 2  # as long as the longest string of the language may a damaged text be


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
    seed: int | torch.Generator = 0,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """What each damaged text was meant to be, with the edits that lead there; a blank is an unreadable symbol.

    method `channel`: the most probable explanation under the noisy channel (see `maskdiff.repair`), whose length may differ by
    up to `slack`; `sigma` is the share of symbols thought to be damaged, None sums over several levels. method `draft`: the
    length stays, blanks are filled and all symbols rewritten `steps` times by the bidirectional mode told `sigma`. method
    `least_edits`: the string of the grammar that is fewest insertions, deletions and replacements away, of whatever length,
    chosen without any model.

    With `grammar` every result parses: a text that parses comes back unchanged; otherwise candidates are the beam's under the
    grammar and the strings of least edits, of whatever length, and the most probable of all of them is taken. A draft is
    rewritten under the grammar. `holds` implies it and takes a candidate that is true, found near those, before all that are
    not; a text comes back unchanged if it holds, or if it parses and nothing true was found (`holds` of the result says so).

    max_edits: more insertions, deletions and replacements than that are an error; filled blanks are free. certain: spans
    (first, last + 1) of symbols of each text that are neither deleted nor replaced; others may come between them. top: that
    many `alternatives`, as far as there are: a text that comes back unchanged is the only one, for nothing is searched then.
    What no string can be made of, within all that, is an error in its place. seed: as in `edit`.
    Raises TimedOut.
    """
    keys = new_keys(len(texts), seeded(seed))
    by_edits = method == "least_edits"
    wishes = Wishes(grammar or holds or by_edits, holds, max_edits, top, by_edits, slack == 0 and method == "channel")
    _check(loaded.language, method, sigma, beam, slack, steps, wishes)
    language, gate = loaded.language, _Gate(loaded.language, method, wishes, slack, tuple(certain))
    good, results = prepare(loaded, texts, gate)
    damaged = {i: Damaged(ids, language.vocabulary.decode(ids), positions(certain)) for i, ids in good.items()}
    channel = Channel.of(loaded.config.noise, SIGMAS if sigma is None else (sigma,), len(language.vocabulary.inner_ids))
    scales = Scales(loaded, channel, wishes)
    if wishes.grammar:
        whole = {i: Pool(item) for i, item in damaged.items() if _valid(language, item.text, holds)}
        scales.weigh([*whole.values()], [[tuple(good.pop(i))] for i in whole])
        results |= {i: settle(pool, language, wishes) or refusal(language, pool, wishes) for i, pool in whole.items()}
    items = [damaged[i] for i in good]
    if not items:
        made = []
    elif method == "draft":
        made = _drafts(loaded, {i: damaged[i] for i in good}, sigma or 0.2, steps, keys, batch_size, trace, wishes)
    else:
        pools = nearest_ones(scales, items) if by_edits else explanations(scales, items, beam, slack, trace)
        made = [settle(pool, language, wishes) or refusal(language, pool, wishes) for pool in pools]
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
    loaded: Loaded,
    damaged: dict[int, Damaged],
    sigma: float,
    steps: int,
    keys: Tensor,
    batch_size: int,
    trace: bool,
    wishes: Wishes,
) -> list[Result]:
    """The texts rewritten, but for what is certain."""
    vocabulary, items = loaded.language.vocabulary, list(damaged.values())
    known = [[i in item.certain and token != vocabulary.mask for i, token in enumerate(item.tokens)] for item in items]
    canvas = canvas_of(loaded, {i: item.tokens for i, item in damaged.items()}, known, keys, sigma)
    sampler = refiner(steps, loaded if wishes.grammar else None)
    made = run_sampler(loaded, sampler, canvas, [None] * len(items), batch_size, trace)
    return [_counted(item, result, vocabulary.blank, wishes) for item, result in zip(items, made, strict=True)]


def _counted(item: Damaged, result: Result, blank: str, wishes: Wishes) -> Result:
    """The result with its edits; an error if they are too many."""
    script = None if result.error else edit_script(item.text, result.text, blank, item.certain)
    if script is None or wishes.max_edits is None or cost(script) <= wishes.max_edits:
        return replace(result, edits=script)
    error = needs("the rewritten draft", cost(script), wishes)
    return Result(finish_reason="error", error=error, evaluations=result.evaluations, trace=result.trace)


def refiner(steps: int, under: Loaded | None = None) -> Sampler:
    """Draft repair: fill the blanks one by one, then write every symbol anew `steps` times, always the likeliest.

    `under` the grammar of a language every rewriting is its most probable string, and blanks need no filling of their own.
    """
    if under is not None:
        return replace(REWRITE, own=steps, constraint=GrammarConstraint.of(under.language, under.device, under.deadline))
    return CERTAIN.then(replace(REWRITE, own=steps))


@dataclass(frozen=True)
class _Gate:
    """Which strings may be repaired at all; called with their ids it gives them back, or raises CanvasError."""

    language: Language
    method: str
    wishes: Wishes
    slack: int
    certain: tuple[tuple[int, int], ...]

    def __call__(self, ids: list[int]) -> list[int]:
        language, size = self.language, len(ids)
        for first, last in self.certain:
            if not 0 <= first < last <= size:
                raise CanvasError(
                    f"certain {first}:{last} does not fit a text of {size} symbols; give A:B with 0 <= A < B <= {size}"
                )
        if size > MOST_TIMES * language.max_symbols:
            raise CanvasError(
                f"the text has {size} symbols; {language.name} strings have at most {language.max_symbols}, and texts of more "
                f"than {MOST_TIMES} times that are not repaired"
            )
        stays = self.wishes.grammar and _valid(language, language.vocabulary.decode(ids), self.wishes.holds)
        if stays or (self.wishes.grammar and self.method != "draft"):  # candidates may have any length
            return ids
        slack = 0 if self.method == "draft" else self.slack
        if slack == 0:
            language.check_length(size)
        if size > language.max_symbols + slack:
            raise CanvasError(
                f"the text has {size} symbols; {language.name} strings have {language.min_symbols} to "
                f"{language.max_symbols}, and repair changes the length by at most {slack}"
            )
        return ids
