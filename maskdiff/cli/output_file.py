"""`repair` and `edit` with `--output`: a file of the format of the input with the answers in place.

The file is written once, at the end, so an interrupted run leaves the old file or none.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from maskdiff.cli.arguments import printable, read_requests
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.utils.batches import Requests
from maskdiff.utils.files import replace_file
from maskdiff.utils.lines import Line, LineReader, open_lines
from maskdiff.utils.tables import Table, is_table, read_table

if TYPE_CHECKING:
    from maskdiff.tasks import Result

MAX_BYTES = 256_000_000  # of the input
PRINTED = ("json", "pretty", "script", "trace")  # flags of what is printed


class OutputFile:
    """The rows of the input, the answers to them, and the file that gets both.

    An answer takes the place of its cell if it is no error, the time was not up, and its
    probability is at least `least` (of 0: any, also an unknown one).

    Attributes:
        requests: The cells and bad rows that are answered; empty ones are not.
    """

    def __init__(self, table: Table, path: Path, least: float) -> None:
        self.table, self.path, self.least = table, path, least
        self._asked = [index for index, row in enumerate(table.rows) if row.cell]
        self.requests: list[Line] = [row.cell for row in table.rows if row.cell]
        self._cells: dict[int, str] = {}
        self._left: list[tuple[int, Result]] = []
        self._unchanged = 0

    def print_result(self, number: int, sample: int, result: Result) -> None:
        """Take the answer to request `number`, from 1."""
        index = self._asked[number - 1]
        failed = result.error is not None or result.finish_reason == "timeout"
        if failed or (self.least > 0 and (result.probability or 0.0) < self.least):
            self._left.append((index, result))
        elif result.text == self.table.rows[index].cell:
            self._unchanged += 1
        else:
            self._cells[index] = result.text

    def finish(self) -> None:
        """Write the file and report on the error stream. Raises UserError."""
        data = self.table.text(self._cells).encode("utf-8", "surrogateescape")
        replace_file(self.path, data)
        counts = f"{len(self._cells)} repaired, {self._unchanged} unchanged, {len(self._left)} left"
        print(f"inference.py: {counts}; written to {self.path}", file=sys.stderr)
        if self._left:
            print("row\tinput\tanswer\tprobability", file=sys.stderr)
        for index, result in self._left:
            print("\t".join(self._left_row(index, result)), file=sys.stderr)

    def _left_row(self, index: int, result: Result) -> tuple[str, str, str, str]:
        cell = self.table.rows[index].cell
        answer = result.error or printable(result.text)
        known = "-" if result.probability is None else f"{result.probability:.3f}"
        return str(index + 1), printable(cell) if isinstance(cell, str) else "-", answer, known


def open_output(args: argparse.Namespace) -> OutputFile | None:
    """Return the output file of the flags, with the input read; None without --output.

    Raises:
        ConfigError: The flags do not go together.
        DataError: The input cannot be read, or the output cannot be written.
    """
    column, least = getattr(args, "column", ""), getattr(args, "min_probability", 0.0)
    if getattr(args, "output", None) is None:
        for flag, given in (("column", column), ("min_probability", least)):
            if given:
                raise ConfigError(f"--{flag} is for a file of answers; give --output, too")
        return None
    _check_flags(args)
    path = Path(args.output)
    if path.exists() and not path.is_file():
        raise DataError(f"cannot write {quote(args.output)}: it is no file")
    folder = Path(os.path.realpath(path)).parent
    if not os.access(folder, os.W_OK):
        what = "it may not be written to" if folder.exists() else "there is no such folder"
        raise DataError(f"cannot write {quote(args.output)}: {quote(str(folder))}: {what}")
    # Without --column also a CSV file is read as lines of text.
    name = args.input if column else ""
    if column and not is_table(name):
        raise ConfigError(f"--column is for .csv, .tsv and .jsonl; --input is {quote(args.input)}")
    return OutputFile(read_table(_read(args.input), name, column), path, least)


def _check_flags(args: argparse.Namespace) -> None:
    """Raises ConfigError for flags that --output makes void."""
    if args.texts or args.input is None:
        raise ConfigError("--output is a copy of --input with answers; give --input and no strings")
    for flag in PRINTED:
        if getattr(args, flag, False):
            raise ConfigError(f"--{flag} changes what is printed; leave it out, or --output")
    if getattr(args, "top", 1) > 1:
        raise ConfigError("--output takes one answer a string; leave out --top, or --output")


def make_requests(output: OutputFile | None, args: argparse.Namespace) -> Requests:
    """Return the cells of the output, or else the arguments and lines. Raises DataError."""
    return read_requests(args) if output is None else Requests(output.requests)


def _read(path: str) -> str:
    """The text of the input; bytes that are not UTF-8 become surrogates. Raises DataError."""
    reader: LineReader = open_lines(path)
    try:
        data = reader.file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read input {quote(path)}: {error.strerror or error}") from None
    finally:
        reader.close()
    if len(data) > MAX_BYTES:
        raise DataError(f"{path} has over {MAX_BYTES} bytes; give a part of it")
    return data.decode("utf-8", "surrogateescape")
