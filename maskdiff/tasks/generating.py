"""`generate`: new strings, and the lengths that they get."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskdiff.config import MAX_STRINGS, CompletionConfig, ControlConfig, SamplerConfig
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.models.ngram_denoiser import NGramDenoiser
from maskdiff.sampling import Canvas, Sampler
from maskdiff.tasks.arguments import as_list, verb
from maskdiff.tasks.completing import completing
from maskdiff.tasks.results import Result
from maskdiff.tasks.running import BATCH, ready_sampler, run_sampler, seeded

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

# Strings drawn for each one that must have a given length, and at least in all.
TRIES, LEAST_TRIES = 100, 1000


@verb()
def generating(
    loaded: Loaded,
    num: int,
    *,
    length: int | tuple[int, int] | None = None,
    sampler: SamplerConfig | Sampler | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    trace: bool = False,
    control: ControlConfig | None = None,
) -> Iterator[Result]:
    """Yield `num` new strings, batch by batch.

    Args:
        length: Number of symbols, a range with both ends, or None for lengths of the language, or
            as the model ends its strings. Such a model draws until enough strings have the length;
            if they are rare, it fills canvases of the length.
        sampler: Settings, the name of a preset, or a sampler.
        control: Penalties and stopping, against repetition.

    Raises CanvasError for a length that no string has, ConfigError for an impossible sampler.
    """
    if num == 0:
        return
    grammar = isinstance(sampler, SamplerConfig) and sampler.grammar
    # A model that ends its strings itself draws from left to right.
    if draws_ends(loaded, sampler):
        pieces = bool(loaded.vocabulary.merges)
        if pieces and (length is not None or trace or grammar):
            raise ConfigError(
                "this model ends its strings itself, by pieces: "
                "it takes no length, grammar or trace"
            )
        if not (trace or grammar):
            settings = sampler if isinstance(sampler, SamplerConfig) else SamplerConfig()
            yield from _draw_to_end(loaded, num, length, settings, seed, batch_size, control)
            return
    if trace and loaded.vocabulary.merges:
        raise ConfigError(
            "a trace shows a character for every token, and this model reads pieces of several; "
            "leave it out"
        )
    filler = ready_sampler(sampler or SamplerConfig(), loaded, control=control)
    lengths = _token_lengths(loaded, num, length, seed, grammar)
    yield from _on_canvases(loaded, lengths, filler, seed, batch_size, trace, control)


generate = as_list("generate", generating)  # the same as a list


def draws_ends(loaded: Loaded, sampler: SamplerConfig | Sampler | None) -> bool:
    """Return whether a sampler draws the end of a string, too, so that it gets no length."""
    own = isinstance(sampler, SamplerConfig) and sampler.sampler == "autoregressive"
    if not own and sampler is not None:
        return False
    return not loaded.length_conditioned or isinstance(loaded.denoiser, NGramDenoiser)


def _on_canvases(
    loaded: Loaded,
    lengths: Sequence[int],
    filler: Sampler,
    seed: int,
    batch_size: int,
    trace: bool,
    control: ControlConfig | None,
) -> Iterator[Result]:
    """Strings of given lengths in tokens: blank canvases that a sampler fills."""
    generator = seeded(seed)  # of all keys, so that none depends on the batches
    for start in range(0, len(lengths), batch_size):
        part = lengths[start : start + batch_size]
        canvas = Canvas.blank(part, loaded.vocabulary, generator, loaded.device)
        inputs = [None] * len(part)
        yield from run_sampler(loaded, filler, canvas, inputs, batch_size, trace, control)


def _draw_to_end(
    loaded: Loaded,
    num: int,
    length: int | tuple[int, int] | None,
    sampler: SamplerConfig,
    seed: int,
    batch_size: int,
    control: ControlConfig | None,
) -> Iterator[Result]:
    """Strings of a causal mode that draws their end: completions of the empty text.

    With a length, those of others are left out. If too few have it, canvases are filled for the
    rest, so that these strings may stop where the model would not.
    """
    settings = CompletionConfig(temperature=sampler.temperature, top_p=sampler.top_p, prior="model")
    most = num if length is None else min(max(num * TRIES, LEAST_TRIES), MAX_STRINGS)
    if length is not None:
        sample_lengths(loaded.language, num, length, seed)  # refuses lengths that no string has
    low, high = (length, length) if isinstance(length, int) else length or (0, math.inf)
    found = 0
    for result in completing(
        loaded, [""], num=most, settings=settings, seed=seed, batch_size=batch_size, control=control
    ):
        whole = result.finish_reason in ("eos", "stop") and low <= len(result.text) <= high
        if length is None or whole:
            yield replace(result, input=None, completion=None)
            found += 1
        if found == num:
            return
    if length is not None:
        lengths = sample_lengths(loaded.language, num - found, length, seed)
        filler = ready_sampler(sampler, loaded, control=control)
        yield from _on_canvases(loaded, lengths, filler, seed, batch_size, False, control)


def _token_lengths(
    loaded: Loaded, num: int, length: int | tuple[int, int] | None, seed: int, grammar: bool
) -> list[int]:
    """`num` lengths in tokens; with `grammar` only those that its strings have.

    Tokens are symbols, except in a vocabulary of pieces.
    """
    if not loaded.vocabulary.merges:
        language, possible = loaded.language, None
        if grammar:
            possible = loaded.constraint().grammar.lengths(language.max_symbols)
        return sample_lengths(language, num, length, seed, possible)
    if length is not None:
        raise ConfigError(
            "a length counts symbols, and this model reads pieces of several; leave it out"
        )
    drawn = np.random.default_rng([seed, 1]).choice(len(loaded.lengths), size=num, p=loaded.lengths)
    return [int(n) for n in drawn]


@verb()
def sample_lengths(
    language: Language,
    num: int,
    length: int | tuple[int, int] | None,
    seed: int,
    possible: np.ndarray | None = None,
) -> list[int]:
    """Return `num` lengths in symbols: the given one, or draws of the language within a range.

    Args:
        possible: (max_symbols + 1,) bool, the lengths that may be drawn; default all.

    Raises CanvasError.
    """
    if isinstance(length, int):
        return [language.check_length(length)] * num
    low, high = length or (language.min_symbols, language.max_symbols)
    if low == high:
        return [language.check_length(low)] * num
    sizes = np.arange(language.max_symbols + 1)
    inside = (sizes >= low) & (sizes <= high)
    if possible is not None:
        inside &= possible
    probs = np.where(inside, language.length_probs(), 0.0)
    if not probs.sum() > 0:  # lengths without a string in the corpus, which may be possible
        probs = np.where(
            inside, [math.exp(language.length_log_prob(n)) for n in sizes.tolist()], 0.0
        )
    if not probs.sum() > 0:
        raise CanvasError(
            f"length {low}..{high} is impossible for {language.name}: "
            f"its strings have {language.min_symbols} to {language.max_symbols} symbols"
        )
    drawn = np.random.default_rng([seed, 1]).choice(sizes, size=num, p=probs / probs.sum())
    return [int(n) for n in drawn]
