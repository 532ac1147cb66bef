"""Data-parallel set-up: who am I among how many, and the collectives that the loop needs.

For: ``torchrun --nproc_per_node=N train_universal.py``, and a single process, which is a world of one.  Not for: model
parallelism.  Easy to get wrong: every process noises the same global batch from the same seed and then takes its share of
the rows, so that N processes descend on the same loss as one; and whatever ends the loop must end it in all processes at the
same step, or the others wait for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maskdiff.errors import UserError


@dataclass(frozen=True)
class World:
    """This process's place: ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a global batch, (about rows / size, ...)."""
        return rows[self.rank :: self.size]

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes in one flat all-reduce; nothing to do in a world of one."""
        if self.size == 1:
            return
        gradients = [w.grad if w.grad is not None else torch.zeros_like(w) for w in weights]
        flat = torch.cat([g.flatten() for g in gradients])
        _reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """Add up ``values`` over all processes."""
        if self.size > 1:
            _reduce(values)
        return values

    def largest(self, number: int) -> int:
        """The largest ``number`` of all processes, in every one of them."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        _reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def close(self) -> None:
        """Leave the process group."""
        if self.size > 1:
            dist.destroy_process_group()


def _reduce(values: Tensor, how: Any = dist.ReduceOp.SUM) -> None:
    """Reduce ``values`` over all processes, in place.  Raises UserError if another one ended."""
    try:
        dist.all_reduce(values, how)
    except RuntimeError:
        raise UserError("another process of this run ended; see its message") from None


def join_world(device: torch.device) -> World:
    """Join the process group that ``torchrun`` announces in the environment; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if device.type == "cuda" and device.index is None:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")  # signals are numbers on the CPU
    return World(dist.get_rank(), size)
