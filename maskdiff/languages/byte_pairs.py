"""Byte-pair merges (1508.07909): learns pieces of several characters and cuts texts into pieces.

A string is one word: there is no pre-tokenisation, so a piece may cross brackets and operators.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from maskdiff.errors import ConfigError

Merge = tuple[str, str]


def train_merges(texts: Sequence[str], characters: str, count: int) -> tuple[Merge, ...]:
    """Return merges of neighbouring pieces, the most frequent first.

    Args:
        texts: The strings to learn from; the same strings give the same merges.
        characters: The initial pieces.
        count: The largest number of merges; fewer are found if no pair occurs twice any more.

    Raises:
        ConfigError: `count` is below 1.
    """
    from tokenizers import Tokenizer, models, trainers

    if count < 1:
        raise ConfigError(
            f"{count} byte-pair merges make no vocabulary; "
            "give at least 1 more token than there are characters"
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
    """Cuts texts into pieces.

    Args:
        ids: The id of each piece; it contains all characters of the texts.
        merges: The merges, in their order.
    """

    def __init__(self, ids: Mapping[str, int], merges: Sequence[Merge]) -> None:
        from tokenizers import Tokenizer, models

        self._tokenizer: Any = Tokenizer(models.BPE(vocab=dict(ids), merges=list(merges)))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of the pieces of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
