"""Fits simple models to a corpus: for the checkpoints of a run, and for one of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskdiff.checkpoint import Payload, make_payload
from maskdiff.config import Config, LanguageConfig, ModelConfig, TrainConfig
from maskdiff.errors import DataError, quote
from maskdiff.languages import Language, Split, make_language, split_of

if TYPE_CHECKING:
    from maskdiff.models.grammar_model import FittedGrammar
    from maskdiff.models.ngram import NGram

MAX_SYMBOLS = 4_000_000  # symbols that are counted at most: a fit takes seconds


@dataclass(frozen=True)
class Fit:
    """The simple models of a corpus.

    Attributes:
        config: The configuration of its checkpoint.
        language: The corpus.
        ngram: The n-gram.
        grammar_model: The fitted grammar; None for a corpus without a grammar.
        tested: Lines of the test split; there may be none.
    """

    config: Config
    language: Language
    ngram: NGram
    grammar_model: FittedGrammar | None
    tested: list[str]

    def payload(self) -> Payload:
        """Return what `save` writes: a checkpoint without the weights of a neural model."""
        return make_payload(
            self.config,
            self.language.vocabulary,
            {},
            language=self.language.state(),
            ngram=self.ngram,
            grammar_model=self.grammar_model,
        )

    def nats_per_symbol(self) -> float | None:
        """Return -log p of the test lines by the n-gram over their symbols and ends.

        It is None without test lines.
        """
        rows = self.language.vocabulary.encode_many(self.tested)
        return _nats_per_symbol(self.ngram.log_probs(rows), rows)

    def grammar_nats_per_symbol(self) -> float | None:
        """Return the same by the fitted grammar; None without one, too."""
        if self.grammar_model is None:
            return None
        rows = self.language.vocabulary.encode_many(self.tested)
        return _nats_per_symbol(self.grammar_model.smoothed_log_probs(rows), rows)


def _nats_per_symbol(log_probs: NDArray[np.float64], rows: list[list[int]]) -> float | None:
    return -float(log_probs.sum() / sum(len(row) + 1 for row in rows)) if rows else None


def fit_corpus(config: LanguageConfig, name: str) -> Fit:
    """Return the models of the corpus of a folder, for a checkpoint of the name `name`.

    Raises DataError for a folder without training lines, and what `make_language` raises.
    """
    language = make_language(config)
    ngram = fit_ngram(language)
    if ngram is None:
        raise DataError(f"{quote(config.language)} is no folder with a corpus; a fit needs one")
    model = ModelConfig(vocab_size=len(language.vocabulary), block_size=config.max_len)
    whole = Config(language=language.config, model=model, train=TrainConfig(name=name))
    return Fit(whole, language, ngram, fit_line_grammar(language), _distinct(language, "test"))


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


def fit_line_grammar(language: Language) -> FittedGrammar | None:
    """Return the grammar of a corpus, fitted to its training lines; alpha is that of validation.

    It is None if the language is no corpus or has no grammar.
    """
    texts = language.texts()
    if texts is None or language.lark_grammar() is None:
        return None
    from maskdiff.models.grammar_model import fit_grammar

    lines = [text for text in texts if split_of(text) == "train"]
    return fit_grammar(language, lines, _distinct(language, "validation"))


def _distinct(language: Language, split: Split) -> list[str]:
    """The different lines of a split."""
    return [text for text in dict.fromkeys(language.texts() or ()) if split_of(text) == split]
