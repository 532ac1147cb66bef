"""Losses: pure functions of logits, targets and weights.

All are in nats per inner token of the clean strings (BOS and EOS are not inner), so that a training
loss, an ELBO and an entropy floor can be compared. A causal string also pays for its EOS, which
costs almost nothing once the length is known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskdiff.noise import IGNORE


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of every target, in nats.

    Args:
        logits: (..., vocab), any floating dtype; the arithmetic is fp32.
        targets: (...) token ids, `IGNORE` where there is nothing to predict.

    Returns:
        (...) fp32, zero where ignored.
    """
    flat = F.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return flat.view(targets.shape)


def weighted_nll(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The training loss of every token; their sum over the number of inner tokens is the loss.

    With k uniform in 1..n, k of n inner tokens masked and weights n/k on them, the expected sum
    over a string is its negative ELBO under masked diffusion [2406.07524, 2406.03736]; with weight
    1 on every next token it is the autoregressive loss.

    Args:
        logits: (rows, width, vocab).
        targets: (rows, width), `IGNORE` where there is nothing to predict.
        weights: (rows, width) fp32, zero where ignored.

    Returns:
        (rows, width) fp32, in nats.
    """
    return token_nll(logits, targets) * weights


def sums_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums of `values` (any shape) by `group` (same shape, ids in 0..groups-1): (groups,) fp32."""
    sums = torch.zeros(groups, device=values.device)
    return sums.index_add_(0, group.flatten(), values.flatten().float())
