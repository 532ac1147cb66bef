"""`Truncation`: the damage of strings that lost their end, and likely continuations of these."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maskdiff.models.ngram import NGram

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary


@dataclass(frozen=True)
class Truncation:
    """The channel of a lost end: a string of n symbols becomes one of its n + 1 beginnings.

    The beginnings, of which the string itself is one, are equally likely. A blank hides one symbol.
    """

    def log_probs(
        self,
        damaged: Sequence[int],
        texts: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        certain: Collection[int] = (),
    ) -> Tensor:
        """Return log p(y | x) in nats, (texts,); see `channel_log_probs`. No symbol changes."""

        def begins(text: Sequence[int]) -> bool:
            pairs = zip(damaged, text, strict=False)
            return len(damaged) <= len(text) and all(y in (x, vocabulary.mask) for y, x in pairs)

        log_p = [-math.log(len(text) + 1) if begins(text) else -math.inf for text in texts]
        return torch.tensor(log_p, dtype=torch.float64)


def likely_continuations(
    model: NGram, tokens: Sequence[int], count: int, longest: int
) -> list[tuple[int, ...]]:
    """Return the strings that begin with `tokens` and that a beam finds most probable, best first.

    Args:
        model: The n-gram.
        tokens: Inner token ids; MASK stands for any symbol.
        count: Width of the beam, and number of strings at most.
        longest: Greatest length of a string, in symbols.
    """
    vocabulary, reach = model.vocabulary, model.reach
    symbols = np.array(vocabulary.inner_ids)
    made = np.full((1, reach), vocabulary.bos)  # (beam, reach + symbols so far)
    scores = np.zeros(1)
    found: list[tuple[float, tuple[int, ...]]] = []
    for place in range(longest + 1):
        log_p = scores[:, None] + model.next_log_probs(made[:, -1 : -reach - 1 : -1])
        # Strings that end here; the search is over once no prefix can be among the best.
        if place >= len(tokens):
            rows = zip(log_p[:, vocabulary.eos].tolist(), made[:, reach:].tolist(), strict=True)
            found = sorted([*found, *((score, tuple(row)) for score, row in rows)], reverse=True)
            found = found[:count]
            if len(found) == count and scores.max() <= found[-1][0]:
                break
        # The best prefixes with one more symbol.
        given = tokens[place] if place < len(tokens) else vocabulary.mask
        allowed = symbols if given == vocabulary.mask else np.array([given])
        totals = log_p[:, allowed].ravel()
        best = np.argsort(-totals, kind="stable")[:count]
        made = np.column_stack((made[best // len(allowed)], allowed[best % len(allowed)]))
        scores = totals[best]
    return [string for score, string in found if score > -math.inf]
