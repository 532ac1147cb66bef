"""Byte-pair vocabularies of languages, and lengths of strings in tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskdiff.errors import ConfigError
from maskdiff.languages.byte_pairs import train_merges
from maskdiff.languages.protocol import Language, split_of
from maskdiff.languages.text import TextLanguage
from maskdiff.languages.vocabulary import SPECIALS, Vocabulary

DRAWS = 20_000  # strings of a generator
SEED = 20_261_122


def training_strings(language: Language) -> list[str]:
    """Return the training split of a corpus or of `DRAWS` draws, the same at every call."""
    texts = language.texts()
    drawn = language.sample_many(DRAWS, np.random.default_rng(SEED)) if texts is None else texts
    return [text for text in drawn if split_of(text) == "train"]


def piece_vocabulary(language: Language, size: int) -> Vocabulary:
    """Return a vocabulary of characters and of pieces learnt from the training strings.

    Args:
        language: The language.
        size: The number of tokens, special tokens included; the vocabulary is smaller if the
            strings have no more pairs to merge.

    Raises:
        ConfigError: `size` leaves no room for a piece.
    """
    characters = language.vocabulary.inner_symbols
    least = len(SPECIALS) + len(characters) + 1
    if size < least:
        raise ConfigError(
            f"vocab_size is {size}; {language.name} has {len(characters)} characters and "
            f"{len(SPECIALS)} special tokens, so pieces need {least} or more"
        )
    texts = training_strings(language)
    if isinstance(language, TextLanguage):  # no merge crosses the border of a fragment
        texts = [fragment for text in texts for fragment in language.fragments(text)]
    merges = train_merges(texts, "".join(characters), size - least + 1)
    return language.vocabulary.with_merges(merges)


def token_lengths(language: Language, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Return the distribution of the number of tokens of a string, (max_symbols + 1,)."""
    if not vocabulary.merges:
        return np.asarray(language.length_probs(), dtype=np.float64)
    counts = [len(row) for row in vocabulary.encode_many(training_strings(language))]
    return np.bincount(counts, minlength=language.max_symbols + 1) / len(counts)
