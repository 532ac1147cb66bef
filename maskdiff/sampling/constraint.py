"""The place where a grammar would condition a proposal.

For: the protocol that a constraint fits.  Not for: any constraint; none ships, and every reported figure is without one.
Easy to get wrong: a constraint conditions on what *is* on the canvas, so it is asked again at every evaluation.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Constraint(Protocol):
    """Per-position log-probabilities in, per-position log-probabilities exactly conditioned on a language out."""

    def __call__(self, log_probs: Tensor, tokens: Tensor, length: Tensor) -> Tensor:
        """log_probs (batch, width, vocab), tokens (batch, width) with blanks, length (batch,) -> (batch, width, vocab).

        Minus infinity forbids; at least one symbol of every blank position must stay possible.
        """
        ...
