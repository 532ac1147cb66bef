"""Collects real Python expressions of one line from the standard library of the interpreter.

Nothing is imported or run. Bare names and constants (docstrings among them) are left out, and so
are the parts of an expression, so that each counts once. The expressions that count are

- the parts of statements: the value of an assignment or of `return`, a condition, an expression
  statement, the iterable of a loop, an exception that is raised, a decorator, a default, an
  annotation;
- the arguments of calls;
- but not what is assigned to, and nothing inside an f-string, whose positions are wrong before
  Python 3.12.
"""

from __future__ import annotations

import ast
import io
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from maskdiff.errors import DataError, quote
from maskdiff.languages.python_expressions.validity import is_python_expression

SHORTEST, LONGEST = 3, 62  # characters; 62 and both ends of a string make 64 tokens
# Other packages, tests, frozen copies for installing, demonstrations, data as code, build products.
LEFT_OUT = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip",
    "turtledemo", "pydoc_data", "__phello__", "__pycache__",
})  # fmt: skip
NOT_COUNTED = (ast.Name, ast.Constant, ast.Starred)


def source_files(folder: Path) -> list[Path]:
    """Return the files of the standard library in `folder`, sorted, without `LEFT_OUT`.

    Files that the build writes (`_sysconfigdata*`, `config-*`) differ between machines and are left
    out, too.
    """

    def kept(path: Path) -> bool:
        parents = path.relative_to(folder).parts[:-1]
        return not path.name.startswith("_sysconfigdata") and not any(
            name in LEFT_OUT or name.startswith("config-") for name in parents
        )

    return [path for path in sorted(folder.rglob("*.py")) if kept(path)]


@cache
def collect_expressions() -> tuple[str, ...]:
    """Return the distinct expressions of 3 to 62 printable ASCII characters, sorted.

    Raises:
        DataError: The interpreter has no source of the standard library.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = set[str]().union(*(expressions_of(path.read_bytes()) for path in source_files(folder)))
    if not texts:
        raise DataError(
            f"no source of the standard library in {quote(str(folder))}: python-expressions is "
            "made from it; use an interpreter that is installed with its .py files"
        )
    return tuple(sorted(filter(is_python_expression, texts)))


def expressions_of(source: bytes) -> set[str]:
    """Return the expressions of one line in a file; none if the file cannot be read."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return set()
    lines = text.encode().splitlines()  # `ast` counts columns in bytes of UTF-8
    return {piece for node in counted_nodes(tree) if (piece := _piece(lines, node)) is not None}


def counted_nodes(tree: ast.AST) -> Iterator[ast.expr]:
    """Yields the expressions of a module that count, see above."""
    agenda = [tree]
    while agenda:
        node = agenda.pop()
        if isinstance(node, ast.JoinedStr):
            continue
        children = list(ast.iter_child_nodes(node))
        agenda += children
        if isinstance(node, ast.expr) and not isinstance(node, ast.Call):
            continue  # its children are parts of an expression
        for child in children:
            if not isinstance(child, ast.expr) or isinstance(child, NOT_COUNTED) or _stored(child):
                continue
            if not isinstance(node, ast.Call) or child is not node.func:  # `func` is no argument
                yield child


def _stored(node: ast.expr) -> bool:
    """Whether a statement assigns to the expression or deletes it."""
    return isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))


def _piece(lines: list[bytes], node: ast.expr) -> str | None:
    """The source of a node; None unless it is on one line, short and plain."""
    if node.end_lineno != node.lineno or node.end_col_offset is None:
        return None
    if not SHORTEST <= node.end_col_offset - node.col_offset <= LONGEST:
        return None
    piece = lines[node.lineno - 1][node.col_offset : node.end_col_offset]
    return piece.decode() if piece.isascii() and piece.decode().isprintable() else None
