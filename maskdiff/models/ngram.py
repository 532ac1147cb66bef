"""`NGram`: a character n-gram with Witten-Bell smoothing, fitted in seconds.

With c(h, s) the number of times that symbol s follows the context h, c(h) their sum, t(h) the
number of different symbols that follow h, and h' the context without its first symbol,

    p(s | h) = (c(h, s) + t(h) p(s | h')) / (c(h) + t(h))

A context that was never seen has the distribution of the longest suffix that was. The distribution
without a context is smoothed with the uniform one (Witten and Bell 1991, IEEE Transactions on
Information Theory 37; method C of prediction by partial matching). A string begins after BOS and
ends with EOS, so an n-gram is a distribution over whole strings. No context goes beyond BOS: longer
ones would have the same counts, and smoothing would act on them once more each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskdiff.errors import DataError

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

ORDERS = (2, 12)  # the least and the greatest order
MAX_TOTAL = 2**53  # symbols: floats represent all integers up to it
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Level:
    """Counts after all contexts of one length; a context is a number, its place in `contexts`.

    Attributes:
        contexts: (n,) sorted keys, parent * symbols + the symbol before the parent's context.
        totals: (n,) c(h).
        kinds: (n,) t(h).
        pairs: (m,) sorted keys, context * symbols + next symbol.
        counts: (m,) c(h, s).
    """

    contexts: Ints
    totals: Ints
    kinds: Ints
    pairs: Ints
    counts: Ints


def _place(keys: Ints, wanted: Ints) -> Ints:
    """The places of `wanted` in the sorted `keys`; -1 for those that are not there."""
    if not len(keys):
        return np.full(len(wanted), -1)
    at = keys.searchsorted(wanted)
    return np.where(keys.take(at, mode="clip") == wanted, at, -1)


class NGram:
    """An n-gram over the tokens of a vocabulary of characters.

    Attributes:
        vocabulary: The vocabulary.
        order: Symbols that a probability depends on, itself included, in [2, 12].
        reach: Symbols of context, `order - 1`.
    """

    def __init__(self, vocabulary: Vocabulary, levels: Sequence[_Level]) -> None:
        self.vocabulary, self._levels = vocabulary, tuple(levels)
        self.order = len(levels)
        self.reach = self.order - 1
        # Outcomes: the symbols of strings, and the end.
        self.outcomes = np.array([*vocabulary.inner_ids, vocabulary.eos])

    @classmethod
    def fit(cls, strings: Sequence[Sequence[int]], vocabulary: Vocabulary, order: int = 6) -> NGram:
        """Return the n-gram of strings of inner token ids. Raises DataError without strings."""
        if not strings:
            raise DataError("an n-gram needs strings to count")
        flat, places = _flatten(strings, vocabulary, order - 1)
        columns = [flat[places - back] for back in range(order)]
        return cls(vocabulary, _count(columns, None, vocabulary))

    @classmethod
    def fit_order(
        cls,
        strings: Sequence[Sequence[int]],
        held_out: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        highest: int = 10,
    ) -> NGram:
        """Return the n-gram of the order, from 2 to `highest`, that predicts `held_out` best."""
        model = cls.fit(strings, vocabulary, highest)
        if not held_out:
            return model.shortened(min(6, highest))
        flat, places = _flatten(held_out, vocabulary, model.reach)
        every = model._by_order(model._contexts(flat, places), flat[places])
        return model.shortened(2 + int(np.log(every[1:]).sum(1).argmax()))

    def shortened(self, order: int) -> NGram:
        """Return the n-gram of a lower order of the same strings."""
        return NGram(self.vocabulary, self._levels[:order])

    def backward(self) -> NGram:
        """Return the n-gram of the same order of the reversed strings, from the counts alone.

        A symbol and the symbols after it, read backwards, are an n-gram of the reversed strings.
        Those that reach the end of their string are counted after shorter contexts, too.
        """
        vocabulary, size = self.vocabulary, len(self.vocabulary)
        bos, eos = vocabulary.bos, vocabulary.eos
        rows, counts = [], []
        for depth in range(1, self.order):
            level = self._levels[depth]
            kept = np.flatnonzero((level.pairs % size == eos) | (depth == self.reach))
            # The symbols of each pair, the first one first.
            node, symbols = level.pairs[kept] // size, []
            for above in range(depth, 0, -1):
                key = self._levels[above].contexts[node]
                symbols.append(key % size)
                node = key // size
            symbols.append(level.pairs[kept] % size)
            # Backwards a string begins after EOS and ends with BOS.
            target, *context = symbols
            row = [np.where(target == bos, eos, target)]
            row += [np.where(symbol == eos, bos, symbol) for symbol in context]
            row += [np.full(len(kept), vocabulary.pad)] * (self.reach - depth)
            rows.append(np.stack(row))
            counts.append(level.counts[kept])
        columns = list(np.concatenate(rows, axis=1))
        return NGram(vocabulary, _count(columns, np.concatenate(counts), vocabulary))

    # ---------------------------------------------------------------------------- probabilities

    def symbol_log_probs(self, strings: Sequence[Sequence[int]]) -> list[Floats]:
        """Return log p of each symbol of each string in nats, that of its end last."""
        if not strings:
            return []
        flat, places = _flatten(strings, self.vocabulary, self.reach)
        log_p = self.target_log_probs(self._contexts(flat, places), flat[places])
        return np.split(log_p, np.cumsum([len(string) + 1 for string in strings])[:-1])

    def log_probs(self, strings: Sequence[Sequence[int]]) -> Floats:
        """Return log p of each string with its end, (strings,), in nats."""
        return np.array([log_p.sum() for log_p in self.symbol_log_probs(strings)])

    def target_log_probs(self, contexts: Ints, targets: Ints) -> Floats:
        """Return log p(target | context) in nats, (n,).

        Args:
            contexts: (n, reach) token ids, the nearest one first; before the beginning BOS, once
                or more often.
            targets: (n,) inner token ids or EOS.
        """
        return np.log(self._by_order(contexts, targets)[-1])

    def next_log_probs(self, contexts: Ints) -> Floats:
        """Return log p(token | context) of all tokens, (n, vocabulary), in nats.

        It is minus infinity for all special tokens but EOS. `contexts` as in `target_log_probs`;
        a token that is no symbol ends the context, so that MASK means unknown.
        """
        size = len(self.vocabulary)
        p = np.zeros((len(contexts), size))
        p[:, self.outcomes] = 1 / len(self.outcomes)
        node = np.zeros(len(contexts), dtype=np.int64)
        rows = np.arange(len(contexts))
        for depth, level in enumerate(self._levels):
            if depth:
                place = _place(level.contexts, node * size + contexts[rows, depth - 1])
                rows, node = rows[place >= 0], place[place >= 0]
            p[rows] *= (level.kinds[node] / (level.kinds[node] + level.totals[node]))[:, None]
            # The counts after each context are a range of `pairs`.
            first = level.pairs.searchsorted(node * size)
            many = level.pairs.searchsorted((node + 1) * size) - first
            entry = np.repeat(first - np.cumsum(many) + many, many) + np.arange(many.sum())
            share = level.counts[entry] / np.repeat(level.totals[node] + level.kinds[node], many)
            p[np.repeat(rows, many), level.pairs[entry] % size] += share
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(p))

    def _contexts(self, flat: Ints, places: Ints) -> Ints:
        """The symbols before `places`, nearest first, (places, reach)."""
        return np.stack([flat[places - back] for back in range(1, self.reach + 1)], axis=1)

    def _by_order(self, contexts: Ints, targets: Ints) -> Floats:
        """p(target | context) by the n-grams of orders 1, 2, ..., (order, n)."""
        size = len(self.vocabulary)
        p = np.full(len(targets), 1 / len(self.outcomes))
        node, rows = np.zeros(len(targets), dtype=np.int64), np.arange(len(targets))
        found = []
        for depth, level in enumerate(self._levels):
            if depth:
                place = _place(level.contexts, node * size + contexts[rows, depth - 1])
                rows, node = rows[place >= 0], place[place >= 0]
            pair = _place(level.pairs, node * size + targets[rows])
            count = np.where(pair >= 0, level.counts[pair], 0)
            kinds, total = level.kinds[node], level.totals[node]
            p = p.copy()
            p[rows] = (count + kinds * p[rows]) / (total + kinds)
            found.append(p)
        return np.stack(found)

    # ------------------------------------------------------------------------------------ files

    def state(self) -> dict[str, torch.Tensor]:
        """Return the counts as tensors, for a checkpoint."""
        return {
            f"{depth}.{name}": torch.from_numpy(values.astype(_stored(values)))
            for depth, level in enumerate(self._levels)
            for name, values in vars(level).items()
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any], vocabulary: Vocabulary) -> NGram:
        """Return the n-gram of `state`. Raises DataError for counts that no strings have."""
        levels: list[_Level] = []
        try:
            while f"{len(levels)}.contexts" in state:
                names = _Level.__dataclass_fields__
                parts = {name: state[f"{len(levels)}.{name}"] for name in names}
                level = _Level(**{n: v.cpu().numpy().astype(np.int64) for n, v in parts.items()})
                _check(level, levels[-1] if levels else None, vocabulary)
                levels.append(level)
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"the counts of an n-gram are damaged: {error}") from None
        if not ORDERS[0] <= len(levels) <= ORDERS[1] or len(state) != len(levels) * len(names):
            raise DataError("the counts of an n-gram are damaged: levels are missing")
        return cls(vocabulary, levels)


def _flatten(
    strings: Sequence[Sequence[int]], vocabulary: Vocabulary, reach: int
) -> tuple[Ints, Ints]:
    """All strings in one row, each after PADs and BOS and before EOS; the places of the targets."""
    lengths = np.array([len(string) + 1 for string in strings])
    starts = np.cumsum(lengths + reach) - lengths
    flat = np.full(int(lengths.sum()) + reach * len(strings), vocabulary.pad)
    flat[starts - 1] = vocabulary.bos
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(starts, lengths) + offset
    flat[places] = np.fromiter(
        (token for string in strings for token in (*string, vocabulary.eos)), dtype=np.int64
    )
    return flat, places


def _count(columns: Sequence[Ints], weights: Ints | None, vocabulary: Vocabulary) -> list[_Level]:
    """The counts of all orders of targets after their contexts.

    Args:
        columns: (n,) each: the targets, then their contexts, the nearest symbol first; PAD ends a
            context.
        weights: (n,) how often each occurs; None for once.
        vocabulary: The vocabulary.
    """
    size = len(vocabulary)
    target, *context = columns
    # Rows in the order of their contexts, by stable sorts from the farthest symbol to the nearest.
    # Equal contexts of every length then follow one another.
    rows = np.arange(len(target))
    for symbols in reversed(context):
        rows = rows[np.argsort(symbols[rows].astype(np.int16), kind="stable")]  # a radix sort
    node, contexts, levels = np.zeros(len(rows), dtype=np.int64), np.zeros(1, dtype=np.int64), []
    for depth, symbols in enumerate(columns):
        if depth:
            kept = symbols[rows] != vocabulary.pad
            rows = rows[kept]
            keys = node[kept] * size + symbols[rows]
            new = np.append(np.ones(min(len(keys), 1), dtype=bool), keys[1:] != keys[:-1])
            contexts, node = keys[new], np.cumsum(new) - 1
        keys = node * size + target[rows]
        if weights is None:
            pairs, counts = np.unique(keys, return_counts=True)
        else:
            pairs, place = np.unique(keys, return_inverse=True)
            counts = np.bincount(place, weights[rows]).astype(np.int64)
        totals = np.bincount(pairs // size, counts, minlength=len(contexts)).astype(np.int64)
        kinds = np.bincount(pairs // size, minlength=len(contexts))
        levels.append(_Level(contexts, totals, kinds, pairs, counts))
    return levels


def _stored(values: Ints) -> type:
    """The integer type that holds `values` in a file."""
    return np.int32 if not len(values) or values.max() < 2**31 else np.int64


def _check(level: _Level, parent: _Level | None, vocabulary: Vocabulary) -> None:
    """Raise ValueError unless the counts of a level agree."""
    contexts, pairs, size = level.contexts, level.pairs, len(vocabulary)
    if any(values.ndim != 1 for values in vars(level).values()):
        raise ValueError("a part is not a list")
    above = 1 if parent is None else len(parent.contexts) * size
    symbols = np.array(vocabulary.inner_ids)
    before, after = np.append(symbols, vocabulary.bos), np.append(symbols, vocabulary.eos)
    for keys, limit, known in (
        (contexts, above, before if parent is not None else np.zeros(1, dtype=np.int64)),
        (pairs, len(contexts) * size, after),
    ):
        whole = not len(keys) or (keys[0] >= 0 and keys[-1] < limit and (np.diff(keys) > 0).all())
        if not whole or (parent is None and not len(keys)):
            raise ValueError("keys are not sorted, or out of range")
        if not np.isin(keys % size, known).all():
            raise ValueError("a key has a token that no string has")
    if len(level.counts) != len(pairs) or (level.counts < 1).any():
        raise ValueError("a count is below 1")
    kinds = np.bincount(pairs // size, minlength=len(contexts))
    totals = np.bincount(pairs // size, level.counts, minlength=len(contexts))
    if not (np.array_equal(kinds, level.kinds) and np.array_equal(totals, level.totals)):
        raise ValueError("sums differ from their parts")
    if (kinds < 1).any() or totals.sum() > MAX_TOTAL:
        raise ValueError("a context was never seen, or there are more symbols than can be counted")
