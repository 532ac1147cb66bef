"""Real Python expressions: the ones that stand on one line of the standard library of the running interpreter.

For: `collect()`, what a model of this language learns from. Not for: the interpreter's tests, other packages, or code that
nobody wrote by hand; nothing is imported or run. Easy to get wrong: what counts. Every node of every tree would be
mostly names and numbers, and each expression would come again with each of its parts; docstrings alone would fill the rest.
So an expression counts where a reader would point at it:

- what a statement consists of: the value of an assignment or of `return`, a condition, a call for its effect, what a loop runs
  over, what is raised, a decorator, a default of a parameter, an annotation;
- an argument of a call, positional or by keyword;
- never a bare name or constant (docstrings are constants), what is assigned to, or anything inside an f-string, where positions
  are wrong before Python 3.12.

Columns are counted by `ast` in bytes of UTF-8, whatever the file's encoding.
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
from maskdiff.languages.python_expressions.validity import valid

SHORTEST, LONGEST = 3, 62  # characters; 62 and the two ends of a string make 64 tokens
# Not part of the library, tests, frozen copies for installing, demonstrations, data in the shape of code, build products.
LEFT_OUT = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo", "pydoc_data",
    "__phello__", "__pycache__",
})  # fmt: skip
NOT_COUNTED = (ast.Name, ast.Constant, ast.Starred)


def sources(folder: Path) -> list[Path]:
    """The files of the standard library in `folder`, sorted, without `LEFT_OUT` and `config-*` folders."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder).parts[:-1]
        # _sysconfigdata… and config-… are written by the build and differ from machine to machine.
        if not path.name.startswith("_sysconfigdata") and not any(
            p in LEFT_OUT or p.startswith("config-") for p in inner
        ):
            found.append(path)
    return found


@cache
def collect() -> tuple[str, ...]:
    """Distinct expressions of 3 to 62 printable ASCII characters, sorted. Raises DataError without the library's source."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts: set[str] = set()
    for path in sources(folder):
        texts |= expressions(path.read_bytes())
    if not texts:
        raise DataError(
            f"no source of the standard library in {quote(str(folder))}: python-expressions is made from it; "
            "use an interpreter that is installed with its .py files"
        )
    return tuple(sorted(filter(valid, texts)))


def expressions(source: bytes) -> set[str]:
    """Expressions that stand on one line of a file; none where it cannot be read. Not yet checked to be `valid` alone."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (
        SyntaxError,
        ValueError,
        MemoryError,
        RecursionError,
    ):  # written for another interpreter, or in no known encoding
        return set()
    lines = text.encode().splitlines()
    return {piece for node in counted(tree) if (piece := _piece(lines, node)) is not None}


def counted(tree: ast.AST) -> Iterator[ast.expr]:
    """The expressions of a module that count, see above."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr):
            continue
        children = list(ast.iter_child_nodes(node))
        waiting += children
        if isinstance(node, ast.expr) and not isinstance(node, ast.Call):
            continue  # parts of an expression
        for child in children:
            if not isinstance(child, ast.expr) or isinstance(child, NOT_COUNTED) or _stored(child):
                continue
            if (
                not isinstance(node, ast.Call) or child is not node.func
            ):  # what is called is no argument
                yield child


def _stored(node: ast.expr) -> bool:
    """Whether a statement assigns to the expression, or deletes it."""
    return isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))


def _piece(lines: list[bytes], node: ast.expr) -> str | None:
    """The source of a node, None unless it stands on one line and is short and plain enough."""
    if node.end_lineno != node.lineno or node.end_col_offset is None:
        return None
    if not SHORTEST <= node.end_col_offset - node.col_offset <= LONGEST:
        return None
    piece = lines[node.lineno - 1][node.col_offset : node.end_col_offset]
    return piece.decode() if piece.isascii() and piece.decode().isprintable() else None
