"""Formal languages: vocabularies, grammars, generators with known probabilities, and the split of their strings.

For: `make_language(config)`, the one way in. Not for: tensors or models; this room knows numpy at most.
Easy to get wrong: a language's lengths count inner symbols, without BOS and EOS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, nearest, quote
from maskdiff.languages.arithmetic import ArithmeticLanguage
from maskdiff.languages.corpus import counted, open_corpus, restored
from maskdiff.languages.protocol import Evaluable, Language, Measurable, Operational, Split, holds, split_of
from maskdiff.languages.shipped import json_language, python_language
from maskdiff.languages.vocabulary import Vocabulary

LANGUAGES: dict[str, Callable[[LanguageConfig, Sequence[int] | None], Language]] = {
    "arithmetic": lambda config, lengths: ArithmeticLanguage(config),
    "json": json_language,
    "python-expressions": python_language,
}


def make_language(config: LanguageConfig | None = None, state: Mapping[str, Any] | None = None, validity: str = "") -> Language:
    """The language that `config` names and shapes (the default one without), from a folder if it is the user's own.

    With the `state` that a checkpoint keeps of a user's language, no folder is needed, and nothing that `config` names is
    imported: `validity` names the checker to trust. Raises ConfigError, and for a folder DataError and GrammarError.
    """
    config = config or LanguageConfig()
    name = config.language
    if name in LANGUAGES:
        lengths = (state or {}).get("lengths")  # saves counting them again
        return LANGUAGES[name](config, counted(lengths))
    if state:
        return restored(str(state.get("name", name)), config, state, validity)
    if name and Path(name).is_dir():
        return open_corpus(config)
    if "/" in name or "\\" in name:
        raise ConfigError(f"language {quote(name)} is no folder; give one with corpus.txt, or one of {', '.join(LANGUAGES)}")
    raise ConfigError(
        f"language {quote(name)} is unknown; the languages are {', '.join(LANGUAGES)}, and folders with corpus.txt; "
        f"did you mean {nearest(name, LANGUAGES)}?"
    )


__all__ = [
    "LANGUAGES", "ArithmeticLanguage", "Evaluable", "Language", "Measurable", "Operational", "Split", "Vocabulary", "holds",
    "make_language", "split_of",
]  # fmt: skip
