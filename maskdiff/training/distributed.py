"""Data-parallel training: the place of this process, and the collectives of the loop.

Every process makes the same global batch from the same seed and takes its shards of the rows, so
that N processes descend on the same loss as one. The condition that ends the loop must end it in
all processes at the same step, or the others wait forever.
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
    """The place of this process: `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def shard_numbers(self, shards: int) -> range:
        """The numbers of the shards of this process, of `shards` shards of a global batch.

        Raises:
            ConfigError: `shards` is no multiple of the number of processes.
        """
        if shards % self.size:
            size = self.size
            raise ConfigError(f"shards is {shards}; {size} processes need a multiple of {size}")
        return range(self.rank, shards, self.size)

    def sum_shards(self, parts: Tensor) -> Tensor:
        """The sum (n,) over the shards of all processes.

        Shards are added one after another, in the order of their numbers, so that the rounding does
        not depend on the number of processes.

        Args:
            parts: (shards of this process, n), in the order of `shard_numbers`.
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
        """The `values` of every process, by rank."""
        if self.size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        with _collective():
            dist.all_gather(gathered, values)
        return gathered

    def maximum(self, number: int) -> int:
        """The maximum of `number` over all processes."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        with _collective():
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
def _collective() -> Iterator[None]:
    """Run a collective. Raises UserError if another process ended."""
    try:
        yield
    except RuntimeError:
        raise UserError("another process of this run ended; see its message") from None


def join_world(device: torch.device) -> World:
    """Join the process group of `torchrun`; without one, a world of one process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if device.type == "cuda" and device.index is None:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Signals are numbers on the CPU, so that gloo is needed beside nccl.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), size)
