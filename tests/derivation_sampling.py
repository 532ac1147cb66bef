"""Random strings of a normal form, by random derivations: every string has a chance, short ones a larger one."""

from __future__ import annotations

import random

import numpy as np

from maskdiff.languages.cfg import NormalForm


class DerivationSampler:
    """Draws strings of at most `longest` symbols that a grammar derives."""

    def __init__(self, grammar: NormalForm, longest: int) -> None:
        self.grammar, self.longest = grammar, longest
        self.possible = np.asarray(grammar.all_lengths(longest))  # (length, nonterminal)
        self.rules: list[list[tuple[int, int]]] = [[] for _ in grammar.names]
        for parent, left, right in zip(grammar.parent.tolist(), grammar.left.tolist(), grammar.right.tolist()):
            self.rules[parent].append((left, right))

    def draw(self, rng: random.Random) -> str:
        """A string whose length is uniform on the possible ones."""
        lengths = [n for n in range(1, self.longest + 1) if self.possible[n, 0]]
        return self._string(0, rng.choice(lengths), rng)

    def _string(self, head: int, n: int, rng: random.Random) -> str:
        if n == 1:
            return self.grammar.symbols[rng.choice(self.grammar.emits[head].nonzero()[0].tolist())]
        splits = [
            (left, right, k)
            for left, right in self.rules[head]
            for k in range(1, n)
            if self.possible[k, left] and self.possible[n - k, right]
        ]
        left, right, k = rng.choice(splits)
        return self._string(left, k, rng) + self._string(right, n - k, rng)
