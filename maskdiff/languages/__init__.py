"""Formal languages: vocabularies, grammars, generators with known probabilities, and the split of their strings.

For: `make_language(config)`, the one way in. Not for: tensors or models; this room knows numpy at most.
Easy to get wrong: a language's lengths count inner symbols, without BOS and EOS.
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
from maskdiff.languages.corpus import counted, open_corpus, restored
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
from maskdiff.languages.shipped import json_language, python_language
from maskdiff.languages.vocabulary import Vocabulary
from maskdiff.utils.arguments import refuse

LANGUAGES: dict[str, Callable[[LanguageConfig, Sequence[int] | None], Language]] = {
    "arithmetic": lambda config, lengths: ArithmeticLanguage(config),
    "arithmetic-steps": ArithmeticSteps,
    "arithmetic-corrections": ArithmeticCorrections,
    "json": json_language,
    "python-expressions": python_language,
}


def make_language(config: LanguageConfig | str | Path | None = None, symbols: str = "") -> Language:
    """The language that `config` names and shapes (the default one without), from a folder if it is the user's own.

    A name or a folder stands for the configuration of that language with defaults. `symbols`, if given, are those of a
    model that is at hand: a folder whose lines need no others gets just these.

    The configuration must be the user's: a checker that it names is imported. Raises ConfigError, and for a folder DataError
    and GrammarError.
    """
    if config is None or isinstance(config, (str, Path)):
        config = LanguageConfig() if config is None else LanguageConfig(language=str(config))
    if not isinstance(config, LanguageConfig):
        raise refuse("config", config, "a LanguageConfig, or the name of a language")
    name = config.language
    if name in LANGUAGES:
        _check_own(config)
        return LANGUAGES[name](config, None)
    if name and Path(name).is_dir():
        return open_corpus(config, symbols)
    if "/" in name or "\\" in name:
        raise ConfigError(
            f"language {quote(name)} is no folder; give one with corpus.txt, or one of {', '.join(LANGUAGES)}"
        )
    raise ConfigError(
        f"language {quote(name)} is unknown; the languages are {', '.join(LANGUAGES)}, and folders with corpus.txt; "
        f"did you mean {nearest(name, LANGUAGES)}?"
    )


def model_vocabulary(language: Language, config: ModelConfig) -> Vocabulary:
    """What a model that is to be trained reads `language` with: its characters, or pieces. Raises ConfigError."""
    if config.vocabulary == "bpe":
        return piece_vocabulary(language, config.vocab_size)
    if config.vocab_size not in (ModelConfig().vocab_size, len(language.vocabulary)):
        raise ConfigError(
            f"vocab_size is {config.vocab_size}; {language.name} has {len(language.vocabulary)} characters and special tokens: "
            "leave it out, or give --vocabulary bpe"
        )
    return language.vocabulary


def restore_language(
    config: LanguageConfig, state: Mapping[str, Any], validity: str = ""
) -> Language:
    """The language of a checkpoint, from its configuration and what `Language.state` said; no folder is needed.

    Nothing that the two name is imported: `validity` is the checker that the user trusts. Raises ConfigError and DataError.
    """
    name = config.language
    if name in LANGUAGES:
        _check_own(replace(config, validity=validity))
        return LANGUAGES[name](
            replace(config, validity=""), counted(state.get("lengths"))
        )  # saves counting them again
    if not state:
        raise DataError(
            f"nothing tells what the language {quote(name)} is; give its folder with --language"
        )
    return restored(str(state.get("name", name)), replace(config, validity=""), state, validity)


def _check_own(config: LanguageConfig) -> None:
    """Raises ConfigError for options of folders in a language that is none."""
    own = ("validity", "validity_timeout", "skip_invalid", "accept_ambiguous", "start", "spacing")
    for option in own:
        if getattr(config, option) != getattr(LanguageConfig, option):
            raise ConfigError(
                f"{option} is for a language of your own, in a folder; {config.language} comes with its own check"
            )


__all__ = [
    "LANGUAGES",
    "ArithmeticCorrections",
    "ArithmeticLanguage",
    "HasExactProbability",
    "HasOperators",
    "HasValue",
    "Language",
    "Split",
    "Stepwise",
    "Vocabulary",
    "make_language",
    "model_vocabulary",
    "piece_vocabulary",
    "restore_language",
    "split_of",
    "token_lengths",
    "truth_of",
]  # fmt: skip
