"""A model that is a table: a distribution of the next token for every history, random or given.

Small enough to enumerate, for tests and the benchmark. The table depends on the whole history, so
that approximations that forget how a text was cut into tokens do not look exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from maskdiff.models.continuation import ROOT, LatentStates
from maskdiff.models.token_table import TokenTable

History = tuple[int, ...]


class TableModel:
    """Random distributions, different after every history.

    Args:
        table: The tokens.
        limit: Tokens of a string at most; the last one of a string that reaches it ends it.
        seed: Of the distributions.
        sharpness: Standard deviation of the logits.
    """

    def __init__(self, table: TokenTable, limit: int, seed: int, sharpness: float = 1.5) -> None:
        self.table, self.limit, self.seed, self.sharpness = table, limit, seed, sharpness
        self.latent_states = LatentStates(torch.zeros(1, dtype=torch.float64), (limit,))
        self._known: dict[History, np.ndarray] = {}

    def log_next(self, history: History) -> np.ndarray:
        """log p(next token | history), (tokens,) float64."""
        if history not in self._known:
            self._known[history] = self._draw(history)
        return self._known[history]

    def _draw(self, history: History) -> np.ndarray:
        logits = self.sharpness * np.random.default_rng([self.seed, len(history), *history]).normal(
            size=len(self.table)
        )
        if len(history) + 1 >= self.limit:
            logits[[i for i in range(len(self.table)) if i not in self.table.ends]] = -math.inf
        return np.asarray(logits - np.logaddexp.reduce(logits))

    def strings(self) -> Iterator[tuple[History, float]]:
        """Every string of tokens, the ending one included, with its log-probability."""
        stack: list[tuple[History, float]] = [((), 0.0)]
        while stack:
            history, log_p = stack.pop()
            for token, own in enumerate(self.log_next(history)):
                if own == -math.inf:
                    continue
                if token in self.table.ends:
                    yield (*history, token), log_p + float(own)
                else:
                    stack.append(((*history, token), log_p + float(own)))

    def tree(self) -> TableTree:
        """See `Continuation.tree`."""
        return TableTree(self)


class TableTree:
    """See `HistoryTree`."""

    def __init__(self, model: TableModel) -> None:
        self.model, self.calls, self.positions = model, 0, 0
        self.histories: list[History] = []

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        del self.histories[nodes:]

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`."""
        first = len(self.histories)
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True):
            self.histories.append(() if parent == ROOT else (*self.histories[parent], token))
        self.calls, self.positions = self.calls + 1, self.positions + len(parents)
        return torch.from_numpy(
            np.stack([self.model.log_next(history) for history in self.histories[first:]])
        )
