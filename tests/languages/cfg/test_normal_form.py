"""From Lark's EBNF to normal form: the strings of Lark's parser, errors, and ambiguity."""

from __future__ import annotations

import itertools
import random
import re
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from lark import Lark
from lark.exceptions import LarkError

from maskdiff.config import LanguageConfig
from maskdiff.errors import GrammarError
from maskdiff.languages import make_language
from maskdiff.languages.arithmetic.grammar import range_pattern
from maskdiff.languages.cfg import (
    GrammarSource,
    compile_grammar,
    find_ambiguity,
    normal_form,
    read_grammar,
)
from tests.helpers.grammars import (
    AMBIGUOUS,
    BRACKETS,
    CALCULATION,
    DYCK,
    LALR,
    SMALL,
    accepts,
    random_grammar,
    recognises,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start: x", "Rule 'x' used but not defined"),
        ('start: "1', "line 1 column 8"),
        ("", "no rule 'start'"),
        ("start: /(/", ""),  # in the words of re, or of regex where that is installed
        ('start: start "1"', "no string can be derived from start"),
        ('start: "1" | x\nx: x "1"', "derived from 'x'"),
        ('begin: "1"\nx: "1"', "name one with --start: begin, x"),
        ('start: "1" "q"', "'q', which is not a symbol"),
        ("start: /(1)\\1/", "a backreference"),
        ("start: /1*/", "can match the empty string"),
        ("start:", "at least one symbol"),
        (AMBIGUOUS, "ambiguous"),
        ('start: "("? start? ")"?', "ambiguous"),
        (
            "\n".join(["start: r0"] + [f'r{i}: "1" r{i * 7 % 10000} | "("' for i in range(10000)]),
            "10001 rules",
        ),
        ("start: /1{1,50000}/", "more than 10000 positions"),
        ("start: /(?:1{150}){150}/", "more than 10000 positions"),
        ('start: /1(?=1)/ "1"', "the look-ahead '(?=1)' can see beyond the end of the match"),
        ("start: /1++/", "a possessive quantifier '1++'"),
        ("start: /\\p{L}/", "\\p" if find_spec("regex") else "Unicode categories"),
        ("%import foo.bar\nstart: bar", "foo"),
        ("start: /" + "(" * 3000 + "1" + ")" * 3000 + "/", ""),
    ],
)
def test_a_grammar_that_cannot_be_used_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compile_grammar(GrammarSource(text, "mine.lark"), "1(+)")
    assert message in str(caught.value)
    assert str(caught.value).startswith("mine.lark: ")
    assert "\n" not in str(caught.value)


def test_a_grammar_that_grows_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "maskdiff.languages.cfg"
    monkeypatch.setattr(sys.modules[f"{package}.reader"], "MAX_CHARACTER_RULES", 30)
    with pytest.raises(GrammarError, match="rules over characters; at most 30"):
        read_grammar("start: /" + "|".join("1" * n + "0" for n in range(1, 40)) + "/", "10")
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[f"{package}.normal_form"], "MAX_BINARY", 2)
    with pytest.raises(GrammarError, match="normal form has 4 rules; at most 2"):
        compile_grammar(BRACKETS, "1(+)")


def test_an_ambiguous_grammar_can_be_accepted() -> None:
    assert len(compile_grammar(AMBIGUOUS, "1+", accept_ambiguous=True)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("text", LALR)
def test_the_fast_parser_of_the_tests_takes_what_the_general_one_takes(text: str) -> None:
    general, symbols = Lark(text, parser="earley", lexer="dynamic_complete"), "(+*)=1203abcd"
    used = [symbol for symbol in symbols if symbol in text or text == CALCULATION]
    for n in range(1, 5):
        every = sorted("".join(row) for row in itertools.product(used, repeat=n))
        some = random.Random(n).sample(every, min(len(every), 60))
        for string in (*some, "(1+1)", "(1+2)=30", "1=0", "ab", "cabd", "(+*)+*", "(()1)=1"):
            try:
                read = general.parse(string) is not None
            except LarkError:
                read = False
            assert accepts(text, string) == read, string


@pytest.mark.slow
@pytest.mark.parametrize(("text", "symbols", "longest"), SMALL)
def test_normal_form_has_the_strings_of_the_grammar(text: str, symbols: str, longest: int) -> None:
    grammar = compile_grammar(text, symbols)
    for n in range(1, longest):
        found = 0
        for row in itertools.product(symbols, repeat=n):
            string = "".join(row)
            assert recognises(grammar, string) == accepts(text, string), string
            found += accepts(text, string)
        assert grammar.lengths(longest)[n] == (found > 0)


EBNF = """
    start: list | pair~2..3 | [ATOM] "!"
    list: "[" (item ("," item)*)? "]"
    ?item: ATOM | list -> nested
    pair: "(" ATOM ~ 2 ")"
    ATOM.2: "a".."c" | /x[yz]{1,2}/ | "k"i
"""


@pytest.mark.slow
def test_lark_notation_is_read_as_lark_reads_it() -> None:
    symbols = "[],()!abckKxyz"
    grammar = compile_grammar(EBNF, symbols)
    rng = random.Random(0)
    inside = 0
    for _ in range(1000):
        text = "".join(
            rng.choice(["[", "]", ",", "(", ")", "!", "a", "b", "xy", "xyz", "k", "K"])
            for _ in range(rng.randint(1, 7))
        )
        inside += accepts(EBNF, text)
        assert recognises(grammar, text) == accepts(EBNF, text), text
    assert inside > 10


@pytest.mark.slow
def test_random_grammars_agree_with_larks_parser() -> None:
    rng, compared, rejected = random.Random(1), 0, 0
    for _ in range(60):
        text = random_grammar(rng)
        try:
            grammar = normal_form(read_grammar(text, "abc"), "abc")
        except GrammarError:
            rejected += 1
            continue
        compared += 1
        for n in range(1, 4):
            for row in itertools.product("abc", repeat=n):
                assert recognises(grammar, "".join(row)) == accepts(text, "".join(row)), (text, row)
    assert compared > 30
    assert rejected > 5


def test_ambiguity_counts_derivations() -> None:
    grammar = normal_form(read_grammar(AMBIGUOUS, "1+"), "1+")
    found = find_ambiguity(grammar)
    assert (found.witness, found.derivations, found.searched) == ("1+1+1", 2, 5)
    clean = find_ambiguity(compile_grammar(BRACKETS, "1(+)"))
    assert clean.witness is None
    assert clean.searched >= 13  # a budget of 200,000 reaches three pairs of brackets and more
    hidden = 'start: "a" x\nx: "b" y | "b" z\ny: "c"\nz: "c"'
    assert (
        find_ambiguity(normal_form(read_grammar(hidden, "abc"), "abc")).witness is None
    )  # one rule of the normal form: one derivation
    dangling = 'start: "i" start | "i" start "e" start | "x"'
    assert find_ambiguity(normal_form(read_grammar(dangling, "iex"), "iex")).witness == "iixex"


def test_the_search_for_ambiguity_keeps_to_its_budget() -> None:
    grammar = compile_grammar(DYCK, "ab")
    small, large = find_ambiguity(grammar, budget=50), find_ambiguity(grammar, budget=50_000)
    assert small.searched < large.searched <= 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"notation": "infix", "operators": "+-*"},
        {"separator": ",", "max_int": 120, "min_int": 7},
        {"operators": "-", "max_int": 9},
        {"notation": "infix", "min_int": 95, "max_int": 1005},
    ],
)
def test_the_arithmetic_grammar_is_that_of_the_parser(options: dict[str, str | int]) -> None:
    language = make_language(LanguageConfig(**options))  # type: ignore[arg-type]
    symbols = tuple(language.vocabulary.symbols[i] for i in language.vocabulary.inner_ids)
    text = language.lark_grammar()
    assert text is not None
    grammar = compile_grammar(text, symbols)
    rng = random.Random(2)
    agreed = {True: 0, False: 0}
    for string in language.sample_many(160, np.random.default_rng(3)):
        if len(string) > 20:
            continue
        for mutant in (string, mutated(string, symbols, rng)):
            assert recognises(grammar, mutant) == language.parses(mutant), mutant
            agreed[language.parses(mutant)] += 1
    assert agreed[True] > 40
    assert agreed[False] > 25


def mutated(text: str, symbols: tuple[str, ...], rng: random.Random) -> str:
    """One symbol replaced, deleted or inserted."""
    at, kind = rng.randrange(len(text)), rng.randrange(3)
    return text[:at] + (rng.choice(symbols) if kind else "") + text[at + (kind < 2) :]


def test_ranges_of_numbers() -> None:
    rng = random.Random(4)
    cases = [(0, 0), (0, 10), (0, 999), (7, 7), (95, 105), (999, 1001), (10, 19)]
    cases += [(low, low + rng.randrange(3000)) for low in (rng.randrange(3000) for _ in range(20))]
    for low, high in cases:
        pattern = re.compile(range_pattern(low, high))
        matched = {n for n in range(7000) if pattern.fullmatch(str(n))}
        assert matched == set(range(low, high + 1)), (low, high)
        assert not pattern.fullmatch("00")
    assert re.fullmatch(range_pattern(0, 10**6), "1000000")
    assert not re.fullmatch(range_pattern(0, 10**6), "1000001")
