"""`ArithmeticLanguage`: the arithmetic grammar, parser, generator and probabilities behind the `Language` protocol.

For: everything that the rest of the house asks of the language. Not for: the algorithms, which stand in the other files of
this folder. Easy to get wrong: `parses` asks the grammar alone (any depth, any stated value), `holds` also asks that the
stated value is right, and `log_prob` is finite only for what the generator can draw within max_len.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import CanvasError, ParseError
from maskdiff.languages.arithmetic.entropy import DRAWS, SEED, entropies
from maskdiff.languages.arithmetic.generator import draw_many
from maskdiff.languages.arithmetic.grammar import as_lark, grammar_of, largest_length
from maskdiff.languages.arithmetic.lengths import length_table
from maskdiff.languages.arithmetic.parser import Tree, parse
from maskdiff.languages.arithmetic.probability import log_generated
from maskdiff.languages.cfg import GrammarSource
from maskdiff.languages.vocabulary import ANY_DIGIT, DIGITS, squeeze

_TO_SKELETON = str.maketrans(DIGITS, ANY_DIGIT * len(DIGITS))


class ArithmeticLanguage:
    """A `Language` that is `HasValue`, `HasExactProbability` and `HasOperators`. Raises ConfigError on options that no language has."""

    name = "arithmetic"
    validity = "parser"
    note = ""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.grammar = grammar_of(config)
        self.vocabulary = self.grammar.vocabulary()
        self.min_symbols = 2 * len(str(self.grammar.min_int)) + 1
        self.max_symbols = largest_length(config, self.grammar)
        self._entropy: dict[str, float] | None = None

    def sample(self, rng: np.random.Generator) -> str:
        """One string of the generator; too long draws are rejected, never cut."""
        return self.sample_many(1, rng)[0]

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        """`n` strings; a prefix of what a larger `n` gives from the same state of `rng`."""
        return draw_many(n, rng, self.config, self.grammar)

    def texts(self) -> None:
        """None: strings are generated."""

    def state(self) -> dict[str, Any]:
        """Nothing: the configuration says it all."""
        return {}

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

    def forced_ending(self, prefix: str) -> str | None:
        """The value, once `prefix` is an expression and its `=`; None before."""
        try:
            return str(self.parse(prefix + "0").value) if prefix.endswith("=") else None
        except ParseError:
            return None

    def lark_grammar(self) -> GrammarSource:
        """The grammar in Lark's EBNF: just the strings for which `parses` is true."""
        return GrammarSource(as_lark(self.grammar), f"the grammar of {self.name}")

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
        """`length` if some string has so many inner symbols; raises CanvasError, naming the nearest lengths, otherwise."""
        if not self.min_symbols <= length <= self.max_symbols:
            raise CanvasError(
                f"length {length} is impossible for {self.name}: "
                f"its strings have {self.min_symbols} to {self.max_symbols} symbols"
            )
        probs = self.length_probs()
        if probs[length] == 0.0:
            possible = np.flatnonzero(probs)
            near = [*possible[possible < length][-1:], *possible[possible > length][:1]]
            raise CanvasError(
                f"length {length} is impossible for {self.name}: no string has {length} symbols; "
                f"the nearest length{'s are' if len(near) > 1 else ' is'} {' and '.join(str(n) for n in near)}"
            )
        return length

    def log_prob(self, text: str) -> float:
        """Log-probability (nats) of `text` under the generator after rejection; -inf outside its support.

        Exact up to the acceptance, a constant with a relative standard error of about 1e-5 (none where `lengths.py` is exact).
        """
        try:
            tree = self.parse(text)
        except ParseError:
            return -math.inf
        if not tree.holds or len(squeeze(text)) > self.max_symbols:
            return -math.inf
        return log_generated(tree, self.config, self.grammar) - math.log(self.acceptance)

    @property
    def acceptance(self) -> float:
        """The share of the generator's draws that fit max_len."""
        return length_table(self.config).acceptance

    def length_log_prob(self, n: int) -> float:
        """Log-probability (nats) that a string has `n` inner symbols; -inf where none has. See `lengths.py` for its error.

        log_prob(text) - length_log_prob(n) is the log-probability of the text given its length.
        """
        probs = self.length_probs()
        return float(np.log(probs[n])) if 0 <= n < len(probs) and probs[n] > 0 else -math.inf

    def length_probs(self) -> np.ndarray:
        """P(n) for n = 0..max_symbols, shape (max_symbols + 1,), sums to 1. Computed once per process; read-only."""
        return length_table(self.config).probs[: self.max_symbols + 1]

    def entropy(self) -> dict[str, float]:
        """The entropy floors in nats; `entropy.py` documents the keys. Takes a second or two, once per language."""
        if self._entropy is None:
            strings = self.sample_many(DRAWS, np.random.default_rng(SEED))
            self._entropy = entropies(strings, self.log_prob, self.length_probs())
        return dict(self._entropy)
