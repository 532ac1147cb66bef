"""Open canvases: strings that are cut anywhere, or run on as EOS, with something hidden towards their end.

For: training a denoiser to write a string block by block from the left, and to judge a part of one, when nobody knows yet how
long it will be. Not for: strings of known length (`masking.py`). Easy to get wrong: the last token of an open canvas is an
ordinary one, so it may be hidden; and a canvas may go on behind the string's EOS, with EOS again, as in LLaDA [2502.09992],
for a block does not end where the string does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import NoiseConfig
from maskdiff.noise.canvases import OPEN, Canvases, Strings, make_canvases
from maskdiff.noise.masking import choose_exactly, mask_count
from maskdiff.noise.schedule import draw_sigma, model_sigma

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

RUN_ON = 8  # most EOS behind the string's own


def open_noise(
    strings: Strings,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    loss_weight: str = "elbo",
    max_len: int = 0,
) -> Canvases:
    """Cut every string at a uniform place, or let it run on, and hide k = ceil(sigma b) of its last b tokens, b log-uniform.

    The weights are those of `mask_noise` within the b tokens: b/k ("elbo") or 1.

    Args:
        max_len: longest canvas in tokens; 0 is no limit.
    """
    n, device = len(strings), strings.tokens.device
    run_on = RUN_ON if not max_len else max(0, min(RUN_ON, max_len - strings.tokens.shape[1]))
    filled = strings.tokens.masked_fill(~strings.valid(), vocabulary.eos)
    tail = torch.full((n, run_on), vocabulary.eos, dtype=filled.dtype, device=device)
    clean = torch.cat((filled, tail), dim=1)  # (batch, width + run_on)
    longest = (strings.length - 1 + RUN_ON).clamp(
        max=clean.shape[1] - 1
    )  # tokens behind BOS, whatever else is in the batch
    end = 1 + (torch.rand(n, generator=generator) * longest.float()).long().minimum(
        longest - 1
    )  # position of the last token
    block = _log_uniform(end, generator)
    at = torch.arange(clean.shape[1], device=device)
    within = (at > (end - block)[:, None]) & (at <= end[:, None])
    sigma = draw_sigma(n, config, generator)
    count = mask_count(sigma, block)
    hidden = choose_exactly(within, count, generator)
    weight = block / count if loss_weight == "elbo" else torch.ones(n)
    cut = Strings(clean.masked_fill(at > end[:, None], vocabulary.pad), end + 1)
    tokens = cut.tokens.masked_fill(hidden, vocabulary.mask)
    return make_canvases(cut, tokens, hidden, weight[:, None], model_sigma(sigma, config), OPEN)


def _log_uniform(most: Tensor, generator: torch.Generator | None) -> Tensor:
    """(batch,) integers in 1..most, their logarithms about uniform."""
    u = torch.rand(len(most), generator=generator, dtype=torch.float64)
    return torch.exp(u * torch.log(most.double() + 1.0)).long().clamp(min=1).minimum(most)


__all__ = ["RUN_ON", "open_noise"]
