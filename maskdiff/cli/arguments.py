"""What the doors (the command-line programs) share: a parser with one-line errors, line reading, and `run_cli`.

For: turning every failure that a user can cause into one line on the error stream and a status: 2
for bad input, 124 for a time limit, 130 for Ctrl-C, 141 for a closed pipe. Not for: the
configuration's flags (`configio.add_config_flags`) or any work. Easy to get wrong: output is
buffered, so a full disk or a closed pipe often shows only at the last flush, which therefore
happens in here.
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
from maskdiff.errors import ConfigError, UserError, folded, nearest, one_line, quote, visible
from maskdiff.utils.values import parse_decimal, parse_integer

BAD_INPUT, TIMED_OUT, INTERRUPTED, CLOSED_PIPE = 2, 124, 130, 141
NO_MEMORY = ("out of memory", "allocate memory")  # what torch says of a GPU, and of the CPU


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
    """argparse with errors of one line, whole flag names only, and the nearest flag named when one is unknown."""

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
                begun = [
                    flag for flag in flags if flag.startswith(name)
                ]  # an abbreviation means one of these
                self.error(
                    f"unknown flag {quote(name)}; the nearest valid one is {nearest(name, begun or flags)}"
                )
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
    """Call `main(argv)` and return the exit status of the program; what a user can cause becomes one line on stderr."""
    if (
        sys.stderr is None
    ):  # closed, as in `2>&-`: there is nobody to tell, and print would tell the standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the program
    if sys.stdout is None:
        print(
            f"{_program()}: standard output is closed; send it to a file, or to {os.devnull}",
            file=sys.stderr,
        )
        return BAD_INPUT
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that cannot show a character is no reason to fail
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
    except (
        ValueError
    ) as error:  # of the system's own functions, of paths that a settings file can hold
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
    """The exit status after one more result: bad input counts more than too little time."""
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
    """Nobody reads any more: end quietly, and keep the interpreter's own last flush from complaining."""
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
        # What was buffered before the failure belongs to the user; if it cannot be written, say only the first failure.
        sys.stdout.flush()
    except OSError:
        _closed_pipe()
    try:
        print(f"{_program()}: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
    return status


# ------------------------------------------------------------------------------------------------------------ flag types


@dataclass(frozen=True)
class IntegerRange:
    """The type of a flag that takes a whole number from `low` to `high`."""

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
    """The type of a flag that takes a number from `low` to `high`; above `low` where `open`."""

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


def length_range(text: str, lowest: int = 1) -> tuple[int, int]:
    """`N` or `N..M`, in symbols without BOS and EOS, of at least `lowest`."""
    low, dots, high = text.partition("..")
    try:
        bounds = place(low), place(high if dots else low)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is no length: give N or N..M, in symbols, up to {place.high}"
        ) from None
    if not lowest <= bounds[0] <= bounds[1]:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is empty: give N..M with {lowest} <= N <= M"
        )
    return bounds


def new_length(text: str) -> tuple[int, int]:
    """`N` or `N..M`, how many symbols take the place of others; 0 is none."""
    return length_range(text, lowest=0)


def span(text: str, empty: bool = False) -> tuple[int, int]:
    """`A:B`, symbols A to B - 1 counted from 0, or a single symbol `A`; `A:A` only where an `empty` span has a meaning."""
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
    """`A:B` as in `span`; `A:A` is the place before symbol A."""
    return span(text, empty=True)


def default_checkpoint(name: str = "best.pt") -> str:
    """`checkpoints/NAME` here, or the one beside the installed package when there is none here."""
    here, home = (
        Path("checkpoints") / name,
        Path(__file__).resolve().parents[2] / "checkpoints" / name,
    )
    return str(here if here.exists() or not home.exists() else home)


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint --device --threads --seed`, which every door that samples has."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--checkpoint",
        metavar="FILE",
        default=None,
        help="what to sample from (default checkpoints/best.pt)",
    )
    group.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps (default auto)",
    )
    group.add_argument(
        "--threads", type=threads, default=0, metavar="N", help="CPU threads (default 0: all cores)"
    )
    group.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of everything random (default 0)"
    )


def add_timeout_flag(
    parser: argparse.ArgumentParser, of: str = "each string; strings are then worked on one by one"
) -> None:
    """`--timeout`, a limit for the time that a request may take."""
    parser.add_argument(
        "--timeout", type=time_limit, metavar="SECONDS", help=f"time limit of {of} (default: none)"
    )


def add_language_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `LanguageOverride.of` reads: what a user says about the own language of a checkpoint."""
    group = parser.add_argument_group(
        "language", "of a checkpoint that was trained on a folder of your own"
    )
    group.add_argument(
        "--language",
        default="",
        metavar="DIR",
        help="read the folder anew (it may have a grammar now)",
    )
    group.add_argument(
        "--validity",
        default="",
        metavar="MODULE:FUNCTION",
        help="checks texts, see docs/languages.md",
    )
    group.add_argument(
        "--validity_timeout", type=seconds, default=LanguageConfig.validity_timeout,
        metavar="SECONDS",
        help=f"time that it has for one text (default {LanguageConfig.validity_timeout:g})",
    )  # fmt: skip
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
        "--spacing", default="", choices=("needed", "none"),
        help="under %%ignore: separators where terminals would run together (needed), or none",
    )  # fmt: skip


def use_threads(count: int) -> None:
    """Let torch use `count` CPU threads; 0 leaves its choice."""
    import torch

    if count:
        torch.set_num_threads(count)


# ------------------------------------------------------------------------------------------------------- lines in and out


def printable(text: str) -> str:
    """A string without what would move the columns or speak to the terminal: tabs and control characters are escaped."""
    return visible(text)
