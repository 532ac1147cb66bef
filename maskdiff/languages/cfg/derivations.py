"""Random strings of a grammar, for tests and for comparisons with other parsers."""

from __future__ import annotations

import random

from maskdiff.languages.cfg.normal_form import NormalForm


class DerivationSampler:
    """Draw strings of at most `longest` symbols that a grammar derives.

    The length is uniform over the possible lengths. Rules and splits are uniform over those that
    can derive the length. Every string can be drawn; its probability has no meaning.

    Attributes:
        lengths: The possible lengths.
    """

    def __init__(self, grammar: NormalForm, longest: int) -> None:
        self.grammar = grammar
        self._possible = grammar.all_lengths(longest).tolist()  # by length and nonterminal
        self.lengths = [n for n, row in enumerate(self._possible) if row[0]]

    def draw(self, rng: random.Random) -> str:
        """Return a string. Raises `IndexError` if `lengths` is empty."""
        return self._string(0, rng.choice(self.lengths), rng)

    def _string(self, head: int, n: int, rng: random.Random) -> str:
        if n == 1:
            return self.grammar.symbols[rng.choice(self.grammar.emits[head].nonzero()[0].tolist())]
        ways = [
            (left, right, k)
            for left, right in self.grammar.children[head]
            for k in range(1, n)
            if self._possible[k][left] and self._possible[n - k][right]
        ]
        left, right, k = rng.choice(ways)
        return self._string(left, k, rng) + self._string(right, n - k, rng)
