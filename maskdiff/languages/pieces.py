"""How a model reads a language: character by character, or in pieces that byte-pair merges make.

For: `piece_vocabulary`, learnt from the language's own training strings, and `token_lengths`. Not for: merges themselves
(`byte_pairs.py`). Easy to get wrong: a language's own lengths count characters; a model that reads pieces has others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskdiff.errors import ConfigError
from maskdiff.languages.byte_pairs import train_merges
from maskdiff.languages.protocol import Language, split_of
from maskdiff.languages.text import TextLanguage
from maskdiff.languages.vocabulary import DIGIT, SPECIALS, Vocabulary

DRAWS = 20_000  # strings that stand for a generator's
SEED = 20_261_122


def training_strings(language: Language) -> list[str]:
    """Strings of the training split: all of a list, or those of `DRAWS` draws, the same at every call."""
    texts = language.texts()
    drawn = language.sample_many(DRAWS, np.random.default_rng(SEED)) if texts is None else texts
    return [text for text in drawn if split_of(text) == "train"]


def piece_vocabulary(language: Language, size: int) -> Vocabulary:
    """`size` tokens, the special ones included: the language's characters, and pieces merged from its training strings.

    Fewer where the strings have no more pairs to merge. Raises ConfigError where `size` leaves no room for a piece.
    """
    characters = [
        symbol for symbol in language.vocabulary.symbols[len(SPECIALS) :] if symbol != DIGIT
    ]
    least = len(SPECIALS) + len(characters) + 1
    if size < least:
        raise ConfigError(
            f"vocab_size is {size}; {language.name} has {len(characters)} characters and {len(SPECIALS)} special tokens, "
            f"so pieces need {least} or more"
        )
    texts = training_strings(language)
    if isinstance(
        language, TextLanguage
    ):  # no pair that is merged reaches over a border, so no piece ever does
        texts = [fragment for text in texts for fragment in language.fragments(text)]
    merges = train_merges(texts, "".join(characters), size - least + 1)
    return language.vocabulary.with_merges(merges)


def token_lengths(language: Language, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """P(n) that a string has n tokens, for n = 0..max_symbols, shape (max_symbols + 1,), sums to 1."""
    if not vocabulary.merges:
        return np.asarray(language.length_probs(), dtype=np.float64)
    counts = [len(row) for row in vocabulary.encode_many(training_strings(language))]
    return np.bincount(counts, minlength=language.max_symbols + 1) / len(counts)
