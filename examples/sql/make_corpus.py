"""Writes `corpus.txt`: the SQL statements among the test fixtures of sqlglot.

    python examples/sql/make_corpus.py SQLGLOT

SQLGLOT is the source folder of github.com/tobymao/sqlglot (MIT licence; the file `LICENSE` beside
this script is its licence, which also holds for `corpus.txt`). The file in this folder is made
from version 30.17.0 (commit 37362f4). A statement begins with a keyword of `KEYWORDS`, has at most
126 symbols, all of them ASCII, and no `?`, and sqlglot parses it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from judge import is_valid

LONGEST = 126
CORPUS = Path(__file__).with_name("corpus.txt")
KEYWORDS = (
    "SELECT", "WITH", "INSERT", "CREATE", "UPDATE", "DELETE", "ALTER", "DROP", "MERGE", "DESCRIBE",
    "USE", "SET", "SHOW", "CACHE",
)  # fmt: skip


def statements(file: Path) -> Iterator[str]:
    """Yields the texts of a fixture file, each on one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if file.name == "identity.sql":  # one a line
        yield from lines
        return
    code = "\n".join(line for line in lines if not line.startswith(("--", "#")))
    yield from (" ".join(text.split()) for text in code.split(";"))


def is_wanted(text: str) -> bool:
    """Return whether the corpus has `text`."""
    first = text.split(" ", 1)[0].upper()
    plain = len(text) <= LONGEST and text.isascii() and "?" not in text
    return first in KEYWORDS and plain and is_valid(text)


def collect(source: Path) -> list[str]:
    """Return the distinct statements of a source folder of sqlglot, sorted."""
    files = sorted((source / "tests" / "fixtures").rglob("*.sql"))
    chosen = [f for f in files if "tpc" not in f.parent.name and "invalid" not in f.name]
    return sorted({text for file in chosen for text in statements(file) if is_wanted(text)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="SQLGLOT", help="its source folder")
    parser.add_argument("--out", type=Path, default=CORPUS, help="default: beside this script")
    args = parser.parse_args()
    lines = collect(args.source)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines):,} statements in {args.out}")
