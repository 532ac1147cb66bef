"""Data-parallel set-up: who am I among how many, and the collectives that the loop needs.

For: ``torchrun --nproc_per_node=N train_universal.py``, and a single process, which is a world of one.  Not for: model
parallelism.  Easy to get wrong: every process noises the same global batch from the same seed and then takes its share of
the rows, so that N processes descend on the same loss as one; and whatever ends the loop must end it in all processes at the
same step, or the others wait for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from maskdiff.errors import ConfigError, UserError

PIECE = 2**20  # numbers of every shard that are gathered at a time


@dataclass(frozen=True)
class World:
    """This process's place: ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def own(self, shards: int) -> range:
        """The numbers of this process's shards of a global batch, of ``shards`` in all.

        Raises ConfigError where the processes cannot have equally many.
        """
        if shards % self.size:
            size = self.size
            raise ConfigError(f"shards is {shards}; {size} processes need a multiple of {size}")
        return range(self.rank, shards, self.size)

    def add_up(self, parts: Tensor) -> Tensor:
        """The sum (n,) over the shards of all processes; ``parts`` (own shards, n) as in ``own``.

        Shards are added one after another, in the order of their numbers, so that the rounding does
        not depend on the number of processes.
        """
        total = torch.empty_like(parts[0])
        for target, piece in zip(total.split(PIECE), parts.split(PIECE, dim=1), strict=True):
            gathered = self._gather(piece.contiguous())
            rows = torch.stack(gathered, dim=1).flatten(0, 1)  # (shards, piece), by number
            target.copy_(rows[0])
            for row in rows[1:]:
                target.add_(row)
        return total

    def _gather(self, values: Tensor) -> list[Tensor]:
        """The ``values`` of every process, by rank."""
        if self.size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        with _together():
            dist.all_gather(gathered, values)
        return gathered

    def largest(self, number: int) -> int:
        """The largest ``number`` of all processes, in every one of them."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        with _together():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def close(self) -> None:
        """Leave the process group."""
        if self.size > 1:
            dist.destroy_process_group()


def shard(rows: Tensor, number: int, shards: int) -> Tensor:
    """The rows of one shard of a global batch, (about rows / shards, ...)."""
    return rows[number::shards]


@contextmanager
def _together() -> Iterator[None]:
    """Around a collective.  Raises UserError if another process ended."""
    try:
        yield
    except RuntimeError:
        raise UserError("another process of this run ended; see its message") from None


def join_world(device: torch.device) -> World:
    """Join the process group that ``torchrun`` announces in the environment; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if device.type == "cuda" and device.index is None:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    )  # signals are numbers on the CPU
    return World(dist.get_rank(), size)
