"""`TextLanguage`: a language given by its strings, with a grammar, a checker, or neither."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import DataError, ParseError, quote
from maskdiff.languages.cfg import (
    GrammarSource,
    NormalForm,
    Recogniser,
    compile_grammar,
    compile_reader,
)
from maskdiff.languages.lengths import check_possible
from maskdiff.languages.protocol import split_of
from maskdiff.languages.vocabulary import Vocabulary

DRAWS = 20_000  # strings from which the lengths of a generator are estimated
SEED = 20_260_101
UNSEEN = 0.1  # weight of a possible length, in strings, in addition to the strings that have it

Texts = Callable[[], tuple[str, ...] | None]


@dataclass(frozen=True)
class LanguageSpec:
    """The parts of a `TextLanguage`.

    Attributes:
        symbols: The characters.
        texts: Returns all strings of a corpus; None for a generator.
        draw: Returns n random strings; by default each string of `texts` is equally likely.
        grammar: The grammar in Lark's EBNF. It may derive only a part of the language if `valid`
            is given.
        valid: Returns whether a text is a string of the language; by default the grammar decides.
        validity: The name of what decides.
    """

    symbols: str
    texts: Texts = lambda: None
    draw: Callable[[int, np.random.Generator], list[str]] | None = None
    grammar: GrammarSource | str | None = None
    valid: Callable[[str], bool] | None = None
    validity: str = ""


class TextLanguage:
    """Implements `maskdiff.languages.Language`.

    Args:
        name: The name.
        config: The configuration.
        spec: The parts of the language.
        lengths: The number of training strings of each length; counted when first needed if None.
        digest: Identifies a corpus; empty for a generator.

    Raises:
        DataError: The symbols make no vocabulary.
    """

    def __init__(
        self,
        name: str,
        config: LanguageConfig,
        spec: LanguageSpec,
        lengths: Sequence[int] | None = None,
        digest: str = "",
    ) -> None:
        self.name, self.config, self.spec, self.digest = name, config, spec, digest
        try:
            self.vocabulary = Vocabulary.of(spec.symbols, digit=False)
        except ValueError as error:
            raise DataError(f"the symbols of {name} make no vocabulary: {error}") from None
        self.validity = spec.validity
        self.min_symbols, self.max_symbols = 1, config.max_len - 2
        self.note = ""
        self._lengths = lengths

    # Strings

    def sample(self, rng: np.random.Generator) -> str:
        """See `Language`."""
        return self.sample_many(1, rng)[0]

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        """See `Language`."""
        if self.spec.draw is not None:
            return self.spec.draw(n, rng)
        strings = self.texts() or ()
        return [strings[i] for i in rng.integers(0, len(strings), n)]

    def texts(self) -> tuple[str, ...] | None:
        """See `Language`."""
        return self.spec.texts()

    def fragments(self, text: str) -> list[str]:
        """Return the parts of `text` whose borders no byte-pair piece crosses: here all of it."""
        return [text]

    # Validity

    def parses(self, text: str) -> bool:
        """Return whether `text` is a string, by the checker, the grammar, or its symbols."""
        try:
            symbols = self._indices(text)
        except ParseError:
            return False
        if len(symbols) < len(text):  # `encode` skips white space that is no symbol
            return False
        if self.spec.valid is not None:
            return self.spec.valid(text)
        return len(symbols) > 0 if self._reader is None else self._reader(symbols)

    def _indices(self, text: str) -> list[int]:
        """The indices of the symbols of `text` in the grammar. Raises `ParseError`."""
        return [token - self.vocabulary.inner_ids[0] for token in self.vocabulary.encode(text)]

    def derivations(self, text: str) -> int | None:
        """Return the number of derivations of `text`; None without a grammar.

        Raises `ParseError` for a foreign symbol.
        """
        return None if self._writer is None else self._writer.derivations(self._indices(text))

    def lark_grammar(self) -> GrammarSource | None:
        """See `Language`."""
        grammar = self.spec.grammar
        if isinstance(grammar, str):
            return GrammarSource(grammar, f"the grammar of {self.name}")
        return grammar

    @cached_property
    def grammar(self) -> NormalForm | None:
        """The normal form of the strings that the grammar writes. Raises `GrammarError`."""
        grammar = self.lark_grammar()
        if grammar is None:
            return None
        return compile_grammar(grammar, tuple(self.spec.symbols), self.config.accept_ambiguous)

    @cached_property
    def _writer(self) -> Recogniser | None:
        return None if self.grammar is None else Recogniser(self.grammar)

    @cached_property
    def _reader(self) -> Recogniser | None:
        grammar = self.lark_grammar()
        if grammar is None:
            return None
        return Recogniser(compile_reader(grammar, tuple(self.spec.symbols)))

    def pretty(self, text: str) -> str:
        """Return `text`. Raises `ParseError` if it does not parse."""
        if not self.parses(text):
            raise ParseError(f"{quote(text)} is no string of {self.name}", 0, text)
        return text

    # Lengths

    @cached_property
    def counts(self) -> np.ndarray:
        """The number of strings of each length, (max_symbols + 1,).

        Of a corpus these are the strings of the training split, or all if none belongs to it.
        """
        if self._lengths is not None:
            sizes: Any = np.asarray(self._lengths, dtype=np.int64)[: self.max_symbols + 1]
            if not sizes.any():
                raise DataError(f"no string of {self.name} fits max_len {self.config.max_len}")
            return np.pad(sizes, (0, self.max_symbols + 1 - len(sizes)))
        texts = self.texts()
        if texts is None:
            strings = self.sample_many(DRAWS, np.random.default_rng(SEED))
        else:  # nothing is learnt from held-out strings
            strings = [text for text in texts if split_of(text) == "train"] or [*texts]
        return np.bincount([len(text) for text in strings], minlength=self.max_symbols + 1)

    @cached_property
    def possible(self) -> np.ndarray:
        """Whether a string may have each length, (max_symbols + 1,)."""
        some = np.arange(self.max_symbols + 1) >= self.min_symbols
        if self.spec.valid is None and self.grammar is not None:  # the grammar is the language
            some &= np.asarray(self.grammar.lengths(self.max_symbols), dtype=bool)
        return some

    def check_length(self, length: int) -> int:
        """See `Language`; the error names the nearest lengths."""
        return check_possible(self.name, self.possible, length)

    def length_probs(self) -> np.ndarray:
        """Return the distribution of the lengths of strings that are drawn, (max_symbols + 1,)."""
        return np.asarray(self.counts / self.counts.sum(), dtype=np.float64)

    def length_log_prob(self, n: int) -> float:
        """Return the log-probability of length `n` of any string, such as one that a user types.

        A possible length that no string has counts as a tenth of a string.
        """
        weight = self.counts + UNSEEN * self.possible
        if not (0 <= n <= self.max_symbols and weight[n] > 0):
            return -math.inf
        return math.log(weight[n] / weight.sum())

    def state(self) -> dict[str, Any]:
        """Return plain values that describe the language without its strings and its checker.

        `digest` does not depend on the order of the lines of a corpus; `order` is the order in
        which they are drawn.
        """
        grammar = self.lark_grammar()
        return {
            "name": self.name,
            "symbols": self.spec.symbols,
            "grammar": None if grammar is None else grammar.state(),
            "lengths": self.counts.tolist(),
            "digest": self.digest,
            "order": "sorted" if self.digest else "",
        }
