"""`SharedTree`: several prefixes in one tree, so that their strings are drawn in one batch.

Nodes are numbered from 0 in every branch; `offset` is where the branch begins in the tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskdiff.errors import ConfigError
from maskdiff.models.continuation import ROOT, Canonical, Continuation, HistoryTree


class SharedTree:
    """A model for `condition`, whose results are given together to one `Decoding`."""

    def __init__(self, model: Continuation) -> None:
        self.model, self.table, self.base, self.nodes = model, model.table, model.tree(), 0
        self.latent_states = model.latent_states

    def tree(self) -> Branch:
        """See `Continuation.tree`."""
        return Branch(self)

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """See `Canonical.encode`; raises ConfigError for a model without its tokenizer."""
        if not isinstance(self.model, Canonical):
            raise ConfigError("canonical mode needs a model with its tokenizer; use exact or beam")
        return self.model.encode(texts)


class Branch:
    """See `HistoryTree`; the nodes of one prefix, after those of the prefixes before it."""

    def __init__(self, owner: SharedTree) -> None:
        self.owner, self.offset, self.calls, self.positions = owner, owner.nodes, 0, 0

    @property
    def base(self) -> HistoryTree:
        """The tree of all prefixes."""
        return self.owner.base

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`; while this is the last branch."""
        calls, positions = self.base.calls, self.base.positions
        rows = self.base.extend(torch.where(parents == ROOT, ROOT, parents + self.offset), tokens)
        self.owner.nodes += len(tokens)
        self.calls += self.base.calls - calls
        self.positions += self.base.positions - positions
        return rows

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`; while this is the last branch."""
        self.base.forget(self.offset + nodes)
        self.owner.nodes = self.offset + nodes
