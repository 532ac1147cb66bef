"""Fits an n-gram to a corpus: for the checkpoints of a run, and for a checkpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskdiff.checkpoint import Payload, make_payload
from maskdiff.config import Config, LanguageConfig, ModelConfig, TrainConfig
from maskdiff.errors import DataError, quote
from maskdiff.languages import Language, Split, make_language, split_of

if TYPE_CHECKING:
    from maskdiff.models.ngram import NGram

MAX_SYMBOLS = 4_000_000  # symbols that are counted at most: a fit takes seconds


@dataclass(frozen=True)
class Fit:
    """An n-gram with its corpus.

    Attributes:
        config: The configuration of its checkpoint.
        language: The corpus.
        ngram: The n-gram.
        tested: Lines of the test split; there may be none.
    """

    config: Config
    language: Language
    ngram: NGram
    tested: list[str]

    def payload(self) -> Payload:
        """Return what `save` writes: a checkpoint without the weights of a neural model."""
        state = self.language.state()
        return make_payload(
            self.config, self.language.vocabulary, {}, language=state, ngram=self.ngram
        )

    def nats_per_symbol(self) -> float | None:
        """Return the mean of -log p over the symbols of the test lines, the end of each counted.

        It is None without test lines.
        """
        if not self.tested:
            return None
        log_p = self.ngram.symbol_log_probs(self.language.vocabulary.encode_many(self.tested))
        return -float(np.concatenate(log_p).mean())


def fit_corpus(config: LanguageConfig, name: str) -> Fit:
    """Return the n-gram of the corpus of a folder, for a checkpoint of the name `name`.

    Raises DataError for a folder without training lines, and what `make_language` raises.
    """
    language = make_language(config)
    ngram = fit_ngram(language)
    if ngram is None:
        raise DataError(f"{quote(config.language)} is no folder with a corpus; a fit needs one")
    model = ModelConfig(vocab_size=len(language.vocabulary), block_size=config.max_len)
    whole = Config(language=language.config, model=model, train=TrainConfig(name=name))
    return Fit(whole, language, ngram, _distinct(language, "test"))


def fit_ngram(language: Language) -> NGram | None:
    """Return the n-gram of the training lines of a corpus; None if the language is no corpus.

    The order is that under which the validation lines are most likely. Lines are counted as often
    as they occur, up to `MAX_SYMBOLS` symbols: of a larger corpus every second, third, ... line.

    Raises DataError if no line falls into the training split.
    """
    texts = language.texts()
    if texts is None:
        return None
    from maskdiff.models.ngram import NGram

    lines = [text for text in texts if split_of(text) == "train"]
    if not lines:
        raise DataError(
            f"none of the {len(texts)} lines of {language.name} falls into the training split; "
            "give some hundreds"
        )
    lines = lines[:: -(-sum(map(len, lines)) // MAX_SYMBOLS)]
    encode = language.vocabulary.encode_many
    return NGram.fit_order(
        encode(lines), encode(_distinct(language, "validation")), language.vocabulary
    )


def _distinct(language: Language, split: Split) -> list[str]:
    """The different lines of a split."""
    return [text for text in dict.fromkeys(language.texts() or ()) if split_of(text) == split]
