"""Strings, mixtures, generators, and statistical assertions with a stated power.

Statistical assertions allow 4.5 standard errors (a false alarm in 150,000); a quantity that is off
by 8 standard errors is caught in 99.97% of runs. Each test states what that is in its own units.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from maskdiff.config import Config, LanguageConfig, NoiseConfig, TrainConfig
from maskdiff.languages import Vocabulary, make_language
from maskdiff.noise import Canvases, Strings, mixture, mode_number, pad

LANGUAGE = make_language(LanguageConfig())
VOCABULARY = LANGUAGE.vocabulary
FULL = NoiseConfig(sigma_min=0.0, sigma_max=1.0)
MASKED, CAUSAL, REPAIR, SKELETON, OPEN = map(
    mode_number, ("mask", "causal", "repair", "skeleton", "open")
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(n: int, seed: int = 0) -> Strings:
    texts = LANGUAGE.sample_many(n, np.random.default_rng(seed))
    return pad([VOCABULARY.encode(text) for text in texts], VOCABULARY)


def same(text: str, n: int) -> Strings:
    """The same string n times."""
    return pad([VOCABULARY.encode(text)] * n, VOCABULARY)


def mixed(
    strings: Strings,
    rng: torch.Generator | None,
    causal: float = 0.0,
    repair: float = 0.0,
    skeleton: float = 0.0,
    open: float = 0.0,
    *,
    noise: NoiseConfig = FULL,
    max_len: int = 64,
    cut_rows: float = 0.0,
    vocabulary: Vocabulary = VOCABULARY,
) -> Canvases:
    """The mixture with these shares, the rest masked."""
    train = TrainConfig(
        causal_share=causal,
        repair_share=repair,
        skeleton_share=skeleton,
        open_share=open,
        cut_rows=cut_rows,
    )
    config = Config(language=LanguageConfig(max_len=max_len), noise=noise, train=train)
    return mixture(strings, config, vocabulary, rng)


def assert_share(count: float, n: int, p: float) -> None:
    assert abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-9, (
        f"{count / n:.5f} is not {p:.5f} (n = {n})"
    )


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    """Kolmogorov-Smirnov at 1 in 100,000."""
    quantile = ((values.double() - low) / (high - low)).sort().values
    n = len(values)
    assert quantile[0] >= -1e-6
    assert quantile[-1] <= 1 + 1e-6
    gap = max(
        (quantile - torch.arange(n) / n).abs().max(),
        (quantile - torch.arange(1, n + 1) / n).abs().max(),
    )
    assert gap < 2.47 / math.sqrt(n)
