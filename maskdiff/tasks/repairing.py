"""`repair`: by a noisy channel, by refining a draft, or by least edits."""

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
from maskdiff.repair import Channel, Damage, FewEdits, Truncation, named_damage
from maskdiff.sampling import Draw, Everything, Sampler, Unmask, constrained
from maskdiff.tasks.arguments import verb
from maskdiff.tasks.candidates import (
    CandidatePool,
    CandidateScorer,
    Damaged,
    RepairConstraints,
    best_result,
    positions,
    too_many_edits,
    unchanged_result,
)
from maskdiff.tasks.editing import CERTAIN
from maskdiff.tasks.proposing import (
    DEEPEST,
    channel_candidates,
    likely_originals,
    nearest_candidates,
    no_repair,
)
from maskdiff.tasks.results import Result, encode_requests, instead_of_holds, merge
from maskdiff.tasks.running import BATCH, canvas_of, run_sampler, seeded
from maskdiff.text.edits import edit_cost
from maskdiff.utils.deadline import NEVER, TimedOut

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

NOISE = "noise"  # the damage of the training noise
SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5)  # its levels, which are summed over if none is given
DRAFT_SIGMA = 0.2  # of the noise that a draft is rewritten under, if none is given
REPAIR_METHODS = ("channel", "draft", "least_edits")
# Every symbol is written again, the likeliest one.
REWRITE = Unmask(
    schedule=Everything(), steps=0, stage_steps=1, rewrite=True, draw=Draw(temperature=0.0)
)
SLACK = 2  # change of the length by the beam, if none is given
MAX_RATIO = 2  # of the length of a damaged text to the longest string of the language


@verb()
def repair(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    *,
    method: str = "channel",
    broken: bool = False,
    edits: tuple[int, int] | None = None,
    damage: str | Damage | Truncation = "edits",
    sigma: float | None = None,
    beam: int = 16,
    slack: int | None = None,
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
    """Return the likeliest original of each damaged text, with the edits that lead there.

    Blanks, and symbols that the language lacks (`foreign` of the result), count as unreadable. If
    the language has a validity check, the likeliest valid one of the first `candidates` is taken.
    A text that cannot be repaired has a result with `error`.

    Args:
        method: `channel`: the most probable original (see `maskdiff.repair`). `draft`: blanks are
            filled and all symbols rewritten `steps` times. `least_edits`: without any model.
        broken: The texts are certainly damaged: unchanged is no answer.
        edits: Least and greatest number of edits; a transposition is one, a filled blank none.
        damage: One of `DAMAGES`, `noise` (that of the training), or what `fit_damage` returns.
        sigma: Share of symbols damaged by the training noise, in (0, 1]; implies `noise`.
        slack: `channel` prefers answers whose length changes by at most `slack`; others come last.
            By default there is no preference, and the beam proposes changes of at most `SLACK`.
        grammar: Every result parses. A text that parses stays unless `broken` or `edits` forbid it.
        holds: As `grammar`, true candidates first. A text that parses stays if none is true.
        max_edits: More insertions, deletions and replacements are an error; filled blanks are free.
        top: Number of `alternatives`; a text that stays is the only one.
        certain: Spans (first, last + 1) of symbols that are neither deleted nor replaced.
        seed, source: Random keys of drafts.

    Raises:
        ConfigError: The settings fit no text.
        TimedOut: The deadline has passed.
    """
    by_edits = method == "least_edits"
    constraints = RepairConstraints(
        grammar or holds or by_edits, holds, max_edits, edits, broken, top, candidates, by_edits,
        slack=slack if method == "channel" else None,
    )  # fmt: skip
    search = _Search(method, damage, sigma, beam, slack, steps, batch_size, trace)
    keys = new_keys(len(texts), source or seeded(seed))
    return _repaired(loaded, texts, search, constraints, tuple(certain), keys)


@dataclass(frozen=True)
class _Search:
    """How candidates are found; see `repair`."""

    method: str
    damage: str | Damage | Truncation
    sigma: float | None
    beam: int
    slack: int | None
    steps: int
    batch_size: int
    trace: bool


def _repaired(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    search: _Search,
    constraints: RepairConstraints,
    certain: tuple[tuple[int, int], ...],
    keys: Tensor,
) -> list[Result]:
    """The results of `repair`."""
    _check(loaded.language, search, constraints)
    scorer = _scorer(loaded, search, constraints)
    # The texts that can be repaired.
    check = _InputCheck(loaded, search, constraints, certain)
    foreign, good, results, damaged = _encoded(loaded, texts, certain, check)
    # Texts that need no repair; then drafts or searches for the others.
    if constraints.grammar and constraints.may_stay:
        results |= _unchanged(scorer, search.method, damaged, good)
    items, made = {i: damaged[i] for i in good}, []
    if items and search.method == "draft":
        made = _drafts(loaded, items, search, keys, constraints)
    elif items:
        made = _searched(scorer, list(items.values()), search)
    merged = zip(merge(texts, results, good, made), foreign, strict=True)
    return [replace(item, foreign=symbols) for item, symbols in merged]


def _encoded(
    loaded: Loaded,
    texts: Sequence[str | DataError],
    certain: Sequence[tuple[int, int]],
    check: _InputCheck,
) -> tuple[list[dict[int, str]], dict[int, list[int]], dict[int, Result], dict[int, Damaged]]:
    """The foreign symbols of each text; token ids, errors and damaged texts by index."""
    read = [_read(loaded.language, text, certain) for text in texts]
    good, results = encode_requests(loaded, [text for text, _ in read], check)
    decode, kept = loaded.language.vocabulary.decode, positions(certain) if good else frozenset()
    damaged = {i: Damaged(ids, decode(ids), kept, read[i][1]) for i, ids in good.items()}
    return [foreign for _, foreign in read], good, results, damaged


def _scorer(loaded: Loaded, search: _Search, constraints: RepairConstraints) -> CandidateScorer:
    """The scorer of the channel of a damage, or of the training noise at one or several levels."""
    vocabulary, damage = loaded.language.vocabulary, search.damage
    symbols = len(vocabulary.inner_ids)
    if search.sigma is not None or damage == NOISE:
        levels = SIGMAS if search.sigma is None else (search.sigma,)
        channel = Channel.of(loaded.config.noise, levels, symbols)
        weights = Damage().weights(symbols)
        return CandidateScorer(loaded, channel, constraints, weights, wide=True)
    known = named_damage(damage, vocabulary) if isinstance(damage, str) else damage
    if isinstance(known, Truncation):
        if loaded.ngram is None:
            raise ConfigError(
                "damage 'truncation' needs an n-gram, and the checkpoint has none; "
                "fit one to the corpus: maskdiff fit FOLDER"
            )
        return CandidateScorer(loaded, known, constraints)
    edits = FewEdits(known, constraints.broken)
    return CandidateScorer(loaded, edits, constraints, known.weights(symbols))


def _unchanged(
    scorer: CandidateScorer, method: str, damaged: dict[int, Damaged], good: dict[int, list[int]]
) -> dict[int, Result]:
    """The results of texts that need no repair under the grammar; they are removed from `good`.

    By `channel`, the probability of a text is its share among the likely originals that parse.
    """
    loaded, constraints = scorer.loaded, scorer.constraints
    stay = [i for i in good if _valid(loaded.language, damaged[i].text, constraints.holds)]
    texts = [tuple(good.pop(i)) for i in stay]
    pools = [CandidatePool(damaged[i]) for i in stay]
    known = method == "channel"
    try:
        rivals = [likely_originals(scorer, pool.damaged) if known else [] for pool in pools]
        scorer.add_proposed(
            pools, [[text, *more] for text, more in zip(texts, rivals, strict=True)]
        )
        for pool, more in zip(pools, rivals, strict=True):
            pool.evaluations += bool(more)  # of the causal mode, for all candidates together
    except TimedOut:  # the texts alone, without a probability
        known, constraints = False, replace(constraints, top=1)
        with loaded.denoiser.until(NEVER):
            scorer.add_proposed(pools, [[text] for text in texts])
    made = [unchanged_result(pool, constraints) or no_repair(scorer, pool) for pool in pools]
    if not known:
        made = [replace(result, probability=None) for result in made]
    return dict(zip(stay, made, strict=True))


def _searched(scorer: CandidateScorer, items: Sequence[Damaged], search: _Search) -> list[Result]:
    """The best candidate for each text, by probability or by edits."""
    language, constraints = scorer.loaded.language, scorer.constraints
    if constraints.by_edits:
        pools = nearest_candidates(scorer, items)
    else:
        width = SLACK if search.slack is None else search.slack
        pools = channel_candidates(scorer, items, search.beam, width, search.trace)
    return [best_result(pool, language, constraints) or no_repair(scorer, pool) for pool in pools]


def _read(
    language: Language, text: str | DataError, certain: Sequence[tuple[int, int]]
) -> tuple[str | DataError, dict[int, str]]:
    """The text with blanks for the symbols that the language lacks, and these by position.

    A DataError takes the place of the text if one of them is called certain.
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


def _check(language: Language, search: _Search, constraints: RepairConstraints) -> None:
    """Raise ConfigError for settings that fit no string."""
    method, sigma, edits = search.method, search.sigma, constraints.edits
    if method not in REPAIR_METHODS:
        raise ConfigError(
            f"method {quote(method)} is unknown; "
            f"the nearest of {REPAIR_METHODS} is {nearest(method, REPAIR_METHODS)!r}"
        )
    if sigma is not None and sigma <= 0.0:
        raise ConfigError(
            f"sigma is {sigma:g}; give the share of damaged symbols, above 0 and at most 1"
        )
    if sigma is not None and search.damage not in ("edits", NOISE):
        raise ConfigError("sigma is for damage noise; leave out one of the two")
    if method != "channel" and search.damage not in ("edits", NOISE):
        raise ConfigError(f"damage is for method channel; leave it out for {method}")
    if edits is not None and edits[0] > edits[1]:
        raise ConfigError(f"edits are {edits[0]} to {edits[1]}; give the smaller number first")
    if constraints.holds and not isinstance(language, HasValue):
        raise ConfigError(
            f"strings of {language.name} state nothing that could hold; "
            f"{instead_of_holds(language)}"
        )
    if constraints.grammar and language.lark_grammar() is None:
        raise ConfigError(f"{language.name} has no grammar; repair without grammar, or give it one")
    if method == "draft" and (constraints.holds or constraints.top > 1):
        raise ConfigError(
            "a draft is rewritten as one string; holds and top need method channel or least_edits"
        )
    if method == "draft" and (constraints.broken or edits is not None):
        raise ConfigError("a draft may stay as it is; broken and edits need another method")


def _valid(language: Language, text: str, true: bool) -> bool:
    """Whether a text needs no repair."""
    false = true and isinstance(language, HasValue) and not language.holds(text)
    return language.parses(text) and not false


def _drafts(
    loaded: Loaded,
    damaged: dict[int, Damaged],
    search: _Search,
    keys: Tensor,
    constraints: RepairConstraints,
) -> list[Result]:
    """The texts rewritten, except for certain symbols."""
    vocabulary, items = loaded.language.vocabulary, list(damaged.values())
    known = [
        [i in item.certain and token != vocabulary.mask for i, token in enumerate(item.tokens)]
        for item in items
    ]
    rows, sigma = {i: item.tokens for i, item in damaged.items()}, search.sigma or DRAFT_SIGMA
    canvas = canvas_of(loaded, rows, known, keys, sigma)
    sampler = refiner(search.steps, loaded if constraints.grammar else None)
    inputs = [None] * len(items)
    made = run_sampler(loaded, sampler, canvas, inputs, search.batch_size, search.trace)
    return [
        _counted(item, result, vocabulary.blank, constraints)
        for item, result in zip(items, made, strict=True)
    ]


def _counted(item: Damaged, result: Result, blank: str, constraints: RepairConstraints) -> Result:
    """The result with its edits; an error if they are too many."""
    script = None if result.error else item.script(result.text, blank)
    if (
        script is None
        or constraints.max_edits is None
        or edit_cost(script) <= constraints.max_edits
    ):
        change = None if script is None else item.change(script, blank)
        return replace(result, edits=script, change=change)
    error = too_many_edits("the rewritten draft", edit_cost(script), constraints)
    return Result(
        finish_reason="error", error=error, evaluations=result.evaluations, trace=result.trace
    )


def refiner(steps: int, under: Loaded | None = None) -> Sampler:
    """Return the sampler of drafts: fill the blanks, then rewrite every symbol `steps` times.

    It takes the likeliest symbols. `under` the grammar of a language every rewriting is the most
    probable string.
    """
    if under is not None:
        return constrained(replace(REWRITE, stage_steps=steps), under.constraint())
    return CERTAIN.then(replace(REWRITE, stage_steps=steps))


@dataclass(frozen=True)
class _InputCheck:
    """Return the ids of a text that can be repaired; raises CanvasError for others."""

    loaded: Loaded
    search: _Search
    constraints: RepairConstraints
    certain: tuple[tuple[int, int], ...]

    def __call__(self, ids: list[int]) -> list[int]:
        language, size = self.loaded.language, len(ids)
        for first, last in self.certain:
            if not 0 <= first < last <= size:
                raise CanvasError(
                    f"certain {first}:{last} does not fit a text of {size} symbols; "
                    f"give A:B with 0 <= A < B <= {size}"
                )
        if size > MAX_RATIO * language.max_symbols:
            raise CanvasError(
                f"the text has {size} symbols; {language.name} strings have at most "
                f"{language.max_symbols}, and texts of more than {MAX_RATIO} times that are not "
                "repaired"
            )
        # A text that stays, or candidates of any length: no limit of its own.
        under = self.constraints.grammar
        draft = self.search.method == "draft"
        if under and not draft:
            return ids
        text = language.vocabulary.decode(ids)
        if under and _valid(language, text, self.constraints.holds):
            return ids
        if draft or self.search.slack == 0:
            language.check_length(size)
        most, given = self._change()
        if size > language.max_symbols + most:
            raise CanvasError(
                f"the text has {size} symbols; {language.name} strings have "
                f"{language.min_symbols} to {language.max_symbols}, and repair changes the length "
                f"by at most {most}{given}"
            )
        return ids

    def _change(self) -> tuple[int, str]:
        """The maximal change of the length, and the option that sets it."""
        if self.search.slack is not None:
            return self.search.slack, " (--slack)"
        return SLACK if self.loaded.ngram is None else DEEPEST, ""
