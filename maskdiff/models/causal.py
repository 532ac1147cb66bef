"""Our causal mode as completion sees it.

For: `CausalModel`. Not for: the bidirectional mode (`canvas.py`). Easy to get wrong: a model that is told the length is one
distribution for every length, so it has as many latent states; a string of it ends when it is full, and no token ends it before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff.errors import ConfigError
from maskdiff.models.continuation import ROOT, LatentStates
from maskdiff.models.token_table import TokenTable

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary
    from maskdiff.models.denoiser import ModelDenoiser
    from maskdiff.models.universal import UniversalDenoiser


def token_table(vocabulary: Vocabulary, ends: bool, backwards: bool = False) -> TokenTable:
    """The tokens of our vocabulary in UTF-8, read from the end if `backwards`; with `ends`, EOS ends a string."""
    order = -1 if backwards else 1
    texts = tuple(None if text is None else text[::order] for text in vocabulary.utf8)
    return TokenTable(texts, (vocabulary.eos,) if ends else ())


def encode_bytes(vocabulary: Vocabulary, texts: Sequence[bytes]) -> list[list[int] | None]:
    """How the vocabulary cuts each text; None for what is no text of its characters."""
    cut: list[list[int] | None] = []
    for text in texts:
        try:
            cut.append(vocabulary.encode(text.decode()) if text else [])
        except ValueError:  # no UTF-8, or a foreign symbol
            cut.append(None)
    return cut


PASS = (
    8192  # nodes that are evaluated at once: what they see is gathered for each, which takes memory
)


class CausalModel:
    """The causal mode of a denoiser; `lengths` (n + 1,) are the probabilities of its lengths, for one that is told them.

    One that ends its strings itself is cut after `max_tokens`, by default as many as it was trained on; beyond them its
    rotary positions go on, and the learned ones stay at the last.

    Raises ConfigError for a model that cannot predict the next token.
    """

    def __init__(
        self, denoiser: ModelDenoiser, lengths: NDArray[np.float64], max_tokens: int = 0
    ) -> None:
        config = denoiser.model.config
        if config.head == "aligned":
            raise ConfigError(
                "this model predicts no next token (head: aligned), so it completes nothing; train with head: next"
            )
        self.denoiser = denoiser
        self.model: UniversalDenoiser = denoiser.model
        self.vocabulary = denoiser.vocabulary
        self.length_conditioned = config.causal_length
        self.table = token_table(self.vocabulary, ends=not self.length_conditioned)
        self.lengths: tuple[int, ...] = ()
        if self.length_conditioned:
            self.lengths = tuple(np.flatnonzero(lengths > 0).tolist())
            self.latent_states = LatentStates(
                torch.from_numpy(np.log(lengths[list(self.lengths)])), self.lengths, closed=True
            )
        else:
            limit = max_tokens or config.block_size - 1
            self.latent_states = LatentStates(torch.zeros(1, dtype=torch.float64), (limit,))

    def tree(self) -> CausalTree:
        """See `Continuation.tree`."""
        return CausalTree(self)

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """See `Canonical.encode`."""
        return encode_bytes(self.vocabulary, texts)


class CausalTree:
    """See `HistoryTree`; nodes are rows of a batch that share the keys and values of their ancestors."""

    def __init__(self, model: CausalModel) -> None:
        self.owner, self.cache = model, model.model.start_tree()
        self.from_end: list[int] = []  # of each node; 0 where nobody knows it
        self.calls = self.positions = 0
        self.norm = torch.empty(0)
        table, vocabulary = model.table, model.vocabulary
        drawn = [text is not None or i in table.ends for i, text in enumerate(table.texts)]
        self.allowed = torch.tensor(drawn, device=model.model.token.weight.device)
        self.bos = vocabulary.bos

    @torch.no_grad()
    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`."""
        parts = [
            self._pass(a, b) for a, b in zip(parents.split(PASS), tokens.split(PASS), strict=True)
        ]
        logits = torch.cat(parts)
        self.norm = logits.logsumexp(-1)
        return logits.log_softmax(-1)

    def _pass(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """(n, vocabulary) float64 logits of what may follow."""
        self.owner.denoiser.deadline.check()
        device, first = self.allowed.device, len(self.from_end)
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True):
            own = (
                self.owner.lengths[token] + 1
                if self.owner.length_conditioned and parent == ROOT
                else 0
            )
            self.from_end.append(own if parent == ROOT else max(self.from_end[parent] - 1, 0))
        read, from_end = (
            torch.where(parents == ROOT, self.bos, tokens),
            torch.tensor(self.from_end[first:]),
        )
        logits = self.owner.model.tree_logits(
            read.to(device), parents.to(device), from_end.to(device), self.cache
        )
        self.calls, self.positions = self.calls + 1, self.positions + len(parents)
        return logits.masked_fill(~self.allowed, -torch.inf).cpu().double()

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        self.cache.forget(nodes)
        del self.from_end[nodes:]
