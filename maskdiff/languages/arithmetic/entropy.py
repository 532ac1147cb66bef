"""The entropy floors of the arithmetic language: what no model can beat, in nats.

For: `entropies`. Not for: any model's loss. Easy to get wrong: three floors look alike. Given the length and per inner symbol
(what the ELBO of a masked model is compared with); without the length and per predicted token, EOS included (a left-to-right
model that is not told the length); and given the length but per predicted token, EOS included (one that is told).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DRAWS = 40_000
SEED = 7


def entropies(
    strings: list[str], log_prob: Callable[[str], float], length_probs: np.ndarray
) -> dict[str, float]:
    """Entropies in nats, estimated from draws `strings` and stratified by length with `length_probs` (max_symbols + 1,).

    Keys: `string` H(string); `length` H(length); `mean_length` (inner symbols); `per_token_given_length` =
    (string - length) / mean_length; `per_token_free` = string / (mean_length + 1); `per_token_known_length` =
    (string - length) / (mean_length + 1); `standard_error` of `per_token_given_length`.
    Each string's -log p is exact; only the mean over strings of one length is estimated. It varies little within a length, so
    40,000 draws give it to three digits. A length that no draw has takes the mean of its neighbours.
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
