"""`complete`: strings that begin with a given text."""

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
from maskdiff.models.mixture import MixtureModel
from maskdiff.sampling import Penalties, Stopping
from maskdiff.tasks.arguments import as_list, verb
from maskdiff.tasks.results import Result, ended, judged, only_complete
from maskdiff.tasks.running import BATCH, seeded
from maskdiff.utils.arguments import integer, iter_texts, text_or_error
from maskdiff.utils.deadline import TimedOut

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

CausalPrior = CausalModel | MixtureModel
OnCharacters = Callable[[int, str], None]  # (number of the completion from 0, new characters)


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
    on_characters: OnCharacters | None = None,
) -> Iterator[Result]:
    """Yield `num` strings that begin with each text, and end with `suffix`, text by text.

    The text need not end at a token boundary; insignificant white space is removed. Strings come
    from the causal mode, mixed with the n-gram if the checkpoint has a share for it, or, with a
    suffix, from the bidirectional mode, filled from left to right.
    A text that cannot be completed has one result, with `error`.

    Args:
        settings: With `candidates` above 1, invalid strings are drawn again, up to that many draws:
            the first valid one is a draw from the model given that the string is valid.
        control: Penalties and stopping, against repetition; the given text ends no string.
        on_characters: Is called with all new characters; strings are drawn one after another.

    Raises ConfigError for settings or a model that can complete nothing, and what `condition`
    raises for the suffix.
    """
    completer = Completer(
        loaded, suffix=suffix, settings=settings, control=control, on_characters=on_characters
    )
    source = seeded(seed)
    for text in texts:
        yield from completer.complete(text, num, source, batch_size)


complete = as_list("complete", completing)  # the same as a list


class Completer:
    """Completes texts with the settings of `completing`, one at a time.

    Raises ConfigError for settings or a model that can complete nothing. The suffix is read with
    the first text; `complete` then raises what `condition` raises for it.
    """

    @verb()
    def __init__(
        self,
        loaded: Loaded,
        *,
        suffix: str = "",
        settings: CompletionConfig | None = None,
        control: ControlConfig | None = None,
        on_characters: OnCharacters | None = None,
    ) -> None:
        settings, control = settings or CompletionConfig(), control or ControlConfig()
        if settings.candidates > 1 and (on_characters or not loaded.language.validity):
            reason = f"{loaded.language.name} has no check"
            if on_characters:
                reason = "a stream shows what is drawn"
            raise ConfigError(f"candidates draws again what is invalid, and {reason}; leave it out")
        self.model = _CompletionModel(loaded, suffix, settings, control)
        self.on_characters = on_characters

    @verb(text=text_or_error, num=integer(1, MAX_STRINGS))
    def complete(
        self, text: str | DataError, num: int, source: torch.Generator, batch_size: int = BATCH
    ) -> Iterator[Result]:
        """Yield `num` completions of a text, with random keys from `source`; one error at most.

        At the deadline, completions in progress end (`timeout`). Raises TimedOut if none began.
        """
        keys = new_keys(num, source)  # also for a bad text, so that later keys do not change
        shown = "" if isinstance(text, DataError) else text
        self.model.prepare()
        try:
            conditioned = self.model.condition(text)
        except TimedOut:
            raise
        except UserError as error:
            yield Result(finish_reason="error", input=shown, error=str(error))
            return
        for number, part in enumerate(keys.split(1 if self.on_characters else batch_size)):
            if self.model.settings.candidates > 1:
                yield from self.model.valid(conditioned, part, shown)
            else:
                on_bytes = None
                if self.on_characters is not None:
                    on_bytes = _decoder(self.on_characters, number)
                yield from self.model.drawn(conditioned, part, shown, on_bytes)


def causal_prior(
    loaded: Loaded, max_tokens: int = 0, prior: str = CompletionConfig.prior
) -> CausalPrior:
    """Return what strings are drawn from: the causal mode or, with `auto`, the mixture if any."""
    neural = CausalModel(loaded.denoiser, loaded.lengths, max_tokens)
    if prior == "model" or not loaded.mixture or loaded.ngram is None:
        return neural
    return MixtureModel(neural, loaded.ngram, loaded.mixture)


class _CompletionModel:
    """The model with its settings, made once for all texts."""

    def __init__(
        self, loaded: Loaded, suffix: str, settings: CompletionConfig, control: ControlConfig
    ) -> None:
        self.loaded, self.settings, self.control = loaded, settings, control
        penalties = Penalties.of(control, loaded.vocabulary)
        self.draw = Draw(settings.temperature, settings.top_p, penalties)
        self.stopping = Stopping.of(control, loaded.vocabulary.utf8)
        self.suffix = self._typed(suffix) if suffix else b""
        self.model: CausalPrior | CanvasModel | None = None
        if not self.suffix:
            self.model = causal_prior(loaded, control.max_tokens, settings.prior)

    def prepare(self) -> CausalPrior | CanvasModel:
        """Return the model; the first call reads the suffix. Raises what `condition` raises."""
        if self.model is None:
            self.model = ending_with(
                self.loaded.denoiser, self.loaded.lengths, self.suffix, self.settings
            )
        return self.model

    def condition(self, text: str | DataError) -> Conditioned:
        """Return the model conditioned on a text. Raises UserError."""
        if isinstance(text, DataError):
            raise text
        typed, settings = self._typed(text), self.settings
        return condition(self.prepare(), typed, settings.mode, settings.budget, settings.beam)

    def drawn(
        self,
        conditioned: Conditioned,
        keys: Tensor,
        typed: str,
        on_bytes: Callable[[int, bytes], None] | None = None,
    ) -> list[Result]:
        """Return one completion for each key."""
        language = self.loaded.language
        items = Decoding(conditioned, keys, self.draw, self.stopping).run(on_bytes)
        results = [_result(self.loaded, item, conditioned, typed) for item in items]
        if not self.control.first_complete:
            return results
        return [only_complete(language, result) for result in results]

    def valid(self, conditioned: Conditioned, keys: Tensor, typed: str) -> list[Result]:
        """Return one completion for each key: the first valid of `candidates` draws, or the last.

        At the deadline it is the last complete draw, with finish_reason `timeout`.
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
        """The text without insignificant white space. Raises ParseError and CanvasError."""
        language = self.loaded.language
        longest = language.max_symbols
        # White space is ignored; beyond this limit reading would only waste memory.
        if len(text) > 100 * (longest + 10):
            raise CanvasError(
                f"the text has {len(text)} characters; strings have at most {longest} symbols"
            )
        characters = language.vocabulary.characters(text)
        language.vocabulary.encode(characters)
        if len(characters) > longest:
            raise CanvasError(
                f"{quote(text)} has {len(characters)} symbols; "
                f"strings of {language.name} have at most {longest}"
            )
        return characters.encode()


def _decoder(on_characters: OnCharacters, number: int) -> Callable[[int, bytes], None]:
    """A function that passes on bytes as complete characters."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def decode(_: int, data: bytes) -> None:
        if text := decoder.decode(data):
            on_characters(number, text)

    return decode


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
