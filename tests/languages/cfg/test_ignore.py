"""Grammars with `%ignore`, compared with Lark: reading and writing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

import pytest
from lark import Lark
from lark.exceptions import LarkError

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import (
    DerivationSampler,
    GrammarSource,
    Recogniser,
    as_source,
    compile_grammar,
)
from tests.helpers.fuzz import both_seeds, cases
from tests.helpers.grammar_texts import mutated, reader_of

PRINTABLE = "".join(map(chr, range(32, 127)))
CALCULATOR = r"""
start: sum
sum: product | sum "+" product | sum "-" product
product: atom | product "*" atom | product "/" atom
atom: NUMBER | "-" atom | NAME | "(" sum ")"
%import common.CNAME -> NAME
%import common.NUMBER
%import common.WS_INLINE
%ignore WS_INLINE
"""
DOCUMENT = r"""
start: value
value: object | array | ESCAPED_STRING | SIGNED_NUMBER | "true" | "false" | "null"
array: "[" [value ("," value)*] "]"
object: "{" [pair ("," pair)*] "}"
pair: ESCAPED_STRING ":" value
%import common.ESCAPED_STRING
%import common.SIGNED_NUMBER
%import common.WS
%ignore WS
"""
PROGRAM = r"""
start: statement+
statement: "let" NAME "=" expression ";" | "print" expression ";"
         | "if" expression block ["else" block]
block: "{" statement* "}"
expression: NAME | INT | expression OPERATOR NAME | "not" NAME
OPERATOR: "<" | "<=" | ">" | "==" | "in"
NAME: /(?!(let|if|else|print|not|in)\b)[a-z]+/
INT: /[0-9]+/
COMMENT: "/*" /(.|\n)*?/ "*/"
%ignore /[ \n]+/
%ignore COMMENT
%ignore /#[^\n]*/
"""
QUESTION = r"""
start: item+
item: NAME OP?
NAME: /[a-z]/
OP: /[?](?![a-z])/ | "+"
%ignore " "
"""
TEMPLATES = r"""
start: "[" separated{NUMBER, ","} "]" | "(" separated{WORD, ";"} ")"
separated{item, mark}: item (mark item)*
NUMBER: /\d+/
WORD: "a".."f"~1..3
%ignore " "
"""
GRAMMARS = {
    "calculator": CALCULATOR,
    "document": DOCUMENT,
    "program": PROGRAM,
    "question": QUESTION,
    "templates": TEMPLATES,
}
ONE_OR_TWO = ("a", "b", "aa", "ab", "ba", "bb")
LOOKING_AHEAD = (
    "program",
    "question",
)  # where what follows can forbid a match, what is read is a superset


def lark_of(grammar: str, start: str = "start") -> Callable[[str], bool]:
    """Whether Lark reads a text."""
    parser = Lark(grammar, parser="earley", lexer="dynamic_complete", start=start)

    def accepts(text: str) -> bool:
        try:
            parser.parse(text)
        except LarkError:
            return False
        except (
            RuntimeError
        ):  # "multiple start symbol items": a fault of Lark where text is ignored behind the end
            return True
        return True

    return accepts


def writer_of(grammar: str, symbols: str) -> Callable[[str], bool]:
    """Whether the written form of a grammar derives a text; it may derive none."""
    try:
        recogniser = Recogniser(compile_grammar(grammar, symbols, True))
    except GrammarError as error:
        if "no string" not in str(error):
            raise
        return lambda text: False
    return lambda text: recogniser([symbols.index(character) for character in text])


@lru_cache(maxsize=8)
def prepared(name: str) -> tuple[Callable[[str], bool], Callable[[str], bool], DerivationSampler]:
    text = GRAMMARS[name]
    symbols = PRINTABLE + "\n\t"
    return (
        lark_of(text),
        reader_of(text, symbols),
        DerivationSampler(compile_grammar(text, symbols, True), 20),
    )


@pytest.mark.slow
@both_seeds
@pytest.mark.parametrize("name", GRAMMARS)
def test_lark_reads_every_written_text_and_both_readers_agree(name: str, seed: int) -> None:
    lark, read, sampler = prepared(name)
    accepted = refused = 0
    for rng in cases(120, seed, 1.0):
        text = sampler.draw(rng)
        assert lark(text), text
        assert read(text), text
        other = mutated(text, rng, PRINTABLE)
        if other:
            verdict = lark(other)
            assert read(other) == verdict or (name in LOOKING_AHEAD and not verdict), other
            accepted, refused = accepted + verdict, refused + (not verdict)
    assert accepted
    assert refused


def test_the_grammar_of_lark_itself_is_read_as_lark_reads_it() -> None:
    text = files("lark").joinpath("grammars", "lark.lark").read_text(encoding="utf-8")
    symbols = PRINTABLE + "\n\t"
    lark, read = lark_of(text), reader_of(text, symbols)
    sampler = DerivationSampler(compile_grammar(text, symbols, True), 16)
    for rng in cases(70, 1, 4.0):
        written = sampler.draw(rng)
        assert read(written)
        other = mutated(written, rng, PRINTABLE)
        assert read(other) or not lark(other), other


def strings(grammar: str, symbols: str, longest: int) -> set[str]:
    """All strings of the written form of a grammar, with its ambiguity accepted."""
    recogniser = Recogniser(compile_grammar(grammar, symbols, True))
    places = range(len(symbols))
    return {
        "".join(symbols[i] for i in indices)
        for n in range(1, longest + 1)
        for indices in itertools.product(places, repeat=n)
        if recogniser(indices)
    }


@pytest.mark.parametrize(
    ("grammar", "symbols", "written"),
    [
        ('start: "a" "b"\n%ignore " "', "ab ", {"ab"}),
        ('start: A A\nA: /a+/\n%ignore " "', "a ", {"a a", "aa a", "a aa"}),
        ('start: "a" B | "ab"\nB: "b"\n%ignore " "', "ab ", {"a b", "ab"}),
        ('start: "i" N | N\nN: /[ix]/\n%ignore " "', "ix ", {"i", "x", "ii", "ix"}),
        ('start: A ["+" A]\nA: /a/\n%ignore /-+/', "a+-", {"a", "a+a"}),
        ("start: A A\nA: /a+/\n%ignore /-/", "a-", {"a-a", "aa-a", "a-aa"}),
        (
            "start: A A\nA: /[ab]+/\n%ignore / a*/",
            "ab ",
            {f"{a} b{c}" for a in ONE_OR_TWO for c in ("", "a", "b")},
        ),
        ('start: "/" C\nC: /[*\\/]/\n%ignore /[\\/][*]/\n%ignore " "', "/* ", {"/ /", "/ *"}),
    ],
)
def test_terminals_that_would_run_together_are_written_with_one_separator(
    grammar: str, symbols: str, written: set[str]
) -> None:
    assert strings(grammar, symbols, 4) == {text for text in written if len(text) <= 4}


def test_without_separators_terminals_are_adjacent() -> None:
    source = GrammarSource('start: A A\nA: /a+/\n%ignore " "', spacing="none")
    assert Recogniser(compile_grammar(source, "a ", True)).derivations([0, 0, 0]) == 2
    assert not Recogniser(compile_grammar(source, "a ", True))([0, 1, 0])


def test_every_string_has_one_written_form() -> None:
    """`A A` is ambiguous without separators, and is not with them."""
    grammar = 'start: A A\nA: /a+/\n%ignore " "'
    with pytest.raises(GrammarError, match="ambiguous"):
        compile_grammar(GrammarSource(grammar, spacing="none"), "a ")
    assert compile_grammar(grammar, "a ")


def test_skipped_text_ends_only_where_the_scanner_ends_it() -> None:
    """A comment takes its whole line, so nothing behind it on the line is read."""
    read = reader_of('start: "a" "b"\n%ignore /#[^\\n]*/\n%ignore /\\s+/', "ab#\n ")
    assert read("a # b\nb")
    assert read("#a\n\na#\nb #ab")
    assert not read("a # b")
    assert not read("a #\n# b")


def random_grammar(rng: random.Random) -> str:
    """A grammar over a, b and space, often with overlapping and ignored terminals."""
    names = [f"r{i}" for i in range(rng.randint(1, 3))]
    terminals = {
        "A": rng.choice(["/a/", "/a+/", '"a"', "/ab?/", "/[ab]/", '"ab"']),
        "B": rng.choice(["/b+/", '"b"', "/ba*/"]),
    }

    def item(depth: int) -> str:
        kind = rng.randrange(9)
        if kind < 4 or depth == 2:
            return rng.choice([*terminals, *terminals, *names, '"a"', '"bb"'])
        inner = " ".join(item(depth + 1) for _ in range(rng.randint(1, 2)))
        form = rng.choice(["({})?", "({})*", "({})+", "[{}]", "({})~1..2", "({} | A)"])
        return form.format(inner)

    def body() -> str:
        return " ".join(item(0) for _ in range(rng.randint(1, 3)))

    lines = [f"start: {body()}"] + [f"{name}: A {body()} | B" for name in names]
    lines += [f"{name}: {pattern}" for name, pattern in terminals.items()]
    lines += [
        f"%ignore {rng.choice(['/ /', '/ +/', '/ b/', '/ [a ]*/'])}"
        for _ in range(rng.randint(0, 2))
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("grammar", "name"),
    [
        ('start: A A\nA: /a$/\n%ignore " "', "anchor"),
        ('start: A B\nA: /a(?! )/\nB: "b"\n%ignore " "', "negative look-ahead"),
        ('start: A A\nA: /a+(?! )/\n%ignore " "', "negative look-ahead"),
        ('start: A "b"\nA: /a(?! *b)/\n%ignore " "', "negative look-ahead"),
        ("start: A A\nA: /a+/\n%ignore / (?!a)/", "ignored"),
        ('start: A "b"\nA: /a/\n%ignore /(?<=a) /', "ignored"),
        ('start: A "b"\nA: /a(?!b)/', "negative look-ahead"),
    ],
)
def test_look_arounds_that_see_a_separator_are_refused_by_name(grammar: str, name: str) -> None:
    with pytest.raises(GrammarError, match=f"{name}.* can see beyond"):
        compile_grammar(grammar, "ab ")


def test_a_look_ahead_at_the_end_sees_the_end_of_the_string() -> None:
    read = reader_of('start: "b" | A\nA: /,(?=a)/', "ab,")
    assert read("b")
    assert not read(",")


@pytest.mark.slow
@both_seeds
def test_random_grammars_are_read_as_lark_reads_them(seed: int) -> None:
    texts = ["".join(t) for n in range(1, 6) for t in itertools.product("ab ", repeat=n)]
    tried = 0
    for rng in cases(25, seed, 5.0):
        grammar = random_grammar(rng)
        try:
            lark = lark_of(grammar)
        except LarkError:  # alternatives that collide once options are multiplied out
            continue
        read = reader_of(grammar, "ab ")
        write = writer_of(grammar, "ab ")
        for text in rng.sample(texts, 120):
            assert read(text) == lark(text), (grammar, text)
            if write(text):
                assert lark(text), (grammar, text)
        tried += 1
    assert tried


def test_a_reader_that_skips_nothing_is_caught() -> None:
    """A negative control: without skipped text the comparison with Lark fails."""
    grammar = 'start: "a" "b"\n%ignore " "'
    written = Recogniser(compile_grammar(grammar, "ab "))
    assert lark_of(grammar)("a b")
    assert not written([0, 2, 1])
    assert reader_of(as_source(grammar), "ab ")("a b")
