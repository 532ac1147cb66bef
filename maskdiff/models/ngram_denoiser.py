"""`NGramDenoiser`: an `NGram` as a `Denoiser`, so that samplers, verbs and suites work with it.

Let f be the n-gram, b the n-gram of the reversed strings, u the distribution without a context, and
l and r the symbols between token i and the nearest blank (or the end of the string) on its left and
right. Let e(s, k) be the probability that a string ends after exactly k more symbols if its last
one is s, by the n-gram of order 2, and k the symbols after token i. The two modes are

    causal          p(s)  proportional to  f(s | all symbols on the left) e(s, k)
    bidirectional   p(s)  proportional to  f(s | l) b(s | r) / u(s)

over all symbols s. Both are given the length of the string, so neither has an end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff.config import ModelConfig
from maskdiff.models.continuation import ROOT
from maskdiff.models.ngram import Floats, Ints, NGram
from maskdiff.utils.deadline import NEVER, Deadline

IMPOSSIBLE = -1e4  # logit of tokens that are no symbols; finite, as those of a neural model
ROWS = 16384  # contexts that are looked up at once


class NGramDenoiser:
    """An n-gram as a `Denoiser`; its logits are float32 log-probabilities.

    The causal mode is a distribution p(x | n): f without its end, renormalised over the symbols. It
    would be f conditioned on the length if e were the n-gram's own, which takes a sum over all
    continuations of every context; for order 2 it is. Without `causal_length`, `start_tree` and
    `tree_logits` are f itself: strings that end themselves, so that the probability of a completion
    is exact.

    Args:
        ngram: The n-gram, over the characters of the language.
        block_size: Longest string in tokens, BOS and EOS counted.
        device: Device of the canvases and of the logits. Counts stay on the CPU.
        causal_length: Whether the strings of a tree get their length, as those of canvases do.
    """

    inputs: frozenset[str] = frozenset()

    def __init__(
        self,
        ngram: NGram,
        block_size: int,
        device: str | torch.device = "cpu",
        causal_length: bool = False,
    ) -> None:
        self.ngram, self.vocabulary = ngram, ngram.vocabulary
        self.device = torch.device(device)
        self.config = ModelConfig(
            block_size=block_size, vocab_size=len(ngram.vocabulary), causal_length=causal_length
        )
        self.deadline = NEVER
        tokens = np.arange(len(self.vocabulary))
        self._inner = np.isin(tokens, self.vocabulary.inner_ids)
        self._outcomes = np.isin(tokens, ngram.outcomes)

    @contextmanager
    def until(self, deadline: Deadline) -> Iterator[None]:
        """A block in which evaluations raise TimedOut once `deadline` has passed."""
        before, self.deadline = self.deadline, deadline
        try:
            yield
        finally:
            self.deadline = before

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the neural model: none."""
        return {}

    @cached_property
    def _backward(self) -> NGram:
        return self.ngram.backward()

    @cached_property
    def _single(self) -> Floats:
        """(vocab,) log-probabilities without a context."""
        blank = np.full((1, self.ngram.reach), self.vocabulary.mask)
        return np.asarray(self.ngram.next_log_probs(blank)[0])

    @cached_property
    def _endings(self) -> Floats:
        """(block_size, vocab) log e(s, k) but for a constant of each k; see the module."""
        size, inner = len(self.vocabulary), list(self.vocabulary.inner_ids)
        pairs = np.exp(self.ngram.shortened(2).next_log_probs(np.arange(size)[:, None]))
        ends = [pairs[:, self.vocabulary.eos]]
        while len(ends) < self.config.block_size:
            after = pairs[:, inner] @ ends[-1][inner]
            ends.append(after / after.max())
        return np.log(np.stack(ends))

    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """See `Denoiser`; `sigma`, `previous` and `noise` change nothing.

        Raises:
            TimedOut: Once the deadline has passed.
        """
        rows, ends = tokens.cpu().numpy(), length.cpu().numpy() - 1
        bos, reach = self.vocabulary.bos, self.ngram.reach
        width = rows.shape[1]
        # The symbols before and after each token; BOS stands beyond both ends of the string.
        beyond = np.arange(width) >= ends[:, None]
        inside = np.pad(np.where(beyond, bos, rows), ((0, 0), (reach, reach)), constant_values=bos)
        left = [inside[:, reach - k : reach - k + width] for k in range(1, reach + 1)]
        log_p = self._log_probs(self.ngram, np.stack(left, axis=-1).reshape(-1, reach))
        if causal:
            log_p += self._ending((ends[:, None] - 1 - np.arange(width)).reshape(-1))
        else:
            right = [inside[:, reach + k : reach + k + width] for k in range(1, reach + 1)]
            contexts = np.stack(right, axis=-1).reshape(-1, reach)
            log_p += self._log_probs(self._backward, contexts)
            log_p[:, self._inner] -= self._single[self._inner]
        return self._logits(log_p, self._inner).view(*tokens.shape, -1)

    def causal_stream(self, length: Tensor) -> NGramStream:
        """The causal mode, which stores the last symbols of each string."""
        return NGramStream(self, length)

    def start_tree(self) -> NGramTree:
        """Return the empty store of a tree of histories."""
        return NGramTree(self.ngram.reach)

    def tree_logits(
        self, tokens: Tensor, parents: Tensor, from_end: Tensor, cache: NGramTree
    ) -> Tensor:
        """Add nodes to a tree and return log p(next token | history), (n, vocab).

        The end is a token unless the strings get their length.

        Args:
            tokens: (n,) the token of each node, BOS for a root.
            parents: (n,) the node before it; ROOT for a root.
            from_end: (n,) tokens after it, EOS included; not used if strings end themselves.
            cache: The store of the tree.
        """
        first = len(cache.contexts)
        start = (self.vocabulary.bos,) * (self.ngram.reach + 1)
        for token, parent in zip(tokens.tolist(), parents.tolist(), strict=True):
            before = start if parent == ROOT else (token, *cache.contexts[parent])
            cache.contexts.append(before[: self.ngram.reach])
        contexts = np.array(cache.contexts[first:])
        if self.config.causal_length:
            return self.symbol_logits(contexts, from_end.cpu().numpy() - 2)
        return self._logits(self._log_probs(self.ngram, contexts), self._outcomes)

    def symbol_logits(self, contexts: Ints, left: Ints) -> Tensor:
        """Return the logits of the next symbol in the causal mode, (n, vocab).

        Args:
            contexts: (n, reach) as those of an `NGram`.
            left: (n,) symbols after it; without meaning beyond the end of a string.
        """
        log_p = self._log_probs(self.ngram, contexts) + self._ending(left)
        return self._logits(log_p, self._inner)

    def _ending(self, left: Ints) -> Floats:
        """Log e(s, left), (n, vocab)."""
        return np.asarray(self._endings[left.clip(0, len(self._endings) - 1)])

    def _log_probs(self, ngram: NGram, contexts: Ints) -> Floats:
        """Log p(token | context), (n, vocab). Raises TimedOut once the deadline has passed."""
        parts = []
        for start in range(0, len(contexts), ROWS):
            self.deadline.check()
            parts.append(ngram.next_log_probs(contexts[start : start + ROWS]))
        return np.concatenate(parts)

    def _logits(self, log_p: Floats, outcomes: NDArray[np.bool_]) -> Tensor:
        """Log-probabilities over `outcomes`, renormalised, on the device."""
        shown = torch.from_numpy(np.where(outcomes, log_p, -np.inf)).log_softmax(-1)
        return shown.clamp_(min=IMPOSSIBLE).float().to(self.device)


class NGramStream:
    """A `CausalStream` of an n-gram: the last symbols of each string, and how many are left."""

    def __init__(self, denoiser: NGramDenoiser, length: Tensor) -> None:
        self.denoiser, self.left = denoiser, length.cpu().numpy() - 2
        self.contexts = np.full((len(length), denoiser.ngram.reach), denoiser.vocabulary.bos)

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`."""
        last = token.cpu().numpy()[:, None]
        self.contexts = np.concatenate([last, self.contexts[:, :-1]], axis=1)
        self.left = self.left - 1
        return self.denoiser.symbol_logits(self.contexts, self.left)

    def select(self, rows: Tensor) -> NGramStream:
        """See `CausalStream.select`."""
        chosen = rows.cpu().numpy()
        self.contexts, self.left = self.contexts[chosen], self.left[chosen]
        return self


class NGramTree:
    """The contexts of the nodes of a tree of histories, of `reach` symbols each."""

    def __init__(self, reach: int) -> None:
        self.contexts: list[tuple[int, ...]] = []
        self.node_bytes = 8 * (reach + 8)  # pointers of a tuple
        self.gathered_bytes = 8  # an ancestor is read from the context of a node

    def forget(self, nodes: int) -> None:
        """Remove all but the first nodes."""
        del self.contexts[nodes:]
