"""Optional inputs of a training step: a first prediction, and the random numbers of a draw.

A share of the steps has `previous` [2208.04202] and `noise` [2512.21323]. The choice of the steps,
and the numbers, are functions of (seed, step) and of the global batch, so that resumed and
data-parallel runs are the same run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskdiff.config import Config
from maskdiff.data import PackedCanvases, step_generator
from maskdiff.drawing.logits import allowed_symbols, log_distribution
from maskdiff.languages import Vocabulary
from maskdiff.noise import IGNORE, MODES, exponentials, posterior_gumbel

NOISE, SELF_CONDITION, DROPOUT, COUPLING = 1, 2, 3, 4  # independent streams of randomness of a step
# (batch, tokens, causal, sigma) -> logits of the tokens
Logits = Callable[[PackedCanvases, Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def self_condition(
    logits_of: Logits, batch: PackedCanvases, config: Config, vocabulary: Vocabulary, step: int
) -> Tensor | None:
    """Probabilities of a first prediction at masked tokens [2208.04202].

    None in steps that do not self-condition.
    """
    train = config.train
    if not config.model.use_self_cond:
        return None
    generator = step_generator(train.seed, step, SELF_CONDITION)
    if torch.rand(1, generator=generator).item() >= train.self_cond_prob:
        return None
    logits = logits_of(batch, batch.tokens, batch.causal, batch.sigma)
    masked = (batch.tokens == vocabulary.mask) & ~batch.causal
    return logits.softmax(-1) * masked[..., None]


@torch.no_grad()
def couple(
    logits_of: Logits,
    batch: PackedCanvases,
    config: Config,
    vocabulary: Vocabulary,
    step: int,
    rows: int,
    take_shard: Callable[[Tensor], Tensor],
) -> Tensor | None:
    """Noise with which the current causal mode draws the hidden tokens of masked strings.

    It is zero in steps without coupling [2512.21323], and None for a model without the input. The
    `batch` is the shard that `take_shard` takes of the `rows` rows of the global batch; numbers are
    drawn for all rows.
    """
    train = config.train
    if not config.model.use_coupling:
        return None
    generator = step_generator(train.seed, step, COUPLING)
    if torch.rand(1, generator=generator).item() >= train.coupling_prob:
        return torch.zeros(*batch.tokens.shape, len(vocabulary), device=batch.tokens.device)
    numbers = take_shard(exponentials((rows, batch.tokens.shape[1]), len(vocabulary), generator))
    numbers = numbers.to(batch.tokens.device)
    coupled = [number for number, mode in enumerate(MODES.values()) if mode.coupled]
    modes = torch.tensor(coupled, device=batch.mode.device)
    hidden = torch.isin(batch.mode, modes) & (batch.targets != IGNORE)
    clean = torch.where(hidden, batch.targets, batch.tokens)
    logits = logits_of(batch, clean, torch.ones_like(batch.causal), torch.zeros_like(batch.sigma))
    log_probs = log_distribution(logits, allowed_symbols(clean, vocabulary))
    return posterior_gumbel(log_probs, clean, numbers) * hidden[..., None]
