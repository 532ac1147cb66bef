"""Noise levels: the distribution of sigma in [0, 1] over the strings of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from maskdiff.config import NoiseConfig

HIGH_NOISE = 0.8  # where the high-noise bias begins


def draw_sigma(n: int, config: NoiseConfig, generator: torch.Generator | None) -> Tensor:
    """Noise levels of `n` strings, uniform in [sigma_min, sigma_max] by default.

    With `low_discrepancy` they are the quantiles (u + i/n) mod 1 of the distribution, u uniform, in
    random order: each is still distributed like an independent draw, but the batch covers the range
    evenly [2406.07524]. The shuffle keeps the noise level independent of the order of the batch.
    With `high_noise_bias` b, a share b of the mass is uniform between 0.8 and sigma_max instead.

    Returns:
        (n,) float32 in [sigma_min, sigma_max]; up to 0.8 if a biased sigma_max is below it.
    """
    if config.low_discrepancy:
        start = torch.rand(1, generator=generator, dtype=torch.float64)
        quantile = (start + torch.randperm(n, generator=generator) / n) % 1.0  # (n,)
    else:
        quantile = torch.rand(n, generator=generator, dtype=torch.float64)
    low, high, bias = config.sigma_min, config.sigma_max, config.high_noise_bias
    plain = low + (high - low) * (quantile - bias) / max(1.0 - bias, 1e-9)
    if bias == 0.0:
        return plain.float()
    biased = HIGH_NOISE + (high - HIGH_NOISE) * quantile / bias
    return torch.where(quantile < bias, biased, plain).float()


def model_sigma(sigma: Tensor, config: NoiseConfig) -> Tensor:
    """The sigma (batch,) passed to the model where all visible tokens are right.

    It is 0 by default, or the noise level itself.
    """
    return sigma if config.sigma_input == "level" else torch.zeros_like(sigma)
