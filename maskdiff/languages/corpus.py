"""A user's own language: a folder with a corpus and, if any, `grammar.lark`; or a corpus alone.

A checker that the user's configuration names is imported. A checker that a checkpoint names is not:
`restore_corpus` imports only what its own argument `validity` names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, DataError, GrammarError, quote
from maskdiff.languages.cfg import (
    AMBIGUOUS,
    GrammarSource,
    literal_characters,
    open_source,
    restore_source,
)
from maskdiff.languages.cfg.source import START
from maskdiff.languages.checker import CheckerProcess, load_checker
from maskdiff.languages.corpus_file import Line, corpus_name, corpus_path, numbered_lines
from maskdiff.languages.text import LanguageSpec, TextLanguage, Texts

GRAMMAR = "grammar.lark"
MAX_SYMBOLS = 4096  # different characters of a corpus
LONGEST = 1024  # the largest max_len, in tokens
LONGEST_CHOSEN = 514  # the largest max_len that a corpus chooses, in tokens
SHOWN = 3  # bad lines in an error message
COUNTED = 200  # lines, of all lengths, whose derivations are counted
PROBED = 20  # lines on which a checker is tested for truth values


def open_corpus(config: LanguageConfig, symbols: str = "") -> TextLanguage:
    """Return the language of a folder or file.

    Args:
        config: The user's configuration; `config.language` is the folder or file, and
            `config.validity` names the checker.
        symbols: The characters of the language if they include those of all lines; by default the
            characters of the lines and of the grammar.

    Raises:
        DataError: The folder or corpus does not exist, is not UTF-8 text, has no lines, or has
            lines that are invalid or too long (unless `config.skip_invalid`).
        GrammarError: The grammar cannot be read or is ambiguous.
        ConfigError: The checker cannot be used.
    """
    place = Path(config.language)
    folder = None if place.is_file() else place
    checker = load_checker(config.validity, folder, config.validity_timeout)
    return _open(config, checker, symbols)


def fit_max_len(config: LanguageConfig) -> LanguageConfig:
    """Return `config` with the `max_len` that the longest line of its corpus needs.

    It is at least the present one and at most `LONGEST_CHOSEN`. Raises what `numbered_lines` does.
    """
    longest = max(len(line) for _, line in numbered_lines(config)) + 2
    return replace(config, max_len=max(config.max_len, min(longest, LONGEST_CHOSEN)))


def restore_corpus(
    name: str, config: LanguageConfig, state: Mapping[str, Any], validity: str = ""
) -> TextLanguage:
    """Return the language of `TextLanguage.state`; its strings need the folder.

    Args:
        name: The name of the language.
        config: The configuration of the checkpoint.
        state: The state of the language.
        validity: The checker that the user trusts, in a module that Python finds.

    Raises:
        DataError: `state` describes no language.
        ConfigError: The checker cannot be used.
    """
    symbols, lengths = state.get("symbols"), checked_counts(state.get("lengths"))
    if not isinstance(symbols, str) or not symbols or lengths is None:
        raise DataError(
            f"the language {quote(name)} is described by {quote(dict(state))}, "
            "not by symbols, grammar and lengths"
        )
    stored = state.get("grammar")
    grammar = None if stored is None else restore_source(stored, f"the grammar of {name}")
    checker = load_checker(validity, timeout=config.validity_timeout)

    @cache
    def texts() -> tuple[str, ...] | None:
        if not corpus_path(Path(config.language)).is_file():
            raise DataError(
                f"the strings of {name} are not here: no folder {quote(config.language, 200)}; "
                "give it with --language"
            )
        found = _open(replace(config, validity=""), checker).texts() or ()
        new = sorted(set("".join(found)) - set(symbols))
        if new:
            raise DataError(
                f"{config.language} has changed since the training: {quote(new[0])} is no symbol; "
                "train it again"
            )
        return found

    spec = _spec(symbols, texts, grammar, checker)
    return TextLanguage(name, config, spec, lengths, str(state.get("digest", "")))


def checked_counts(lengths: object) -> list[int] | None:
    """Return the numbers of strings of each length from an untrusted file; None if invalid."""
    if not isinstance(lengths, list) or len(lengths) > LONGEST or not any(lengths):
        return None
    return lengths if all(type(n) is int and 0 <= n < 2**48 for n in lengths) else None


def _open(
    config: LanguageConfig, checker: CheckerProcess | None, symbols: str = ""
) -> TextLanguage:
    # Read the lines and the grammar.
    place = Path(config.language)
    path, numbered = corpus_path(place), numbered_lines(config)
    if checker is not None and checker.only_verdicts([line for _, line in numbered[:PROBED]]):
        raise ConfigError(
            f"checker {checker.name} returns truth values; name it {checker.name}? so that they "
            "count"
        )
    grammar = folder_grammar(config)
    # Choose the symbols.
    characters = set("".join(line for _, line in numbered))
    if characters <= set(symbols):
        characters = set(symbols)
    elif grammar is not None:
        characters |= literal_characters(grammar)
    if len(characters) > MAX_SYMBOLS:
        raise DataError(
            f"{path} has {len(characters)} different characters; at most {MAX_SYMBOLS} are learnt"
        )
    # Make the language, which then checks its own lines. They are sorted, so that draws do not
    # depend on the order in the file.
    kept: tuple[str, ...] = ()
    spec = _spec("".join(sorted(characters)), lambda: kept, grammar, checker)
    language = TextLanguage(corpus_name(place), config, spec)
    kept = tuple(sorted(_checked(language, numbered, path)))
    language.digest = hashlib.blake2b("\n".join(kept).encode(), digest_size=8).hexdigest()
    if len(kept) < len(numbered):
        left_out = len(numbered) - len(kept)
        language.note = f"{left_out} of {len(numbered)} lines of {path} are left out"
    if grammar is not None and not config.accept_ambiguous:
        _check_ambiguity(language, kept, place / GRAMMAR)
    return language


def folder_grammar(config: LanguageConfig) -> GrammarSource | None:
    """Return the grammar of a folder; None if it has none.

    Raises:
        GrammarError: The grammar cannot be read.
        ConfigError: An option of grammars is set, and there is none.
    """
    path = Path(config.language) / GRAMMAR
    if path.exists() or path.is_symlink():  # a broken link is an error
        return open_source(
            path, config.start or START, "none" if config.spacing == "none" else "needed"
        )
    for name in ("start", "spacing"):
        value = getattr(config, name)
        if value != getattr(LanguageConfig(), name):
            raise ConfigError(
                f"{name} is {quote(value)}; it is for a grammar, and there is no {path}"
            )
    return None


def _spec(
    symbols: str, texts: Texts, grammar: GrammarSource | None, checker: CheckerProcess | None
) -> LanguageSpec:
    validity = checker.name if checker is not None else GRAMMAR if grammar is not None else ""
    return LanguageSpec(symbols, texts, grammar=grammar, valid=checker, validity=validity)


def _checked(language: TextLanguage, numbered: Sequence[Line], path: Path) -> list[str]:
    """The valid lines. Raises `DataError` for others unless they are skipped."""
    longest = language.max_symbols
    long = [(number, line) for number, line in numbered if len(line) > longest]
    short = [(number, line) for number, line in numbered if len(line) <= longest]
    verdicts = {line: language.parses(line) for line in dict.fromkeys(line for _, line in short)}
    invalid = [(number, line) for number, line in short if not verdicts[line]]
    valid = [line for _, line in short if verdicts[line]]
    skip = language.config.skip_invalid
    if (skip and valid) or not (invalid or long):
        return valid

    # Describe the bad lines: invalid ones first.
    bad = invalid or long
    count = f"{len(bad)} of {len(numbered)} lines {'is' if len(bad) == 1 else 'are'}"
    examples = ", ".join(f"line {number} {quote(line, 40)}" for number, line in bad[:SHOWN])
    if invalid:
        fault = f"invalid by {language.validity}"
        remedy = "correct or remove them, or leave them out with --skip_invalid"
    else:
        fault = f"longer than {longest} symbols"
        needed = max(len(line) for _, line in long) + 2
        raised = f"raise --max_len to {needed}, or " if needed <= LONGEST else ""
        remedy = f"{raised}leave them out with --skip_invalid"
    hint = "no line is left" if skip else remedy
    raise DataError(f"{path}: {count} {fault}: {examples}; {hint}")


def _check_ambiguity(language: TextLanguage, lines: Sequence[str], path: Path) -> None:
    """Raises `GrammarError` for a line with several derivations."""
    for line in sorted(dict.fromkeys(lines), key=len)[:: max(1, len(set(lines)) // COUNTED)]:
        count = language.derivations(line) or 1
        if count > 1:
            raise GrammarError(
                f"{path}: {quote(line)} has {count} derivations: the grammar {AMBIGUOUS}"
            )
