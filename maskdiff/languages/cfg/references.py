"""How large the terminals of a Lark file become once each name in them is replaced by what it stands for.

Lark's loader replaces the names without a limit, so `A: B B`, `B: C C`, ... doubles with every line.
`TerminalReferences` counts first, from the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from maskdiff.errors import GrammarError, quote

MAX_EXPANDED = 100_000  # references in all terminals of a grammar, each replaced by what it stands for
LIBRARY = "lark/"  # prefix of the names of files of Lark's own library

_TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|\#[^\n]*|"(?:\\.|[^"\\\n])*"i?|/(?!/)(?:\\/|\\\\|[^/\n])*?/[imslux]*)"""
    r"""|(?P<line>\n\s*)|(?P<import>%import)|(?P<arrow>->)|(?P<name>[_?!]*[A-Za-z_]\w*)|(?P<other>.)""",
    re.DOTALL,
)

Key = tuple[str, str]  # a file and a name in it


class _Token(NamedTuple):
    kind: str
    text: str


class TerminalReferences:
    """Which terminals the terminals of several files refer to.

    `add` takes the files one by one, each before Lark's loader reads it.

    Attributes:
        rules: How many rules the files define.
    """

    def __init__(self) -> None:
        self.rules = 0
        self._references: dict[Key, list[Key]] = {}

    def add(self, file: str, text: str) -> None:
        """Counts the rules and terminals of one more file, whose name is relative to the grammar's folder."""
        for line in _lines(text):
            if line[0].kind == "import":
                self._add_import(file, line)
            elif line[0].kind == "name" and not _is_terminal(line[0].text):
                self.rules += 1
            elif line[0].kind == "name":
                name = line[0].text
                names = [token.text for token in line[1:] if token.kind == "name"]
                refers = [(file, other) for other in names if _is_terminal(other)]
                self._references.setdefault((file, name), []).extend(refers)

    def check_size(self) -> None:
        """Raises `GrammarError` if the terminals of all files come to more than `MAX_EXPANDED` references."""
        total = 0
        for key, size in self._sizes().items():
            total += size
            if total > MAX_EXPANDED:
                raise GrammarError(
                    f"the terminals up to {quote(key[1])} come to over {MAX_EXPANDED} names once each is replaced by "
                    "what it stands for"
                )

    def _add_import(self, file: str, line: Sequence[_Token]) -> None:
        """`%import .path.NAME -> ALIAS` or `%import path (NAME, NAME)`: a name here is a name there."""
        relative = len(line) > 1 and line[1].text == "."
        words = [token for token in line[1:] if token.kind in ("name", "arrow") or token.text == "("]
        signs = [i for i, token in enumerate(words) if token.kind != "name"]
        path = [token.text for token in words[: signs[0] if signs else len(words)]]
        after = [token.text for token in words[signs[0] + 1 :] if token.kind == "name"] if signs else []
        if signs and words[signs[0]].text == "(":
            pairs = [(name, name) for name in after]
        else:
            name = path.pop() if path else ""
            pairs = [(after[0] if after else name, name)]
        folder = file.rpartition("/")[0] if relative else LIBRARY.rstrip("/")
        there = "/".join([*([folder] if folder else []), *path]) + ".lark"
        for here, name in pairs:
            self._references.setdefault((file, here), []).append((there, name))

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
                waiting = [part for part in parts if part in self._references and part not in sizes]
                if waiting and key not in sizes:
                    sizes[key] = 0  # being counted
                    stack += waiting
                    continue
                sizes[key] = min(1 + sum(sizes.get(part) or 1 for part in parts), MAX_EXPANDED + 1)
                stack.pop()
        return sizes


def _lines(text: str) -> Iterator[list[_Token]]:
    """The statements of a Lark file as tokens; a line that begins with `|` goes on with the one before."""
    statement: list[_Token] = []
    for found in _TOKEN.finditer(text):
        kind = str(found.lastgroup)
        if kind == "line":
            if statement and text[found.end() : found.end() + 1] != "|":
                yield statement
                statement = []
        elif kind != "skip" and not (kind == "other" and found.group().isspace()):
            statement.append(_Token(kind, found.group()))
    if statement:
        yield statement


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()
