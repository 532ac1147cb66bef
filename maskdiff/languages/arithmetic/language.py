"""The language `arithmetic`: fully bracketed expressions with their values, `(+(*75)10)=45`.

`parses` accepts any depth and any stated value; `holds` also requires that the value is right;
`log_prob` is finite only for strings that the generator can draw within `max_len`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import CanvasError, ParseError
from maskdiff.languages.arithmetic.entropy import DRAWS, SEED, entropies
from maskdiff.languages.arithmetic.generator import draw_strings
from maskdiff.languages.arithmetic.grammar import as_lark, checked_grammar, largest_length
from maskdiff.languages.arithmetic.lengths import length_table
from maskdiff.languages.arithmetic.parser import Tree, parse_equation
from maskdiff.languages.arithmetic.probability import log_generated
from maskdiff.languages.cfg import GrammarSource
from maskdiff.languages.lengths import check_possible
from maskdiff.languages.vocabulary import ANY_DIGIT, DIGITS, squeeze

_TO_SKELETON = str.maketrans(DIGITS, ANY_DIGIT * len(DIGITS))


class ArithmeticLanguage:
    """Implements `Language`, `HasValue`, `HasExactProbability` and `HasOperators`.

    Raises:
        ConfigError: See `checked_grammar`.
    """

    name = "arithmetic"
    validity = "parser"
    note = ""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.grammar = checked_grammar(config)
        self.vocabulary = self.grammar.vocabulary()
        self.min_symbols = 2 * len(str(self.grammar.min_int)) + 1
        self.max_symbols = largest_length(config, self.grammar)

    # Strings

    def sample(self, rng: np.random.Generator) -> str:
        """See `Language`."""
        return self.sample_many(1, rng)[0]

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        """See `Language`."""
        return draw_strings(n, rng, self.config, self.grammar)

    def texts(self) -> None:
        """Return None: strings are generated."""

    def state(self) -> dict[str, Any]:
        """Return nothing: the configuration describes the language."""
        return {}

    # Trees

    def parse(self, text: str) -> Tree:
        """Return the tree of `text`. Raises `ParseError`, see `parse_equation`."""
        return parse_equation(text, self.grammar)

    def _tree(self, text: str) -> Tree | None:
        try:
            return self.parse(text)
        except ParseError:
            return None

    def parses(self, text: str) -> bool:
        """Return whether `text` is a string of the grammar, with any value."""
        return self._tree(text) is not None

    def holds(self, text: str) -> bool:
        """Return whether `text` parses and states the right value."""
        tree = self._tree(text)
        return tree is not None and tree.holds

    def forced_ending(self, prefix: str) -> str | None:
        """Return the value if `prefix` is an expression with `=`; None otherwise."""
        tree = self._tree(prefix + "0") if prefix.endswith("=") else None
        return None if tree is None else str(tree.value)

    def lark_grammar(self) -> GrammarSource:
        """Return the grammar of the strings that parse."""
        return GrammarSource(as_lark(self.grammar), f"the grammar of {self.name}")

    def depth(self, text: str) -> int:
        """See `HasOperators`."""
        return self.parse(text).depth

    def operators(self, text: str) -> str:
        """See `HasOperators`."""
        return self.parse(text).operators

    def skeleton(self, text: str) -> str:
        """Return `text` without white space and with `#` for each digit, `(+(*##)##)=##`.

        `Vocabulary.encode` reads it with `skeleton=True`.
        """
        return squeeze(text).translate(_TO_SKELETON)

    def pretty(self, text: str) -> str:
        """Return `text` with spaces, `(+ (* 7 5) 10) = 45`. Raises `ParseError`."""
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

    # Probabilities

    def log_prob(self, text: str) -> float:
        """See `HasExactProbability`.

        Exact up to the acceptance, a constant with a relative standard error of about 1e-5, or of 0
        if `LengthTable.exact`.
        """
        tree = self._tree(text)
        if tree is None or not tree.holds or len(squeeze(text)) > self.max_symbols:
            return -math.inf
        return log_generated(tree, self.config, self.grammar) - math.log(self.acceptance)

    @property
    def acceptance(self) -> float:
        """The share of the generator's draws that fit `max_len`."""
        return length_table(self.config).acceptance

    def check_length(self, length: int) -> int:
        """See `Language`; the error names the possible lengths."""
        if not self.min_symbols <= length <= self.max_symbols:
            raise CanvasError(
                f"length {length} is impossible for {self.name}: "
                f"its strings have {self.min_symbols} to {self.max_symbols} symbols"
            )
        return check_possible(self.name, self.length_probs() > 0, length)

    def length_log_prob(self, n: int) -> float:
        """See `Language`; the error is that of `LengthTable`."""
        probs = self.length_probs()
        return float(np.log(probs[n])) if 0 <= n < len(probs) and probs[n] > 0 else -math.inf

    def length_probs(self) -> np.ndarray:
        """See `Language`; computed once per process and read-only."""
        return length_table(self.config).probs[: self.max_symbols + 1]

    def entropy(self) -> dict[str, float]:
        """Return entropies in nats; see `entropies` for the keys. Takes a second or two, once."""
        return dict(self._entropy)

    @cached_property
    def _entropy(self) -> dict[str, float]:
        strings = self.sample_many(DRAWS, np.random.default_rng(SEED))
        return entropies(strings, self.log_prob, self.length_probs())
