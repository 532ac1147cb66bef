"""What becomes of a request: the `Result`, and what every verb does to make one.

For: reading requests, running a sampler over them, scoring and judging strings. Not for: deciding what a verb does with them.
Easy to get wrong: one bad string must not take the others down, so errors stand in the place of their string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.errors import CanvasError, ConfigError, DataError, UserError
from maskdiff.languages import truth_of
from maskdiff.noise import pad
from maskdiff.sampling import (
    NEVER,
    Canvas,
    Penalties,
    Sample,
    Sampler,
    Stopping,
    causal_log_prob,
    constrained,
    cut_short,
    penalised,
)
from maskdiff.sampling.presets import make_sampler
from maskdiff.text.answers import first_complete
from maskdiff.text.edits import Edit
from maskdiff.utils.deadline import TimedOut

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.decoding import Summary
    from maskdiff.languages import Language, Vocabulary

BATCH = 256
FAR_SHARE = 0.3  # of the readable symbols: an answer that changes more is far from the text
FAR_UNREADABLE = 1 / 2  # of all symbols: where more are unreadable, any answer is far from the text
FAR_SYMBOLS = 3  # that an answer far from a text changes at least: short texts have large shares
Item = TypeVar("Item")


@dataclass(frozen=True)
class Alternative:
    """One of several repaired strings, best first; `parses` and `holds` as in `Result`.

    score: log p(text) + log p(input | text) in nats, by the causal mode, the language's lengths and the noisy channel; None
    where the model has no room for the text. share: of the probability of all candidates that fit what was asked. edits: as in
    `Result`.
    """

    text: str
    parses: bool | None
    holds: bool | None
    score: float | None
    share: float
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Change:
    """How much of a repaired text is new. Blanks of the text are not counted.

    changed: symbols of the `given` ones that were deleted, replaced or unreadable. unreadable:
    those that are no symbols of the language.
    """

    changed: int
    given: int
    unreadable: int = 0

    @property
    def far(self) -> bool:
        """Whether the answer is too different from the text to be called a repair of it."""
        replaced, readable = self.changed - self.unreadable, self.given - self.unreadable
        most = replaced > FAR_SHARE * readable or self.unreadable > FAR_UNREADABLE * self.given
        return self.changed >= FAR_SYMBOLS and most


@dataclass(frozen=True)
class Result:
    """What became of one request.

    text: the string, `?` where a sampler left a blank, empty with an `error`. parses, holds: strictly, by the language; None
    where it cannot tell: nothing checks its strings, or they state nothing that could be true. score: log p(text | its length)
    per symbol in nats under the causal mode; None where there is no text, or a part of what was drawn. evaluations: calls of
    the denoiser that this string needed. finish_reason: `eos` (the string is whole), `stop` (a stop text or token, or what
    followed the first complete string was cut off), `length` (cut where the model takes no more, or at `max_tokens`),
    `repetition` (a loop), `incomplete` (blanks are left), `timeout` (the time was up: the best so far, or an error) or `error`.
    edits: what was done to the input, where it was repaired.
    alternatives: where several were asked for, this one first. completion: what conditioning on the text that was completed
    found and cost; then the score is log p of all tokens drawn, per symbol. candidates: how many
    were looked at for a valid one, where there was a choice and something tells what is valid.
    foreign: symbols of the input, by position, that the language does not have and that were read as blanks.
    change: of a repaired text, how much of it the answer keeps.
    """

    text: str = ""
    parses: bool | None = False
    holds: bool | None = False
    score: float | None = None
    evaluations: int = 0
    finish_reason: str = "eos"
    input: str | None = None
    error: str | None = None
    trace: tuple[str, ...] | None = None
    edits: tuple[Edit, ...] | None = None
    alternatives: tuple[Alternative, ...] = ()
    completion: Summary | None = None
    candidates: int | None = None
    foreign: Mapping[int, str] = field(default_factory=dict)
    change: Change | None = None


def valid_first(
    items: Sequence[Item], valid: Callable[[Item], bool], look: int, top: int = 1
) -> tuple[list[Item], int]:
    """The items with the valid ones of the first `look` in front, and how many were looked at.

    The order stays within both classes. For `top` 1 only the first has to be found, which ends the
    search; for more, `top` items at least are looked at.
    """
    window = items[: max(look, top)]
    looked = len(window)
    if top == 1:
        looked = next((n for n, item in enumerate(window, 1) if valid(item)), looked)
    ordered = sorted(window[:looked], key=lambda item: not valid(item))
    return [*ordered, *items[looked:]], looked


def instead_of_holds(language: Language) -> str:
    """What to do without `holds`, for the error of a language that states nothing."""
    if language.validity:
        return f"leave out holds: what {language.validity} calls valid comes first without it"
    return "leave out holds"


def seeded(seed: int) -> torch.Generator:
    """The source of random keys that a seed stands for."""
    return torch.Generator().manual_seed(seed)


def ready_sampler(
    sampler: SamplerConfig | Sampler,
    loaded: Loaded,
    grammar: bool = False,
    control: ControlConfig | None = None,
) -> Sampler:
    if loaded.vocabulary.merges and (
        grammar or (isinstance(sampler, SamplerConfig) and sampler.grammar)
    ):
        raise ConfigError(
            "a grammar conditions characters, and this model reads pieces of several; sample without one"
        )
    if not isinstance(sampler, SamplerConfig):
        made = sampler
    else:
        made, grammar = make_sampler(sampler), grammar or sampler.grammar
    if grammar:
        made = constrained(made, loaded.constraint())
    controls = Penalties.of(control or ControlConfig(), loaded.vocabulary)
    return penalised(made, controls) if controls.active else made


def encode_requests(
    loaded: Loaded, texts: Sequence[str | DataError], check: Callable[[list[int]], list[int]]
) -> tuple[dict[int, list[int]], dict[int, Result]]:
    """Token ids of the usable texts, and an error result for each other one, both by index.

    Raises ConfigError for a model that does not read symbol by symbol, or is not told the length: then no text can be.
    """
    if loaded.vocabulary.merges or not loaded.length_conditioned:
        raise ConfigError(
            "this model reads pieces of several characters, or ends its strings itself; repairing, editing and solving go by "
            "symbols: give the checkpoint of a vocabulary of characters, or complete (with --suffix where the end is known)"
        )
    good: dict[int, list[int]] = {}
    bad: dict[int, Result] = {}
    longest = loaded.language.max_symbols
    for index, text in enumerate(texts):
        shown = "" if isinstance(text, DataError) else text
        try:
            if isinstance(text, DataError):
                raise text
            if not loaded.language.vocabulary.characters(text):
                raise CanvasError("the text is empty; give at least one symbol or blank")
            if len(text) > 100 * (
                longest + 10
            ):  # white space may be long, but encoding gigabytes helps nobody
                raise CanvasError(
                    f"the text has {len(text)} characters; strings have at most {longest} symbols"
                )
            good[index] = check(loaded.language.vocabulary.encode(text, blanks=True))
        except TimedOut:
            raise
        except UserError as error:
            bad[index] = Result(finish_reason="error", input=shown, error=str(error))
    return good, bad


def merge(
    texts: Sequence[str | DataError],
    bad: dict[int, Result],
    good: dict[int, list[int]],
    made: Sequence[Result],
) -> list[Result]:
    """All results in the order of `texts`, each with its input."""
    by_index = {**bad, **dict(zip(good, made))}
    return [
        replace(by_index[i], input="" if isinstance(text, DataError) else text)
        for i, text in enumerate(texts)
    ]


def canvas_of(
    loaded: Loaded,
    rows: dict[int, list[int]],
    known: Sequence[Sequence[bool]],
    keys: Tensor,
    sigma: float = 0.0,
) -> Canvas:
    """The canvas of usable texts by their index; `keys` are those of all texts, so none depends on
    the others."""
    canvas = Canvas.of(
        [*rows.values()], known, loaded.language.vocabulary, None, sigma, loaded.device
    )
    return replace(canvas, keys=keys[list(rows)].to(loaded.device))


def run_sampler(
    loaded: Loaded,
    sampler: Sampler,
    canvas: Canvas,
    inputs: Sequence[str | None],
    batch_size: int,
    trace: bool,
    control: ControlConfig | None = None,
) -> list[Result]:
    """Run `sampler` on the canvas, similar lengths together; results in the order of the canvas.

    Of `control` only what ends a string: a canvas has its length, so it is filled and then cut where it would have ended.
    """
    order = canvas.length.cpu().argsort(stable=True)
    results: list[Result] = [Result()] * len(canvas)
    for rows in order.split(1 if trace else batch_size):
        part = canvas[rows.to(canvas.tokens.device)].trim()
        try:
            sample = sampler(loaded.denoiser, part.traced() if trace else part)
        except (
            CanvasError
        ) as error:  # a constrained sampler, and a string that it can make nothing of
            if len(rows) == 1:
                results[int(rows)] = Result(
                    finish_reason="error", error=str(error), input=inputs[int(rows)]
                )
            else:  # the others are not taken down with it
                for row in rows.tolist():
                    results[row] = run_sampler(
                        loaded, sampler, canvas[[row]], [inputs[row]], 1, trace, control
                    )[0]
            continue
        for row, result in zip(rows.tolist(), _read(loaded, sample, control or ControlConfig())):
            results[row] = replace(result, input=inputs[row])
    return results


def _read(loaded: Loaded, sample: Sample, control: ControlConfig) -> list[Result]:
    vocabulary = loaded.vocabulary
    log_probs = causal_log_prob(loaded.denoiser, sample.tokens, sample.length).tolist()
    if not loaded.length_conditioned:  # log p(text | its length) is no prediction of this model
        log_probs = [math.nan] * len(sample.length)
    trace = None if sample.trace is None else tuple(sample.trace.render(0, vocabulary).split("\n"))
    triples = zip(sample.texts(vocabulary), log_probs, sample.evaluations.tolist())
    results = [judged(loaded.language, text, log_p, count, trace) for text, log_p, count in triples]
    for index, (text, reason) in enumerate(cut_texts(sample, vocabulary, control)):
        if reason != "eos":
            results[index] = ended(loaded.language, results[index], text, reason)
    return (
        [only_complete(loaded.language, result) for result in results]
        if control.first_complete
        else results
    )


def cut_texts(
    sample: Sample, vocabulary: Vocabulary, control: ControlConfig
) -> list[tuple[str, str]]:
    """Where each string of a sample would have ended, and why; nothing where `control` ends none."""
    stopping = Stopping.of(control, vocabulary.utf8)
    if stopping == replace(NEVER, repeats=stopping.repeats):
        return []
    rows = zip(sample.tokens.tolist(), sample.length.tolist(), strict=True)
    ends = (cut_short(row[1 : n - 1], vocabulary.utf8, stopping) for row, n in rows)
    return [(data.decode(errors="replace"), reason) for data, reason in ends]


def judged(
    language: Language, text: str, log_prob: float, evaluations: int, trace: tuple[str, ...] | None
) -> Result:
    score = log_prob / len(text) if text and math.isfinite(log_prob) else None
    reason = "incomplete" if language.vocabulary.is_open(text) else "eos"
    parses = language.parses(text) if language.validity else None
    return Result(text, parses, truth_of(language, text), score, evaluations, reason, trace=trace)


def ended(language: Language, result: Result, text: str, reason: str) -> Result:
    """A result cut to `text`, of which alone the language is asked; nothing scores a part of what was drawn."""
    own = judged(language, text, math.nan, result.evaluations, result.trace)
    return replace(
        result, text=text, parses=own.parses, holds=own.holds, score=None, finish_reason=reason
    )


def only_complete(language: Language, result: Result) -> Result:
    """Of a result the first string that parses; the result itself where nothing does, or it does as a whole.

    Raises ConfigError for a language in which nothing tells.
    """
    if not language.validity:
        raise ConfigError(
            f"first_complete asks the parser, and {language.name} has none; leave it out"
        )
    found = None if result.parses else first_complete(result.text, language)
    return result if found is None else ended(language, result, found.text, "stop")


def log_probs(loaded: Loaded, rows: Sequence[list[int]]) -> list[float]:
    """log p(string | its length) of each string of inner ids under the causal mode; NaN for one that it has no room for."""
    fitting = [i for i, row in enumerate(rows) if len(row) <= loaded.language.max_symbols]
    log_probs = [math.nan] * len(rows)
    for start in range(0, len(fitting), BATCH):
        part = fitting[start : start + BATCH]
        strings = pad([rows[i] for i in part], loaded.language.vocabulary)
        found = causal_log_prob(
            loaded.denoiser, strings.tokens.to(loaded.device), strings.length.to(loaded.device)
        ).tolist()
        for i, log_prob in zip(part, found):
            log_probs[i] = log_prob
    return log_probs
