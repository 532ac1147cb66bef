"""Compares how Lark and this package read the grammar of a language folder.

Lark's scanner matches a terminal as `re.match` does: of `1?[0-9]|2[0-3]` never `23`, since the
first alternative matches `2`. Here a terminal stands for the strings that its whole regular
expression matches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, GrammarError, quote
from maskdiff.languages.cfg import (
    DerivationSampler,
    GrammarSource,
    NormalForm,
    Recogniser,
    compile_grammar,
    compile_reader,
    literal_characters,
)
from maskdiff.languages.cfg.ebnf import expand
from maskdiff.languages.checker import load_checker
from maskdiff.languages.corpus import GRAMMAR, folder_grammar
from maskdiff.languages.corpus_file import Line, numbered_lines
from maskdiff.languages.lark_reader import ACCEPTS, request

SHOWN = 3  # examples of a kind
LONGEST_DRAW = 40  # symbols of a string that is drawn


@dataclass(frozen=True)
class GrammarCheck:
    """The result of a comparison. Examples are pairs of a line number and the line.

    Attributes:
        lines, compared: The number of different lines of the corpus, and of those compared; lines
            that are too long for `max_len` are not.
        both: The number of lines that both readers accept.
        neither, only_here, only_lark: The lines that neither or one of the readers accepts.
        written: The number of lines that the grammar writes.
        drawn: The number of strings drawn from the grammar.
        refused: The drawn strings that Lark refuses.
        unreached: The rules that the start rule does not reach.
        ambiguous: A proof that the written form is ambiguous; empty if none is found.
        seconds: The time to compile the grammar.
    """

    lines: int
    compared: int
    both: int
    neither: tuple[Line, ...]
    only_here: tuple[Line, ...]
    only_lark: tuple[Line, ...]
    written: int
    drawn: int
    refused: tuple[str, ...]
    unreached: tuple[str, ...]
    ambiguous: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether both readers agree on all lines and drawn strings."""
        return not (self.only_here or self.only_lark or self.refused)

    def report(self) -> str:
        """Return the result as text."""
        ambiguity = self.ambiguous or "no string was found that is derived twice"
        rows = [
            f"read in {self.seconds:.2f} s; {ambiguity}",
            f"{self.compared} of {self.lines} different lines: {self.both} read by both, "
            f"{len(self.neither)} by neither, {len(self.only_here)} only here, "
            f"{len(self.only_lark)} only by Lark; {self.written} are as the grammar writes them",
            f"{self.drawn} strings drawn from the grammar: "
            f"{self.drawn - len(self.refused)} read by Lark",
        ]
        kinds = {
            "by neither": self.neither,
            "only here": self.only_here,
            "only by Lark": self.only_lark,
        }
        for name, found in kinds.items():
            rows += [f"  {name}: line {number} {quote(line)}" for number, line in found[:SHOWN]]
        rows += [f"  drawn and refused by Lark: {quote(text)}" for text in self.refused[:SHOWN]]
        if self.only_here or self.refused:
            rows.append(
                "  Lark takes what re.match takes of a terminal: "
                "an alternative that begins another one goes behind it"
            )
        if self.unreached:
            rows.append(
                f"rules that the start rule does not reach: {', '.join(self.unreached[:10])}"
            )
        return "\n".join(rows)


def check_folder(
    config: LanguageConfig, lines: int = 200, draws: int = 200, seed: int = 0
) -> GrammarCheck:
    """Return a comparison of Lark and this package on the grammar of a folder.

    Args:
        config: The folder, and the start rule and spacing of its grammar.
        lines: The number of different lines to compare, of all lengths.
        draws: The number of strings to draw from the grammar.
        seed: The seed of the draws.

    Raises:
        ConfigError: The folder has no grammar, or Lark exceeds `config.validity_timeout`.
        DataError, GrammarError: See `open_corpus`.
    """
    source = folder_grammar(config)
    if source is None:
        path = Path(config.language) / GRAMMAR
        raise ConfigError(f"{path} is not there; there is nothing to compare")
    numbers: dict[str, int] = {}  # the first line number of each line
    for number, line in numbered_lines(config):
        numbers.setdefault(line, number)

    # Compile both forms of the grammar.
    start = time.monotonic()
    symbols = tuple(sorted(set("".join(numbers)) | literal_characters(source)))
    reader, writer = compile_reader(source, symbols), compile_grammar(source, symbols, True)
    seconds = time.monotonic() - start

    # Read lines of all lengths here and with Lark.
    longest = config.max_len - 2
    ordered = sorted((line for line in numbers if len(line) <= longest), key=len)
    count = min(lines, len(ordered))
    compared = [ordered[i * len(ordered) // count] for i in range(count)]
    place = {symbol: i for i, symbol in enumerate(symbols)}
    rows = [[place[character] for character in line] for line in compared]
    lark = _lark(source, config.validity_timeout)
    here, there = [*map(Recogniser(reader), rows)], [*map(lark, compared)]

    def lines_with(in_package: bool, in_lark: bool) -> tuple[Line, ...]:
        pairs = zip(compared, here, there, strict=True)
        return tuple(
            (numbers[line], line) for line, a, b in pairs if (a, b) == (in_package, in_lark)
        )

    drawn = _draws(writer, draws, min(longest, LONGEST_DRAW), seed)
    return GrammarCheck(
        lines=len(numbers),
        compared=count,
        both=len(lines_with(True, True)),
        neither=lines_with(False, False),
        only_here=lines_with(True, False),
        only_lark=lines_with(False, True),
        written=sum(map(Recogniser(writer), rows)),
        drawn=len(drawn),
        refused=tuple(text for text in drawn if not lark(text)),
        unreached=expand(source).unreached,
        ambiguous=_ambiguity(source, symbols),
        seconds=seconds,
    )


def _draws(grammar: NormalForm, count: int, longest: int, seed: int) -> list[str]:
    sampler = DerivationSampler(grammar, longest)
    count = count if sampler.lengths else 0
    return [sampler.draw(random.Random(f"{seed}:{i}")) for i in range(count)]


def _lark(source: GrammarSource, timeout: float) -> Callable[[str], bool]:
    """Whether Lark accepts a text. Raises `ConfigError` after `timeout` seconds for one text."""
    checker = load_checker(ACCEPTS, timeout=timeout)
    assert checker is not None

    def accepts(text: str) -> bool:
        try:
            return checker(request(source, text))
        except ConfigError as error:
            _, timed_out, rest = (
                str(error).rpartition("RuntimeError: ")[2].rpartition("it takes more")
            )
            raise ConfigError(
                f"Lark cannot be compared with, at {quote(text)}: {timed_out}{rest}"
            ) from None

    return accepts


def _ambiguity(source: GrammarSource, symbols: tuple[str, ...]) -> str:
    try:
        compile_grammar(source, symbols)
    except GrammarError as error:
        return str(error)
    return ""
