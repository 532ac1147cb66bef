"""The probability of a damaged string, by enumeration of all alignments."""

from __future__ import annotations

from maskdiff.languages import Vocabulary
from maskdiff.repair import Channel

Tokens = tuple[int, ...]


def channel_probability(
    x: Tokens,
    y: Tokens,
    channel: Channel,
    vocabulary: Vocabulary,
    certain: frozenset[int] = frozenset(),
) -> float:
    """Return P(y given x) by recursion over all events; no event changes a certain y_j."""
    place = {token: i for i, token in enumerate(vocabulary.inner_ids)}

    def become(k: int, clean: int, j: int) -> float:
        if y[j] == vocabulary.mask:
            return float(channel.mask[k])
        if clean != y[j] and j in certain:
            return 0.0
        factor = 1.0
        if channel.confusion is not None:
            factor = float(channel.confusion[place[clean], place[y[j]]])
        return float(channel.replace[k]) * factor + float(channel.keep[k]) * (clean == y[j])

    def appear(k: int, j: int) -> float:
        if channel.inserted is None or y[j] == vocabulary.mask:
            return float(channel.spurious[k])
        return float(channel.spurious[k]) * float(channel.inserted[place[y[j]]])

    def rest(k: int, i: int, j: int) -> float:
        """Return the probability of y[j:] given x[i:], with the gap before x[i] open."""
        inserted = j < len(y) and j not in certain
        return (appear(k, j) * rest(k, i, j + 1) if inserted else 0.0) + emit(k, i, j)

    def emit(k: int, i: int, j: int) -> float:
        if i == len(x):
            return 1.0 if j == len(y) else 0.0
        total = float(channel.delete[k]) * rest(k, i + 1, j)
        if j < len(y):
            total += become(k, x[i], j) * rest(k, i + 1, j + 1)
        if i + 1 < len(x) and j + 1 < len(y) and y[j + 1] == x[i] and not {j, j + 1} <= certain:
            total += float(channel.swap[k]) * become(k, x[i + 1], j) * rest(k, i + 2, j + 2)
        return total

    return sum(float(w) * rest(k, 0, 0) for k, w in enumerate(channel.weight))
