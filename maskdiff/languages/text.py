"""`TextLanguage`: a language that is known by its strings, with a grammar or a checker or neither beside them.

For: corpora of a user (`corpus.py`) and the languages that are shipped with them. Not for: reading files, or languages with a
parser and probabilities of their own (`arithmetic/`). Easy to get wrong: `length_probs` is what strings are drawn with, so a
length that no string has gets nothing; `length_log_prob` judges strings that somebody typed, whose length may be new.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import CanvasError, DataError, ParseError, quote
from maskdiff.languages.cfg import (
    GrammarSource,
    NormalForm,
    Recogniser,
    compile_grammar,
    compile_reader,
)
from maskdiff.languages.vocabulary import Vocabulary

DRAWS = 20_000  # strings whose lengths stand for a generator's
SEED = 20_260_101
UNSEEN = 0.1  # of a string: what a possible length counts beyond the strings that have it


@dataclass(frozen=True)
class LanguageSpec:
    """What a language is made of.

    symbols: its characters. draw: `n` strings, a prefix of what a larger `n` gives from the same state of the generator.
    texts: all strings where they are a list. grammar: in Lark's EBNF; it may derive a part of the language only if there is a
    checker. valid: says whether a text is a string of the language; without it the grammar decides. validity: what decides, in
    a word or two.
    """

    symbols: str
    draw: Callable[[int, np.random.Generator], list[str]]
    texts: Callable[[], tuple[str, ...] | None] = lambda: None
    grammar: GrammarSource | str | None = None
    valid: Callable[[str], bool] | None = None
    validity: str = ""


class TextLanguage:
    """Implements `maskdiff.languages.Language`.

    `lengths` counts strings by their number of symbols, from 0; without it they are counted when first needed. `digest`
    tells one corpus from another; it is empty where strings are generated. Raises DataError for symbols that cannot be one.
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
        self.note = ""  # what its user should be told before it is used
        self._lengths = lengths

    # ------------------------------------------------------------------------------------------------------------ strings

    def sample(self, rng: np.random.Generator) -> str:
        """One string."""
        return self.sample_many(1, rng)[0]

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        """`n` strings; a prefix of what a larger `n` gives from the same state of `rng`."""
        return self.spec.draw(n, rng)

    def texts(self) -> tuple[str, ...] | None:
        """All strings that `sample` draws from, None where they are generated."""
        return self.spec.texts()

    def fragments(self, text: str) -> list[str]:
        """The parts of `text` over whose borders no piece of a byte-pair vocabulary may reach: here the whole."""
        return [text]

    # ----------------------------------------------------------------------------------------------------------- validity

    def parses(self, text: str) -> bool:
        """Whether `text` is a string of the language, by its checker, else by its grammar, else by its symbols alone."""
        try:
            symbols = self._indices(text)
        except ParseError:
            return False
        if len(symbols) < len(
            text
        ):  # white space that is no symbol may be typed, but is in no string
            return False
        if self.spec.valid is not None:
            return self.spec.valid(text)
        if self._reader is None:
            return len(symbols) > 0
        return self._reader(symbols)

    def _indices(self, text: str) -> list[int]:
        """The symbols of `text` as the grammar numbers them; raises ParseError on a foreign one."""
        return [token - self.vocabulary.inner_ids[0] for token in self.vocabulary.encode(text)]

    def derivations(self, text: str) -> int | None:
        """In how many ways the grammar writes `text`; None without a grammar. Raises ParseError on a foreign symbol."""
        return None if self._writer is None else self._writer.derivations(self._indices(text))

    def lark_grammar(self) -> GrammarSource | None:
        """The grammar in Lark's EBNF; None if there is none."""
        grammar = self.spec.grammar
        return (
            GrammarSource(grammar, f"the grammar of {self.name}")
            if isinstance(grammar, str)
            else grammar
        )

    @cached_property
    def grammar(self) -> NormalForm | None:
        """The strings that the grammar writes, in normal form; raises GrammarError."""
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
        return (
            None
            if grammar is None
            else Recogniser(compile_reader(grammar, tuple(self.spec.symbols)))
        )

    def pretty(self, text: str) -> str:
        """`text` itself; raises ParseError where it does not parse."""
        if not self.parses(text):
            raise ParseError(f"{quote(text)} is no string of {self.name}", 0, text)
        return text

    # ------------------------------------------------------------------------------------------------------------ lengths

    @cached_property
    def counts(self) -> np.ndarray:
        """(max_symbols + 1,) strings of each length."""
        if self._lengths is not None:
            sizes: Any = np.asarray(self._lengths, dtype=np.int64)[: self.max_symbols + 1]
            if not sizes.any():
                raise DataError(f"no string of {self.name} fits max_len {self.config.max_len}")
            return np.pad(sizes, (0, self.max_symbols + 1 - len(sizes)))
        texts = self.texts()
        strings = self.sample_many(DRAWS, np.random.default_rng(SEED)) if texts is None else texts
        return np.bincount([len(text) for text in strings], minlength=self.max_symbols + 1)

    @cached_property
    def possible(self) -> np.ndarray:
        """(max_symbols + 1,) whether some string may have that many symbols."""
        some = np.arange(self.max_symbols + 1) > 0
        if (
            self.grammar is not None and self.spec.valid is None
        ):  # else the grammar may be that of a part
            some &= np.asarray(self.grammar.lengths(self.max_symbols), dtype=bool)
        return some

    def check_length(self, length: int) -> int:
        """`length` if some string may have so many symbols; raises CanvasError, naming the nearest lengths, otherwise."""
        if not (0 <= length <= self.max_symbols and self.possible[length]):
            sizes = np.flatnonzero(self.possible)
            near = [*sizes[sizes < length][-1:], *sizes[sizes > length][:1]]
            raise CanvasError(
                f"length {length} is impossible for {self.name}: no string has {length} symbols; "
                f"the nearest length{'s are' if len(near) > 1 else ' is'} {' and '.join(map(str, near))}"
            )
        return length

    def length_probs(self) -> np.ndarray:
        """P(n) of the strings, shape (max_symbols + 1,), sums to 1."""
        return np.asarray(self.counts / self.counts.sum(), dtype=np.float64)

    def length_log_prob(self, n: int) -> float:
        """Log-probability (nats) of `n` symbols, a length that no string has yet being worth a tenth of a string."""
        weight = self.counts + UNSEEN * self.possible
        return (
            math.log(weight[n] / weight.sum())
            if 0 <= n <= self.max_symbols and weight[n] > 0
            else -math.inf
        )

    def state(self) -> dict[str, Any]:
        """Plain values that make this language again, but for its strings and its checker.

        `digest` is that of the lines of a corpus whatever their order in the file; `order` is the
        order in which they are numbered for drawing.
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


def draws_from(
    texts: Callable[[], tuple[str, ...] | None],
) -> Callable[[int, np.random.Generator], list[str]]:
    """Drawing from a list of strings, each line as likely as any other."""

    def draw(n: int, rng: np.random.Generator) -> list[str]:
        strings = texts() or ()
        return [strings[i] for i in rng.integers(0, len(strings), n)]

    return draw


def absent(name: str, folder: str) -> Callable[[], tuple[str, ...] | None]:
    """What stands for the strings of a language whose files are not here: raises DataError."""

    def texts() -> tuple[str, ...] | None:
        raise DataError(
            f"the strings of {name} are not here: no folder {quote(folder, 200)}; give it with --language"
        )

    return texts
