"""Folders of a user's own language."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.languages import make_language
from maskdiff.languages.text import TextLanguage

GRAMMAR = 'start: pair | pair ";" start\npair: "a".."c" "=" /[0-9]+/\n'


def lines(count: int, seed: int = 0) -> list[str]:
    """Strings of `GRAMMAR`."""
    rng = np.random.default_rng(seed)
    return [
        ";".join(
            f"{'abc'[rng.integers(3)]}={rng.integers(1000)}" for _ in range(rng.integers(1, 4))
        )
        for _ in range(count)
    ]


def folder(path: Path, corpus: list[str], grammar: str | None = None) -> LanguageConfig:
    path.mkdir(exist_ok=True)
    (path / "corpus.txt").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    if grammar is not None:
        (path / "grammar.lark").write_text(grammar, encoding="utf-8")
    return LanguageConfig(language=str(path))


def make(config: LanguageConfig) -> TextLanguage:
    language = make_language(config)
    assert isinstance(language, TextLanguage)
    return language
