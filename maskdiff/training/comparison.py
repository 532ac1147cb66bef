"""A trained model beside simple ones, on the test lines of the user's corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from maskdiff.checkpoint import Loaded
from maskdiff.data import held_out
from maskdiff.languages import Language, split_of
from maskdiff.models.ngram import NGram
from maskdiff.noise import pad

COMPARED = 300  # test lines
COMPARISON_SEED = 11
BATCH = 64  # lines that the model scores at once
UNSEEN = 0.5  # what is added to the number of training lines of each length


def closing_comparison(loaded: Loaded, language: Language) -> list[str]:
    """Return at most five lines that compare a model with an n-gram on the test lines.

    The figures are nats per symbol of whole lines, -log p(x) of all lines over their symbols and
    ends. The n-gram is fitted on the training lines, its order on the validation lines.

    Args:
        loaded: the model, whose tokens are characters and that has a causal mode; another one has
            no such figure, and no line.
        language: a list of lines; without such a list, or without test lines, there is no line.
    """
    texts = language.texts()
    config = loaded.config
    causal = config.model.head == "next" and config.train.causal_share > 0
    if texts is None or loaded.vocabulary.merges or not causal or config.train.faithful:
        return []
    encode, tests = loaded.vocabulary.encode_many, held_lines(language)
    if not tests:
        return []
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for text in texts:  # repeated lines count
        parts[split_of(text)].append(text)
    symbols = sum(map(len, tests)) + len(tests)
    distinct = encode(list(dict.fromkeys(parts["validation"])))
    ngram = NGram.fit_order(encode(parts["train"]), distinct, loaded.vocabulary)
    strings = encode(tests)
    ours = -model_log_probs(loaded, strings, encode(parts["train"])).sum() / symbols
    theirs = -ngram.log_probs(strings).sum() / symbols
    better, worse = ("model", "n-gram") if ours < theirs else ("n-gram", "model")
    return [
        f"on {len(tests):,} test lines, in nats per symbol (less is better):",
        f"  model   {ours:.3f}",
        f"  {ngram.order}-gram  {theirs:.3f}",
        f"the {better} is better than the {worse} by {abs(ours - theirs):.3f}",
    ]


def held_lines(language: Language) -> list[str]:
    """Up to `COMPARED` different lines of the test split; empty if it has none."""
    texts = language.texts() or ()
    if not any(split_of(text) == "test" for text in texts):
        return []
    return held_out(language, "test", COMPARED, COMPARISON_SEED)


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
