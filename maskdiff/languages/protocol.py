"""The `Language` protocol, the capabilities beyond it, and the split of strings.

A capability (`HasValue`, `HasExactProbability`, `HasOperators`, `Stepwise`) is a protocol of its
own; test for it with `isinstance`. Lengths count the symbols of a string without BOS and EOS, while
`LanguageConfig.max_len` counts them with both. Log-probabilities are in nats.

A language of one's own needs no code: a folder with `corpus.txt` and optionally `grammar.lark`. A
new built-in language is one package in `maskdiff/languages/` and one line in the table `LANGUAGES`
of `maskdiff/languages/__init__.py`.
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
    """A formal language from whose strings a model learns.

    Attributes:
        name: The name.
        vocabulary: The symbols.
        config: The configuration that the language was made from.
        min_symbols, max_symbols: Bounds on the lengths of strings.
        note: A remark for the user, such as the number of lines left out; mostly empty.
        validity: The name of what decides `parses`; empty if any string of the symbols parses.
    """

    name: str
    vocabulary: Vocabulary
    config: LanguageConfig
    min_symbols: int
    max_symbols: int
    note: str
    validity: str

    def sample(self, rng: np.random.Generator) -> str:
        """Return one random string. Draws that are too long are rejected, never truncated."""

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        """Return `n` random strings; a prefix of those for a larger `n` and the same `rng`."""

    def texts(self) -> tuple[str, ...] | None:
        """Return all strings of a corpus, repetitions included; None for a generator."""

    def parses(self, text: str) -> bool:
        """Return whether `text` is a string of the language."""

    def lark_grammar(self) -> GrammarSource | None:
        """Return the grammar, whose strings all parse; None if there is none."""

    def pretty(self, text: str) -> str:
        """Return `text` formatted for a reader. Raises `ParseError` if it does not parse."""

    def check_length(self, length: int) -> int:
        """Return `length` if some string has this length. Raises `CanvasError` otherwise."""

    def length_log_prob(self, n: int) -> float:
        """Return the log-probability of length `n`; -inf if it is impossible."""

    def length_probs(self) -> np.ndarray:
        """Return the distribution of lengths, (max_symbols + 1,)."""

    def state(self) -> dict[str, Any]:
        """Return plain values from which `restore_language` makes the language."""


@runtime_checkable
class HasValue(Protocol):
    """A language whose strings are true or false."""

    def holds(self, text: str) -> bool:
        """Return whether `text` parses and is true."""

    def forced_ending(self, prefix: str) -> str | None:
        """Return the ending of `prefix` to a true string; None unless there is exactly one."""


@runtime_checkable
class HasExactProbability(Protocol):
    """A language whose generator has known probabilities."""

    def log_prob(self, text: str) -> float:
        """Return the log-probability of `text` after rejection; -inf outside the support."""

    def length_log_prob(self, n: int) -> float:
        """Return the log-probability of length `n`; -inf if it is impossible."""

    def entropy(self) -> dict[str, float]:
        """Return entropies in nats; the language documents the keys."""


@runtime_checkable
class HasOperators(Protocol):
    """A language of nested expressions."""

    def depth(self, text: str) -> int:
        """Return the nesting depth of `text`. Raises `ParseError`."""

    def operators(self, text: str) -> str:
        """Return the operators of `text` from left to right. Raises `ParseError`."""


@runtime_checkable
class Stepwise(Protocol):
    """A language of problems with the steps of their solution; several right steps may exist.

    Attributes:
        separator: The symbol between a problem and its steps.
    """

    separator: str

    def problem(self, text: str) -> str:
        """Return a problem without white space around it. Raises `ParseError` for other text."""

    def prompt(self, problem: str) -> str:
        """Return the input of a model: the problem and the separator before its first step."""

    def solution(self, problem: str) -> list[str]:
        """Return the steps after `problem` as the generator writes them, the answer last."""

    def next_step(self, before: str) -> str | None:
        """Return the step that the generator writes after `before`; None after the answer."""

    def answer(self, problem: str) -> str:
        """Return the answer to `problem`."""

    def is_final(self, step: str) -> bool:
        """Return whether `step` is an answer."""

    def right_step(self, before: str, step: str) -> bool:
        """Return whether `step` may follow `before`, a problem or a right step."""

    def first_wrong(self, text: str) -> int | None:
        """Return the number (from 1) of the first wrong step of a solution; None if none is wrong.

        The solution may be unfinished: text behind the last separator is a step only if final.
        """

    def problems(self, count: int, rng: np.random.Generator, deeper: int = 0) -> list[str]:
        """Return random problems.

        Args:
            count: The number of problems.
            rng: The random number generator.
            deeper: If above 0, the problems have exactly so many levels more than any of `sample`.

        Raises:
            DataError: Almost no problem of this depth fits.
        """

    def nonce(self, rng: np.random.Generator) -> tuple[str, str, int]:
        """Return a problem, its first step, and the number of symbols of the step to reveal.

        The step copies a random number. The next symbol shows whether a model continues the given
        part: no other symbol does, and it differs from the first symbol of the step.
        """


def truth_of(language: Language, text: str) -> bool | None:
    """Return whether `text` is true; None in a language without truth."""
    return language.holds(text) if isinstance(language, HasValue) else None


def split_of(text: str) -> Split:
    """Return the split of a string: 90% train, 5% validation, 5% test.

    The split follows from a hash of the symbols without white space, so it is the same on every
    machine and in every run.
    """
    digest = hashlib.blake2b(squeeze(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 100
    if bucket < 90:
        return "train"
    return "validation" if bucket < 95 else "test"
