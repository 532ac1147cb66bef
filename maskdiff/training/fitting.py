"""Fits simple models to a corpus: for the checkpoints of a run, and for one of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskdiff.checkpoint import Payload, make_payload
from maskdiff.config import Config, LanguageConfig, ModelConfig, TrainConfig
from maskdiff.errors import DataError, quote
from maskdiff.languages import Language, Split, Vocabulary, make_language, split_of
from maskdiff.tasks.whole_strings import nats_per_symbol

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
        """Return the nats per symbol of the test lines by the n-gram; None without test lines."""
        return self._nats(self.ngram.log_probs)

    def grammar_nats_per_symbol(self) -> float | None:
        """Return the same by the fitted grammar; None without one, too."""
        model = self.grammar_model
        return None if model is None else self._nats(model.smoothed_log_probs)

    def _nats(self, log_probs: Callable[[list[list[int]]], NDArray[np.float64]]) -> float | None:
        rows = self.language.vocabulary.encode_many(self.tested)
        return nats_per_symbol(log_probs(rows), self.tested) if rows else None


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

    See `ngram_of`. Raises DataError if no line falls into the training split.
    """
    texts = language.texts()
    if texts is None:
        return None
    lines = [text for text in texts if split_of(text) == "train"]
    if not lines:
        raise DataError(
            f"none of the {len(texts)} lines of {language.name} falls into the training split; "
            "give some hundreds"
        )
    return ngram_of(lines, _distinct(language, "validation"), language.vocabulary)


def ngram_of(training: Sequence[str], validation: Sequence[str], vocabulary: Vocabulary) -> NGram:
    """Return the n-gram of training strings under whose order validation strings are most likely.

    Training strings are counted as often as they occur, up to `MAX_SYMBOLS` symbols: of more, every
    second, third, ... string. Repeated validation strings count once.
    """
    from maskdiff.models.ngram import NGram

    counted = training[:: -(-sum(map(len, training)) // MAX_SYMBOLS)]
    held_out = vocabulary.encode_many([*dict.fromkeys(validation)])
    return NGram.fit_order(vocabulary.encode_many(counted), held_out, vocabulary)


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
