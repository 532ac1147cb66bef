"""What the model is shown beside the canvas: a first prediction of its own, and the random numbers of a draw.

For: the two optional inputs, ``previous`` [2208.04202] and ``noise`` [2512.21323], which a share of the training steps has.
Not for: sampling, which makes both on the way.  Easy to get wrong: whether a step has them, and the numbers drawn for them,
are functions of (seed, step) and of the *global* batch, or a resumed or a data-parallel run is another run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskdiff.config import Config
from maskdiff.data import PackedCanvases, step_generator
from maskdiff.drawing.logits import allowed_symbols, log_distribution
from maskdiff.languages import Vocabulary
from maskdiff.noise import IGNORE, exponentials, mode_number, posterior_gumbel

NOISE, SELF_CONDITION, DROPOUT, COUPLING = 1, 2, 3, 4  # independent streams of randomness of a step
Read = Callable[
    [PackedCanvases, Tensor, Tensor, Tensor], Tensor
]  # (batch, tokens, causal, sigma) -> logits of the tokens


@torch.no_grad()
def self_condition(
    read: Read, batch: PackedCanvases, config: Config, vocabulary: Vocabulary, step: int
) -> Tensor | None:
    """Probabilities of a first prediction at masked tokens, in a share of the steps; None in the others [2208.04202]."""
    train = config.train
    generator = step_generator(train.seed, step, SELF_CONDITION)
    if (
        not config.model.use_self_cond
        or torch.rand(1, generator=generator).item() >= train.self_cond_prob
    ):
        return None
    logits = read(batch, batch.tokens, batch.causal, batch.sigma)
    masked = (batch.tokens == vocabulary.mask) & ~batch.causal
    return logits.softmax(-1) * masked[..., None]


@torch.no_grad()
def couple(
    read: Read,
    batch: PackedCanvases,
    config: Config,
    vocabulary: Vocabulary,
    step: int,
    rows: int,
    share: Callable[[Tensor], Tensor],
) -> Tensor | None:
    """Noise with which the causal mode, as it is now, draws the hidden tokens of masked strings [2512.21323].

    In a share of the steps; zero in the others, None for a model without the input.  ``batch`` is
    the ``share`` of a shard of the global batch's ``rows``; numbers are drawn for all of them.
    """
    train = config.train
    if not config.model.use_coupling:
        return None
    generator = step_generator(train.seed, step, COUPLING)
    if torch.rand(1, generator=generator).item() >= train.coupling_prob:
        return torch.zeros(*batch.tokens.shape, len(vocabulary), device=batch.tokens.device)
    numbers = share(exponentials((rows, batch.tokens.shape[1]), len(vocabulary), generator))
    numbers = numbers.to(batch.tokens.device)
    hidden = (batch.mode == mode_number("mask")) & (batch.targets != IGNORE)
    clean = torch.where(hidden, batch.targets, batch.tokens)
    logits = read(batch, clean, torch.ones_like(batch.causal), torch.zeros_like(batch.sigma))
    log_probs = log_distribution(logits, allowed_symbols(clean, vocabulary))
    return posterior_gumbel(log_probs, clean, numbers) * hidden[..., None]
