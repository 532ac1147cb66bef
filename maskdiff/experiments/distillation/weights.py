"""Weights that are put back when an experiment is done with them.

For: `restored`. Not for: optimisers, which are made anew for every run. Easy to get wrong: a state dictionary holds the weights
themselves, not copies; training would change what is to be put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from maskdiff.experiments.distillation.policy import Policy


@contextmanager
def restored(policy: Policy) -> Iterator[None]:
    """Put the policy's weights back to what they are now, whatever happens."""
    kept = [weight.detach().clone() for weight in policy.module.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(policy.module.parameters(), kept, strict=True):
                weight.copy_(before)


__all__ = ["restored"]
