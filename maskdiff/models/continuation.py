"""What completion asks of a model: the next token's log-probabilities after every history of a growing tree.

For: the protocol that our causal mode, our bidirectional mode on a canvas, other libraries' models and the tables of the tests
all fit. Not for: what to do with the probabilities. Easy to get wrong: a node of the tree is a *history of tokens*, never a
place in the text: two histories with the same text are two nodes, because a model may tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from maskdiff.models.token_table import TokenTable

ROOT = -1  # parent of a latent state


@dataclass(frozen=True)
class LatentStates:
    """In how many ways a string may begin before its first token: one, or one for each value of something hidden.

    A model that is told the length begins once for each length; one that is shown the end of the string, once for each way
    in which tokens cover that end. A latent state is drawn with the first token.

    log_prior: (latent states,) float64, log-probability of each; limits: most tokens that may follow it. closed: whether a string
    that has reached its limit is whole (no token ends it before then); else it was cut. tails: the bytes that stand behind the
    last token of a string that is closed, suffix: those behind them; what was typed may reach into the tail, but not into the
    suffix. log_dropped: log-probability of latent states that were left out, spent: forward passes and tokens that finding them
    took.
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
        """What stands behind the last token."""
        return b"" if self.tails is None else self.tails[latent]


class HistoryTree(Protocol):
    """One tree of histories, its keys and values shared along the branches. Nodes are numbered as they are added, from 0.

    A tree may have `norm` (n,), of the nodes that were added last: log-probability + norm is the logit that the model's head
    gave, on which penalties act. Without it the log-probabilities are taken for the logits.
    """

    calls: int  # forward passes so far
    positions: int  # tokens that they evaluated

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Add nodes (n,) by their parents and tokens, in one forward pass (several, where they are too many for one).

        A parent comes before its child, in an earlier call or in this one. Where it is `ROOT`, the node is a latent state, and
        its token the latent state's number. Returns (n, vocabulary) float64 log p(next token | history of the node).
        """
        ...

    def forget(self, nodes: int) -> None:
        """Leave only the first nodes; what is added next follows them."""
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
    """A model whose histories share nothing, so that each that is not evaluated saves its whole
    cost.

    negligible: share of Z that exact mode may leave out, so little that rounding hides it. floor:
    share of the probability that the beam may leave out at every byte. Of either, 0 leaves out
    nothing more than other models do.
    """

    negligible: float
    floor: float


@runtime_checkable
class Canonical(Protocol):
    """A model whose tokenizer is at hand."""

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """How the tokenizer cuts each text; None for bytes that are no text."""
        ...
