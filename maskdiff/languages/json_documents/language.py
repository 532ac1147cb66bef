"""The language `json`; Python's `json` decides what is valid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError
from maskdiff.languages.json_documents.generator import draw_documents
from maskdiff.languages.text import LanguageSpec, TextLanguage
from maskdiff.languages.vocabulary import PRINTABLE_ASCII

GRAMMAR = Path(__file__).with_name("grammar.lark")
SHORTEST = 16  # tokens; most documents do not fit into less


def json_language(config: LanguageConfig, lengths: Sequence[int] | None = None) -> TextLanguage:
    """Return the language.

    Args:
        config: The configuration.
        lengths: The number of strings of each length, if known.

    Raises:
        ConfigError: `config.max_len` is below 16.
    """
    if config.max_len < SHORTEST:
        raise ConfigError(f"max_len is {config.max_len}; json needs {SHORTEST} or more")

    def draw(n: int, rng: np.random.Generator) -> list[str]:
        return draw_documents(n, rng, config.max_len - 2)

    spec = LanguageSpec(
        symbols=PRINTABLE_ASCII,
        draw=draw,
        grammar=GRAMMAR.read_text(encoding="ascii"),
        valid=is_json,
        validity="Python's json",
    )
    return TextLanguage("json", config, spec, lengths)


def is_json(text: str) -> bool:
    """Return whether `text` is one JSON value of printable ASCII, with or without spaces around.

    Unlike `json.loads`, refuses NaN, Infinity and -Infinity. Keys may be repeated.
    """
    if not (text.isascii() and text.isprintable()):
        return False
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):  # ValueError also for integers of thousands of digits
        return False
    return True


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
