"""The language `python-expressions`; Python's own parser decides what is valid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from maskdiff.config import LanguageConfig
from maskdiff.languages.python_expressions.collect import collect_expressions
from maskdiff.languages.python_expressions.validity import is_python_expression
from maskdiff.languages.text import LanguageSpec, TextLanguage
from maskdiff.languages.vocabulary import PRINTABLE_ASCII

GRAMMAR = Path(__file__).with_name("grammar.lark")


def python_language(config: LanguageConfig, lengths: Sequence[int] | None = None) -> TextLanguage:
    """Return the language of the expressions of the standard library that fit `max_len`.

    Args:
        config: The configuration.
        lengths: The number of strings of each length, if known.
    """

    @cache
    def texts() -> tuple[str, ...]:
        return tuple(text for text in collect_expressions() if len(text) <= config.max_len - 2)

    spec = LanguageSpec(
        symbols=PRINTABLE_ASCII,
        texts=texts,
        grammar=GRAMMAR.read_text(encoding="ascii"),
        valid=is_python_expression,
        validity="Python's parser",
    )
    return TextLanguage("python-expressions", config, spec, lengths)
