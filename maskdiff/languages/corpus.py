"""A user's own language: a folder with `corpus.txt`, one string a line, and optionally `grammar.lark`.

For: reading such a folder, checking its lines, and making its language again from what a checkpoint kept. Not for: grammars
themselves (`cfg/`). Easy to get wrong: a checker named in a configuration is the user's own program and is imported; one that
is named by somebody's checkpoint must not be, so `restored` takes the checker from its caller and never from the state.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, DataError, GrammarError, quote
from maskdiff.languages.cfg import literal_characters
from maskdiff.languages.text import Material, TextLanguage, absent

CORPUS, GRAMMAR = "corpus.txt", "grammar.lark"
MAX_BYTES = 256_000_000  # of a corpus
MAX_SYMBOLS = 4096  # different characters of one
SHOWN = 3  # bad lines in a message
COUNTED = 200  # lines, of all lengths, whose derivations are counted


def open_corpus(config: LanguageConfig) -> TextLanguage:
    """The language of the folder `config.language`.

    Raises DataError: no such folder or corpus, text that is not UTF-8, no lines, or lines that are invalid or too long (unless
    `config.skip_invalid`); GrammarError; ConfigError for a checker that cannot be imported.
    """
    folder = Path(config.language)
    lines = _read(folder / CORPUS).split("\n")
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip("\r")]
    if not numbered:
        raise DataError(f"{folder / CORPUS} has no lines; write one string a line")
    grammar = _read(folder / GRAMMAR) if (folder / GRAMMAR).exists() else None
    valid = load_checker(config.validity, folder)
    characters = set("".join(line for _, line in numbered))
    if grammar is not None:
        characters |= literal_characters(grammar, str(folder / GRAMMAR))
    if len(characters) > MAX_SYMBOLS:
        raise DataError(f"{folder / CORPUS} has {len(characters)} different characters; at most {MAX_SYMBOLS} are learnt")
    kept: list[str] = []  # filled below: the lines are checked by the language that they make
    material = _made("".join(sorted(characters)), lambda: tuple(kept), grammar, valid, config.validity)
    language = TextLanguage(folder.resolve().name, config, material)
    kept += _checked(language, numbered, folder / CORPUS)
    if grammar is not None and not config.accept_ambiguous:
        _check_ambiguity(language, kept, folder / GRAMMAR)
    if len(kept) < len(numbered):
        language.note = f"{len(numbered) - len(kept)} of {len(numbered)} lines of {folder / CORPUS} are left out"
    return language


def restored(name: str, config: LanguageConfig, state: Mapping[str, Any], validity: str = "") -> TextLanguage:
    """The language that `TextLanguage.state` describes, without its strings unless its folder is still here.

    `validity` names the checker that its user trusts. Raises DataError for a state that is none; ConfigError for the checker.
    """
    symbols, grammar, lengths = state.get("symbols"), state.get("grammar"), counted(state.get("lengths"))
    if not isinstance(symbols, str) or not symbols or not (grammar is None or isinstance(grammar, str)) or lengths is None:
        raise DataError(f"the language {quote(name)} is described by {quote(dict(state))}, not by symbols, grammar and lengths")
    trusted = replace(config, validity=validity)
    here = (Path(config.language) / CORPUS).exists()
    texts = cache(lambda: open_corpus(trusted).texts()) if here else absent(name, config.language)
    valid = load_checker(validity, Path(config.language))
    return TextLanguage(name, config, _made(str(symbols), texts, grammar, valid, validity), lengths)


def counted(lengths: object) -> list[int] | None:
    """The numbers of strings of each length that a stranger's file gives, if that is what they are and there are any."""
    if not isinstance(lengths, list) or not all(isinstance(n, int) and n >= 0 for n in lengths) or not any(lengths):
        return None
    return lengths


def load_checker(validity: str, folder: Path) -> Callable[[str], bool] | None:
    """The checker `MODULE:FUNCTION`, looked for in the folder of the language too; None for an empty name.

    A text is invalid where the function returns False or raises a ValueError or SyntaxError: `json:loads` and `ast:parse` are
    checkers. Raises ConfigError.
    """
    if not validity:
        return None
    module, colon, name = validity.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"validity is {quote(validity)}; give MODULE:FUNCTION, such as json:loads")
    sys.path.insert(0, str(folder))
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"validity is {quote(validity)}, which cannot be imported: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(str(folder))
    if not callable(function):
        raise ConfigError(f"validity is {quote(validity)}, which is no function")

    def valid(text: str) -> bool:
        try:
            return function(text) is not False
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return False

    return valid


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} has over {MAX_BYTES} bytes; give a part of it")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot read {quote(str(path), 200)}: {error.strerror or error}; a language is a folder with {CORPUS}"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})") from None


def _made(
    symbols: str,
    texts: Callable[[], tuple[str, ...] | None],
    grammar: str | None,
    valid: Callable[[str], bool] | None,
    validity: str,
) -> Material:
    def draw(n: int, rng: np.random.Generator) -> list[str]:
        strings = texts() or ()
        return [strings[i] for i in rng.integers(0, len(strings), n)]

    decides = validity if valid is not None else GRAMMAR if grammar is not None else ""
    return Material(symbols, draw, texts, grammar, valid, decides)


def _checked(language: TextLanguage, numbered: list[tuple[int, str]], path: Path) -> list[str]:
    """The good lines. Raises DataError for bad ones, unless they are to be skipped, or if none is left."""
    long = [(number, line) for number, line in numbered if len(line) > language.max_symbols]
    short = [(number, line) for number, line in numbered if len(line) <= language.max_symbols]
    verdicts = {line: language.parses(line) for line in dict.fromkeys(line for _, line in short)}
    bad = [(number, line) for number, line in short if not verdicts[line]]
    good = [line for _, line in short if verdicts[line]]
    if language.config.skip_invalid and good:
        return good
    hint = "mend or remove them, or leave them out with --skip_invalid"
    if bad:
        raise DataError(f"{path}: {_told(bad, len(numbered))} invalid by {language.validity}: {_examples(bad)}; {hint}")
    if long:
        longest = max(len(line) for _, line in long)
        raise DataError(
            f"{path}: {_told(long, len(numbered))} longer than {language.max_symbols} symbols: {_examples(long)}; "
            f"raise --max_len to {longest + 2}, or leave them out with --skip_invalid"
        )
    return good


def _check_ambiguity(language: TextLanguage, lines: list[str], path: Path) -> None:
    """Raises GrammarError for a line that is derived in several ways: enumeration sees short strings only."""
    for line in sorted(set(lines), key=len)[:: max(1, len(set(lines)) // COUNTED)]:
        ways = language.derivations(line) or 1
        if ways > 1:
            raise GrammarError(
                f"{path}: {quote(line)} has {ways} derivations: the grammar is ambiguous, and its strings would be counted "
                "once per derivation; rewrite it, or take it with --accept_ambiguous"
            )


def _told(some: list[tuple[int, str]], count: int) -> str:
    return f"{len(some)} of {count} lines {'is' if len(some) == 1 else 'are'}"


def _examples(some: list[tuple[int, str]]) -> str:
    return ", ".join(f"line {number} {quote(line, 40)}" for number, line in some[:SHOWN])
