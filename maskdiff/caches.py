"""Keys and values of attention that were computed before: of rows of tokens, and of a tree of tokens.

For: the causal mode of `model.py`, which reads token after token. Not for: what a token is or which
tokens are read. Easy to get wrong: the tokens of a tree are numbered in the order in which they were
added, which is not the order of their positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Cache:
    """Keys and values of the causal mode, one slot for each of the ``k_iter * n_layer`` applications of a block."""

    keys: Tensor  # (applications, rows, heads, block_size, head_dim)
    values: Tensor
    filled: int = 0  # tokens already read, the same for all rows

    def extend(self, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append tokens, (rows, heads, new, head_dim); keys and values of all that was read, (rows, heads, n, head_dim)."""
        end = self.filled + keys.size(2)
        self.keys[slot, :, :, self.filled : end] = keys
        self.values[slot, :, :, self.filled : end] = values
        return self.keys[slot, :, :, :end], self.values[slot, :, :, :end]

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows, in the order given; rows may repeat (as in a beam)."""
        shape = (self.keys.size(0), len(rows), *self.keys.shape[2:])
        keys, values = self.keys.new_empty(shape), self.values.new_empty(shape)
        # What is not filled yet need not be copied: in a beam this is most of the time of a step.
        keys[:, :, :, : self.filled] = self.keys[:, rows, :, : self.filled]
        values[:, :, :, : self.filled] = self.values[:, rows, :, : self.filled]
        return Cache(keys, values, self.filled)


@dataclass
class TreeCache:
    """Keys and values of a tree of beginnings of strings: every row of a batch is one node, which sees its ancestors and
    itself.
    """

    keys: Tensor  # (applications, capacity, heads, head_dim)
    values: Tensor
    paths: Tensor  # (capacity, block_size or deeper) int32 numbers of its ancestors and its own; 0 behind
    depth: Tensor  # (nodes,) its position, 0 for a root
    new: Tensor  # (rows, n) nodes that are being read: one a row, or a chain of them in one row
    seen: Tensor  # (rows, width) nodes that those of each row see, themselves included

    def read(self, nodes: Tensor, chain: bool = False) -> None:
        """Make some nodes those that are being read; their parents have been, or are among them.

        Of a `chain` each node but the first is the child of the one before it: what the last sees is
        gathered for all.
        """
        self.new = nodes[None] if chain else nodes[:, None]
        last = self.new[:, -1]
        self.seen = self.paths[last, : int(self.depth[last].max()) + 1].long()

    def forget(self, nodes: int) -> None:
        """Leave only the first nodes."""
        self.depth = self.depth[:nodes]

    def grow(self, parents: Tensor) -> Tensor:
        """Make room for new nodes (n,), numbered as they come, and return their numbers.

        A parent below 0 makes a root, others come before their children.
        """
        first, count = len(self.depth), len(parents)
        new = torch.arange(first, first + count, device=parents.device)
        if first + count > len(self.paths):  # at least doubled, so that growing one by one stays cheap
            self.paths = F.pad(self.paths, (0, 0, 0, max(first + count - len(self.paths), len(self.paths))))
        self.depth = F.pad(self.depth, (0, count), value=-1)
        if count > 1 and is_chain(new, parents):
            self._grow_chain(new, parents[0])
            waiting = new[:0]
        else:
            waiting, parents = new, parents.clone()
        while len(waiting):  # a generation at a time
            ready = (parents < 0) | (self.depth[parents.clamp(min=0)] >= 0)
            nodes, above = waiting[ready], parents[ready]
            self.depth[nodes] = torch.where(above < 0, 0, self.depth[above.clamp(min=0)] + 1)
            deepest = int(self.depth[nodes].max())
            if deepest >= self.paths.shape[1]:
                self.paths = F.pad(self.paths, (0, deepest))
            self.paths[nodes] = torch.where(above[:, None] < 0, 0, self.paths[above.clamp(min=0)])
            self.paths[nodes, self.depth[nodes]] = nodes.to(self.paths.dtype)
            waiting, parents = waiting[~ready], parents[~ready]
        room = max(first + count - self.keys.size(1), 0)
        if room:
            room = max(room, self.keys.size(1))
            self.keys, self.values = (F.pad(x, (0, 0, 0, 0, 0, room)) for x in (self.keys, self.values))
        return new

    def _grow_chain(self, new: Tensor, parent: Tensor) -> None:
        """Depths and paths of a chain of nodes, the first of which is a child of `parent`."""
        begin, count = 0 if parent < 0 else int(self.depth[parent]) + 1, len(new)
        self.depth[new] = begin + torch.arange(count, device=new.device)
        if begin + count > self.paths.shape[1]:
            self.paths = F.pad(self.paths, (0, begin + count - self.paths.shape[1]))
        if begin:
            self.paths[new, :begin] = self.paths[parent, :begin]
        self.paths[new, begin : begin + count] = new.to(self.paths.dtype).expand(count, -1).tril()

    def extend(self, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store those of the new nodes, (rows, heads, n, head_dim).

        Returns those that each row sees, (rows, heads, width, head_dim).
        """
        self.keys[slot, self.new] = keys.transpose(1, 2).to(self.keys.dtype)
        self.values[slot, self.new] = values.transpose(1, 2).to(self.values.dtype)
        return self.keys[slot, self.seen].transpose(1, 2), self.values[slot, self.seen].transpose(1, 2)


def is_chain(nodes: Tensor, parents: Tensor) -> bool:
    """Whether each of the nodes but the first is the child of the one before it."""
    return bool((parents[1:] == nodes[:-1]).all())
