"""`Result`, and the steps that all tasks share: encode texts, judge strings.

One bad text does not affect the others: its error takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from maskdiff.errors import CanvasError, ConfigError, DataError, UserError
from maskdiff.languages import truth_of
from maskdiff.text.answers import first_complete
from maskdiff.text.edits import Edit
from maskdiff.utils.deadline import TimedOut

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.decoding import Summary
    from maskdiff.languages import Language

# An answer is far from its text if it changes many readable symbols, or if many are unreadable.
FAR_SHARE = 0.3  # of the readable symbols
FAR_UNREADABLE = 1 / 2  # of all symbols
FAR_SYMBOLS = 3  # and at least so many changed symbols, since short texts have large shares
Item = TypeVar("Item")


@dataclass(frozen=True)
class Alternative:
    """One of several repaired strings, best first; `parses`, `holds` and `edits` as in `Result`.

    Attributes:
        score: log p(text) + log p(input | text) in nats, by the prior and the noisy channel; a
            causal mode that is given the length adds log p(length). None for a text too long for
            the model.
        share: Share of the probability of all candidates that fit. It is 0 beyond the slack if the
            best answer is within, and for a text that the check refuses if the best is valid.
    """

    text: str
    parses: bool | None
    holds: bool | None
    score: float | None
    share: float
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Change:
    """How much of a text a repair changes. Blanks of the text are not counted.

    Attributes:
        changed: Number of symbols that were deleted, replaced or unreadable.
        given: Number of symbols of the text.
        unreadable: Number of symbols that the language lacks.
    """

    changed: int
    given: int
    unreadable: int = 0

    @property
    def far(self) -> bool:
        """Whether the answer is too different from the text to count as its repair."""
        replaced, readable = self.changed - self.unreadable, self.given - self.unreadable
        most = replaced > FAR_SHARE * readable or self.unreadable > FAR_UNREADABLE * self.given
        return self.changed >= FAR_SYMBOLS and most


@dataclass(frozen=True)
class Result:
    """The result of one request.

    Attributes:
        text: The string, with `?` for blanks that are left; empty with an `error`.
        parses, holds: Verdicts of the language; None if it has no check, or its strings state
            nothing that could be true.
        score: log p(text | its length) per symbol in nats, by the causal mode, or log p(text) per
            symbol if the model draws the end of its strings; of a completion, log p of all drawn
            tokens per symbol. None without a text, or if it was cut.
        evaluations: Calls of the denoiser for this string.
        finish_reason: `eos` (complete), `stop` (a stop text or token, or cut after the first
            complete string), `length` (the maximum of the model or `max_tokens`), `repetition`
            (a loop), `incomplete` (blanks are left), `timeout` (the best so far, or an error) or
            `error`.
        trace: Lines that show the run, if asked for.
        edits: Of a repair, the edits that lead from the input to the text.
        alternatives: Of a repair with `top` above 1, the best answers, this one first.
        completion: Of a completion, result and cost of conditioning on the prefix.
        candidates: Number of candidates examined for a valid one, if there was a choice.
        foreign: Symbols of the input that the language lacks, by position; read as blanks.
        change: Of a repair, how much of the input changed.
        probability: Of a repair by `channel`, the probability that the text is the original.
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
    probability: float | None = None


def valid_first(
    items: Sequence[Item], valid: Callable[[Item], bool], look: int, top: int = 1
) -> tuple[list[Item], int]:
    """Return the items with the valid ones of the first `look` in front, and how many were tested.

    The order stays within both classes. For `top` 1 the test ends at the first valid item; for
    more, at least `top` items are tested.
    """
    window = items[: max(look, top)]
    looked = len(window)
    if top == 1:
        looked = next((n for n, item in enumerate(window, 1) if valid(item)), looked)
    ordered = sorted(window[:looked], key=lambda item: not valid(item))
    return [*ordered, *items[looked:]], looked


def instead_of_holds(language: Language) -> str:
    """Return the remedy in the error for `holds` with a language that states nothing."""
    if language.validity:
        return f"leave out holds: what {language.validity} calls valid comes first without it"
    return "leave out holds"


def encode_requests(
    loaded: Loaded, texts: Sequence[str | DataError], check: Callable[[list[int]], list[int]]
) -> tuple[dict[int, list[int]], dict[int, Result]]:
    """Return the token ids of usable texts and error results of the others, both by index.

    Raises ConfigError for a model of pieces.
    """
    if loaded.vocabulary.merges:
        raise ConfigError(
            "this model reads pieces of several characters; repairing, editing and solving go by "
            "symbols: give the checkpoint of a vocabulary of characters, or complete (with "
            "--suffix where the end is known)"
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
            # White space is ignored; beyond this limit encoding would only waste memory.
            if len(text) > 100 * (longest + 10):
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
    """Return all results in the order of `texts`, each with its input."""
    by_index = {**bad, **dict(zip(good, made))}
    return [
        replace(by_index[i], input="" if isinstance(text, DataError) else text)
        for i, text in enumerate(texts)
    ]


def judged(
    language: Language, text: str, log_prob: float, evaluations: int, trace: tuple[str, ...] | None
) -> Result:
    """Return the result of a text: verdicts of the language and the score per symbol."""
    score = log_prob / len(text) if text and math.isfinite(log_prob) else None
    reason = "incomplete" if language.vocabulary.is_open(text) else "eos"
    parses = language.parses(text) if language.validity else None
    return Result(text, parses, truth_of(language, text), score, evaluations, reason, trace=trace)


def ended(language: Language, result: Result, text: str, reason: str) -> Result:
    """Return a result cut to `text`, judged again and without a score."""
    cut = judged(language, text, math.nan, result.evaluations, result.trace)
    return replace(
        result, text=text, parses=cut.parses, holds=cut.holds, score=None, finish_reason=reason
    )


def only_complete(language: Language, result: Result) -> Result:
    """Return a result cut to the first string that parses; as it is if it parses or none does.

    Raises ConfigError for a language without a check.
    """
    if not language.validity:
        raise ConfigError(
            f"first_complete asks the parser, and {language.name} has none; leave it out"
        )
    found = None if result.parses else first_complete(result.text, language)
    return result if found is None else ended(language, result, found.text, "stop")
