"""`fit_priors`: the weights of the models of a checkpoint, fitted on held-out strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskdiff.models.ngram_denoiser import NGramDenoiser
from maskdiff.models.prior import Prior
from maskdiff.repair import Damage, FewEdits
from maskdiff.tasks.candidates import CandidateScorer, Damaged, RepairConstraints
from maskdiff.tasks.proposing import channel_candidates

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

ONE_EDIT = 0.75  # share of the strings with one edit; the others have two
LINES = 300  # strings that are damaged at most
CHUNK = 8  # strings whose candidates are scored together
SYMBOLS = 4000  # of the strings that are damaged: a minute at most on one core
WEIGHTS = np.linspace(0.0, 1.5, 31)  # of the causal mode and the n-gram that are tried
GRAMMAR_WEIGHTS = np.linspace(0.0, 1.0, 6)  # of the fitted grammar
STRENGTH = 2.0  # of the usual weights, in strings: few strings change them little
LEAST = -1e9  # log p of a string that a model does not score

Pool = tuple[NDArray[np.float64], NDArray[np.float64], int]  # features, channel, the original's row


def fit_priors(
    loaded: Loaded, texts: Sequence[str], symbols: int = SYMBOLS, seed: int = 0
) -> tuple[Prior, Prior]:
    """Return the weights of all models together, and those of the n-gram alone.

    Every string gets one or two random edits. The posterior of its original among the candidates
    of a repair is a logistic model of the log-probabilities by the causal mode, the n-gram and the
    fitted grammar, where there is one, with that of the channel as offset; the weights maximise the
    sum of its logarithms.

    Args:
        loaded: A model with an n-gram; its present weights are not used.
        texts: Strings that neither was trained on.
        symbols: Symbols of the strings that are used, in their order; at least one string is.
        seed: Of the damage.
    """
    usual = Prior.usual(not isinstance(loaded.denoiser, NGramDenoiser), loaded.ngram is not None)
    alone = Prior.usual(False, True)
    if loaded.ngram is None or not texts:
        return usual, alone
    # The sum of log-posteriors for every combination of weights.
    every = replace(loaded, fitted_prior=Prior(1.0, 1.0, 1.0))
    sizes = np.cumsum([len(text) for text in texts[:LINES]])
    pools = _pools(every, texts[: max(1, int((sizes <= symbols).sum()))], seed)
    neural = WEIGHTS if usual.neural else np.zeros(1)
    grammar = np.zeros(1) if loaded.grammar_model is None else GRAMMAR_WEIGHTS
    axes = np.meshgrid(neural, WEIGHTS, grammar, indexing="ij")
    grid = np.stack([axis.ravel() for axis in axes])  # (models, weights)
    grid = grid[:, grid[:2].sum(0) > 0]
    scores = np.zeros(grid.shape[1])
    for pool in pools:
        scores += _log_posterior(pool, grid)
    only = (grid[0] == 0) & (grid[2] == 0)
    return _best(scores, grid, usual), _best(scores[only], grid[:, only], alone)


def _best(scores: NDArray[np.float64], grid: NDArray[np.float64], usual: Prior) -> Prior:
    """The weights of the best column, where few strings change the usual ones little."""
    at_first = np.array([usual.neural, usual.ngram, usual.grammar])[:, None]
    penalty = STRENGTH * ((grid - at_first) ** 2).sum(0)
    return Prior(*grid[:, (scores - penalty).argmax()].tolist())


def _log_posterior(pool: Pool, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p of the original among the candidates, for each column of weights."""
    features, channel, row = pool
    total = features @ grid + channel[:, None]  # (candidates, weights)
    return np.asarray(total[row] - np.logaddexp.reduce(total, axis=0))


def _pools(loaded: Loaded, texts: Sequence[str], seed: int) -> Iterator[Pool]:
    """The candidates of damaged strings."""
    vocabulary, damage = loaded.language.vocabulary, Damage()
    rng = np.random.default_rng([seed, 71])
    constraints = RepairConstraints(broken=True)
    channel = FewEdits(damage, broken=True)
    weights = damage.weights(len(vocabulary.inner_ids))
    scorer = CandidateScorer(loaded, channel, constraints, weights)
    for first in range(0, len(texts), CHUNK):
        originals = texts[first : first + CHUNK]
        edits = 2 - (rng.random(len(originals)) < ONE_EDIT)
        broken = [
            damage.apply(vocabulary.encode(text), int(count), vocabulary, rng)
            for text, count in zip(originals, edits, strict=True)
        ]
        items = [Damaged(tokens, vocabulary.decode(tokens)) for tokens in broken]
        pools = channel_candidates(scorer, items, beam=1, slack=2, trace=False)
        # An original that the search misses counts, too: without it the models look too good.
        scorer.add_proposed(pools, [[tuple(vocabulary.encode(text))] for text in originals])
        for text, pool in zip(originals, pools, strict=True):
            fitting = pool.fitting(constraints)
            names = [candidate.text for candidate in fitting]
            if text in names:
                rows = [[c.log_model + c.log_length, c.log_ngram, c.log_grammar] for c in fitting]
                log_channel = np.array([c.log_channel for c in fitting])
                yield (
                    np.nan_to_num(np.array(rows), nan=LEAST, neginf=LEAST),
                    log_channel,
                    names.index(text),
                )
