"""A trained model beside simple ones, on the test lines of the user's corpus."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from maskdiff.checkpoint import Loaded
from maskdiff.data import held_out
from maskdiff.languages import Language, Split, split_of
from maskdiff.metrics import Estimate, paired_difference, rate
from maskdiff.models.causal import CausalModel
from maskdiff.models.mixture import fit_mixture
from maskdiff.models.ngram_denoiser import NGramDenoiser
from maskdiff.models.prior import Prior
from maskdiff.repair import Damage
from maskdiff.tasks import repair
from maskdiff.tasks.calibrating import fit_priors
from maskdiff.tasks.whole_strings import nats_per_symbol, whole_log_probs

COMPARED = 300  # test lines
COMPARISON_SEED = 11
REPAIRED = 10  # lines that are repaired between two looks at the clock


def fit_checkpoint_prior(loaded: Loaded, language: Language, symbols: int) -> Prior:
    """Fit the prior and the mixture of a model and its n-gram on validation lines.

    See `fit_priors` and `fit_mixture`.

    Returns:
        The weights of the n-gram alone.
    """
    if loaded.ngram is None or not _comparable(loaded):
        return Prior.usual(False, True)
    lines = held_lines(language, "validation")
    loaded.fitted_prior, alone = fit_priors(loaded, lines, symbols)
    if not isinstance(loaded.denoiser, NGramDenoiser):
        sizes = np.cumsum([len(line) for line in lines])
        strings = loaded.vocabulary.encode_many(lines[: int((sizes <= symbols).sum())])
        model = CausalModel(loaded.denoiser, loaded.lengths)
        loaded.mixture = fit_mixture(model, loaded.ngram, strings)
    return alone


def closing_comparison(
    loaded: Loaded, language: Language, alone: Prior, seconds: float = 20.0
) -> list[str]:
    """Return lines that compare a model with its n-gram on the test lines.

    The figures are nats per symbol of whole lines (`tasks.whole_strings`), and the share of lines
    with one random edit that are repaired, where both are given that there is one. The n-gram is
    fitted on the training lines, its order and its weight beside the channel on validation
    lines.

    Args:
        loaded: the model, whose tokens are characters and that has a causal mode; another one has
            no such figure, and no line.
        language: a list of lines; without such a list, or without test lines, there is no line.
        alone: weights with which the n-gram repairs, fitted on validation lines.
        seconds: for the repairs, roughly.
    """
    ngram, tests = loaded.ngram, held_lines(language, "test")
    if ngram is None or not tests or not _comparable(loaded):
        return []
    by_model = whole_log_probs(loaded.denoiser, loaded.config.model, language, tests)
    by_ngram = ngram.log_probs(loaded.vocabulary.encode_many(tests))
    ours, theirs = (nats_per_symbol(log_p, tests) for log_p in (by_model, by_ngram))
    model_config = replace(loaded.config.model, causal_length=True)  # as that of a fit
    simple = replace(
        loaded,
        denoiser=NGramDenoiser(ngram, model_config.block_size),
        config=replace(loaded.config, model=model_config),
        fitted_prior=alone,
    )
    model, simpler, gain = _repaired(loaded, simple, tests, seconds)
    return [
        f"on {len(tests):,} test lines                   model  {ngram.order}-gram",
        f"  nats per symbol (less is better)  {ours:5.3f}   {theirs:5.3f}",
        f"  one edit repaired, % (of {model.count:3})    "
        f"{100 * model.value:5.1f}   {100 * simpler.value:5.1f}",
        f"  difference in points, 95% interval  {100 * gain.value:+.1f} "
        f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]",
    ]


def _comparable(loaded: Loaded) -> bool:
    """Whether the causal mode gives probabilities of strings of characters."""
    config = loaded.config
    causal = config.model.head == "next" and config.train.causal_share > 0
    return causal and not loaded.vocabulary.merges and not config.train.faithful


def _repaired(
    model: Loaded, simple: Loaded, tests: Sequence[str], seconds: float
) -> tuple[Estimate, Estimate, Estimate]:
    """The shares of lines that both repair, and their difference."""
    vocabulary, damage = model.vocabulary, Damage(1 / 3, 1 / 3, 1 / 3, 0.0)
    rng, started = np.random.default_rng(COMPARISON_SEED), time.monotonic()
    flags: tuple[list[bool], list[bool]] = ([], [])
    for first in range(0, len(tests), REPAIRED):
        part = tests[first : first + REPAIRED]
        broken = [
            vocabulary.decode(damage.apply(vocabulary.encode(text), 1, vocabulary, rng))
            for text in part
        ]
        for loaded, right in zip((model, simple), flags, strict=True):
            made = repair(loaded, broken, broken=True, edits=(1, 1), damage=damage)
            right += [a.text == b for a, b in zip(made, part, strict=True)]
        if time.monotonic() - started > seconds:
            break
    return rate(flags[0]), rate(flags[1]), paired_difference(*flags)


def held_lines(language: Language, split: Split) -> list[str]:
    """Up to `COMPARED` different lines of a split; empty if it has none."""
    texts = language.texts() or ()
    if not any(split_of(text) == split for text in texts):
        return []
    return held_out(language, split, COMPARED, COMPARISON_SEED)
