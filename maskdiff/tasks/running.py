"""Runs samplers and the causal mode on canvases and strings, with a `Result` for each string."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import ControlConfig, SamplerConfig
from maskdiff.errors import CanvasError, ConfigError
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
from maskdiff.sampling.presets import PRESETS, make_sampler
from maskdiff.tasks.results import Result, ended, judged, only_complete

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Vocabulary

BATCH = 256


def seeded(seed: int) -> torch.Generator:
    """Return the source of random keys of a seed."""
    return torch.Generator().manual_seed(seed)


def ready_sampler(
    sampler: SamplerConfig | Sampler,
    loaded: Loaded,
    grammar: bool = False,
    control: ControlConfig | None = None,
) -> Sampler:
    """Return a sampler with the grammar and the penalties of `control`. Raises ConfigError."""
    if loaded.vocabulary.merges and (
        grammar or (isinstance(sampler, SamplerConfig) and sampler.grammar)
    ):
        raise ConfigError(
            "a grammar conditions characters, and this model reads pieces of several; "
            "sample without one"
        )
    if not isinstance(sampler, SamplerConfig):
        made = sampler
    else:
        made, grammar = make_sampler(_unlimited(sampler, loaded)), grammar or sampler.grammar
    if grammar:
        made = constrained(made, loaded.constraint())
    controls = Penalties.of(control or ControlConfig(), loaded.vocabulary)
    return penalised(made, controls) if controls.active else made


def _unlimited(sampler: SamplerConfig, loaded: Loaded) -> SamplerConfig:
    """The settings without a budget, if an n-gram verifies drafts: it accepts few of their symbols,
    and a budget would leave the rest of them unverified."""
    from maskdiff.models.ngram_denoiser import NGramDenoiser

    verified = sampler.sampler in PRESETS and PRESETS[sampler.sampler].verified
    alone = isinstance(loaded.denoiser, NGramDenoiser)
    return replace(sampler, steps=0) if verified and alone else sampler


def canvas_of(
    loaded: Loaded,
    rows: dict[int, list[int]],
    known: Sequence[Sequence[bool]],
    keys: Tensor,
    sigma: float = 0.0,
) -> Canvas:
    """Return the canvas of the texts in `rows` (by index), with their keys of all `keys`."""
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
    """Run `sampler` on a canvas, similar lengths together; results in the order of the canvas.

    A canvas has a fixed length: it is filled, then cut where `control` would have ended the string.
    """
    order = canvas.length.cpu().argsort(stable=True)
    results: list[Result] = [Result()] * len(canvas)
    for rows in order.split(1 if trace else batch_size):
        part = canvas[rows.to(canvas.tokens.device)].trim()
        try:
            sample = sampler(loaded.denoiser, part.traced() if trace else part)
        except CanvasError as error:  # no string of the constraint fits one of the rows
            if len(rows) == 1:
                results[int(rows)] = Result(
                    finish_reason="error", error=str(error), input=inputs[int(rows)]
                )
            else:  # row by row, so that the others get their results
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
    log_probs = _causal_log_probs(loaded, sample.tokens, sample.length)
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
    """Return each string cut where `control` ends it, with the reason; [] if it ends none."""
    stopping = Stopping.of(control, vocabulary.utf8)
    if stopping == replace(NEVER, repeats=stopping.repeats):
        return []
    rows = zip(sample.tokens.tolist(), sample.length.tolist(), strict=True)
    ends = (cut_short(row[1 : n - 1], vocabulary.utf8, stopping) for row, n in rows)
    return [(data.decode(errors="replace"), reason) for data, reason in ends]


def log_probs(loaded: Loaded, rows: Sequence[list[int]]) -> list[float]:
    """Return log p(string | its length) of each row by the causal mode; NaN for too long ones.

    It is log p(string) for a model that draws the end of its strings.
    """
    fitting = [i for i, row in enumerate(rows) if len(row) <= loaded.language.max_symbols]
    log_probs = [math.nan] * len(rows)
    for start in range(0, len(fitting), BATCH):
        part = fitting[start : start + BATCH]
        strings = pad([rows[i] for i in part], loaded.language.vocabulary)
        tokens, length = strings.tokens.to(loaded.device), strings.length.to(loaded.device)
        for i, log_prob in zip(part, _causal_log_probs(loaded, tokens, length), strict=True):
            log_probs[i] = log_prob
    return log_probs


def _causal_log_probs(loaded: Loaded, tokens: Tensor, length: Tensor) -> list[float]:
    """What `log_probs` returns, for strings of tokens; NaN for pieces with an end."""
    ends = not loaded.length_conditioned
    if ends and loaded.vocabulary.merges:  # a text has more than one string of pieces
        return [math.nan] * len(length)
    found: list[float] = causal_log_prob(loaded.denoiser, tokens, length, ends).tolist()
    return found
