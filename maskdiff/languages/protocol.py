"""What every formal language offers to the rest of the house, what only some offer, and the split of strings.

For: the `Language` protocol, the capabilities beyond it (`HasValue`, `HasExactProbability`, `HasOperators`, `Stepwise`; ask with
`isinstance`), and `split_of`. Not for: any one language. Easy to get wrong: lengths here count *inner symbols*, without BOS and
EOS, while `LanguageConfig.max_len` counts tokens with them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.languages.cfg import GrammarSource
from maskdiff.languages.vocabulary import Vocabulary, squeeze

Split = Literal["train", "validation", "test"]


@runtime_checkable
class Language(Protocol):
    """A formal language with strings to learn from. Lengths are inner symbols; log-probabilities nats."""

    name: str
    vocabulary: Vocabulary
    config: LanguageConfig
    min_symbols: int
    max_symbols: int
    note: str  # what its user should be told before it is used, such as lines that were left out; mostly empty
    validity: str  # what decides `parses`, in a word or two; empty where nothing does, and any string of the symbols passes

    def sample(self, rng: np.random.Generator) -> str:
        """One string of the generator; too long draws are rejected, never cut."""

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        """`n` strings; a prefix of what a larger `n` gives from the same state of `rng`."""

    def texts(self) -> tuple[str, ...] | None:
        """All strings that `sample` draws from, repetitions included, where they are a list; None where they are made."""

    def parses(self, text: str) -> bool:
        """Whether `text` is a string of the language."""

    def lark_grammar(self) -> GrammarSource | None:
        """The grammar in Lark's EBNF over the vocabulary's symbols, None if there is none; `parses` accepts what it writes."""

    def pretty(self, text: str) -> str:
        """`text` for a reader; raises ParseError where it does not parse."""

    def check_length(self, length: int) -> int:
        """`length` if some string has so many inner symbols; raises CanvasError otherwise."""

    def length_log_prob(self, n: int) -> float:
        """Log-probability that a string has `n` inner symbols; -inf where none can have."""

    def length_probs(self) -> np.ndarray:
        """P(n) of what `sample` draws, for n = 0..max_symbols, shape (max_symbols + 1,), sums to 1."""

    def state(self) -> dict[str, Any]:
        """Plain values with which `restore_language` makes this language where its files are not."""


@runtime_checkable
class HasValue(Protocol):
    """A language whose strings state something that is true or false."""

    def holds(self, text: str) -> bool:
        """Whether `text` parses and what it states is true."""

    def forced_ending(self, prefix: str) -> str | None:
        """The one continuation that makes a string beginning with `prefix` hold; None where `prefix` leaves a choice."""


@runtime_checkable
class HasExactProbability(Protocol):
    """A language whose generator knows the probability of every string."""

    def log_prob(self, text: str) -> float:
        """Log-probability of `text` under the generator after rejection; -inf outside its support."""

    def length_log_prob(self, n: int) -> float:
        """Log-probability that a string has `n` inner symbols; -inf where none has."""

    def entropy(self) -> dict[str, float]:
        """Entropy floors in nats: see the language's own docstring for its keys."""


@runtime_checkable
class HasOperators(Protocol):
    """A language of nested expressions with operators."""

    def depth(self, text: str) -> int:
        """Nesting depth of `text`; raises ParseError."""

    def operators(self, text: str) -> str:
        """The operators of `text` from left to right; raises ParseError."""


@runtime_checkable
class Stepwise(Protocol):
    """A language whose strings are problems with the steps of their solution; of several right steps any may follow."""

    separator: str  # one symbol, between a problem and its steps

    def problem(self, text: str) -> str:
        """`text` without white space around it, if it is a problem; raises ParseError otherwise."""

    def prompt(self, problem: str) -> str:
        """What is given to a model: the problem and the separator that its first step follows."""

    def solution(self, problem: str) -> list[str]:
        """All steps after `problem` as the generator writes them, the answer last."""

    def next_step(self, before: str) -> str | None:
        """The step that the generator writes after `before`; None where nothing is left to do."""

    def answer(self, problem: str) -> str:
        """What `problem` comes to."""

    def is_final(self, step: str) -> bool:
        """Whether nothing is left to do after `step`."""

    def right_step(self, before: str, step: str) -> bool:
        """Whether `step` may follow `before`, which is a problem or a right step."""

    def first_wrong(self, text: str) -> int | None:
        """The number of the first wrong step (from 1) of a finished or unfinished solution; None where none is wrong.

        What stands after the last separator counts as a step only if it is final: anything else may go on.
        """

    def problems(self, count: int, rng: np.random.Generator, deeper: int = 0) -> list[str]:
        """`count` problems as `sample` draws them; with `deeper`, of exactly so many levels more than any of those.

        Raises DataError where next to none of them fits.
        """

    def nonce(self, rng: np.random.Generator) -> tuple[str, str, int]:
        """A problem, its first step, which copies something random, and how many symbols of the step are to be given.

        The next symbol tells whether somebody continued: none but that of the step goes on with what was given, and it is not
        the symbol that the step begins with.
        """


def truth_of(language: Language, text: str) -> bool | None:
    """Whether what `text` states is true; None in a language that states nothing."""
    return language.holds(text) if isinstance(language, HasValue) else None


def split_of(text: str) -> Split:
    """The split of a string by a stable hash of its symbols: 90% train, 5% validation, 5% test.

    White space does not count. The same string has the same split on every machine and in every run.
    """
    digest = hashlib.blake2b(squeeze(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 100
    if bucket < 90:
        return "train"
    return "validation" if bucket < 95 else "test"
