"""Grammars as they are written: the text of a Lark file, with every file that it imports.

A `GrammarSource` is all that reading a grammar needs, so a checkpoint that holds one needs no other
file. `%import .words.VERB` is read from the folder of the file that imports, never from the working
directory; `%import common.INT` is read from the library of the installed Lark.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.references import LIBRARY, TerminalReferences

START = "start"
GRAMMAR = "grammar.lark"  # has no folder, so that names of imported files are relative to its own
MAX_CHARACTERS = 100_000  # of a grammar with all its imports
MAX_SCANNED = 10 * MAX_CHARACTERS  # as much is looked at for a better message
MAX_RULES = 2_000  # that a grammar and its imports may define
MAX_IMPORTS = 100  # files read, each as often as it is imported

Spacing = Literal["needed", "none"]


@dataclass(frozen=True)
class GrammarSource:
    """A grammar in Lark's EBNF and all that is needed to read it.

    Attributes:
        text: The grammar itself.
        name: What error messages call it.
        start: The rule whose strings are the language.
        files: Imported files as pairs of a name and a text. A name is a path relative to the folder
            of the grammar, or `<lark>/common.lark` for a file of Lark's library.
        spacing: Where a grammar with `%ignore` writes ignored text: `needed` is one separator
            between two terminals that would otherwise be read as one, `none` is nowhere.
    """

    text: str
    name: str = "grammar"
    start: str = START
    files: tuple[tuple[str, str], ...] = ()
    spacing: Spacing = "needed"

    def state(self) -> dict[str, Any]:
        """Returns plain values from which `restore_source` makes the grammar again."""
        return {
            "text": self.text,
            "start": self.start,
            "files": dict(self.files),
            "spacing": self.spacing,
        }


def as_source(grammar: GrammarSource | str) -> GrammarSource:
    """Returns a grammar with what it needs; a text alone imports nothing but Lark's library."""
    return GrammarSource(grammar) if isinstance(grammar, str) else grammar


def open_source(path: Path, start: str = START, spacing: Spacing = "needed") -> GrammarSource:
    """Returns the grammar in the file `path` with the files that it imports.

    Raises:
        GrammarError: A file cannot be read, or is not a grammar; see `load_definitions`.
    """
    files: dict[str, str] = {}
    source = GrammarSource(_read(path, str(path)), str(path), start, (), spacing)
    _load(source, _FolderImports(path.parent, files))
    return GrammarSource(source.text, source.name, start, tuple(sorted(files.items())), spacing)


def restore_source(state: object, name: str) -> GrammarSource:
    """Returns the grammar that `GrammarSource.state` describes; a text alone is a grammar without imports.

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
    """The definitions of a grammar as Lark's loader gives them, imports included.

    Attributes:
        rules: Name -> (parameters of a template, tree of its right side).
        terminals: Name -> tree of its right side, None for a declared terminal.
        ignored: Names of terminals that `%ignore` names.
    """

    rules: Mapping[str, tuple[tuple[str, ...], Any]]
    terminals: Mapping[str, Any]
    ignored: tuple[str, ...]


@lru_cache(maxsize=16)
def load_definitions(source: GrammarSource) -> Definitions:
    """Returns the definitions of a grammar.

    Raises:
        GrammarError: A syntax error (with line and column), an undefined name, a file that is not
            there, or more than `MAX_CHARACTERS`, `MAX_RULES` or `MAX_IMPORTS`.
    """
    return _load(source, _HeldImports(dict(source.files)))


def held_imports(source: GrammarSource) -> Callable[[str | None, str], tuple[str, str]]:
    """Returns what finds the imported files of a grammar, in the form of Lark's `import_paths`."""
    return _HeldImports(dict(source.files))


class _HeldImports:
    """Finds imported files among those that are held, and counts them."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files, self.count, self.characters = files, 0, 0
        self.references = TerminalReferences()

    def __call__(self, base: str | None, path: str) -> tuple[str, str]:
        """Returns the name and the text of an imported file, in the form that Lark's loader asks for."""
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
        """Returns the text of a file by its name."""
        if name in self.files:
            return self.files[name]
        if not name.startswith(LIBRARY):
            raise GrammarError(f"{name} is imported and not there")
        return _library(name.removeprefix(LIBRARY))

    def add(self, name: str, text: str) -> None:
        """Counts a text that is about to be read."""
        self.characters += len(text)
        if self.characters <= MAX_SCANNED:
            self.references.count(text)
        if self.references.rules > MAX_RULES or self.characters > MAX_CHARACTERS:
            raise GrammarError(
                f"{self.references.rules} rules in {self.characters} characters; at most {MAX_RULES} rules and "
                f"{MAX_CHARACTERS} characters are read"
            )
        self.references.add(name, text)


class _FolderImports(_HeldImports):
    """Reads imported files from a folder, and holds them."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        super().__init__(files)
        self.folder = folder

    def find(self, name: str) -> str:
        """Returns the text of a file by its name, and holds it."""
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
            f"Lark's library has no grammar {quote(stem)}; a file of your own is imported with a leading dot, "
            f"as in %import .{stem}.NAME"
        )
    return found.decode("utf-8")


def _read(path: Path, what: str) -> str:
    """The text of a file; as long as it may be, and one character more."""
    try:
        if path.exists() and not path.is_file():
            raise GrammarError(f"{what} is no regular file")
        with path.open(encoding="utf-8-sig", newline=None) as file:
            return file.read(MAX_SCANNED + 1)
    except OSError as error:
        raise GrammarError(f"cannot read {what}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise GrammarError(f"{what} is not UTF-8 text (byte {error.start})") from None


def _load(source: GrammarSource, imports: _HeldImports) -> Definitions:
    """Lark's definitions, with every error of its loader as one line."""
    from lark.load_grammar import load_grammar  # here, because most runs read no grammar

    try:
        imports.add(GRAMMAR, source.text)
        loaded, _ = load_grammar(source.text, GRAMMAR, [imports], True)
    except GrammarError as error:
        raise GrammarError(f"{source.name}: {error}") from None
    except RecursionError:
        raise GrammarError(f"{source.name}: the grammar is nested too deeply") from None
    except Exception as error:  # Lark's loader fails in many ways, assertions among them
        raise GrammarError(f"{source.name}: {_message(error)}") from None
    declared = [name for name, _, tree, _ in loaded.rule_defs if tree is None]
    if declared:
        raise GrammarError(
            f"{source.name}: %declare of the rule {quote(declared[0])}; define it, only terminals can be declared"
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
    """What an error of Lark's loader states, in one line."""
    first = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(first.split()) or f"not a grammar that Lark reads ({type(error).__name__})"
