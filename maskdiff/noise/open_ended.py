"""Open canvases: strings that are cut anywhere, or continued with EOS, with blanks near their end.

They train a denoiser to write a string block by block from the left, and to score a part of one,
before its length is known. The last token of an open canvas is an ordinary one, so it may be
hidden. A canvas may go on behind the string's EOS with more EOS, as in LLaDA [2502.09992], because
a block does not end where the string does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import NoiseConfig
from maskdiff.noise.canvases import Canvases, Strings, make_canvases
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
    """Cut or continue every string, and hide k = ceil(sigma b) of its last b tokens.

    The end is uniform over the string and `RUN_ON` tokens behind it, and b is log-uniform. The
    weights are those of `mask_noise` within the b tokens: b/k ("elbo") or 1.

    Args:
        strings: clean strings.
        config: the distribution of noise levels.
        vocabulary: gives the ids of MASK, EOS and PAD.
        generator: of the random numbers.
        loss_weight: "elbo" or "uniform".
        max_len: longest canvas in tokens; 0 is no limit.
    """
    # The strings, with EOS in the place of padding and at most RUN_ON times behind it.
    n, device = len(strings), strings.tokens.device
    run_on = RUN_ON if not max_len else max(0, min(RUN_ON, max_len - strings.tokens.shape[1]))
    filled = strings.tokens.masked_fill(~strings.valid(), vocabulary.eos)
    tail = torch.full((n, run_on), vocabulary.eos, dtype=filled.dtype, device=device)
    clean = torch.cat((filled, tail), dim=1)  # (batch, width + run_on)

    # The position of the last token; it depends on no other string of the batch.
    longest = (strings.length - 1 + RUN_ON).clamp(max=clean.shape[1] - 1)
    uniform = torch.rand(n, generator=generator) * longest.float()
    end = 1 + uniform.long().minimum(longest - 1)

    # Blanks within the last tokens.
    block = _log_uniform(end, generator)
    at = torch.arange(clean.shape[1], device=device)
    within = (at > (end - block)[:, None]) & (at <= end[:, None])
    sigma = draw_sigma(n, config, generator)
    count = mask_count(sigma, block)
    hidden = choose_exactly(within, count, generator)
    weight = block / count if loss_weight == "elbo" else torch.ones(n)
    cut = Strings(clean.masked_fill(at > end[:, None], vocabulary.pad), end + 1)
    tokens = cut.tokens.masked_fill(hidden, vocabulary.mask)
    shown = model_sigma(sigma, config)
    return make_canvases(cut, tokens, hidden, weight[:, None], shown, open_end=True)


def _log_uniform(most: Tensor, generator: torch.Generator | None) -> Tensor:
    """(batch,) integers in 1..most, their logarithms about uniform."""
    u = torch.rand(len(most), generator=generator, dtype=torch.float64)
    return torch.exp(u * torch.log(most.double() + 1.0)).long().clamp(min=1).minimum(most)
