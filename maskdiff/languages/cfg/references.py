"""How large the terminals of a Lark file become once each name in them is replaced by what it stands for.

Lark's loader replaces the names without a limit, so `A: B B`, `B: C C`, ... doubles with every line.
`TerminalReferences` counts first, from the statements as Lark's parser gives them.
"""

from __future__ import annotations

import re
from typing import Any

from maskdiff.errors import GrammarError, quote

MAX_EXPANDED = (
    100_000  # references in all terminals of a grammar, each replaced by what it stands for
)
HARMLESS = 30  # references in a text, of which no chain that doubles gets beyond `MAX_EXPANDED`
LIBRARY = "<lark>/"  # prefix of the names of files of Lark's own library, which no path has

_RULE = re.compile(r"^[ \t]*[?!]{0,2}_?[a-z]\w*[ \t]*(\{[^}\n]*\})?(\.-?\d+)?[ \t]*:", re.MULTILINE)
_TERMINAL = re.compile(r"\b_*[A-Z]\w*")

Key = tuple[str, str]  # a file and a name in it


class TerminalReferences:
    """Which terminals the terminals of several files refer to.

    `add` takes the files one by one, each before Lark's loader reads it.

    Attributes:
        rules: How many lines of the files begin a rule.
    """

    def __init__(self) -> None:
        self.rules = 0
        self._names = 0  # of terminals in all texts
        self._references: dict[Key, list[Key]] = {}
        self._waiting: list[tuple[str, str]] = []

    def count(self, text: str) -> None:
        """Counts the rules of one more file."""
        self.rules += len(_RULE.findall(text))

    def add(self, file: str, text: str) -> None:
        """Counts the terminals of one more file, whose name is relative to the grammar's folder.

        Raises:
            GrammarError: The terminals of all files come to more than `MAX_EXPANDED` references.
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
                    f"the terminals up to {quote(key[1])} come to over {MAX_EXPANDED} names once each is replaced by "
                    "what it stands for"
                )

    def _read(self, file: str, text: str) -> None:
        """Enter the definitions and imports of a file. Raises what Lark's parser raises."""
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
        """The size of every terminal, a reference to one that is not known, or that is being counted, being 1."""
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
                    sizes[key] = 0  # being counted
                    stack += waiting
                    continue
                sizes[key] = min(1 + sum(sizes.get(part) or 1 for part in parts), MAX_EXPANDED + 1)
                stack.pop()
        return sizes
