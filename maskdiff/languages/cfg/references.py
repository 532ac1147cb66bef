"""The size of the terminals of a Lark file after each name is replaced by its definition.

Lark's loader replaces names without a limit, so `A: B B`, `B: C C`, ... doubles with every line.
`TerminalReferences` counts first, from the statements of Lark's parser.
"""

from __future__ import annotations

import re
from typing import Any

from maskdiff.errors import GrammarError, quote

MAX_EXPANDED = 100_000  # references in all terminals of a grammar, each replaced
HARMLESS = 30  # references in a text; so few cannot exceed `MAX_EXPANDED`
LIBRARY = "<lark>/"  # prefix of the names of files of Lark's library, which no path has

_RULE = re.compile(r"^[ \t]*[?!]{0,2}_?[a-z]\w*[ \t]*(\{[^}\n]*\})?(\.-?\d+)?[ \t]*:", re.MULTILINE)
_TERMINAL = re.compile(r"\b_*[A-Z]\w*")

Key = tuple[str, str]  # a file and a name in it


class TerminalReferences:
    """The references between the terminals of several files.

    `add` takes each file before Lark's loader reads it.

    Attributes:
        rules: The number of lines that begin a rule, in all files.
    """

    def __init__(self) -> None:
        self.rules = 0
        self._names = 0  # of terminals in all texts
        self._references: dict[Key, list[Key]] = {}
        self._waiting: list[tuple[str, str]] = []

    def count(self, text: str) -> None:
        """Counts the rules of another file."""
        self.rules += len(_RULE.findall(text))

    def add(self, file: str, text: str) -> None:
        """Counts the references of another file.

        Args:
            file: Its name, relative to the folder of the grammar.
            text: Its content.

        Raises:
            GrammarError: The terminals have over `MAX_EXPANDED` references in all.
        """
        self._names += len(_TERMINAL.findall(text))
        self._waiting.append((file, text))
        if self._names <= HARMLESS:
            return
        while self._waiting:
            self._read(*self._waiting.pop())
        total = 0
        for key, size in self._sizes().items():
            total += size
            if total > MAX_EXPANDED:
                raise GrammarError(
                    f"the terminals up to {quote(key[1])} come to over {MAX_EXPANDED} names once "
                    "each is replaced by what it stands for"
                )

    def _read(self, file: str, text: str) -> None:
        """Reads the definitions and imports of a file. Raises the errors of Lark's parser."""
        from lark.load_grammar import GrammarBuilder, _parse_grammar

        for statement in _parse_grammar(text, file).children:
            if statement.data in ("override", "extend"):
                statement = statement.children[0]
            if statement.data == "term":
                self._add(file, str(statement.children[0]), statement.children[-1])
            elif statement.data == "import":
                path, folder, aliases = GrammarBuilder()._unpack_import(statement, file)
                there = "/".join(path) + ".lark"
                there = (
                    LIBRARY + there if folder is None else f"{folder}/{there}" if folder else there
                )
                for name, alias in aliases.items():
                    self._references.setdefault((file, str(alias)), []).append((there, str(name)))

    def _add(self, file: str, name: str, tree: Any) -> None:
        values = (value.children[0] for value in tree.find_data("value"))
        names = [
            str(item.name) for item in values if not hasattr(item, "data") and hasattr(item, "name")
        ]
        self._references.setdefault((file, name), []).extend((file, other) for other in names)

    def _sizes(self) -> dict[Key, int]:
        """The size of each terminal; an unknown or circular reference has size 1."""
        sizes: dict[Key, int] = {}
        for first in self._references:
            stack = [first]
            while stack:
                key = stack[-1]
                if sizes.get(key):
                    stack.pop()
                    continue
                parts = self._references.get(key, [])
                waiting = [
                    part
                    for part in dict.fromkeys(parts)
                    if part in self._references and part not in sizes
                ]
                if waiting and key not in sizes:
                    sizes[key] = 0  # in progress
                    stack += waiting
                    continue
                sizes[key] = min(1 + sum(sizes.get(part) or 1 for part in parts), MAX_EXPANDED + 1)
                stack.pop()
        return sizes
