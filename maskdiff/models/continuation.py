"""The protocols of a model that continues strings: a tree of histories, or strings that only grow.

Our causal mode, our bidirectional mode on a canvas, models of other libraries and the tables of the
tests are `Continuation`s. A node of a tree is a history of tokens, never a place in the text: two
histories with the same text are two nodes, because a model may distinguish them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from maskdiff.models.token_table import TokenTable

ROOT = -1  # parent of a latent state


@dataclass(frozen=True)
class LatentStates:
    """What is hidden before the first token of a string, and drawn with it.

    A length-conditioned model has a latent state for each length; one that is shown the end of the
    string, one for each way in which tokens cover that end; others have one.

    Attributes:
        log_prior: (states,) float64 log-probabilities.
        limits: Tokens that may follow each state at most.
        closed: Whether a string that has reached its limit is whole (no token ends it before);
            else it was cut.
        tails: Bytes after the last token of a closed string; the prefix may extend into them.
        suffix: Bytes after the tail, into which the prefix cannot extend.
        log_dropped: Log-probability of states that were left out.
        spent: Forward passes and tokens that finding the states took.
    """

    log_prior: Tensor
    limits: tuple[int, ...]
    closed: bool = False
    tails: tuple[bytes, ...] | None = None
    suffix: bytes = b""
    log_dropped: float = -math.inf
    spent: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.limits)

    def tail(self, latent: int) -> bytes:
        """The bytes after the last token of a string."""
        return b"" if self.tails is None else self.tails[latent]


@runtime_checkable
class CausalStream(Protocol):
    """Strings that grow together, one token at a time; they only grow, so a cache is contiguous."""

    def step(self, token: Tensor) -> Tensor:
        """Read the next token (batch,) of each string; (batch, vocab) logits of the one after it.

        Logits may be log-probabilities.
        """
        ...

    def select(self, rows: Tensor) -> CausalStream:
        """The stream of some strings, in the order of `rows`, which may repeat (a beam).

        This one is not to be used again.
        """
        ...


class HistoryTree(Protocol):
    """A tree of histories that share keys and values; nodes are numbered from 0 as they are added.

    A tree may have `norm` (n,), of the nodes that were added last: log-probability + norm is the
    logit of the model's head, on which penalties act. Without it they act on log-probabilities.
    """

    calls: int  # forward passes so far
    positions: int  # tokens that they evaluated

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Add nodes, in as few forward passes as fit.

        Args:
            parents: (n,) nodes of an earlier call or before the child in this one; `ROOT` for a
                latent state.
            tokens: (n,) ids; for a latent state its number.

        Returns:
            (n, vocab) float64 log p(next token | history of the node).
        """
        ...

    def forget(self, nodes: int) -> None:
        """Remove all but the first nodes."""
        ...


class Continuation(Protocol):
    """A distribution over strings of tokens, one token after another."""

    table: TokenTable

    @property
    def latent_states(self) -> LatentStates: ...

    def tree(self) -> HistoryTree:
        """An empty tree."""
        ...


@runtime_checkable
class Costly(Continuation, Protocol):
    """A model whose histories share nothing, so that each one that is not evaluated saves its cost.

    Attributes:
        negligible: Share of Z that exact mode may leave out, below rounding.
        floor: Share of the probability that the beam may leave out at every byte.
    """

    negligible: float
    floor: float


@runtime_checkable
class Canonical(Protocol):
    """A model with its tokenizer."""

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """The tokens of each text; None for bytes that are no text."""
        ...


class TreeStream:
    """A `CausalStream` of nodes of a tree, numbered in the tree, which has `size` nodes."""

    def __init__(self, tree: HistoryTree, nodes: Tensor, size: int) -> None:
        self.tree, self.nodes, self.size = tree, nodes, size

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`; returns what `HistoryTree.extend` does, on the CPU."""
        log_p = self.tree.extend(self.nodes, token).double().cpu()
        self.nodes = self.size + torch.arange(len(token))
        self.size += len(token)
        return log_p

    def select(self, rows: Tensor) -> TreeStream:
        """See `CausalStream.select`."""
        self.nodes = self.nodes[rows]
        return self
