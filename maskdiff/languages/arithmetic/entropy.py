"""Entropies of the arithmetic language in nats: lower bounds on the loss of any model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DRAWS = 40_000
SEED = 7


def entropies(
    strings: list[str], log_prob: Callable[[str], float], length_probs: np.ndarray
) -> dict[str, float]:
    """Return entropies in nats, estimated from draws and stratified by length.

    The -log p of each string is exact; only its mean over the strings of one length is estimated.
    40,000 draws give three digits. A length without draws takes the mean of its neighbours.

    Args:
        strings: The draws.
        log_prob: The log-probability of a string.
        length_probs: The distribution of lengths, (max_symbols + 1,).

    Returns:
        `string`: H(string).
        `length`: H(length).
        `mean_length`: The mean number of symbols.
        `per_token_given_length`: (string - length) / mean_length, the bound for the ELBO of a
            masked model.
        `per_token_free`: string / (mean_length + 1), the bound per predicted token, EOS included,
            for a left-to-right model without the length.
        `per_token_known_length`: (string - length) / (mean_length + 1), the same with the length.
        `standard_error`: That of `per_token_given_length`.
    """
    lengths = np.array([len(s) for s in strings])
    surprise = np.array([-log_prob(s) for s in strings])
    count = np.bincount(lengths, minlength=len(length_probs))
    seen = np.flatnonzero(count)
    mean = np.bincount(lengths, weights=surprise)[seen] / count[seen]
    square = np.bincount(lengths, weights=surprise**2)[seen] / count[seen]
    by_length = np.interp(np.arange(len(length_probs)), seen, mean)
    variance = np.maximum(0.0, square - mean**2) / count[seen]
    positive = length_probs[length_probs > 0]
    string = float(length_probs @ by_length)
    length = float(-(positive * np.log(positive)).sum())
    mean_length = float(length_probs @ np.arange(len(length_probs)))
    return {
        "string": string,
        "length": length,
        "mean_length": mean_length,
        "per_token_given_length": (string - length) / mean_length,
        "per_token_free": string / (mean_length + 1),
        "per_token_known_length": (string - length) / (mean_length + 1),
        "standard_error": float(np.sqrt((length_probs[seen] ** 2 * variance).sum())) / mean_length,
    }
