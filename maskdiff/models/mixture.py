"""`MixtureModel`: the causal mode of a neural model and an n-gram as one `Continuation`.

With the share b of the n-gram, the next token t after a history h has

    log p(t | h) = (1 - b) log p_neural(t | h) + b log p_ngram(t | h) - log Z(h)

over the tokens that the neural model allows there, its end included if it draws one. Every
distribution of a next token is normalised, so the mixture is a distribution over strings. A string
ends as one of the neural model does: both models get its length, or both may end it.

The weights have the sum 1. Two free weights make held-out strings more likely, because a sum below
1 corrects a model that is too sure, but strings drawn from a flatter distribution are more often
invalid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maskdiff.metrics import mean
from maskdiff.models.causal import CausalModel
from maskdiff.models.continuation import ROOT
from maskdiff.models.ngram import NGram
from maskdiff.models.ngram_denoiser import NGramDenoiser

SHARES = torch.arange(21, dtype=torch.float64) / 20  # that are tried; the first is the model alone
LEAST = 20  # strings without which there is no fit


class MixtureModel:
    """See `Continuation`; the lengths, the limits and the ends are those of the neural model.

    Args:
        neural: The causal mode of a model whose tokens are characters.
        ngram: The n-gram over the same characters.
        share: Share of the n-gram, from 0 to 1.
    """

    def __init__(self, neural: CausalModel, ngram: NGram, share: float) -> None:
        self.neural, self.share = neural, share
        config = neural.denoiser.config
        denoiser = NGramDenoiser(ngram, config.block_size, causal_length=config.causal_length)
        # The same latent states; their probabilities are not used.
        self.ngram = CausalModel(denoiser, np.bincount(neural.lengths or (0,)).astype(float))
        self.table, self.latent_states = neural.table, neural.latent_states
        self.length_conditioned = neural.length_conditioned

    def tree(self) -> MixtureTree:
        """See `Continuation.tree`."""
        return MixtureTree(self)

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """See `Canonical.encode`."""
        return self.neural.encode(texts)


class MixtureTree:
    """See `HistoryTree`; the costs are those of the neural model."""

    def __init__(self, model: MixtureModel) -> None:
        self.share = model.share
        self.neural, self.ngram = model.neural.tree(), model.ngram.tree()
        self.norm, self.calls, self.positions = torch.empty(0), 0, 0

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`."""
        neural, ngram = (tree.extend(parents, tokens) for tree in (self.neural, self.ngram))
        logits = neural + self.neural.norm[:, None]  # of the head, on which penalties act
        mixed = (1 - self.share) * logits + self.share * ngram
        mixed = mixed.masked_fill(neural == -torch.inf, -torch.inf)  # 0 times infinity is NaN
        self.norm = mixed.logsumexp(-1)
        self.calls, self.positions = self.neural.calls, self.neural.positions
        return mixed.log_softmax(-1)

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        self.neural.forget(nodes)
        self.ngram.forget(nodes)


def fit_mixture(neural: CausalModel, ngram: NGram, strings: Sequence[Sequence[int]]) -> float:
    """Return the share of the n-gram under which held-out strings are most likely; 0 if none helps.

    A share helps if that of each half of the strings makes the strings of the other half more
    likely than the neural model alone does, by more than chance (95% interval of the mean).

    Args:
        neural: The causal mode.
        ngram: The n-gram.
        strings: Inner token ids of strings that neither was trained on. Those of a length that the
            neural model cannot have are left out.
    """
    model = MixtureModel(neural, ngram, 0.0)
    scored = [_log_probs(model, string) for string in strings if _possible(neural, string)]
    if len(scored) < LEAST:
        return 0.0
    scores, gains = torch.stack(scored), []
    for fitted, other in ((scores[::2], scores[1::2]), (scores[1::2], scores[::2])):
        gains.append(other[:, int(fitted.sum(0).argmax())] - other[:, 0])
    helps = mean(torch.cat(gains).numpy(), np.random.default_rng(0)).low > 0
    return float(SHARES[int(scores.sum(0).argmax())]) if helps else 0.0


def _possible(neural: CausalModel, string: Sequence[int]) -> bool:
    if neural.length_conditioned:
        return len(string) in neural.lengths
    return 0 < len(string) <= neural.latent_states.limits[0]


def _log_probs(model: MixtureModel, string: Sequence[int]) -> Tensor:
    """Log p of a string, given its length where the model is, under each share."""
    neural, tree = model.neural, MixtureTree(model)
    latent, targets = 0, [*string, neural.vocabulary.eos]
    if neural.length_conditioned:
        latent, targets = neural.lengths.index(len(string)), list(string)
    parents = torch.tensor([ROOT, *range(len(targets) - 1)])
    tokens = torch.tensor([latent, *targets[:-1]])
    first, second = (part.extend(parents, tokens) for part in (tree.neural, tree.ngram))
    outcomes = (first[0] > -torch.inf).nonzero()[:, 0]
    places = torch.searchsorted(outcomes, torch.tensor(targets))
    shares = SHARES[:, None, None]  # (shares, targets, outcomes)
    mixed = (1 - shares) * first[:, outcomes] + shares * second[:, outcomes]
    return mixed.log_softmax(-1)[:, torch.arange(len(targets)), places].sum(1)
