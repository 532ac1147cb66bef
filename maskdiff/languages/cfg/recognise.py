"""Whether a string belongs to the language of a grammar, fast.

For: `recognises`, or a `Recogniser` where many strings are asked about, or in how many ways one is derived. Not for: trees,
weights, or where a string went wrong.
Easy to get wrong: an end that a nonterminal gets late must be told to its parents as well; only new ones are, or it takes for
ever. What stands to the right is finished by then, because no nonterminal derives nothing.

The algorithm of Cocke, Younger and Kasami, from the last symbol to the first; the ends of a nonterminal are the bits of one
integer, and only nonterminals that derive something at a place are held there (most do not).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from maskdiff.languages.cfg.normal_form import NormalForm


class Recogniser:
    """The rules of a normal form, by their left child."""

    def __init__(self, grammar: NormalForm) -> None:
        by_left: list[list[tuple[int, int]]] = [[] for _ in grammar.names]
        for parent, left, right in zip(
            grammar.parent.tolist(), grammar.left.tolist(), grammar.right.tolist(), strict=True
        ):
            by_left[left].append((parent, right))
        self._rules = [tuple(rules) for rules in by_left]
        self._emitters = [tuple(column.nonzero()[0].tolist()) for column in grammar.emits.T]

    def __call__(self, symbols: Sequence[int]) -> bool:
        """Whether the string of these symbols (indices of the grammar's) is derived; -1, any foreign symbol, never is."""
        ends = self._table(symbols)
        return bool(ends[0].get(0, 0) >> len(symbols) & 1)

    def derivations(self, symbols: Sequence[int]) -> int:
        """In how many ways the string of these symbols is derived in the normal form; 0 where it is not."""
        n = len(symbols)
        if not n or min(symbols) < 0 or max(symbols) >= len(self._emitters):
            return 0
        counts: list[dict[int, dict[int, int]]] = [
            {} for _ in range(n + 1)
        ]  # counts[i][a][k]: of symbols i .. k - 1 from a
        for i in range(n - 1, -1, -1):
            here: dict[int, dict[int, int]] = {
                i + 1: dict.fromkeys(self._emitters[symbols[i]], 1)
            }  # by end, then nonterminal
            for m in range(i + 1, n + 1):
                for left, ways in here.get(
                    m, {}
                ).items():  # complete: whatever adds to it ends before m
                    counts[i].setdefault(left, {})[m] = ways
                    for parent, right in self._rules[left]:
                        for k, more in counts[m].get(right, {}).items():
                            ending = here.setdefault(k, {})
                            ending[parent] = ending.get(parent, 0) + ways * more
        return counts[0].get(0, {}).get(n, 0)

    def _table(self, symbols: Sequence[int]) -> list[dict[int, int]]:
        """`ends[i][a]`: bit k is set where nonterminal a may be symbols i .. k - 1; nothing for a foreign symbol."""
        n = len(symbols)
        ends: list[dict[int, int]] = [{}] * (n + 1)
        if n and min(symbols) >= 0 and max(symbols) < len(self._emitters):
            for i in range(n - 1, -1, -1):
                ends[i] = self._ends(ends, i, symbols[i])
        return ends

    def _ends(self, ends: list[dict[int, int]], i: int, symbol: int) -> dict[int, int]:
        here = dict.fromkeys(self._emitters[symbol], 1 << (i + 1))
        rules = self._rules
        waiting = list(
            here.items()
        )  # a nonterminal, and ends of it that its parents have not heard of
        while waiting:
            left, new = waiting.pop()
            if not rules[left]:
                continue
            while new:
                lowest = new & -new
                new ^= lowest
                behind = ends[lowest.bit_length() - 1]
                for parent, right in rules[left]:
                    reached = behind.get(right)
                    if reached is not None:
                        known = here.get(parent, 0)
                        if reached & ~known:
                            here[parent] = known | reached
                            waiting.append((parent, reached & ~known))
        return here


@lru_cache(maxsize=16)
def _recogniser(grammar: NormalForm) -> Recogniser:
    return Recogniser(grammar)


def recognises(grammar: NormalForm, symbols: Sequence[int]) -> bool:
    """Whether `grammar` derives the string of `symbols`, indices of its own; -1 stands for a symbol that it does not have."""
    return _recogniser(grammar)(symbols)
