"""The two text languages that come with the package: `json` and `python-expressions`.

For: putting their spec together. Not for: the spec itself (`json_documents/`, `python_expressions/`). Easy to get
wrong: the grammar of `json` is the language; that of `python-expressions` is a part of it, and what decides is Python's parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError
from maskdiff.languages import json_documents, python_expressions
from maskdiff.languages.text import LanguageSpec, TextLanguage, draws_from

SHORTEST_JSON = 16  # tokens: what most documents do not fit is no language to learn from


def json_language(config: LanguageConfig, lengths: Sequence[int] | None = None) -> TextLanguage:
    """Small JSON documents from a generator; Python's `json` decides what is valid. Raises ConfigError for a short max_len."""
    if config.max_len < SHORTEST_JSON:
        raise ConfigError(f"max_len is {config.max_len}; json needs {SHORTEST_JSON} or more")

    def draw(n: int, rng: np.random.Generator) -> list[str]:
        return json_documents.draw(n, rng, config.max_len - 2)

    grammar = json_documents.GRAMMAR.read_text(encoding="ascii")
    spec = LanguageSpec(
        "".join(json_documents.SYMBOLS),
        draw,
        lambda: None,
        grammar,
        json_documents.valid,
        "Python's json",
    )
    return TextLanguage("json", config, spec, lengths)


def python_language(config: LanguageConfig, lengths: Sequence[int] | None = None) -> TextLanguage:
    """Expressions of Python's standard library, those that fit; Python's parser decides what is valid."""
    longest = config.max_len - 2

    @cache
    def texts() -> tuple[str, ...]:
        return tuple(text for text in python_expressions.collect() if len(text) <= longest)

    grammar = python_expressions.GRAMMAR.read_text(encoding="ascii")
    symbols = "".join(python_expressions.SYMBOLS)
    spec = LanguageSpec(
        symbols, draws_from(texts), texts, grammar, python_expressions.valid, "Python's parser"
    )
    return TextLanguage("python-expressions", config, spec, lengths)
