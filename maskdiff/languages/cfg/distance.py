"""The string of a grammar that is fewest edits away from a given one, and how many they are.

For: repair without any model, the baseline of every other repair, and candidates that always parse. Not for: probabilities;
of several strings at the same distance one is returned, always the same one.
Easy to get wrong: a nonterminal may stand for nothing of what was given, at the cost of inserting its shortest string, so that
the two halves of a span need not both be shorter than it; each such step costs something, which is why no loop is endless.

Least-cost parsing with insertion, deletion and replacement (Aho and Peterson 1972), for a grammar in Chomsky normal form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskdiff.languages.cfg.normal_form import NormalForm

UNREADABLE = -1  # a symbol that was given but cannot be read: any symbol will do in its place, at no cost


@dataclass(frozen=True)
class Closest:
    """`symbols` (indices of the grammar's symbols) of the closest string, and its distance."""

    symbols: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class EditCosts:
    """What an edit of the *given* string costs; each above 0."""

    insert: float = 1.0
    delete: float = 1.0
    replace: float = 1.0

    def __post_init__(self) -> None:
        if min(self.insert, self.delete, self.replace) <= 0:
            raise ValueError(f"edits cost something: {self}")


def closest(grammar: NormalForm, given: Sequence[int], costs: EditCosts | None = None) -> Closest:
    """The string of the language that is cheapest to reach from `given` (indices of symbols, or UNREADABLE).

    O(len^3 x rules) time.
    """
    table = _Table(grammar, given, costs or EditCosts())
    return Closest(tuple(table.symbols()), float(table.cost[0, 0, len(given)]))


class _Table:
    """`cost[a, i, w]`: the least cost at which given[i : i + w] becomes a string of nonterminal a; w may be 0."""

    def __init__(self, grammar: NormalForm, given: Sequence[int], costs: EditCosts) -> None:
        self.grammar, self.costs, n = grammar, costs, len(given)
        wrong = np.array([[0.0 if s in (v, UNREADABLE) else costs.replace for v in range(len(grammar.symbols))] for s in given])
        wrong = wrong.reshape(n, len(grammar.symbols))
        some = grammar.emits.any(1)
        self.single = np.full((len(grammar), n), np.inf)  # a symbol of the nonterminal in the place of given[i]
        for head in np.flatnonzero(some):
            self.single[head] = wrong[:, grammar.emits[head]].min(1, initial=np.inf)
        self.wrong = wrong
        self.cost = np.full((len(grammar), n + 1, n + 1), np.inf)
        self.cost[some, :, 0] = costs.insert
        self._settle(0)
        for width in range(1, n + 1):
            starts = n - width + 1
            near = np.stack([self.single[:, k : k + starts] for k in range(width)], -1).min(-1)
            self.cost[:, :starts, width] = near + (width - 1) * costs.delete
            inserted = np.where(some, costs.insert + width * costs.delete, np.inf)
            self.cost[:, :starts, width] = np.minimum(self.cost[:, :starts, width], inserted[:, None])
            for k in range(1, width):
                self._join(self.cost[:, :starts, k], self.cost[:, k : k + starts, width - k], width)
            self._settle(width)

    def _join(self, left: np.ndarray, right: np.ndarray, width: int) -> bool:
        """Take what is cheaper when the halves of all rules cost so much, (nonterminals, starts); whether anything was."""
        cell = self.cost[:, : left.shape[1], width]
        before = cell.copy()
        np.minimum.at(cell, self.grammar.parent, left[self.grammar.left] + right[self.grammar.right])
        return bool((cell < before).any())

    def _settle(self, width: int) -> None:
        """Halves that stand for nothing of what was given, until nothing gets cheaper."""
        starts = self.cost.shape[1] - width
        changed = True
        while changed:
            full, empty = self.cost[:, :starts, width], self.cost[:, :starts, 0]
            changed = self._join(empty, full, width)
            changed = self._join(full, empty, width) or changed

    def symbols(self) -> list[int]:
        """The closest string, by going down the cheapest choices."""
        written: list[int] = []
        waiting = [(0, 0, self.cost.shape[1] - 1)]
        while waiting:
            head, start, width = waiting.pop()
            one = self._as_one(head, start, width)
            if one is not None:
                written.append(one)
                continue
            rules = np.flatnonzero(self.grammar.parent == head)
            k = np.arange(width + 1)
            left = self.cost[self.grammar.left[rules][:, None], start, k]
            right = self.cost[self.grammar.right[rules][:, None], start + k, width - k]
            rule, split = np.unravel_index(np.argmin(left + right), left.shape)
            first, second = self.grammar.left[rules[rule]], self.grammar.right[rules[rule]]
            waiting += [(int(second), start + int(split), width - int(split)), (int(first), start, int(split))]
        return written

    def _as_one(self, head: int, start: int, width: int) -> int | None:
        """The one symbol that the span becomes, if that is cheapest."""
        allowed = np.flatnonzero(self.grammar.emits[head])
        least = self.cost[head, start, width]
        if not len(allowed):
            return None
        if width:
            kept = self.wrong[start : start + width][:, allowed]
            if kept.min() + (width - 1) * self.costs.delete <= least + 1e-9:
                return int(allowed[np.unravel_index(kept.argmin(), kept.shape)[1]])
        return int(allowed[0]) if self.costs.insert + width * self.costs.delete <= least + 1e-9 else None
