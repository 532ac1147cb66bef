"""Our causal mode as a `Continuation`, and after prompts as a `CausalStream`.

A length-conditioned model is one distribution for every length, so it has as many latent states;
its string ends when it is full, and no token ends it before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    from maskdiff.models.ngram_denoiser import NGramDenoiser
    from maskdiff.models.universal import UniversalDenoiser


def token_table(vocabulary: Vocabulary, ends: bool, backwards: bool = False) -> TokenTable:
    """The tokens of our vocabulary in UTF-8, reversed if `backwards`; `ends`: EOS is an end."""
    order = -1 if backwards else 1
    texts = tuple(None if text is None else text[::order] for text in vocabulary.utf8)
    return TokenTable(texts, (vocabulary.eos,) if ends else ())


def encode_bytes(vocabulary: Vocabulary, texts: Sequence[bytes]) -> list[list[int] | None]:
    """The tokens of each text; None for what is no text of the vocabulary."""
    cut: list[list[int] | None] = []
    for text in texts:
        try:
            cut.append(vocabulary.encode(text.decode()) if text else [])
        except ValueError:  # no UTF-8, or a foreign symbol
            cut.append(None)
    return cut


PASS = 8192  # nodes that are evaluated at once: what each attends to is gathered, in memory


class CausalModel:
    """The causal mode of a denoiser.

    Args:
        denoiser: The model.
        lengths: (n + 1,) probabilities of the lengths, for a length-conditioned model.
        max_tokens: Where a model that ends its strings itself is cut; by default after as many
            tokens as it was trained on. Rotary positions continue beyond them, learned ones stay
            at the last.

    Raises:
        ConfigError: For a model that predicts no next token.
    """

    def __init__(
        self,
        denoiser: ModelDenoiser | NGramDenoiser,
        lengths: NDArray[np.float64],
        max_tokens: int = 0,
    ) -> None:
        config = denoiser.config
        if config.head == "aligned":
            raise ConfigError(
                "this model predicts no next token (head: aligned), so it completes nothing; "
                "train with head: next"
            )
        self.denoiser = denoiser
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
    """See `HistoryTree`; nodes share the keys and values of their ancestors."""

    def __init__(self, model: CausalModel) -> None:
        self.owner = model
        self.cache: Any = model.denoiser.start_tree()
        self.from_end: list[int] = []  # of each node; 0 where it is not known
        self.calls = self.positions = 0
        self.norm = torch.empty(0)
        table, vocabulary = model.table, model.vocabulary
        drawn = [text is not None or i in table.ends for i, text in enumerate(table.texts)]
        self.allowed = torch.tensor(drawn, device=model.denoiser.device)
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
        logits = self.owner.denoiser.tree_logits(
            read.to(device), parents.to(device), from_end.to(device), self.cache
        )
        self.calls, self.positions = self.calls + 1, self.positions + len(parents)
        return logits.masked_fill(~self.allowed, -torch.inf).cpu().double()

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        self.cache.forget(nodes)
        del self.from_end[nodes:]


class PromptStream:
    """A `CausalStream` after prompts of several lengths, with a contiguous cache.

    Args:
        model: One that is not length-conditioned.
        prompts: Token ids of each, BOS included.
        pad: Id of the padding.
        room: Tokens that are read after each prompt at most.
    """

    def __init__(
        self, model: UniversalDenoiser, prompts: Sequence[Sequence[int]], pad: int, room: int
    ) -> None:
        self.model, width = model, max(map(len, prompts))
        device = model.token.weight.device
        self.pads = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
        tokens = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        self.cache = model.start_cache(len(prompts), width=width + room)
        self.scores = self._read(torch.tensor(tokens, device=device))  # after the prompts

    def _read(self, tokens: Tensor) -> Tensor:
        return self.model.read_beginnings(tokens, self.pads, self.cache).double()

    @torch.no_grad()
    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`; float64 logits."""
        return self._read(token[:, None])

    def select(self, rows: Tensor) -> PromptStream:
        """See `CausalStream.select`."""
        self.cache, self.pads = self.cache.select(rows), self.pads[rows]
        return self
