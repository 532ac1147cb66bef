"""Recognition: whether a grammar derives a string, and in how many ways.

The algorithm of Cocke, Younger and Kasami, from the last symbol to the first. A cell holds only the
nonterminals that derive something there, each with its ends as the bits of one integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from maskdiff.languages.cfg.normal_form import NormalForm


class Recogniser:
    """Recognises strings of a grammar, given as indices of its symbols."""

    def __init__(self, grammar: NormalForm) -> None:
        self._rules, self._emitters = grammar.parents, grammar.emitters

    def __call__(self, symbols: Sequence[int]) -> bool:
        """Return whether the grammar derives a string; -1 stands for a foreign symbol."""
        return bool(self.ends(symbols)[0].get(0, 0) >> len(symbols) & 1)

    def ends(self, symbols: Sequence[int]) -> list[dict[int, int]]:
        """Return by start and nonterminal the ends of what it derives, as bits of one integer."""
        ends: list[dict[int, int]] = [{}] * (len(symbols) + 1)
        if self._known(symbols):
            for i in range(len(symbols) - 1, -1, -1):
                ends[i] = self._ends(ends, i, symbols[i])
        return ends

    def derivations(self, symbols: Sequence[int]) -> int:
        """Return the number of derivations of a string in the normal form."""
        n = len(symbols)
        if not self._known(symbols):
            return 0
        # counts[i][a][k]: the derivations of symbols i .. k - 1 from nonterminal a.
        counts: list[dict[int, dict[int, int]]] = [{} for _ in range(n + 1)]
        for i in range(n - 1, -1, -1):
            here = {i + 1: dict.fromkeys(self._emitters[symbols[i]], 1)}  # by end and nonterminal
            for m in range(i + 1, n + 1):
                # here[m] is complete: what adds to it ends before m.
                for left, ways in here.get(m, {}).items():
                    counts[i].setdefault(left, {})[m] = ways
                    for parent, right in self._rules[left]:
                        for k, other_ways in counts[m].get(right, {}).items():
                            ending = here.setdefault(k, {})
                            ending[parent] = ending.get(parent, 0) + ways * other_ways
        return counts[0].get(0, {}).get(n, 0)

    def _known(self, symbols: Sequence[int]) -> bool:
        return bool(symbols) and min(symbols) >= 0 and max(symbols) < len(self._emitters)

    def _ends(self, ends: list[dict[int, int]], i: int, symbol: int) -> dict[int, int]:
        """The ends of the nonterminals that start at `i`; `ends` is complete behind `i`."""
        here = dict.fromkeys(self._emitters[symbol], 1 << (i + 1))
        rules = self._rules
        agenda = list(here.items())  # nonterminals with new ends
        while agenda:
            left, new = agenda.pop()
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
                            agenda.append((parent, reached & ~known))
        return here


_recogniser = lru_cache(maxsize=16)(Recogniser)


def recognises(grammar: NormalForm, symbols: Sequence[int]) -> bool:
    """Return whether `grammar` derives a string of its symbols; -1 stands for a foreign symbol."""
    return _recogniser(grammar)(symbols)
