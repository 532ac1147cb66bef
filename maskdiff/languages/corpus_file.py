"""The file of a corpus: lines of text, CSV or JSON lines, each also compressed with gzip."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.utils.lines import split_lines
from maskdiff.utils.tables import is_table, read_table

CORPUS = "corpus.txt"
NAMES = tuple(f"corpus.{kind}{gz}" for kind in ("txt", "csv", "jsonl") for gz in ("", ".gz"))
GZIP = ".gz"
MAX_BYTES = 256_000_000  # of a corpus, decompressed

Line = tuple[int, str]  # a line of a file and its number


def corpus_path(place: Path) -> Path:
    """Return the file of a corpus: `place` itself, or the one in this folder.

    A folder without one gives the path of its `corpus.txt`. Raises `DataError` for several files.
    """
    if place.is_file():
        return place
    found = [place / name for name in NAMES if (place / name).exists()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{place} has several corpora: {names}; keep one of them")
    return found[0] if found else place / CORPUS


def corpus_name(place: Path) -> str:
    """Return the name of the language: that of the folder, or the stem of the file."""
    if not place.is_file():
        return place.resolve().name
    return Path(place.name.removesuffix(GZIP)).stem


def has_columns(place: Path) -> bool:
    """Return whether the corpus is CSV or JSON lines. Raises `DataError` for several corpora."""
    return is_table(corpus_path(place).name.removesuffix(GZIP))


def numbered_lines(config: LanguageConfig) -> Sequence[Line]:
    """Return the lines of the corpus of `config.language` that are not empty.

    The lines of the last corpus are kept, because a command needs them several times.

    Raises:
        DataError: The corpus cannot be read, has no lines, or has a row without a line of text.
        ConfigError: `config.field` is set, and the corpus has no columns.
    """
    path = corpus_path(Path(config.language))
    return _numbered(path, _read(path), config.field)


@lru_cache(maxsize=1)
def _numbered(path: Path, data: bytes, field: str) -> tuple[Line, ...]:
    """See `numbered_lines`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if is_table(path.name.removesuffix(GZIP)):
        numbered = _cells(text, path, field)
    elif field:
        raise ConfigError(
            f"field is {quote(field)}; it is for CSV and JSON lines, and {path} is text"
        )
    else:
        numbered = [(number, line) for number, line in enumerate(split_lines(text), 1) if line]
    if not numbered:
        raise DataError(f"{path} has no lines; write one string a line")
    return tuple(numbered)


def _cells(text: str, path: Path, field: str) -> list[Line]:
    """The cells of a column that are not empty. Raises `DataError` for a bad row."""
    try:
        table = read_table(text, str(path).removesuffix(GZIP), field)
    except DataError as error:
        hint = "" if field else " with --field" if "name one of them" in str(error) else ""
        raise DataError(f"{error}{hint}") from None
    numbered = []
    for row in table.rows:
        if isinstance(row.cell, DataError):
            raise DataError(f"{path}: line {row.line}: {row.cell}")
        if row.cell:
            numbered.append((row.line, row.cell))
    return numbered


def _read(path: Path) -> bytes:
    """The bytes of a file, decompressed. Raises `DataError`."""
    shown, hint = quote(str(path), 200), f"a language is a folder with {CORPUS}, or a file"
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{shown} is no file; {hint}")
        with gzip.open(path) if path.name.endswith(GZIP) else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"{path} has over {MAX_BYTES} bytes; give a part of it")
        return data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or no gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {shown}: {error.strerror or error}; {hint}") from None
