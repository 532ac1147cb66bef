"""Key/value caches of attention: of rows of tokens, and of a tree of tokens.

The nodes of a tree are numbered in the order in which they were added, which is not the order of
their positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Cache:
    """Keys and values of the causal mode; one slot for each of `k_iter * n_layer` applications."""

    keys: Tensor  # (applications, rows, heads, block_size, head_dim)
    values: Tensor
    filled: int = 0  # tokens already read, the same for all rows

    def extend(self, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append new tokens, (rows, heads, new, head_dim).

        Returns keys and values of all tokens, (rows, heads, n, head_dim).
        """
        end = self.filled + keys.size(2)
        self.keys[slot, :, :, self.filled : end] = keys
        self.values[slot, :, :, self.filled : end] = values
        return self.keys[slot, :, :, :end], self.values[slot, :, :, :end]

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows, in the order given; rows may repeat (as in a beam)."""
        shape = (self.keys.size(0), len(rows), *self.keys.shape[2:])
        keys, values = self.keys.new_empty(shape), self.values.new_empty(shape)
        # Copy only what is filled: in a beam this is most of the time of a step.
        keys[:, :, :, : self.filled] = self.keys[:, rows, :, : self.filled]
        values[:, :, :, : self.filled] = self.values[:, rows, :, : self.filled]
        return Cache(keys, values, self.filled)


SEGMENT = 128  # positions whose nodes a node lists; longer paths are chains of segments


@dataclass
class TreeCache:
    """Keys and values of a tree of prefixes: every node sees its ancestors and itself.

    The memory depends on the number of nodes, not on their depth.
    """

    keys: Tensor  # (applications, capacity, heads, head_dim)
    values: Tensor
    # (capacity, SEGMENT) int32: each node's ancestors and itself by position in the segment, or 0
    paths: Tensor
    above: Tensor  # (capacity,) the last ancestor in the segment before; -1 in the first segment
    depth: Tensor  # (nodes,) its position, 0 for a root
    new: Tensor  # (rows, n) nodes that are being read: one a row, or a chain of them in one row
    seen: Tensor  # (rows, width) nodes that those of each row see, themselves included

    @property
    def node_bytes(self) -> int:
        """Bytes that a node takes. While the cache grows, it takes twice as many."""
        return (self.keys.nbytes + self.values.nbytes) // self.keys.size(1) + 4 * SEGMENT + 16

    @property
    def gathered_bytes(self) -> int:
        """Bytes of the keys and values of an ancestor that a pass gathers for a node."""
        return 2 * self.keys[0, 0].nbytes

    def read(self, nodes: Tensor, chain: bool = False) -> None:
        """Make `nodes` those being read; their parents were read before, or are among them.

        In a `chain` each node but the first is the child of the one before it; the nodes that the
        last one sees are gathered for all.
        """
        self.new = nodes[None] if chain else nodes[:, None]
        at = self.new[:, -1]
        width = int(self.depth[at].max()) + 1
        seen = nodes.new_zeros(len(at), -(-width // SEGMENT), SEGMENT)
        rows = torch.arange(len(at), device=nodes.device)
        while len(rows):  # a segment at a time, the last one first
            seen[rows, self.depth[at] // SEGMENT] = self.paths[at].long()
            at = self.above[at]
            rows, at = rows[at >= 0], at[at >= 0]
        self.seen = seen.flatten(1)[:, :width]

    def forget(self, nodes: int) -> None:
        """Keep only the first `nodes` nodes."""
        self.depth = self.depth[:nodes]

    def grow(self, parents: Tensor) -> Tensor:
        """Make room for new nodes with these `parents` (n,), and return their numbers.

        A negative parent makes a root; other parents come before their children.
        """
        first, count = len(self.depth), len(parents)
        new = torch.arange(first, first + count, device=parents.device)
        self._reserve(first + count)
        self.depth = F.pad(self.depth, (0, count), value=-1)
        waiting, parents = new, parents.clamp(min=-1)
        if count > 1 and is_chain(new, parents):
            self._grow_chain(new, int(parents[0]))
            waiting = new[:0]
        while len(waiting):  # a generation at a time
            ready = (parents < 0) | (self.depth[parents.clamp(min=0)] >= 0)
            nodes, parent = waiting[ready], parents[ready]
            known = parent.clamp(min=0)
            depth = torch.where(parent < 0, 0, self.depth[known] + 1)
            begins = depth % SEGMENT == 0  # a segment
            self.depth[nodes] = depth
            self.above[nodes] = torch.where(begins, parent, self.above[known])
            self.paths[nodes] = torch.where(begins[:, None], 0, self.paths[known])
            self.paths[nodes, depth % SEGMENT] = nodes.int()
            waiting, parents = waiting[~ready], parents[~ready]
        return new

    def _grow_chain(self, new: Tensor, parent: int) -> None:
        """Enter a chain of nodes, the first a child of `parent`, a segment at a time."""
        depth = int(self.depth[parent]) + 1 if parent >= 0 else 0
        while len(new):
            place = depth % SEGMENT
            nodes, new = new[: SEGMENT - place], new[SEGMENT - place :]
            count = len(nodes)
            self.depth[nodes] = depth + torch.arange(count, device=nodes.device)
            self.above[nodes] = int(self.above[parent]) if place else parent
            self.paths[nodes] = self.paths[parent].clone() if place else 0
            self.paths[nodes, place : place + count] = nodes.int().expand(count, -1).tril()
            parent, depth = int(nodes[-1]), depth + count

    def _reserve(self, nodes: int) -> None:
        """Make room for `nodes` in all; it grows by half, so that adding one by one is cheap."""
        if nodes <= len(self.paths):
            return
        more = max(nodes - len(self.paths), len(self.paths) // 2)
        self.keys = F.pad(self.keys, (0, 0, 0, 0, 0, more))  # one after another: less memory
        self.values = F.pad(self.values, (0, 0, 0, 0, 0, more))
        self.paths = F.pad(self.paths, (0, 0, 0, more))
        self.above = F.pad(self.above, (0, more))

    def extend(self, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of the new nodes, (rows, heads, n, head_dim).

        Returns those that each row sees, (rows, heads, width, head_dim).
        """
        self.keys[slot, self.new] = keys.transpose(1, 2).to(self.keys.dtype)
        self.values[slot, self.new] = values.transpose(1, 2).to(self.values.dtype)
        return self._seen(self.keys[slot]), self._seen(self.values[slot])

    def _seen(self, entries: Tensor) -> Tensor:
        """Entries (nodes, heads, head_dim) as each row sees them, (rows, heads, width, head_dim).

        `index_select` copies whole entries, many times as fast as indexing with tensors.
        """
        taken = entries.index_select(0, self.seen.flatten())
        return taken.view(*self.seen.shape, *entries.shape[1:]).transpose(1, 2)


def is_chain(nodes: Tensor, parents: Tensor) -> bool:
    """Whether each of the nodes but the first is the child of the one before it."""
    return bool((parents[1:] == nodes[:-1]).all())
