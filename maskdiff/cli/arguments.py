"""What all command lines share: a parser with one-line errors, types of flags, and `run_cli`.

Output is buffered, so a full disk or a closed pipe often fails only at the last flush, which
`run_cli` therefore does.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from maskdiff.config import MAX_PLACE, MAX_SEED, MAX_THREADS, LanguageConfig
from maskdiff.errors import (
    ConfigError,
    DataError,
    UserError,
    folded,
    nearest,
    one_line,
    quote,
    visible,
)
from maskdiff.utils.batches import Requests
from maskdiff.utils.lines import count_lines, open_lines
from maskdiff.utils.values import parse_decimal, parse_integer

BAD_INPUT, TIMED_OUT, INTERRUPTED, CLOSED_PIPE = 2, 124, 130, 141
NO_MEMORY = ("out of memory", "allocate memory")  # in messages of torch: of a GPU, of the CPU


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Adds its range to the help of every number."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = super()._get_help_string(action)
        return (
            f"{text} [{action.type}]"
            if isinstance(action.type, (IntegerRange, NumberRange))
            else text
        )


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, without abbreviations, and with the nearest flag in errors."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def format_help(self) -> str:
        """As argparse's, but a program of many flags does not list them all twice."""
        if self.usage is None and len(self._actions) > 12:
            words = [
                str(action.metavar or action.dest)
                for action in self._actions
                if not action.option_strings
            ]
            self.usage = " ".join(["%(prog)s", *words, "[--flag VALUE ...]"])
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse's, but an unknown flag is answered with the nearest known one."""
        parsed, extra = self.parse_known_args(args, namespace)
        for given in extra:
            if given.startswith("--"):
                name, flags = given.split("=")[0], self._flags(parsed)
                longer = [flag for flag in flags if flag.startswith(name)]  # of an abbreviation
                best = nearest(name, longer or flags)
                self.error(f"unknown flag {quote(name)}; the nearest valid one is {best}")
        if extra:
            self.error(f"unexpected argument {quote(extra[0])}")
        return parsed

    def _flags(self, parsed: argparse.Namespace) -> list[str]:
        """Long flags that were possible, those of the chosen verb included."""
        names = [
            name
            for action in self._actions
            for name in action.option_strings
            if name.startswith("--")
        ]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = action.choices.get(str(getattr(parsed, action.dest, "")))
                names += chosen._flags(parsed) if chosen is not None else []
        return names


def run_cli(main: Callable[..., int | None], argv: Sequence[str] | None = None) -> int:
    """Call `main(argv)` and return the exit status; errors of the user are one line on stderr.

    The status is 2 for bad input, 124 for a time limit, 130 for Ctrl-C, 141 for a closed pipe.
    """
    # Streams that are closed (`2>&-`), or cannot show a character.
    if sys.stderr is None:  # print would write to the standard output instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the program
    if sys.stdout is None:
        print(
            f"{_program()}: standard output is closed; send it to a file, or to {os.devnull}",
            file=sys.stderr,
        )
        return BAD_INPUT
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # The program, and what it may raise.
    try:
        status = main(argv) or 0
        sys.stdout.flush()
        return status
    except SystemExit as exit_:  # --help
        return _flushed(exit_.code if isinstance(exit_.code, int) else 0)
    except BrokenPipeError:
        return _closed_pipe()
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except UserError as error:
        return _say(str(error), BAD_INPUT)
    except OSError as error:
        where = f" {quote(str(error.filename))}" if error.filename else ""
        return _say(f"cannot read or write{where}: {error.strerror or error}", BAD_INPUT)
    except ValueError as error:  # of functions of the system, for paths in a settings file
        if "embedded null" in str(error) or isinstance(error, UnicodeEncodeError):
            return _say(
                f"a path or text cannot be used ({folded(error)}); take other characters", BAD_INPUT
            )
        raise
    except MemoryError:
        return _say("out of memory; ask for fewer or shorter strings at a time", BAD_INPUT)
    except RuntimeError as error:
        if any(words in str(error).lower() for words in NO_MEMORY):
            hint = "lower --batch_size or --num, or use --device cpu"
            return _say(f"out of memory ({folded(error)}); {hint}", BAD_INPUT)
        raise


def worse(status: int, finish_reason: str) -> int:
    """Return the exit status after one more result; bad input takes precedence over a timeout."""
    if finish_reason == "error" or status == BAD_INPUT:
        return BAD_INPUT
    return TIMED_OUT if finish_reason == "timeout" else status


def _flushed(status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _closed_pipe()
    return status


def _closed_pipe() -> int:
    """Return the status of a closed pipe; the interpreter's last flush goes to the null device."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    return CLOSED_PIPE


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "maskdiff" if name in ("", "__main__.py") else name


def _say(message: str, status: int) -> int:
    try:
        # Write what was buffered before the failure; if that fails, report the first failure only.
        sys.stdout.flush()
    except OSError:
        _closed_pipe()
    try:
        print(f"{_program()}: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
    return status


# -------------------------- types of flags


@dataclass(frozen=True)
class IntegerRange:
    """The type of a flag: an integer from `low` to `high`."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        """Raises ArgumentTypeError."""
        try:
            value = parse_integer(text)
        except ValueError:
            value = None
        if value is None or not self.low <= value <= self.high:
            raise argparse.ArgumentTypeError(f"{quote(text)} is no whole number {self}")
        return value

    def __str__(self) -> str:
        return f"from {self.low} to {self.high}"


@dataclass(frozen=True)
class NumberRange:
    """The type of a flag: a number from `low` to `high`, above `low` if `open`."""

    low: float
    high: float
    open: bool = False

    def __call__(self, text: str) -> float:
        """Raises ArgumentTypeError."""
        try:
            value = parse_decimal(text)
        except ValueError:
            value = math.nan
        if not (self.low < value if self.open else self.low <= value) or not value <= self.high:
            raise argparse.ArgumentTypeError(f"{quote(text)} is no number {self}")
        return value

    def __str__(self) -> str:
        low, high = f"{self.low:g}", f"{self.high:g}"
        return f"above {low} and at most {high}" if self.open else f"from {low} to {high}"


positive, natural = IntegerRange(1, 10**6), IntegerRange(0, 10**6)
share = NumberRange(0.0, 1.0, open=True)
seconds, time_limit = NumberRange(0.0, 3600.0, open=True), NumberRange(0.0, 86_400.0, open=True)
threads, seed = IntegerRange(0, MAX_THREADS), IntegerRange(0, MAX_SEED)
place = IntegerRange(0, MAX_PLACE)


def count_range(text: str, lowest: int, what: str) -> tuple[int, int]:
    """Read `N` or `N..M` of at least `lowest`; an error says that the text is no `what`."""
    low, dots, high = text.partition("..")
    try:
        bounds = place(low), place(high if dots else low)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is no {what}, up to {place.high}"
        ) from None
    if not lowest <= bounds[0] <= bounds[1]:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is empty: give N..M with {lowest} <= N <= M"
        )
    return bounds


def length_range(text: str) -> tuple[int, int]:
    """Read `N` or `N..M`, in symbols without BOS and EOS; at least 1."""
    return count_range(text, 1, "length: give N or N..M, in symbols")


def new_length(text: str) -> tuple[int, int]:
    """Read `N` or `N..M`, the number of symbols that replace others; 0 is allowed."""
    return count_range(text, 0, "length: give N or N..M, in symbols")


def edit_range(text: str) -> tuple[int, int]:
    """Read `N` or `N..M`, a number of edits; 0 is allowed."""
    return count_range(text, 0, "number of edits: give N or N..M")


def span(text: str, empty: bool = False) -> tuple[int, int]:
    """Read `A:B`, symbols A to B - 1 counted from 0, or a single `A`; `A:A` only if `empty`."""
    first, colon, last = text.partition(":")
    try:
        bounds = place(first), place(last) if colon else place(first) + 1
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is no span: give A:B, symbols A to B-1 counted from 0, to {place.high}"
        ) from None
    if bounds[0] > bounds[1] or (bounds[0] == bounds[1] and not empty):
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is empty: give A:B with A {'<=' if empty else '<'} B"
        )
    return bounds


def insertion_span(text: str) -> tuple[int, int]:
    """Read `A:B` as `span` does; `A:A` is the place before symbol A."""
    return span(text, empty=True)


def default_checkpoint(name: str = "best.pt") -> str:
    """Return `checkpoints/NAME` here, or else the one beside the installed package."""
    here = Path("checkpoints") / name
    home = Path(__file__).resolve().parents[2] / "checkpoints" / name
    return str(here if here.exists() or not home.exists() else home)


def add_machine_flags(
    parser: argparse.ArgumentParser,
    checkpoint: str = "what to sample from (default checkpoints/best.pt)",
    seed_help: str = "of everything random (default 0)",
) -> None:
    """Add `--checkpoint --device --threads --seed`, with the help of the first and last."""
    group = parser.add_argument_group("machine")
    group.add_argument("--checkpoint", metavar="FILE", default=None, help=checkpoint)
    group.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps (default auto)",
    )
    group.add_argument(
        "--threads", type=threads, default=0, metavar="N", help="CPU threads (default 0: all cores)"
    )
    group.add_argument("--seed", type=seed, default=0, metavar="N", help=seed_help)


def add_timeout_flag(
    parser: argparse.ArgumentParser, of: str = "each string; strings are then worked on one by one"
) -> None:
    """Add `--timeout`, a limit for the time that a request may take."""
    parser.add_argument(
        "--timeout", type=time_limit, metavar="SECONDS", help=f"time limit of {of} (default: none)"
    )


def add_language_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `LanguageOverride.of` reads."""
    group = parser.add_argument_group(
        "language", "of a checkpoint that was trained on a folder of your own"
    )
    group.add_argument(
        "--language",
        default="",
        metavar="DIR",
        help="read the folder (it may have a grammar now) or file again",
    )
    group.add_argument(
        "--field",
        default="",
        metavar="NAME",
        help="column or key of its corpus (default: that of the checkpoint)",
    )
    group.add_argument(
        "--validity",
        default="",
        metavar="MODULE:FUNCTION",
        help="checks texts, see docs/languages.md",
    )
    group.add_argument(
        "--validity_timeout",
        type=seconds,
        default=LanguageConfig.validity_timeout,
        metavar="SECONDS",
        help=f"time that it has for one text (default {LanguageConfig.validity_timeout:g})",
    )
    group.add_argument(
        "--skip_invalid", action="store_true", help="leave out bad lines of the folder"
    )
    group.add_argument("--accept_ambiguous", action="store_true", help="take an ambiguous grammar")
    group.add_argument(
        "--start",
        default="",
        metavar="RULE",
        help="rule of its grammar whose strings are the language",
    )
    group.add_argument(
        "--spacing",
        default="",
        choices=("needed", "none"),
        help="under %%ignore: separators where terminals would run together (needed), or none",
    )


def use_threads(count: int) -> None:
    """Let torch use `count` CPU threads; 0 keeps its default."""
    # torch ignores a Ctrl-C that arrives while it imports numpy itself, so numpy comes first.
    import numpy  # noqa: F401
    import torch

    if count:
        torch.set_num_threads(count)


# -------------------------- lines in and out


def read_requests(args: argparse.Namespace, what: str = "strings as arguments") -> Requests:
    """Return the arguments, then the lines of --input. Raises DataError if neither is given."""
    if args.input is None and not args.texts:
        raise DataError(
            f"nothing to {args.verb}; give {what}, or --input FILE (- is standard input)"
        )
    return Requests(args.texts, None if args.input is None else open_lines(args.input))


def count_requests(args: argparse.Namespace) -> int | None:
    """Return the number of arguments and lines of --input; None if it is not known in advance."""
    lines = 0 if args.input is None else count_lines(args.input)
    return None if lines is None else len(args.texts) + lines


def printable(text: str) -> str:
    """Return `text` with tabs and control characters escaped, so that columns stay in place."""
    return visible(text)
