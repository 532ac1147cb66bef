"""`MixtureModel`: the causal mode of a neural model and an n-gram as one `Continuation`.

With weights a and b, the next token t after a history h has

    log p(t | h) = a log p_neural(t | h) + b log p_ngram(t | h) - log Z(h)

over the tokens that the neural model allows there, its end included if it draws one. Every
distribution of a next token is normalised, so the mixture is a distribution over strings. A string
ends as one of the neural model does: both models get its length, or both may end it. A sum of the
weights below 1 is a flatter distribution, which corrects models that are too sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maskdiff.metrics import mean
from maskdiff.models.causal import CausalModel
from maskdiff.models.continuation import ROOT
from maskdiff.models.ngram import NGram
from maskdiff.models.ngram_denoiser import NGramDenoiser

NEURAL_WEIGHTS = torch.arange(1, 25, dtype=torch.float64) / 20  # that are tried
NGRAM_WEIGHTS = torch.arange(0, 21, dtype=torch.float64) / 20
LEAST = 20  # strings without which there is no fit


@dataclass(frozen=True)
class MixtureWeights:
    """Weights of the log-probabilities of a next token, at least 0, and not both 0.

    Attributes:
        neural: Weight of the causal mode.
        ngram: Weight of the n-gram.
    """

    neural: float
    ngram: float

    def state(self) -> dict[str, float]:
        """Return the weights by name, for a checkpoint."""
        return {"neural": self.neural, "ngram": self.ngram}


class MixtureModel:
    """See `Continuation`; the lengths, the limits and the ends are those of the neural model.

    Args:
        neural: The causal mode of a model whose tokens are characters.
        ngram: The n-gram over the same characters.
        weights: Their weights.
    """

    def __init__(self, neural: CausalModel, ngram: NGram, weights: MixtureWeights) -> None:
        self.neural, self.weights = neural, weights
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
        self.weights = model.weights
        self.neural, self.ngram = model.neural.tree(), model.ngram.tree()
        self.norm, self.calls, self.positions = torch.empty(0), 0, 0

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`."""
        neural, ngram = (tree.extend(parents, tokens) for tree in (self.neural, self.ngram))
        logits = neural + self.neural.norm[:, None]  # of the head, on which penalties act
        mixed = self.weights.neural * logits + self.weights.ngram * ngram
        mixed = mixed.masked_fill(neural == -torch.inf, -torch.inf)  # 0 times infinity is NaN
        self.norm = mixed.logsumexp(-1)
        self.calls, self.positions = self.neural.calls, self.neural.positions
        return mixed.log_softmax(-1)

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        self.neural.forget(nodes)
        self.ngram.forget(nodes)


def fit_mixture(
    neural: CausalModel, ngram: NGram, strings: Sequence[Sequence[int]]
) -> MixtureWeights | None:
    """Return the weights under which held-out strings are most likely; None if none helps.

    They help if the weights of each half of the strings make the strings of the other half more
    likely than the neural model alone does, by more than chance (95% interval of the mean).

    Args:
        neural: The causal mode.
        ngram: The n-gram.
        strings: Inner token ids of strings that neither was trained on. Those of a length that the
            neural model cannot have are left out.
    """
    scored = [_weighted(neural, ngram, string) for string in strings if _possible(neural, string)]
    if len(scored) < LEAST:
        return None
    scores, grid = torch.stack(scored), torch.cartesian_prod(NEURAL_WEIGHTS, NGRAM_WEIGHTS)
    alone = int((grid - torch.tensor([1.0, 0.0])).abs().sum(1).argmin())
    gains = []
    for fitted, other in ((scores[::2], scores[1::2]), (scores[1::2], scores[::2])):
        gains.append(other[:, int(fitted.sum(0).argmax())] - other[:, alone])
    if not mean(torch.cat(gains).numpy(), np.random.default_rng(0)).low > 0:
        return None
    return MixtureWeights(*grid[int(scores.sum(0).argmax())].tolist())


def _possible(neural: CausalModel, string: Sequence[int]) -> bool:
    if neural.length_conditioned:
        return len(string) in neural.lengths
    return 0 < len(string) <= neural.latent_states.limits[0]


def _weighted(neural: CausalModel, ngram: NGram, string: Sequence[int]) -> Tensor:
    """Log p of a string, given its length where the model is, (pairs of weights,)."""
    latent, targets = 0, [*string, neural.vocabulary.eos]
    if neural.length_conditioned:
        latent, targets = neural.lengths.index(len(string)), list(string)
    parents = torch.tensor([ROOT, *range(len(targets) - 1)])
    tokens = torch.tensor([latent, *targets[:-1]])
    tree = MixtureModel(neural, ngram, MixtureWeights(1.0, 0.0)).tree()
    first, second = (part.extend(parents, tokens) for part in (tree.neural, tree.ngram))
    outcomes = (first[0] > -torch.inf).nonzero()[:, 0]
    places = torch.searchsorted(outcomes, torch.tensor(targets))[:, None]
    found = []
    for weight in NEURAL_WEIGHTS:  # (weights of the n-gram, targets, outcomes)
        mixed = weight * first[:, outcomes] + NGRAM_WEIGHTS[:, None, None] * second[:, outcomes]
        picked = mixed.gather(2, places.expand(len(mixed), -1, 1))[..., 0]
        found.append((picked - mixed.logsumexp(-1)).sum(1))
    return torch.cat(found)
