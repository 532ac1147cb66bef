"""The grammars in the examples and tests of Lark's own repository, where a copy of it is at hand.

Run `LARK_REPOSITORY=PATH python -m pytest -s` on this file; it prints a line per grammar.
"""

from __future__ import annotations

import os
import random
import string
import time
from pathlib import Path

import pytest
from lark import Lark
from lark.exceptions import LarkError

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import DerivationSampler, compile_grammar, compile_reader, open_source
from tests.helpers.grammar_texts import mutated, reader_of

REPOSITORY = os.environ.get("LARK_REPOSITORY", "")
SYMBOLS = "".join(sorted({*string.printable, "é", "Ø"}))
STARTS = ("start", "file_input")
SECONDS = 4.0  # of random strings of one grammar

pytestmark = pytest.mark.skipif(
    not REPOSITORY, reason="LARK_REPOSITORY names no copy of lark-parser/lark"
)


def grammars() -> list[tuple[Path, str, Lark]]:
    """The files that Lark reads, with a start rule and Lark's parser."""
    found = []
    for path in sorted(
        file for part in ("examples", "tests") for file in Path(REPOSITORY, part).rglob("*.lark")
    ):
        for start in STARTS:
            try:
                parser = Lark.open(
                    str(path), parser="earley", lexer="dynamic_complete", start=start
                )
            except LarkError:
                continue
            found.append((path, start, parser))
            break
    return found


def reads(parser: Lark, text: str) -> bool:
    try:
        parser.parse(text)
    except LarkError:
        return False
    except RuntimeError:  # see test_ignore.py
        return True
    return True


def test_repository_grammars_are_read_as_lark_reads_them() -> None:
    refused, every = [], grammars()
    for path, start, parser in every:
        begun = time.monotonic()
        try:
            source = open_source(path, start)
            compile_reader(source, SYMBOLS)
            sampler = DerivationSampler(compile_grammar(source, SYMBOLS, True), 24)
        except GrammarError as error:
            refused.append(path.name)
            print(f"{path.name}: {error}")
            continue
        taken, read, rng = (
            time.monotonic() - begun,
            reader_of(source, SYMBOLS),
            random.Random(path.name),
        )
        drawn = edited = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            text = sampler.draw(rng)
            assert reads(parser, text), (path.name, text)
            other = mutated(text, rng, SYMBOLS)
            if other:
                assert read(other) == reads(parser, other), (path.name, other)
            drawn, edited = drawn + 1, edited + bool(other)
        print(
            f"{path.name}: read in {taken:.2f} s; "
            f"{drawn} strings drawn and {edited} edited read as Lark reads them"
        )
    print(
        f"{len(every) - len(refused)} of {len(every)} grammars are read; "
        f"refused: {', '.join(refused)}"
    )
    assert len(every) >= 25
    assert len(refused) <= 3
