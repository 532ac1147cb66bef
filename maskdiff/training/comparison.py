"""A trained model beside simple ones, on the test lines of the user's corpus."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from maskdiff.checkpoint import Loaded
from maskdiff.data import held_out
from maskdiff.languages import Language, Split, split_of
from maskdiff.metrics import Estimate, paired_difference, rate
from maskdiff.models.causal import CausalModel
from maskdiff.models.mixture import fit_mixture
from maskdiff.models.ngram_denoiser import NGramDenoiser
from maskdiff.models.prior import Prior
from maskdiff.noise import pad
from maskdiff.repair import Damage
from maskdiff.tasks import repair
from maskdiff.tasks.calibrating import fit_prior

COMPARED = 300  # test lines
COMPARISON_SEED = 11
REPAIRED = 10  # lines that are repaired between two looks at the clock
BATCH = 64  # lines that the model scores at once
UNSEEN = 0.5  # what is added to the number of training lines of each length


def fit_checkpoint_prior(loaded: Loaded, language: Language, symbols: int) -> None:
    """Fit the prior and the mixture of a model and its n-gram on validation lines.

    See `fit_prior` and `fit_mixture`.
    """
    if loaded.ngram is None or not _comparable(loaded):
        return
    lines = held_lines(language, "validation")
    loaded.fitted_prior = fit_prior(loaded, lines, symbols)
    if not isinstance(loaded.denoiser, NGramDenoiser):
        sizes = np.cumsum([len(line) for line in lines])
        strings = loaded.vocabulary.encode_many(lines[: int((sizes <= symbols).sum())])
        model = CausalModel(loaded.denoiser, loaded.lengths)
        loaded.mixture = fit_mixture(model, loaded.ngram, strings)


def closing_comparison(loaded: Loaded, language: Language, seconds: float = 20.0) -> list[str]:
    """Return lines that compare a model with its n-gram on the test lines.

    The figures are nats per symbol of whole lines, -log p(x) of all lines over their symbols and
    ends, and the share of lines with one random edit that are repaired, where both are given that
    there is one. The n-gram is fitted on the training lines, its order on the validation lines.

    Args:
        loaded: the model, whose tokens are characters and that has a causal mode; another one has
            no such figure, and no line.
        language: a list of lines; without such a list, or without test lines, there is no line.
        seconds: for the repairs, roughly.
    """
    texts, ngram = language.texts(), loaded.ngram
    tests = held_lines(language, "test")
    if texts is None or ngram is None or not tests or not _comparable(loaded):
        return []
    encode = loaded.vocabulary.encode_many
    symbols, strings = sum(map(len, tests)) + len(tests), encode(tests)
    training = encode([text for text in texts if split_of(text) == "train"])
    ours = -model_log_probs(loaded, strings, training).sum() / symbols
    theirs = -ngram.log_probs(strings).sum() / symbols
    simple = replace(
        loaded,
        denoiser=NGramDenoiser(ngram, loaded.config.model.block_size),
        fitted_prior=Prior(0.0, 1.0),
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


@torch.no_grad()
def model_log_probs(
    loaded: Loaded, strings: Sequence[Sequence[int]], training: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Return log p of whole strings by the causal mode, (strings,), in nats.

    With a causal mode that gets the length it is log p(x | n) + log p(n), with the n of the
    training strings and `UNSEEN` more of each possible length; special tokens have no probability.

    Args:
        loaded: the model.
        strings: inner token ids.
        training: inner token ids of the training strings, for p(n).
    """
    vocabulary, ends = loaded.vocabulary, not loaded.length_conditioned
    outcomes = torch.tensor([*vocabulary.inner_ids, *([vocabulary.eos] if ends else [])])
    log_p = np.zeros(len(strings))
    order = sorted(range(len(strings)), key=lambda i: len(strings[i]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        clean = pad([strings[i] for i in rows], vocabulary)
        tokens, length = clean.tokens.to(loaded.device), clean.length.to(loaded.device)
        sigma = torch.zeros(len(rows), device=loaded.device)
        logits = loaded.denoiser(tokens, length, sigma, True, None).double().cpu()
        normal = logits[..., outcomes].logsumexp(-1, keepdim=True)
        scores = (logits - normal).gather(-1, clean.tokens[..., None])[..., 0]
        place = torch.arange(clean.tokens.size(1))
        counted = (place > 0) & (place < clean.length[:, None] - (0 if ends else 1))
        log_p[rows] = scores.masked_fill(~counted, 0.0).sum(1).numpy()
    if ends:
        return log_p
    longest = loaded.config.language.max_len - 2
    counts = np.bincount([len(string) for string in training], minlength=longest + 1)[1:] + UNSEEN
    return log_p + np.log(counts / counts.sum())[[len(string) - 1 for string in strings]]
