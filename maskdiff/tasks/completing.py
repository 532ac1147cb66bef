"""Going on from what was typed: `complete`."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch

from maskdiff.completion import (
    CanvasModel,
    CausalModel,
    Completion,
    Conditioned,
    Decoding,
    condition,
    ending_with,
)
from maskdiff.config import CompletionConfig, ControlConfig
from maskdiff.configio import build
from maskdiff.deadline import TimedOut
from maskdiff.errors import CanvasError, ConfigError, DataError, UserError, quote
from maskdiff.sampling import Controls, Stopping
from maskdiff.sampling.random import new_keys
from maskdiff.tasks.results import BATCH, Result, ended, judged, only_complete, seeded

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

Watch = Callable[[int, str], None]  # told the number of a completion, from 0, and the characters that it has grown by


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
    empty text is completed to any string. `control` keeps them from repeating themselves and from running on; what was typed
    ends none. A text that nothing can be made of has one result, an error. Raises ConfigError for settings, or a model, that
    can complete nothing, and what `condition` raises for the suffix.
    """
    return list(
        completing(loaded, texts, num=num, suffix=suffix, settings=settings, seed=seed, batch_size=batch_size, control=control)
    )


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
    if num < 1:
        raise ConfigError(f"num is {num}; ask for 1 string or more")
    completer = Completer(loaded, suffix=suffix, settings=settings, control=control)
    generator = seeded(seed)
    for text in texts:
        yield from completer.complete(text, num, generator, batch_size, watch)


class Completer:
    """Completes text after text with the same settings.

    Raises ConfigError for settings, or a model, that can complete nothing; `complete` raises what
    `condition` raises for the suffix, which is read with the first text.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        suffix: str = "",
        settings: CompletionConfig | None = None,
        control: ControlConfig | None = None,
    ) -> None:
        self.settings = build(CompletionConfig, asdict(settings or CompletionConfig()))
        self.control = build(ControlConfig, asdict(control or ControlConfig()))
        self.loaded = loaded
        self.given = _Given(loaded, suffix, self.settings, self.control)

    def complete(
        self,
        text: str | DataError,
        num: int,
        generator: torch.Generator,
        batch_size: int = BATCH,
        watch: Watch | None = None,
    ) -> Iterator[Result]:
        """`num` completions of a text, the keys of which are drawn from `generator`; one error for
        a bad text.

        Once the deadline has passed, completions under way end where they are (`timeout`). Raises
        TimedOut before that.
        """
        keys = new_keys(num, generator)  # drawn for a bad text, too: those after it do not change
        shown = "" if isinstance(text, DataError) else text
        self.given.prepare()
        try:
            conditioned = self.given.condition(text)
        except TimedOut:
            raise
        except UserError as error:
            yield Result(finish_reason="error", input=shown, error=str(error))
            return
        how = (
            self.settings.temperature,
            self.settings.top_p,
            self.given.controls,
            self.given.stopping,
        )
        for number, part in enumerate(keys.split(1 if watch else batch_size)):
            drawn = Decoding(conditioned, part, *how).run(None if watch is None else _characters(watch, number))
            for item in drawn:
                result = _result(self.loaded, item, conditioned, shown)
                yield (
                    only_complete(self.loaded.language, result)
                    if self.control.first_complete
                    else result
                )


class _Given:
    """The model that texts are completed by; made once for all of them."""

    def __init__(self, loaded: Loaded, suffix: str, settings: CompletionConfig, control: ControlConfig) -> None:
        self.loaded, self.settings = loaded, settings
        self.controls = Controls.of(control, loaded.vocabulary)
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

    def _typed(self, text: str) -> bytes:
        """What was typed as the language reads it. ParseError for a foreign symbol, CanvasError for too many."""
        language = self.loaded.language
        longest = language.max_symbols
        if len(text) > 100 * (longest + 10):  # white space may be long, but reading gigabytes helps nobody
            raise CanvasError(f"the text has {len(text)} characters; strings have at most {longest} symbols")
        characters = language.vocabulary.characters(text)
        language.vocabulary.encode(characters)
        if len(characters) > longest:
            raise CanvasError(f"{quote(text)} has {len(characters)} symbols; strings of {language.name} have at most {longest}")
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
    result = replace(judged(loaded.language, text, item.log_p, item.calls, None), input=given, completion=conditioned.summary)
    cut = item.reason in ("stop", "repetition")
    return ended(loaded.language, result, text, item.reason) if cut else replace(result, finish_reason=item.reason)
