"""Formal languages: vocabularies, grammars, generators with known probabilities, splits of strings.

`make_language` returns a language by its name or its folder. See `protocol.py` for what a language
is and for how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskdiff.config import LanguageConfig, ModelConfig
from maskdiff.errors import ConfigError, DataError, nearest, quote
from maskdiff.languages.arithmetic import ArithmeticLanguage
from maskdiff.languages.arithmetic_corrections import ArithmeticCorrections
from maskdiff.languages.arithmetic_steps import ArithmeticSteps
from maskdiff.languages.corpus import checked_counts, fit_max_len, open_corpus, restore_corpus
from maskdiff.languages.corpus_file import has_columns
from maskdiff.languages.json_documents import json_language
from maskdiff.languages.pieces import piece_vocabulary, token_lengths
from maskdiff.languages.protocol import (
    HasExactProbability,
    HasOperators,
    HasValue,
    Language,
    Split,
    Stepwise,
    split_of,
    truth_of,
)
from maskdiff.languages.python_expressions import python_language
from maskdiff.languages.vocabulary import Vocabulary
from maskdiff.utils.arguments import refuse

# The built-in languages: a name, and a function of a configuration and of the numbers of strings of
# each length, if they are known.
LANGUAGES: dict[str, Callable[[LanguageConfig, Sequence[int] | None], Language]] = {
    "arithmetic": lambda config, lengths: ArithmeticLanguage(config),
    "arithmetic-steps": ArithmeticSteps,
    "arithmetic-corrections": ArithmeticCorrections,
    "json": json_language,
    "python-expressions": python_language,
}
FOLDER_OPTIONS = (
    "field", "validity", "validity_timeout", "skip_invalid", "accept_ambiguous", "start", "spacing"
)  # fmt: skip


def make_language(config: LanguageConfig | str | Path | None = None, symbols: str = "") -> Language:
    """Return a language.

    Args:
        config: The configuration, or a name, folder or file for its defaults, with the `max_len`
            that the corpus needs; None for the default language. It must come from the user, since
            a checker that it names is imported.
        symbols: The characters of an existing model, for a folder whose lines need no others.

    Raises:
        ConfigError: The language is unknown, or an option is not possible.
        DataError, GrammarError: See `open_corpus`.
    """
    if config is None or isinstance(config, (str, Path)):
        given = LanguageConfig() if config is None else LanguageConfig(language=str(config))
        config = fitted_length(given)
    if not isinstance(config, LanguageConfig):
        raise refuse("config", config, "a LanguageConfig, or the name of a language")
    name = config.language
    if name in LANGUAGES:
        _check_folder_options(config)
        return LANGUAGES[name](config, None)
    if is_corpus(config):
        return open_corpus(config, symbols)
    if "/" in name or "\\" in name:
        raise ConfigError(
            f"language {quote(name)} is no folder and no file; "
            f"give one with corpus.txt, or one of {', '.join(LANGUAGES)}"
        )
    raise ConfigError(
        f"language {quote(name)} is unknown; the languages are {', '.join(LANGUAGES)}, "
        f"and folders with corpus.txt or files; did you mean {nearest(name, LANGUAGES)}?"
    )


def is_corpus(config: LanguageConfig) -> bool:
    """Return whether the language is an existing folder or file of the user."""
    name = config.language
    return bool(name) and name not in LANGUAGES and Path(name).exists()


def fitted_length(config: LanguageConfig) -> LanguageConfig:
    """Return `config`, for a corpus with the `max_len` that its lines need.

    It is for a user who does not set `max_len`. Raises what `open_corpus` raises for the corpus.
    """
    return fit_max_len(config) if is_corpus(config) else config


def model_vocabulary(language: Language, config: ModelConfig) -> Vocabulary:
    """Return the vocabulary of a new model of `language`: its characters, or byte-pair pieces.

    Raises `ConfigError`.
    """
    if config.vocabulary == "bpe":
        return piece_vocabulary(language, config.vocab_size)
    size = len(language.vocabulary)
    if config.vocab_size not in (ModelConfig().vocab_size, size):
        raise ConfigError(
            f"vocab_size is {config.vocab_size}; {language.name} has {size} characters and special "
            "tokens: leave it out, or give --vocabulary bpe"
        )
    return language.vocabulary


def restore_language(
    config: LanguageConfig, state: Mapping[str, Any], validity: str = ""
) -> Language:
    """Return the language of a checkpoint; its folder need not exist.

    Args:
        config: The configuration of the checkpoint; a checker that it names is not imported.
        state: The value of `Language.state`.
        validity: A checker that the user trusts.

    Raises:
        ConfigError, DataError: See `restore_corpus`.
    """
    name = config.language
    untrusted = replace(config, validity="")
    if name in LANGUAGES:
        _check_folder_options(replace(config, validity=validity))
        return LANGUAGES[name](untrusted, checked_counts(state.get("lengths")))
    if not state:
        raise DataError(
            f"nothing tells what the language {quote(name)} is; give its folder with --language"
        )
    return restore_corpus(str(state.get("name", name)), untrusted, state, validity)


def _check_folder_options(config: LanguageConfig) -> None:
    """Raises `ConfigError` for options of folders in a built-in language."""
    for option in FOLDER_OPTIONS:
        if getattr(config, option) != getattr(LanguageConfig, option):
            raise ConfigError(
                f"{option} is for a language of your own, in a folder; {config.language} comes "
                "with its own check"
            )


__all__ = [
    "LANGUAGES", "ArithmeticCorrections", "ArithmeticLanguage", "HasExactProbability",
    "HasOperators", "HasValue", "Language", "Split", "Stepwise", "Vocabulary", "fitted_length",
    "has_columns", "is_corpus", "make_language", "model_vocabulary", "piece_vocabulary",
    "restore_language", "split_of", "token_lengths", "truth_of",
]  # fmt: skip
