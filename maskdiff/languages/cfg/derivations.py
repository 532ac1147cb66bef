"""Random strings of a grammar, for tests and for comparisons with other parsers."""

from __future__ import annotations

import random

from maskdiff.languages.cfg.normal_form import NormalForm


class DerivationSampler:
    """Draws strings of at most `longest` symbols that a grammar derives.

    A length is uniform over those that are possible; a string of it comes from random choices between
    the rules and places that can make it. Every string has a chance, and its size means nothing.
    """

    def __init__(self, grammar: NormalForm, longest: int) -> None:
        self.grammar = grammar
        self._possible = grammar.all_lengths(longest).tolist()  # by length and nonterminal
        self._bodies: list[list[tuple[int, int]]] = [[] for _ in grammar.names]
        for parent, left, right in zip(
            grammar.parent.tolist(), grammar.left.tolist(), grammar.right.tolist(), strict=True
        ):
            self._bodies[parent].append((left, right))
        self.lengths = [n for n, row in enumerate(self._possible) if row[0]]

    def draw(self, rng: random.Random) -> str:
        """Returns a string. Raises `IndexError` if no length is possible (`lengths` is empty)."""
        return self._string(0, rng.choice(self.lengths), rng)

    def _string(self, head: int, n: int, rng: random.Random) -> str:
        if n == 1:
            return self.grammar.symbols[rng.choice(self.grammar.emits[head].nonzero()[0].tolist())]
        ways = [
            (left, right, k)
            for left, right in self._bodies[head]
            for k in range(1, n)
            if self._possible[k][left] and self._possible[n - k][right]
        ]
        left, right, k = rng.choice(ways)
        return self._string(left, k, rng) + self._string(right, n - k, rng)
