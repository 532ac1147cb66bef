"""The text of a Lark grammar with all files that it imports.

`%import .words.VERB` is read from the folder of the importing file, `%import common.INT` from the
library of the installed Lark. A checkpoint with a `GrammarSource` needs no other file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.references import LIBRARY, TerminalReferences

START = "start"
GRAMMAR = "grammar.lark"  # has no folder, so that names of imported files are relative to its own
MAX_CHARACTERS = 100_000  # of a grammar with all its imports
MAX_SCANNED = 10 * MAX_CHARACTERS  # characters that are counted for error messages
MAX_RULES = 2_000  # that a grammar and its imports may define
MAX_IMPORTS = 100  # imports, repetitions included

Spacing = Literal["needed", "none"]


@dataclass(frozen=True)
class GrammarSource:
    """A grammar in Lark's EBNF.

    Attributes:
        text: The grammar.
        name: The name in error messages.
        start: The start rule.
        files: Imported files as pairs of a name and a text. A name is a path relative to the folder
            of the grammar, or `<lark>/common.lark` for a file of Lark's library.
        spacing: Where the written form of a grammar with `%ignore` has ignored text: `needed` (one
            separator between two terminals that would be read as one without it) or `none`.
    """

    text: str
    name: str = "grammar"
    start: str = START
    files: tuple[tuple[str, str], ...] = ()
    spacing: Spacing = "needed"

    def state(self) -> dict[str, Any]:
        """Return plain values for `restore_source`."""
        return {
            "text": self.text,
            "start": self.start,
            "files": dict(self.files),
            "spacing": self.spacing,
        }


def as_source(grammar: GrammarSource | str) -> GrammarSource:
    """Return a grammar as a `GrammarSource`; a text can import Lark's library only."""
    return GrammarSource(grammar) if isinstance(grammar, str) else grammar


def open_source(path: Path, start: str = START, spacing: Spacing = "needed") -> GrammarSource:
    """Return the grammar in a file with the files that it imports.

    Args:
        path: The file.
        start: The start rule.
        spacing: See `GrammarSource`.

    Raises:
        GrammarError: A file cannot be read, or is not a grammar; see `load_definitions`.
    """
    files: dict[str, str] = {}
    source = GrammarSource(_read(path, str(path)), str(path), start, (), spacing)
    _load(source, _FolderImports(path.parent, files))
    return GrammarSource(source.text, source.name, start, tuple(sorted(files.items())), spacing)


def restore_source(state: object, name: str) -> GrammarSource:
    """Return the grammar of a `GrammarSource.state`, or of a text without imports.

    Args:
        state: The value of `GrammarSource.state`.
        name: The name in error messages.

    Raises:
        GrammarError: `state` has another form.
    """
    if isinstance(state, str):
        return GrammarSource(state, name)
    if isinstance(state, Mapping):
        text, start, files = state.get("text"), state.get("start", START), state.get("files", {})
        spacing = state.get("spacing", "needed")
        texts = isinstance(files, Mapping) and all(
            isinstance(x, str) for pair in files.items() for x in pair
        )
        if (
            isinstance(text, str)
            and isinstance(start, str)
            and texts
            and spacing in ("needed", "none")
        ):
            return GrammarSource(text, name, start, tuple(sorted(files.items())), spacing)
    raise GrammarError(
        f"{name} is described by {quote(state)}, not by a text, a start rule and imported files"
    )


@dataclass(frozen=True, eq=False)
class Definitions:
    """The definitions of a grammar from Lark's loader, imports included.

    Attributes:
        rules: For each rule the parameters (of a template) and the tree of its right side.
        terminals: For each terminal the tree of its right side; None if it is only declared.
        ignored: The terminals of `%ignore`.
    """

    rules: Mapping[str, tuple[tuple[str, ...], Any]]
    terminals: Mapping[str, Any]
    ignored: tuple[str, ...]


@lru_cache(maxsize=16)
def load_definitions(source: GrammarSource) -> Definitions:
    """Return the definitions of a grammar.

    Raises:
        GrammarError: A syntax error (with line and column), an undefined name, a file that is not
            there, or more than `MAX_CHARACTERS`, `MAX_RULES` or `MAX_IMPORTS`.
    """
    return _load(source, StoredImports(dict(source.files)))


class StoredImports:
    """Finds the imported files of a grammar among stored texts, for Lark's `import_paths`."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files, self.count, self.characters = files, 0, 0
        self.references = TerminalReferences()

    def __call__(self, base: str | None, path: str) -> tuple[str, str]:
        """Return the name and the text of an imported file, as Lark's loader requests it."""
        name = LIBRARY + path if base is None else f"{base}/{path}" if base else path
        text = self.find(name)
        self.count += 1
        self.add(name, text)
        if self.count > MAX_IMPORTS:
            raise GrammarError(
                f"more than {MAX_IMPORTS} imports, the last of {name}; do files import each other?"
            )
        return name, text

    def find(self, name: str) -> str:
        """Return the text of a file by its name."""
        if name in self.files:
            return self.files[name]
        if not name.startswith(LIBRARY):
            raise GrammarError(f"{name} is imported and not there")
        return _library(name.removeprefix(LIBRARY))

    def add(self, name: str, text: str) -> None:
        """Counts a text that is read next. Raises `GrammarError` beyond the limits."""
        self.characters += len(text)
        if self.characters <= MAX_SCANNED:
            self.references.count(text)
        if self.references.rules > MAX_RULES or self.characters > MAX_CHARACTERS:
            raise GrammarError(
                f"{self.references.rules} rules in {self.characters} characters; "
                f"at most {MAX_RULES} rules and {MAX_CHARACTERS} characters are read"
            )
        self.references.add(name, text)


class _FolderImports(StoredImports):
    """Reads imported files from a folder and stores them."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        super().__init__(files)
        self.folder = folder

    def find(self, name: str) -> str:
        """Return the text of a file by its name and stores it."""
        if name not in self.files:
            path, own = self.folder / name, not name.startswith(LIBRARY)
            self.files[name] = (
                _read(path, f"the imported file {name}") if own else super().find(name)
            )
        return self.files[name]


def _library(name: str) -> str:
    """The text of a file of Lark's library."""
    try:
        found = pkgutil.get_data("lark", f"grammars/{name}")
    except OSError:
        found = None
    if found is None:
        stem = name.removesuffix(".lark")
        raise GrammarError(
            f"Lark's library has no grammar {quote(stem)}; a file of your own is imported with a "
            f"leading dot, as in %import .{stem}.NAME"
        )
    return found.decode("utf-8")


def _read(path: Path, what: str) -> str:
    """The text of a file up to one character beyond the limit."""
    try:
        if path.exists() and not path.is_file():
            raise GrammarError(f"{what} is no regular file")
        with path.open(encoding="utf-8-sig", newline=None) as file:
            return file.read(MAX_SCANNED + 1)
    except OSError as error:
        raise GrammarError(f"cannot read {what}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise GrammarError(f"{what} is not UTF-8 text (byte {error.start})") from None


def _load(source: GrammarSource, imports: StoredImports) -> Definitions:
    """The definitions from Lark's loader, with every error in one line."""
    from lark.load_grammar import load_grammar  # most runs read no grammar

    try:
        imports.add(GRAMMAR, source.text)
        loaded, _ = load_grammar(source.text, GRAMMAR, [imports], True)
    except GrammarError as error:
        raise GrammarError(f"{source.name}: {error}") from None
    except RecursionError:
        raise GrammarError(f"{source.name}: the grammar is nested too deeply") from None
    except Exception as error:  # Lark's loader raises many types, AssertionError included
        raise GrammarError(f"{source.name}: {_message(error)}") from None
    declared = [name for name, _, tree, _ in loaded.rule_defs if tree is None]
    if declared:
        raise GrammarError(
            f"{source.name}: %declare of the rule {quote(declared[0])}; define it, "
            "only terminals can be declared"
        )
    return Definitions(
        {
            str(name): (tuple(map(str, parameters)), tree)
            for name, parameters, tree, _ in loaded.rule_defs
        },
        {str(name): tree for name, (tree, _) in loaded.term_defs},
        tuple(map(str, loaded.ignore)),
    )


def _message(error: Exception) -> str:
    """The message of an error of Lark's loader in one line."""
    first = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(first.split()) or f"not a grammar that Lark reads ({type(error).__name__})"
