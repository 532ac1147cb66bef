"""Formal languages: vocabularies, grammars, generators with known probabilities, and the split of their strings.

For: `make_language(config)`, the one way in. Not for: tensors or models; this room knows numpy at most.
Easy to get wrong: a language's lengths count inner symbols, without BOS and EOS.
"""

from __future__ import annotations

from collections.abc import Callable

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, nearest, quote
from maskdiff.languages.arithmetic import ArithmeticLanguage
from maskdiff.languages.protocol import Language, Split, split_of
from maskdiff.languages.vocabulary import Vocabulary

LANGUAGES: dict[str, Callable[[LanguageConfig], Language]] = {"arithmetic": ArithmeticLanguage}


def make_language(config: LanguageConfig | None = None) -> Language:
    """The language that `config` names and shapes (the default one without). Raises ConfigError."""
    config = config or LanguageConfig()
    if config.language not in LANGUAGES:
        near = nearest(str(config.language), LANGUAGES)
        raise ConfigError(
            f"language {quote(config.language)} is unknown; the languages are {', '.join(LANGUAGES)}; did you mean {near}?"
        )
    return LANGUAGES[config.language](config)


__all__ = ["LANGUAGES", "ArithmeticLanguage", "Language", "Split", "Vocabulary", "make_language", "split_of"]
