"""`ArithmeticLanguage`: the arithmetic grammar, parser, generator and probabilities behind the `Language` protocol.

For: everything that the rest of the house asks of the language. Not for: the algorithms, which stand in the other files of
this folder. Easy to get wrong: `parses` asks the grammar alone (any depth, any stated value), `holds` also asks that the
stated value is right, and `log_prob` is finite only for what the generator can draw within max_len.
"""

from __future__ import annotations

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import CanvasError, ParseError
from maskdiff.languages.arithmetic.generator import draw_many
from maskdiff.languages.arithmetic.grammar import grammar_of
from maskdiff.languages.arithmetic.parser import Tree, parse
from maskdiff.languages.vocabulary import ANY_DIGIT, DIGITS, squeeze

_TO_SKELETON = str.maketrans(DIGITS, ANY_DIGIT * len(DIGITS))


class ArithmeticLanguage:
    """Implements `maskdiff.languages.Language`. Raises ConfigError on options that no language has."""

    name = "arithmetic"

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.grammar = grammar_of(config)
        self.vocabulary = self.grammar.vocabulary()
        self.min_symbols = 2 * len(str(self.grammar.min_int)) + 1
        self.max_symbols = config.max_len - 2

    def sample(self, rng: np.random.Generator) -> str:
        """One string of the generator; too long draws are rejected, never cut."""
        return self.sample_many(1, rng)[0]

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        """`n` strings; a prefix of what a larger `n` gives from the same state of `rng`."""
        return draw_many(n, rng, self.config, self.grammar)

    def parse(self, text: str) -> Tree:
        """The tree of `text`, white space skipped. Raises ParseError with the position of the first impossible symbol."""
        return parse(text, self.grammar)

    def parses(self, text: str) -> bool:
        """Whether `text` is a string of the grammar, whatever value it states."""
        try:
            self.parse(text)
        except ParseError:
            return False
        return True

    def holds(self, text: str) -> bool:
        """Whether `text` parses and the value it states is the value it has."""
        try:
            return self.parse(text).holds
        except ParseError:
            return False

    def depth(self, text: str) -> int:
        """Largest number of brackets around an operand; raises ParseError."""
        return self.parse(text).depth

    def operators(self, text: str) -> str:
        """The operators of `text` from left to right; raises ParseError."""
        return self.parse(text).operators

    def skeleton(self, text: str) -> str:
        """`text` without white space, each digit written `#`: `(+(*##)##)=##`. Encode it with `skeleton=True`."""
        return squeeze(text).translate(_TO_SKELETON)

    def pretty(self, text: str) -> str:
        """`text` with spaces for a reader, `(+ (* 7 5) 10) = 45`; raises ParseError. `parse` reads it back."""
        tree, grammar = self.parse(text), self.grammar
        shown: list[str] = []
        for node in tree.nodes:  # children come first
            if not node.operator:
                shown.append(str(node.value))
                continue
            left, right = shown[node.left], shown[node.right]
            if grammar.notation == "infix":
                shown.append(f"({left} {node.operator} {right})")
            else:
                shown.append(f"({node.operator} {left}{grammar.separator} {right})")
        return f"{shown[-1]} = {tree.stated}"

    def check_length(self, length: int) -> int:
        """`length` if it is within reach; raises CanvasError otherwise."""
        if not self.min_symbols <= length <= self.max_symbols:
            raise CanvasError(
                f"length {length} is impossible for {self.name}: its strings have {self.min_symbols} to {self.max_symbols} symbols"
            )
        return length
