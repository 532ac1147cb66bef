"""The probability of whole strings, as every figure in nats per symbol counts it.

A whole string is its symbols and its end. A model that ends its strings gives log p(x, end). One
that gets the length gives log p(x | n), to which log p(n) of the language is added: with a corpus
that is the distribution of the lengths of its training lines. Special tokens have no probability.
Nats per symbol are -log p over the symbols and one end for each string, whatever the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from maskdiff.noise import pad
from maskdiff.sampling import causal_log_prob

if TYPE_CHECKING:
    from maskdiff.config import ModelConfig
    from maskdiff.languages import Language
    from maskdiff.models.denoiser import Denoiser

BATCH = 64  # strings that are scored together


@torch.no_grad()
def whole_log_probs(
    denoiser: Denoiser, model: ModelConfig, language: Language, texts: Sequence[str]
) -> NDArray[np.float64]:
    """Return log p of whole strings by the causal mode, (texts,), in nats.

    Args:
        denoiser: A model of the characters of the language.
        model: Its configuration, which decides whether the causal mode gets the length.
        language: It gives log p(n).
        texts: Strings of the language.
    """
    vocabulary, ends = denoiser.vocabulary, not model.gets_length
    log_p = np.zeros(len(texts))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    device = getattr(denoiser, "device", torch.device("cpu"))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        clean = pad([vocabulary.encode(texts[i]) for i in rows], vocabulary)
        tokens, length = clean.tokens.to(device), clean.length.to(device)
        log_p[rows] = causal_log_prob(denoiser, tokens, length, ends).cpu().numpy()
    if not ends:
        log_p += [language.length_log_prob(len(text)) for text in texts]
    return log_p


def symbols_and_ends(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the number of symbols of each text and its end, (texts,)."""
    return np.array([len(text) + 1.0 for text in texts])


def nats_per_symbol(log_probs: NDArray[np.float64], texts: Sequence[str]) -> float:
    """Return -log p of all texts over their symbols and ends."""
    return -float(log_probs.sum() / symbols_and_ends(texts).sum())
