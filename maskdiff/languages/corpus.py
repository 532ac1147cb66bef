"""A user's own language: a folder with `corpus.txt`, one string a line, and optionally `grammar.lark`.

For: reading such a folder, checking its lines, and making its language again from what a checkpoint kept. Not for: grammars
(`cfg/`) and checkers (`checker.py`) themselves. Easy to get wrong: what a configuration names is the user's own and is trusted;
what somebody's checkpoint names is not, so `restored` imports nothing and looks for no module where the checkpoint points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, DataError, GrammarError, quote
from maskdiff.languages.cfg import GrammarSource, literal_characters, open_source, restore_source
from maskdiff.languages.cfg.source import START
from maskdiff.languages.checker import CheckerProcess, load_checker
from maskdiff.languages.text import LanguageSpec, TextLanguage, absent, draws_from
from maskdiff.utils.lines import split_lines

CORPUS, GRAMMAR = "corpus.txt", "grammar.lark"
MAX_BYTES = 256_000_000  # of a corpus
MAX_SYMBOLS = 4096  # different characters of one
LONGEST = 1024  # tokens: what max_len may be
SHOWN = 3  # bad lines in a message
COUNTED = 200  # lines, of all lengths, whose derivations are counted
PROBED = 20  # lines that tell whether a checker returns verdicts


def open_corpus(config: LanguageConfig, symbols: str = "") -> TextLanguage:
    """The language of the folder `config.language`, with the checker that `config.validity` names. Both must be the user's.

    Its symbols are `symbols` if they hold all characters of the lines; without that those of the lines and of the grammar.

    Raises DataError: no such folder or corpus, text that is not UTF-8, no lines, or lines that are invalid or too long (unless
    `config.skip_invalid`); GrammarError; ConfigError for a checker that cannot be used.
    """
    checker = load_checker(config.validity, Path(config.language), config.validity_timeout)
    return _open(config, checker, symbols)


def restored(
    name: str, config: LanguageConfig, state: Mapping[str, Any], validity: str = ""
) -> TextLanguage:
    """The language that `TextLanguage.state` describes, without its strings unless its folder is still here.

    `validity` names the checker that its user trusts, a module that Python finds. Raises DataError for a state that is none,
    ConfigError for the checker.
    """
    symbols, lengths = state.get("symbols"), counted(state.get("lengths"))
    if not isinstance(symbols, str) or not symbols or lengths is None:
        raise DataError(
            f"the language {quote(name)} is described by {quote(dict(state))}, not by symbols, grammar and lengths"
        )
    held = state.get("grammar")
    grammar = None if held is None else restore_source(held, f"the grammar of {name}")
    checker = load_checker(validity, timeout=config.validity_timeout)

    @cache
    def texts() -> tuple[str, ...] | None:
        found = _open(replace(config, validity=""), checker).texts() or ()
        new = sorted(set("".join(found)) - set(symbols))
        if new:
            raise DataError(
                f"{config.language} has changed since the training: {quote(new[0])} is no symbol; train it again"
            )
        return found

    here = (Path(config.language) / CORPUS).is_file()
    spec = _material(symbols, texts if here else absent(name, config.language), grammar, checker)
    return TextLanguage(name, config, spec, lengths, str(state.get("digest", "")))


def counted(lengths: object) -> list[int] | None:
    """The numbers of strings of each length that a stranger's file gives, if that is what they are and there are any."""
    if not isinstance(lengths, list) or len(lengths) > LONGEST or not any(lengths):
        return None
    return lengths if all(type(n) is int and 0 <= n < 2**48 for n in lengths) else None


def _open(
    config: LanguageConfig, checker: CheckerProcess | None, symbols: str = ""
) -> TextLanguage:
    folder = Path(config.language)
    numbered = numbered_lines(folder)
    if checker is not None and checker.only_verdicts([line for _, line in numbered[:PROBED]]):
        raise ConfigError(
            f"checker {checker.name} returns truth values; name it {checker.name}? so that they count"
        )
    grammar = grammar_of(config)
    characters = set("".join(line for _, line in numbered))
    if characters <= set(symbols):
        characters = set(symbols)
    elif grammar is not None:
        characters |= literal_characters(grammar)
    if len(characters) > MAX_SYMBOLS:
        raise DataError(
            f"{folder / CORPUS} has {len(characters)} different characters; at most {MAX_SYMBOLS} are learnt"
        )
    kept: list[
        tuple[str, ...]
    ] = []  # one, made below: the lines are checked by the language that they make
    spec = _material("".join(sorted(characters)), lambda: kept[0], grammar, checker)
    language = TextLanguage(folder.resolve().name, config, spec)
    # Sorted, so that what is drawn does not depend on the order in the file.
    kept.append(tuple(sorted(_checked(language, numbered, folder / CORPUS))))
    language.digest = hashlib.blake2b("\n".join(kept[0]).encode(), digest_size=8).hexdigest()
    if len(kept[0]) < len(numbered):
        language.note = f"{len(numbered) - len(kept[0])} of {len(numbered)} lines of {folder / CORPUS} are left out"
    if grammar is not None and not config.accept_ambiguous:
        _check_ambiguity(language, kept[0], folder / GRAMMAR)
    return language


def numbered_lines(folder: Path) -> list[tuple[int, str]]:
    """The lines of the corpus in a folder with their numbers, empty ones left out. Raises DataError."""
    lines = split_lines(_read(folder / CORPUS))
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    if not numbered:
        raise DataError(f"{folder / CORPUS} has no lines; write one string a line")
    return numbered


def grammar_of(config: LanguageConfig) -> GrammarSource | None:
    """The grammar in a folder, None where it has none. Raises GrammarError, and ConfigError for settings of none."""
    path = Path(config.language) / GRAMMAR
    if path.exists() or path.is_symlink():  # a link that leads nowhere is an error
        return open_source(
            path, config.start or START, "none" if config.spacing == "none" else "needed"
        )
    for name in ("start", "spacing"):
        if getattr(config, name) != getattr(LanguageConfig(), name):
            raise ConfigError(
                f"{name} is {quote(getattr(config, name))}; it is for a grammar, and there is no {path}"
            )
    return None


def _read(path: Path) -> str:
    """The text of a file, with line feeds for line ends."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(
                f"{quote(str(path), 200)} is no file; a language is a folder with {CORPUS}"
            )
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} has over {MAX_BYTES} bytes; give a part of it")
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(
            f"cannot read {quote(str(path), 200)}: {error.strerror or error}; a language is a folder with {CORPUS}"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})") from None


def _material(
    symbols: str,
    texts: Callable[[], tuple[str, ...] | None],
    grammar: GrammarSource | None,
    checker: CheckerProcess | None,
) -> LanguageSpec:
    decides = checker.name if checker is not None else GRAMMAR if grammar is not None else ""
    return LanguageSpec(symbols, draws_from(texts), texts, grammar, checker, decides)


def _checked(language: TextLanguage, numbered: list[tuple[int, str]], path: Path) -> list[str]:
    """The good lines. Raises DataError for bad ones, unless they are to be skipped, or if none is left."""
    long = [(number, line) for number, line in numbered if len(line) > language.max_symbols]
    short = [(number, line) for number, line in numbered if len(line) <= language.max_symbols]
    verdicts = {line: language.parses(line) for line in dict.fromkeys(line for _, line in short)}
    bad = [(number, line) for number, line in short if not verdicts[line]]
    good = [line for _, line in short if verdicts[line]]
    skip = language.config.skip_invalid
    if skip and good:
        return good
    hint = (
        "no line is left" if skip else "mend or remove them, or leave them out with --skip_invalid"
    )
    if bad:
        raise DataError(
            f"{path}: {_told(bad, len(numbered))} invalid by {language.validity}: {_examples(bad)}; {hint}"
        )
    if long:
        longest = max(len(line) for _, line in long) + 2
        raised = f"raise --max_len to {longest}, or " if longest <= LONGEST else ""
        hint = f"{raised}leave them out with --skip_invalid" if not skip else "no line is left"
        raise DataError(
            f"{path}: {_told(long, len(numbered))} longer than {language.max_symbols} symbols: {_examples(long)}; {hint}"
        )
    return good


def _check_ambiguity(language: TextLanguage, lines: Sequence[str], path: Path) -> None:
    """Raises GrammarError for a line that is derived in several ways: enumeration sees short strings only."""
    for line in sorted(dict.fromkeys(lines), key=len)[:: max(1, len(set(lines)) // COUNTED)]:
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
