"""Strings one edit away that an n-gram finds likely.

An edit changes the probability only of the symbols it writes and of the `reach` symbols after them,
so every neighbour is scored on this window: the rest is a sum over the given string. Neighbours are
evaluated symbol by symbol through their windows. The score so far plus the known rest is a bound,
since log-probabilities are not positive, and those of low bound are dropped on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskdiff.models.ngram import NGram

FIRST, LATER = 16, 5  # neighbours kept after the first symbol of the window, and after later ones,
# in units of those asked for

Tokens = tuple[int, ...]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EditWeights:
    """Log-weights of the edits that lead from a damaged string to its original.

    Attributes:
        insert: A lost symbol is written again; minus infinity for an edit that does not occur.
        delete: A spurious symbol is removed.
        replace: A wrong symbol is replaced.
        transpose: Two neighbouring symbols change places.
        confusion: (symbols, symbols) summands of `replace` for the original symbol of a row that
            was written as that of a column; None for 0. Symbols are `inner_ids`.
        inserted: (symbols,) summands of `delete` for each spurious symbol; None for 0.
    """

    insert: float = 0.0
    delete: float = 0.0
    replace: float = 0.0
    transpose: float = 0.0
    confusion: Floats | None = None
    inserted: Floats | None = None


@dataclass
class _Edits:
    """Edits of one string: `written` takes the place of the symbols from `start` up to `stop`."""

    start: Ints  # (edits,)
    stop: Ints  # (edits,)
    written: Ints  # (edits, width), the same width for all
    score: Floats  # (edits,) weight, and log p of the symbols evaluated so far

    def __getitem__(self, rows: Ints) -> _Edits:
        return _Edits(self.start[rows], self.stop[rows], self.written[rows], self.score[rows])


def likely_neighbours(
    model: NGram,
    tokens: Sequence[int],
    count: int,
    weights: EditWeights | None = None,
    certain: Collection[int] = (),
) -> list[tuple[float, Tokens]]:
    """Return the strings one edit away with the greatest log p + weight of the edit, best first.

    Args:
        model: The n-gram.
        tokens: Inner token ids without MASK.
        count: Number of strings at most.
        weights: Of the kinds of edits; by default they are alike.
        certain: Positions that are neither deleted, replaced nor moved.

    Returns:
        Pairs (log p + weight, string), in nats. Each string occurs once.
    """
    weights, string = weights or EditWeights(), np.array(tokens, dtype=np.int64)
    n, free = len(string), np.array([i not in certain for i in range(len(tokens))], dtype=bool)
    log_p = model.symbol_log_probs([tokens])[0]  # (n + 1,)
    before = np.concatenate(([0.0], np.cumsum(log_p)))  # of the first i symbols, (n + 2,)
    after = before[-1] - before  # of those from position i on
    groups = _written(model, string, free, weights, before[: n + 1])
    groups += _moved(model, string, free, weights, before[: n + 1])
    found: dict[Tokens, float] = {}
    for edits in groups:
        scored = _evaluate(model, string, edits, after, count)
        for row in range(len(scored.score)):
            start, stop = scored.start[row], scored.stop[row]
            made = (*tokens[:start], *scored.written[row].tolist(), *tokens[stop:])
            found[made] = max(found.get(made, -np.inf), float(scored.score[row]))
    found.pop(tuple(tokens), None)
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count]
    return [(score, made) for made, score in best if score > -np.inf]


def _written(
    model: NGram, string: Ints, free: NDArray[np.bool_], weights: EditWeights, before: Floats
) -> list[_Edits]:
    """Insertions and replacements: their symbol is already part of the score."""
    n, reach = len(string), model.reach
    padded = np.concatenate((np.full(reach, model.vocabulary.bos), string))
    contexts = np.stack(
        [padded[reach - back : reach - back + n + 1] for back in range(1, reach + 1)], axis=1
    )  # (n + 1, reach) fmt: skip
    symbols = np.array(model.vocabulary.inner_ids)
    log_next = model.next_log_probs(contexts)[:, symbols] + before[:, None]  # (n + 1, symbols)
    made = []
    for weight, rows, width in ((weights.insert, n + 1, 0), (weights.replace, n, 1)):
        score = log_next[:rows] + weight
        if width:
            if weights.confusion is not None:
                score = score + weights.confusion[:, _places(model, string)].T
            score = np.where(free[:, None] & (string[:, None] != symbols), score, -np.inf)
        start, symbol = np.nonzero(score > -np.inf)
        made.append(_Edits(start, start + width, symbols[symbol][:, None], score[start, symbol]))
    return [_join(made)]


def _moved(
    model: NGram, string: Ints, free: NDArray[np.bool_], weights: EditWeights, before: Floats
) -> list[_Edits]:
    """Deletions and transpositions, of which nothing is evaluated yet."""
    n = len(string)
    made = []
    if n > 1 and weights.delete > -np.inf:
        start = np.flatnonzero(free)
        score = before[start] + weights.delete
        if weights.inserted is not None:
            score = score + weights.inserted[_places(model, string[start])]
        made.append(_Edits(start, start + 1, np.empty((len(start), 0), dtype=np.int64), score))
    if weights.transpose > -np.inf:
        start = np.flatnonzero(free[:-1] & free[1:] & (string[:-1] != string[1:]))
        written = np.stack((string[start + 1], string[start]), axis=1)
        made.append(_Edits(start, start + 2, written, before[start] + weights.transpose))
    return made


def _places(model: NGram, tokens: Ints) -> Ints:
    """The places of inner tokens in `inner_ids`."""
    return np.searchsorted(model.vocabulary.inner_ids, tokens)


def _join(parts: Sequence[_Edits]) -> _Edits:
    return _Edits(*(np.concatenate([vars(p)[name] for p in parts]) for name in vars(parts[0])))


def _evaluate(model: NGram, string: Ints, edits: _Edits, after: Floats, count: int) -> _Edits:
    """The edits with whole scores, without those that cannot be among the best `count`."""
    n, reach, vocabulary = len(string), model.reach, model.vocabulary
    width = edits.written.shape[1]
    done = int(width == 1)  # written symbols that the score has
    padded = np.concatenate(
        (np.full(reach, vocabulary.bos), string, [vocabulary.eos], np.full(reach, vocabulary.pad))
    )
    step = done
    while step < width + reach:
        # The window of an edit: the symbols before it, those it writes, and those after it.
        bound = edits.score + after[np.minimum(edits.stop + max(step - width, 0), n + 1)]
        if step > width:  # the known rest begins after the window
            bound = edits.score + after[np.minimum(edits.stop + reach, n + 1)]
        keep = count * (FIRST if step == done else LATER)
        if len(bound) > keep:
            edits = edits[np.sort(np.argpartition(-bound, keep)[:keep])]
        # If no later step drops an edit, all of them are evaluated at once.
        few = len(edits.score) <= count * LATER
        steps = np.arange(step, width + reach if few else step + 1)
        left = padded[edits.start[:, None] + np.arange(reach)]
        right = padded[np.minimum(edits.stop[:, None] + reach + np.arange(reach), n + 2 * reach)]
        line = np.concatenate((left, edits.written, right), axis=1)
        target = line[:, reach + steps]  # (edits, steps)
        contexts = line[:, reach + steps[:, None] - np.arange(1, reach + 1)]
        inside = (steps < width) | (edits.stop[:, None] + steps - width <= n)
        gain = np.zeros(target.shape)
        gain[inside] = model.target_log_probs(contexts[inside], target[inside])
        score = sum(gain.T, edits.score)  # in this order
        edits = _Edits(edits.start, edits.stop, edits.written, score)
        step += len(steps)
    rest = after[np.minimum(edits.stop + reach, n + 1)]
    edits = _Edits(edits.start, edits.stop, edits.written, edits.score + rest)
    order = np.argsort(-edits.score, kind="stable")[: 2 * count]
    return edits[order]
