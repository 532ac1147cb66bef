"""Byte-pair merges: pieces of several characters learnt from strings, and texts cut into them.

For: `train_merges`, and the `Cutter` that `Vocabulary.encode` asks. The package `tokenizers` does both. Not for: what a token
is in text, or special tokens (`vocabulary.py`). Easy to get wrong: there is no pre-tokenisation, a string is one word, so a
piece may reach over brackets and operators (`))=1`): where one ends is nobody's boundary but the model's.

Byte-pair encoding of text: 1508.07909.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from maskdiff.errors import ConfigError

Merge = tuple[str, str]


def train_merges(texts: Sequence[str], characters: str, count: int) -> tuple[Merge, ...]:
    """At most `count` merges of neighbouring pieces, most frequent first, from the pieces that are single characters.

    Fewer where the texts have no pair left that stands twice. The same texts give the same merges. Raises ConfigError for
    `count` below 1.
    """
    from tokenizers import Tokenizer, models, trainers

    if count < 1:
        raise ConfigError(
            f"{count} byte-pair merges make no vocabulary; give at least 1 more token than there are characters"
        )
    tokenizer, alphabet = Tokenizer(models.BPE()), list(characters)
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + count,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tuple((a, b) for a, b in json.loads(tokenizer.to_str())["model"]["merges"])


class Cutter:
    """Cuts texts into pieces by merges: `ids` numbers every piece, all characters of the texts among them."""

    def __init__(self, ids: Mapping[str, int], merges: Sequence[Merge]) -> None:
        from tokenizers import Tokenizer, models

        self._tokenizer: Any = Tokenizer(models.BPE(vocab=dict(ids), merges=list(merges)))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text's pieces."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
