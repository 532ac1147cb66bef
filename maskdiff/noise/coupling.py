"""Coupling: the random numbers with which the causal mode would have drawn a given string.

A bidirectional mode that sees the random numbers of a draw can agree with itself on many tokens in
one evaluation [2512.21323]. The noise must be the posterior given the string: noise drawn
independently of it teaches nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exponentials(shape: tuple[int, ...], vocab_size: int, generator: torch.Generator) -> Tensor:
    """Standard exponential numbers (*shape, vocab_size + 1) on the CPU, for `posterior_gumbel`."""
    return torch.empty(*shape, vocab_size + 1).exponential_(generator=generator).clamp_(min=1e-30)


def posterior_gumbel(log_probs: Tensor, tokens: Tensor, exponential: Tensor) -> Tensor:
    """Gumbel noise g given that argmax(log p + g) is the token: (..., vocab) fp32.

    The largest perturbed log-probability is Gumbel(0) for any symbol, and the others are Gumbel
    variables truncated to be below it (1411.0030, section 3). If the tokens are draws from p, the
    noise of all symbols is independent and standard.

    Args:
        log_probs: (..., vocab) normalised; minus infinity for symbols that are never drawn, whose
            noise is 0.
        tokens: (...) the drawn tokens.
        exponential: (..., vocab + 1) independent standard exponential numbers.
    """
    possible = log_probs > -torch.inf
    location = log_probs.float().clamp(min=-50.0)  # an impossible token, too, gets finite noise
    free = -torch.log(exponential.float())  # standard Gumbel
    largest = free[..., -1:]
    others = -torch.logaddexp(-largest, -(location + free[..., :-1])) - location
    noise = others.scatter(-1, tokens[..., None], largest - location.gather(-1, tokens[..., None]))
    return torch.where(possible, noise, 0.0)
