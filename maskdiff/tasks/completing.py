"""Going on from what was typed: `complete`."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import MAX_STRINGS, CompletionConfig, ControlConfig
from maskdiff.decoding import (
    CanvasModel,
    CausalModel,
    Completion,
    Conditioned,
    Decoding,
    condition,
    ending_with,
)
from maskdiff.drawing.random import Purpose, bits, new_keys
from maskdiff.drawing.settings import Draw
from maskdiff.drawing.stopping import TIMEOUT
from maskdiff.errors import CanvasError, ConfigError, DataError, UserError, quote
from maskdiff.sampling import Penalties, Stopping
from maskdiff.tasks.reading import verb
from maskdiff.tasks.results import BATCH, Result, ended, judged, only_complete, seeded
from maskdiff.utils.arguments import integer, iter_texts, text_or_error
from maskdiff.utils.deadline import TimedOut

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

Watch = Callable[
    [int, str], None
]  # told the number of a completion, from 0, and the characters that it has grown by


@verb(num=integer(1, MAX_STRINGS))
def complete(
    loaded: Loaded,
    texts: Iterable[str | DataError],
    *,
    num: int = 1,
    suffix: str = "",
    settings: CompletionConfig | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    control: ControlConfig | None = None,
) -> list[Result]:
    """`num` strings that begin with each text (and end with `suffix`), drawn from the model given that they do.

    What was typed need not end where a token does. White space that means nothing in the language is left out first. Without a
    suffix strings are those of the causal mode, with one those of the bidirectional mode, filled from left to right. An
    empty text is completed to any string. With `candidates` (of the settings) above 1 a string that
    is invalid is drawn again, up to that many times in all: the first valid one is a draw from the
    model given that the string is valid, too. `control` keeps them from repeating themselves and
    from running on; what was typed ends none. A text that nothing can be made of has one result, an
    error. Raises ConfigError for settings, or a model, that can complete nothing, and what
    `condition` raises for the suffix.
    """
    return list(
        completing(
            loaded,
            texts,
            num=num,
            suffix=suffix,
            settings=settings,
            seed=seed,
            batch_size=batch_size,
            control=control,
        )
    )


@verb(texts=iter_texts, num=integer(1, MAX_STRINGS))
def completing(
    loaded: Loaded,
    texts: Iterable[str | DataError],
    *,
    num: int = 1,
    suffix: str = "",
    settings: CompletionConfig | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    control: ControlConfig | None = None,
    watch: Watch | None = None,
) -> Iterator[Result]:
    """The results of `complete`, a text at a time; with `watch`, which hears of every character, one string after another."""
    completer = Completer(loaded, suffix=suffix, settings=settings, control=control, watch=watch)
    source = seeded(seed)
    for text in texts:
        yield from completer.complete(text, num, source, batch_size)


class Completer:
    """Completes text after text with the same settings, which are those of `completing`.

    Raises ConfigError for settings, or a model, that can complete nothing; `complete` raises what
    `condition` raises for the suffix, which is read with the first text.
    """

    @verb()
    def __init__(
        self,
        loaded: Loaded,
        *,
        suffix: str = "",
        settings: CompletionConfig | None = None,
        control: ControlConfig | None = None,
        watch: Watch | None = None,
    ) -> None:
        settings, control = settings or CompletionConfig(), control or ControlConfig()
        if settings.candidates > 1 and (watch or not loaded.language.validity):
            raise ConfigError(
                "candidates draws again what is invalid, and "
                + (
                    "a stream shows what is drawn"
                    if watch
                    else f"{loaded.language.name} has no check"
                )
                + "; leave it out"
            )
        self.given = _Given(loaded, suffix, settings, control)
        self.watch = watch

    @verb(text=text_or_error, num=integer(1, MAX_STRINGS))
    def complete(
        self, text: str | DataError, num: int, source: torch.Generator, batch_size: int = BATCH
    ) -> Iterator[Result]:
        """`num` completions of a text, with random keys from `source`; one error for a bad text.

        Once the deadline has passed, completions under way end where they are (`timeout`). Raises
        TimedOut before that.
        """
        keys = new_keys(num, source)  # drawn for a bad text, too: those after it do not change
        shown = "" if isinstance(text, DataError) else text
        self.given.prepare()
        try:
            conditioned = self.given.condition(text)
        except TimedOut:
            raise
        except UserError as error:
            yield Result(finish_reason="error", input=shown, error=str(error))
            return
        for number, part in enumerate(keys.split(1 if self.watch else batch_size)):
            if self.given.settings.candidates > 1:
                yield from self.given.valid(conditioned, part, shown)
            else:
                heard = None if self.watch is None else _characters(self.watch, number)
                yield from self.given.drawn(conditioned, part, shown, heard)


class _Given:
    """The model that texts are completed by; made once for all of them."""

    def __init__(
        self, loaded: Loaded, suffix: str, settings: CompletionConfig, control: ControlConfig
    ) -> None:
        self.loaded, self.settings, self.control = loaded, settings, control
        penalties = Penalties.of(control, loaded.vocabulary)
        self.draw = Draw(settings.temperature, settings.top_p, penalties)
        self.stopping = Stopping.of(control, loaded.vocabulary.utf8)
        self.suffix = self._typed(suffix) if suffix else b""
        self.model: CausalModel | CanvasModel | None = None
        if not self.suffix:
            self.model = CausalModel(loaded.denoiser, loaded.lengths, control.max_tokens)

    def prepare(self) -> CausalModel | CanvasModel:
        """The model, for which the suffix is read once. Raises what `condition` raises for it."""
        if self.model is None:
            self.model = ending_with(
                self.loaded.denoiser, self.loaded.lengths, self.suffix, self.settings
            )
        return self.model

    def condition(self, text: str | DataError) -> Conditioned:
        """The model given one text; UserError."""
        if isinstance(text, DataError):
            raise text
        typed, settings = self._typed(text), self.settings
        return condition(self.prepare(), typed, settings.mode, settings.budget, settings.beam)

    def drawn(
        self,
        conditioned: Conditioned,
        keys: Tensor,
        typed: str,
        heard: Callable[[int, bytes], None] | None = None,
    ) -> list[Result]:
        """One completion for each key."""
        language = self.loaded.language
        items = Decoding(conditioned, keys, self.draw, self.stopping).run(heard)
        results = [_result(self.loaded, item, conditioned, typed) for item in items]
        if not self.control.first_complete:
            return results
        return [only_complete(language, result) for result in results]

    def valid(self, conditioned: Conditioned, keys: Tensor, typed: str) -> list[Result]:
        """One completion for each key: the first valid of `candidates` draws, else the last.

        At the deadline the last draw that is whole; its finish_reason is `timeout`.
        """
        results = self.drawn(conditioned, keys, typed)
        results = [replace(result, candidates=1) for result in results]
        deadline = self.loaded.deadline
        for attempt in range(1, self.settings.candidates):
            invalid = [i for i, result in enumerate(results) if not result.parses]
            if not invalid or deadline.passed:
                break
            again_keys = bits(keys[invalid], int(Purpose.RETRY), attempt)
            try:
                again = self.drawn(conditioned, again_keys, typed)
            except TimedOut:
                break
            for i, result in zip(invalid, again, strict=True):
                spent = results[i].evaluations + result.evaluations
                cut = result.finish_reason == TIMEOUT and not result.parses
                kept = results[i] if cut else replace(result, candidates=attempt + 1)
                results[i] = replace(kept, evaluations=spent)
        if not deadline.passed:
            return results
        return [item if item.parses else replace(item, finish_reason=TIMEOUT) for item in results]

    def _typed(self, text: str) -> bytes:
        """What was typed as the language reads it. ParseError for a foreign symbol, CanvasError for too many."""
        language = self.loaded.language
        longest = language.max_symbols
        if len(text) > 100 * (
            longest + 10
        ):  # white space may be long, but reading gigabytes helps nobody
            raise CanvasError(
                f"the text has {len(text)} characters; strings have at most {longest} symbols"
            )
        characters = language.vocabulary.characters(text)
        language.vocabulary.encode(characters)
        if len(characters) > longest:
            raise CanvasError(
                f"{quote(text)} has {len(characters)} symbols; strings of {language.name} have at most {longest}"
            )
        return characters.encode()


def _characters(watch: Watch, number: int) -> Callable[[int, bytes], None]:
    """Hands on bytes as whole characters."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def told(_: int, data: bytes) -> None:
        if text := decoder.decode(data):
            watch(number, text)

    return told


def _result(loaded: Loaded, item: Completion, conditioned: Conditioned, given: str) -> Result:
    text = item.data.decode(errors="replace")
    result = replace(
        judged(loaded.language, text, item.log_p, item.calls, None),
        input=given,
        completion=conditioned.summary,
    )
    cut = item.reason in ("stop", "repetition")
    return (
        ended(loaded.language, result, text, item.reason)
        if cut
        else replace(result, finish_reason=item.reason)
    )
