"""Scores of tokens that the model does not see: `leave_out` hides some and scores them."""

from __future__ import annotations

import torch
from torch import Tensor

from maskdiff.drawing.logits import log_distribution, pick
from maskdiff.models.denoiser import Denoiser


@torch.no_grad()
def leave_out(
    denoiser: Denoiser,
    tokens: Tensor,
    length: Tensor,
    hidden: Tensor,
    allowed: Tensor | None = None,
) -> Tensor:
    """Log-probability of hidden tokens given the visible ones, in one bidirectional evaluation.

    Hidden one at a time, the tokens of a string have the pseudo-log-likelihood of 1910.14659 as
    their sum.

    Args:
        denoiser: The model.
        tokens: (batch, width) the strings.
        length: (batch,) of each.
        hidden: (batch, width) bool: tokens to hide and to score.
        allowed: Bool, broadcast to (batch, width, vocab): tokens that share the probability; all
            by default.

    Returns:
        (batch, width) nats; 0 where a token is visible.
    """
    shown = tokens.masked_fill(hidden, denoiser.vocabulary.mask)
    sigma = torch.zeros(len(length), device=length.device)
    logits = denoiser(shown, length, sigma, False, None)
    if logits.device.type != "mps":  # which has no float64
        logits = logits.double()
    log_p = logits.log_softmax(-1) if allowed is None else log_distribution(logits, allowed)
    return pick(log_p, tokens).masked_fill(~hidden, 0.0)


def every(places: Tensor, groups: int) -> Tensor:
    """(groups, batch, width) bool: every groups-th of `places` (batch, width), counted in each row.

    Each place is in one group. With more groups than places, some groups of a row are empty.
    """
    number = places.cumsum(1) - 1
    order = torch.arange(groups, device=places.device)[:, None, None]
    return places & (number % groups == order)
