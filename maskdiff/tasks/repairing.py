"""Mending damaged strings: `repair`, by a noisy channel, by refining a draft, or by least edits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import CANDIDATES
from maskdiff.drawing.random import new_keys
from maskdiff.errors import CanvasError, ConfigError, DataError, nearest, quote
from maskdiff.languages import HasValue
from maskdiff.repair import Channel
from maskdiff.sampling import Draw, Everything, Sampler, Unmask, constrained
from maskdiff.tasks.candidates import (
    CandidatePool,
    CandidateScorer,
    Damaged,
    RepairConstraints,
    best_result,
    positions,
    too_many_edits,
)
from maskdiff.tasks.editing import CERTAIN
from maskdiff.tasks.proposing import channel_candidates, nearest_candidates, no_repair
from maskdiff.tasks.reading import verb
from maskdiff.tasks.results import (
    BATCH,
    Result,
    canvas_of,
    encode_requests,
    instead_of_holds,
    merge,
    run_sampler,
    seeded,
)
from maskdiff.text.edits import edit_cost

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5)  # noise levels that repair sums over when none is given
REPAIR_METHODS = ("channel", "draft", "least_edits")
# Every symbol anew, the likeliest.
REWRITE = Unmask(
    schedule=Everything(), steps=0, stage_steps=1, rewrite=True, draw=Draw(temperature=0.0)
)
MOST_TIMES = 2  # as long as the longest string of the language may a damaged text be


@verb()
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
    candidates: int = CANDIDATES,
    certain: Sequence[tuple[int, int]] = (),
    seed: int = 0,
    source: torch.Generator | None = None,
    batch_size: int = BATCH,
    trace: bool = False,
) -> list[Result]:
    """What each damaged text was meant to be, with the edits that lead there; a blank is an unreadable symbol.

    So is a symbol that the language does not have (`foreign`). Where something tells what is valid,
    the likeliest valid one of the first `candidates` is taken; of `top` the valid ones come first.

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
    What no string can be made of is an error in its place. seed, source: of drafts. Raises TimedOut.
    """
    keys = new_keys(len(texts), source or seeded(seed))
    language, by_edits = loaded.language, method == "least_edits"
    under, same = grammar or holds or by_edits, slack == 0 and method == "channel"
    wishes = RepairConstraints(under, holds, max_edits, top, candidates, by_edits, same)
    _check(language, method, sigma, wishes)
    read = [_read(language, text, certain) for text in texts]
    gate = _InputCheck(language, method, wishes, slack, tuple(certain))
    good, results = encode_requests(loaded, [text for text, _ in read], gate)
    decode, kept = language.vocabulary.decode, positions(certain) if good else frozenset()
    damaged = {i: Damaged(ids, decode(ids), kept, read[i][1]) for i, ids in good.items()}
    scales = CandidateScorer(loaded, _channel(loaded, sigma), wishes)
    if wishes.grammar:
        results |= _unchanged(scales, damaged, good)
    broken, made = {i: damaged[i] for i in good}, []
    if broken and method == "draft":
        made = _drafts(loaded, broken, sigma or 0.2, steps, keys, batch_size, trace, wishes)
    elif broken:
        made = _searched(scales, list(broken.values()), beam, slack, trace)
    merged = zip(merge(texts, results, good, made), read, strict=True)
    return [replace(item, foreign=foreign) for item, (_, foreign) in merged]


def _channel(loaded: Loaded, sigma: float | None) -> Channel:
    """What damages strings, at one noise level or at several."""
    levels = SIGMAS if sigma is None else (sigma,)
    return Channel.of(loaded.config.noise, levels, len(loaded.language.vocabulary.inner_ids))


def _unchanged(
    scales: CandidateScorer, damaged: dict[int, Damaged], good: dict[int, list[int]]
) -> dict[int, Result]:
    """The results of texts that have nothing to repair under the grammar, taken out of `good`."""
    language, wishes = scales.loaded.language, scales.wishes
    whole = {
        i: CandidatePool(item)
        for i, item in damaged.items()
        if _valid(language, item.text, wishes.holds)
    }
    scales.weigh([*whole.values()], [[tuple(good.pop(i))] for i in whole])
    return {
        i: best_result(pool, language, wishes) or no_repair(scales, pool)
        for i, pool in whole.items()
    }


def _searched(
    scales: CandidateScorer, items: Sequence[Damaged], beam: int, slack: int, trace: bool
) -> list[Result]:
    """The best candidate for each text, by probability or by edits."""
    language, wishes = scales.loaded.language, scales.wishes
    if wishes.by_edits:
        pools = nearest_candidates(scales, items)
    else:
        pools = channel_candidates(scales, items, beam, slack, trace)
    return [best_result(pool, language, wishes) or no_repair(scales, pool) for pool in pools]


def _read(
    language: Language, text: str | DataError, certain: Sequence[tuple[int, int]]
) -> tuple[str | DataError, dict[int, str]]:
    """A text with blanks for the symbols that the language does not have, and those by position.

    A DataError in its place where one of them is called certain.
    """
    if isinstance(text, DataError):
        return text, {}
    readable, foreign = language.vocabulary.readable(text)
    wrong = next((i for i in foreign if any(a <= i < b for a, b in certain)), None)
    if wrong is None:
        return readable, foreign
    symbol = quote(foreign[wrong])
    error = f"symbol {symbol} at position {wrong} is called certain"
    return DataError(f"{error}, and {language.name} has no such symbol"), {}


def _check(language: Language, method: str, sigma: float | None, wishes: RepairConstraints) -> None:
    """Raises ConfigError for settings that fit no string at all."""
    if method not in REPAIR_METHODS:
        raise ConfigError(
            f"method {quote(method)} is unknown; the nearest of {REPAIR_METHODS} is {nearest(method, REPAIR_METHODS)!r}"
        )
    if sigma is not None and sigma <= 0.0:
        raise ConfigError(
            f"sigma is {sigma:g}; give the share of damaged symbols, above 0 and at most 1"
        )
    if wishes.holds and not isinstance(language, HasValue):
        raise ConfigError(
            f"strings of {language.name} state nothing that could hold; "
            f"{instead_of_holds(language)}"
        )
    if wishes.grammar and language.lark_grammar() is None:
        raise ConfigError(f"{language.name} has no grammar; repair without grammar, or give it one")
    if method == "draft" and (wishes.holds or wishes.top > 1):
        raise ConfigError(
            "a draft is rewritten as one string; holds and top need method channel or least_edits"
        )


def _valid(language: Language, text: str, true: bool) -> bool:
    """Whether a text has nothing to repair."""
    return language.parses(text) and not (
        true and isinstance(language, HasValue) and not language.holds(text)
    )


def _drafts(
    loaded: Loaded,
    damaged: dict[int, Damaged],
    sigma: float,
    steps: int,
    keys: Tensor,
    batch_size: int,
    trace: bool,
    wishes: RepairConstraints,
) -> list[Result]:
    """The texts rewritten, but for what is certain."""
    vocabulary, items = loaded.language.vocabulary, list(damaged.values())
    known = [
        [i in item.certain and token != vocabulary.mask for i, token in enumerate(item.tokens)]
        for item in items
    ]
    canvas = canvas_of(loaded, {i: item.tokens for i, item in damaged.items()}, known, keys, sigma)
    sampler = refiner(steps, loaded if wishes.grammar else None)
    made = run_sampler(loaded, sampler, canvas, [None] * len(items), batch_size, trace)
    return [
        _counted(item, result, vocabulary.blank, wishes)
        for item, result in zip(items, made, strict=True)
    ]


def _counted(item: Damaged, result: Result, blank: str, wishes: RepairConstraints) -> Result:
    """The result with its edits; an error if they are too many."""
    script = None if result.error else item.script(result.text, blank)
    if script is None or wishes.max_edits is None or edit_cost(script) <= wishes.max_edits:
        change = None if script is None else item.change(script, blank)
        return replace(result, edits=script, change=change)
    error = too_many_edits("the rewritten draft", edit_cost(script), wishes)
    return Result(
        finish_reason="error", error=error, evaluations=result.evaluations, trace=result.trace
    )


def refiner(steps: int, under: Loaded | None = None) -> Sampler:
    """Draft repair: fill the blanks one by one, then write every symbol anew `steps` times, always the likeliest.

    `under` the grammar of a language every rewriting is its most probable string, and blanks need no filling of their own.
    """
    if under is not None:
        return constrained(replace(REWRITE, stage_steps=steps), under.constraint())
    return CERTAIN.then(replace(REWRITE, stage_steps=steps))


@dataclass(frozen=True)
class _InputCheck:
    """Which strings may be repaired at all; called with their ids it gives them back, or raises CanvasError."""

    language: Language
    method: str
    wishes: RepairConstraints
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
        stays = self.wishes.grammar and _valid(
            language, language.vocabulary.decode(ids), self.wishes.holds
        )
        if stays or (
            self.wishes.grammar and self.method != "draft"
        ):  # candidates may have any length
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
