"""Compares how Lark and this package read the grammar of a language folder.

Lark's scanner takes what `re.match` takes: of `1?[0-9]|2[0-3]` never `23`, as the first alternative
already matches `2`. Here a terminal stands for the strings that its whole regular expression matches.
`check_folder` says where the two differ on the lines of the corpus, and whether Lark reads what the
grammar writes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
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
from maskdiff.languages.corpus import GRAMMAR, grammar_of, numbered_lines
from maskdiff.languages.lark_reader import ACCEPTS, request

SHOWN = 3  # examples of a kind


@dataclass(frozen=True)
class GrammarCheck:
    """What a comparison finds. Examples are pairs of the number of a line and the line.

    Attributes:
        lines, compared: Different lines of the corpus, and how many of them are compared; those that
            are too long for `max_len` are not.
        both, neither: Lines that both readers accept, and that neither does.
        only_here, only_lark: Lines that one of them accepts.
        written: Lines that are as the grammar writes them.
        drawn: Strings that the grammar writes, drawn at random.
        refused: Those of them that Lark refuses.
        unreached: Rules that the start rule does not reach.
        ambiguous: What makes the written form ambiguous; empty if nothing is found.
        seconds: Time for reading the grammar here, its file apart.
    """

    lines: int
    compared: int
    both: int
    neither: tuple[tuple[int, str], ...]
    only_here: tuple[tuple[int, str], ...]
    only_lark: tuple[tuple[int, str], ...]
    written: int
    drawn: int
    refused: tuple[str, ...]
    unreached: tuple[str, ...]
    ambiguous: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether no line and no drawn string is read otherwise by Lark."""
        return not (self.only_here or self.only_lark or self.refused)

    def report(self) -> str:
        """Returns the figures as text."""
        rows = [
            f"read in {self.seconds:.2f} s; {self.ambiguous or 'no string was found that is derived twice'}",
            f"{self.compared} of {self.lines} different lines: {self.both} read by both, {len(self.neither)} by neither, "
            f"{len(self.only_here)} only here, {len(self.only_lark)} only by Lark; "
            f"{self.written} are as the grammar writes them",
            f"{self.drawn} strings drawn from the grammar: {self.drawn - len(self.refused)} read by Lark",
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
                "  Lark takes what re.match takes of a terminal: an alternative that begins another one goes behind it"
            )
        if self.unreached:
            rows.append(
                f"rules that the start rule does not reach: {', '.join(self.unreached[:10])}"
            )
        return "\n".join(rows)


def check_folder(
    config: LanguageConfig, lines: int = 200, draws: int = 200, seed: int = 0
) -> GrammarCheck:
    """Returns a comparison of Lark and this package on the grammar of a folder.

    Args:
        config: Names the folder, and the start rule and the spacing of its grammar.
        lines: Different lines that are compared, of all lengths.
        draws: Strings that are drawn from the grammar.
        seed: Of the draws.

    Raises:
        ConfigError: No grammar in the folder, or Lark takes longer than `config.validity_timeout`.
        DataError, GrammarError: See `open_corpus`.
    """
    source = grammar_of(config)
    if source is None:
        raise ConfigError(
            f"{Path(config.language) / GRAMMAR} is not there; there is nothing to compare"
        )
    first: dict[str, int] = {}
    for number, line in numbered_lines(Path(config.language)):
        first.setdefault(line, number)
    start = time.monotonic()
    symbols = tuple(sorted(set("".join(first)) | literal_characters(source)))
    reader, writer = compile_reader(source, symbols), compile_grammar(source, symbols, True)
    seconds = time.monotonic() - start
    ordered = sorted((line for line in first if len(line) <= config.max_len - 2), key=len)
    count = min(lines, len(ordered))
    some = [ordered[i * len(ordered) // count] for i in range(count)]  # of all lengths
    drawn = _draws(writer, draws, config.max_len - 2, seed)
    numbered = [(first[line], line) for line in some]
    return _compared(
        source,
        symbols,
        (reader, writer),
        numbered,
        drawn,
        len(first),
        seconds,
        config.validity_timeout,
    )


def _draws(grammar: NormalForm, count: int, longest: int, seed: int) -> list[str]:
    sampler = DerivationSampler(grammar, min(longest, 40))
    return [
        sampler.draw(random.Random(f"{seed}:{i}")) for i in range(count if sampler.lengths else 0)
    ]


def _compared(
    source: GrammarSource,
    symbols: Sequence[str],
    forms: tuple[NormalForm, NormalForm],
    lines: Sequence[tuple[int, str]],
    drawn: Sequence[str],
    total: int,
    seconds: float,
    timeout: float,
) -> GrammarCheck:
    lark = _lark(source, timeout)
    place = {symbol: i for i, symbol in enumerate(symbols)}
    reader, writer = map(Recogniser, forms)
    indices = [[place[character] for character in line] for _, line in lines]
    here = [reader(some) for some in indices]
    there = [lark(line) for _, line in lines]

    def lines_with(mine: bool, other: bool) -> tuple[tuple[int, str], ...]:
        return tuple(
            line for line, a, b in zip(lines, here, there, strict=True) if (a, b) == (mine, other)
        )

    return GrammarCheck(
        lines=total,
        compared=len(lines),
        both=len(lines_with(True, True)),
        neither=lines_with(False, False),
        only_here=lines_with(True, False),
        only_lark=lines_with(False, True),
        written=sum(map(writer, indices)),
        drawn=len(drawn),
        refused=tuple(text for text in drawn if not lark(text)),
        unreached=expand(source).unreached,
        ambiguous=_ambiguity(source, tuple(symbols)),
        seconds=seconds,
    )


def _lark(source: GrammarSource, timeout: float) -> Callable[[str], bool]:
    """Whether Lark reads a text, in a process that ends with an error after `timeout` seconds for one text."""
    checker = load_checker(ACCEPTS, timeout=timeout)
    assert checker is not None

    def reads(text: str) -> bool:
        try:
            return checker(request(source, text))
        except ConfigError as error:
            reason = str(error).rpartition("RuntimeError: ")[2].rpartition("it takes more")
            why = reason[1] + reason[2]
            raise ConfigError(f"Lark cannot be compared with, at {quote(text)}: {why}") from None

    return reads


def _ambiguity(source: GrammarSource, symbols: tuple[str, ...]) -> str:
    try:
        compile_grammar(source, symbols)
    except GrammarError as error:
        return str(error)
    return ""
