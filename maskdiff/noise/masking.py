"""Masked diffusion and next-token prediction: which tokens are hidden, and the weight of each.

The weight n/k gives the ELBO only if k is uniform on 1..n, that is with sigma uniform on [0, 1]; on
a narrower range it has the shape of the ELBO and nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import NoiseConfig
from maskdiff.noise.canvases import Canvases, Strings, make_canvases
from maskdiff.noise.schedule import draw_sigma, model_sigma

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

ROUNDING = 5e-5  # so that fp32 error in sigma * n, n up to 1022, neither adds nor removes a token


def choose_exactly(allowed: Tensor, count: Tensor, generator: torch.Generator | None) -> Tensor:
    """Choose `count` allowed positions of every row; all subsets of that size are equally likely.

    Args:
        allowed: (batch, width) bool.
        count: (batch,) int64, at most the number of allowed positions of the row.
        generator: of the random numbers.

    Returns:
        (batch, width) bool.
    """
    keys = torch.rand(allowed.shape, generator=generator, dtype=torch.float64)
    keys.masked_fill_(~allowed, 2.0)
    first = torch.arange(allowed.shape[1]) < count[:, None]  # (batch, width), by rank
    order = torch.from_numpy(keys.numpy().argsort(axis=1))  # four times as fast as torch's on a CPU
    return torch.zeros_like(allowed).scatter_(1, order, first)


def mask_exactly(strings: Strings, count: Tensor, generator: torch.Generator | None) -> Tensor:
    """Choose `count` (batch,) inner positions of every string uniformly: (batch, width) bool."""
    return choose_exactly(strings.inner(), count, generator)


def mask_count(sigma: Tensor, inner: Tensor) -> Tensor:
    """Number of the `inner` tokens to hide at level `sigma`, both (batch,): ceil(sigma n) in 1..n.

    It is uniform if sigma is.
    """
    count = (sigma.double() * inner - ROUNDING).ceil().long()
    return count.clamp(min=1).minimum(inner)


def draw_prefix(inner: Tensor, config: NoiseConfig, generator: torch.Generator | None) -> Tensor:
    """Symbols of the clean prefix of strings of `inner` (batch,) symbols; -1 where there is none.

    A share `ar_prefix_ratio` keeps `ar_prefix_len` symbols, or a number uniform on 0..n-1 if that
    is 0; at least one symbol is always left to predict.
    """
    chosen = torch.rand(len(inner), generator=generator) < config.ar_prefix_ratio
    if config.ar_prefix_len:
        prefix = torch.minimum(inner - 1, torch.tensor(config.ar_prefix_len))
    else:
        uniform = torch.rand(len(inner), generator=generator, dtype=torch.float64)
        prefix = (uniform * inner).long().minimum(inner - 1)
    return torch.where(chosen, prefix, -1)


def mask_noise(
    strings: Strings,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    loss_weight: str = "elbo",
    sigma: Tensor | None = None,
) -> Canvases:
    """Masked diffusion [2406.07524, 2406.03736]: k = ceil(sigma n) of n symbols are hidden.

    The loss is on the hidden symbols. With `loss_weight` "elbo" each has the weight n/k, so that
    with sigma uniform on [0, 1] the expected sum is the exact negative ELBO of the string in nats;
    with "uniform" each has the weight 1. Strings of the clean-prefix augmentation
    (`ar_prefix_ratio`) show a prefix and hide all that follows, at weight 1: a draw of k would not
    be uniform there, and the weight stays bounded.

    Args:
        strings: clean strings.
        config: the distribution of noise levels, and the augmentation.
        vocabulary: gives the id of MASK.
        generator: of the random numbers.
        loss_weight: "elbo" or "uniform".
        sigma: (batch,) noise levels in [0, 1]; drawn from `config` if not given.
    """
    inner = strings.length - 2  # (batch,)
    if sigma is None:
        sigma = draw_sigma(len(strings), config, generator)
    count = mask_count(sigma, inner)
    hidden = mask_exactly(strings, count, generator)  # (batch, width)
    weight = inner / count if loss_weight == "elbo" else torch.ones(len(strings))
    if config.ar_prefix_ratio > 0.0:
        prefix = draw_prefix(inner, config, generator)
        kept = prefix >= 0
        suffix = strings.inner() & (torch.arange(hidden.shape[1]) > prefix[:, None])
        hidden = torch.where(kept[:, None], suffix, hidden)
        weight = torch.where(kept, 1.0, weight)
        sigma = torch.where(kept, 1.0 - prefix / inner, sigma)
    tokens = strings.tokens.masked_fill(hidden, vocabulary.mask)
    return make_canvases(strings, tokens, hidden, weight[:, None], model_sigma(sigma, config))


def causal_canvas(
    strings: Strings, cut_rows: float = 0.0, generator: torch.Generator | None = None
) -> Canvases:
    """Next-token prediction: all tokens are visible, and all after BOS are targets of weight 1.

    In a share `cut_rows` of the strings EOS is no target, as if the row were truncated before it.
    """
    predicted = strings.valid()
    predicted[:, 0] = False
    if cut_rows:
        cut = torch.rand(len(strings), generator=generator) < cut_rows
        predicted &= strings.inner() | ~cut[:, None]
    sigma = torch.zeros(len(strings))
    return make_canvases(strings, strings.tokens, predicted, torch.ones(1, 1), sigma, causal=True)
