"""Vocabulary, registry, splits, grammar options, parser and printing of the languages.

Properties are checked on every notation. `reader` is an independent parser by regular expressions.
"""

from __future__ import annotations

import itertools
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.config import LanguageConfig
from maskdiff.errors import CanvasError, ConfigError, ParseError
from maskdiff.languages import Language, Vocabulary, make_language, split_of
from maskdiff.languages.arithmetic.grammar import ambiguity
from maskdiff.languages.arithmetic.parser import MAX_SYMBOLS

REFERENCE = make_language(LanguageConfig())
VARIANTS = [
    LanguageConfig(),
    LanguageConfig(notation="infix", operators="+-*", max_int=123),
    LanguageConfig(operators="-", max_int=40, separator=","),
    LanguageConfig(operators="*+-", min_int=5, max_int=15, separator=""),
    LanguageConfig(operators="+", min_int=10, max_int=99, separator="_"),
]


def reader(text: str, config: LanguageConfig) -> int | None:
    """The value of a grammatical text, by rewriting innermost operations; None for others."""
    expression, equals, value = text.partition("=")
    signed = "-?" if "-" in config.operators else ""
    if not equals or not re.fullmatch(rf"0|{signed}[1-9][0-9]*", value):
        return None
    if not re.fullmatch(r"[0-9()+*,_-]+", expression):
        return None
    operators, sep = re.escape(config.operators), re.escape(config.separator)
    operand = "|".join(
        sorted((str(i) for i in range(config.min_int, config.max_int + 1)), key=len, reverse=True)
    )
    # Finished values are kept as <n> so that they cannot be mistaken for operands.
    argument = rf"(<-?\d+>|{operand})"
    if config.notation == "infix":
        form = rf"\({argument}([{operators}]){argument}\)"
    else:
        form = rf"\(([{operators}]){argument}{sep}{argument}\)"

    def step(match: re.Match[str]) -> str:
        op, a, b = match.group(2, 1, 3) if config.notation == "infix" else match.group(1, 2, 3)
        x, y = int(a.strip("<>")), int(b.strip("<>"))
        return f"<{x + y if op == '+' else x * y if op == '*' else x - y}>"

    while True:
        rewritten = re.sub(form, step, expression)
        if rewritten == expression:
            break
        expression = rewritten
    if re.fullmatch(r"<-?\d+>", expression):
        return int(expression[1:-1])
    return int(expression) if re.fullmatch(operand, expression) else None


def position_of_error(language: Language, text: str) -> int:
    with pytest.raises(ParseError) as caught:
        language.parse(text)
    return caught.value.position


def test_vocabulary_layout_is_the_reference_plus_digit() -> None:
    vocabulary = REFERENCE.vocabulary
    assert vocabulary.symbols == (
        "<PAD>",
        "<MASK>",
        "<BOS>",
        "<EOS>",
        *"0123456789()+*=",
        "<DIGIT>",
    )
    assert (vocabulary.pad, vocabulary.mask, vocabulary.bos, vocabulary.eos, vocabulary.digit) == (
        0,
        1,
        2,
        3,
        19,
    )
    assert vocabulary.specials == (0, 1, 2, 3)
    assert vocabulary.digit_ids == tuple(range(4, 14))
    assert vocabulary.inner_ids == tuple(range(4, 19))
    other = make_language(LanguageConfig(operators="-", separator=",")).vocabulary
    assert other.symbols[:19] == vocabulary.symbols[:19]
    assert other.symbols[19:] == ("-", ",", "<DIGIT>")
    assert (
        other.fingerprint()
        != vocabulary.fingerprint()
        == Vocabulary.of("0123456789()+*=").fingerprint()
    )


def test_encoding_and_decoding() -> None:
    v = REFERENCE.vocabulary
    assert v.decode(v.encode(" (+ 7\t5) = 12\n")) == "(+75)=12"
    assert v.encode("(+?5)", blanks=True)[2] == v.mask
    assert v.decode(v.encode("(+?5)", blanks=True)) == "(+?5)"
    assert v.encode("##", skeleton=True) == [v.digit, v.digit]
    for text, where in [("(+75)=1a2", 7), ("(+ ?5)", 2), ("#", 0), ("٣", 0)]:
        with pytest.raises(ParseError) as caught:
            v.encode(text)
        assert caught.value.position == where
        assert caught.value.text == text
    framed = [v.bos, *v.encode("(+75)=12"), v.eos, v.pad, v.pad]
    assert v.decode(framed) == "<BOS>(+75)=12<EOS><PAD><PAD>"
    assert v.decode(framed, "drop") == "(+75)=12"
    # A special token inside the string must not vanish: the sample would look valid.
    inside = [v.bos, *v.encode("(+75"), v.bos, *v.encode(")=12"), v.eos]
    assert v.decode(inside, "drop") == "(+75<BOS>)=12"
    assert not REFERENCE.parses(v.decode(inside, "drop"))
    assert v.decode([v.pad] * 3, "drop") == ""
    assert v.decode([], "drop") == ""
    assert v.decode([v.mask], "drop") == "?"


def test_a_vocabulary_that_breaks_the_layout_is_refused() -> None:
    for symbols in [
        ("0",),
        ("<MASK>", "<PAD>", "<BOS>", "<EOS>"),
        ("<PAD>", "<MASK>", "<BOS>", "<EOS>", "0", "0"),
    ]:
        with pytest.raises(ValueError):
            Vocabulary(symbols)
    for inner in [
        "#",
        "\n",
        "?\u00bf\u25a1\u2370",
    ]:  # `#` writes <DIGIT>, a line ends, no sign is left for a blank
        with pytest.raises(ValueError):
            Vocabulary.of(inner)
    assert Vocabulary.of("ab", digit=False).digit is None


def test_registry() -> None:
    assert isinstance(REFERENCE, Language)
    assert make_language().config == LanguageConfig()
    with pytest.raises(ConfigError, match="did you mean arithmetic"):
        make_language(LanguageConfig(language="arithmetics"))


def test_reference_examples() -> None:
    assert REFERENCE.holds("(+(*75)10)=45")
    assert REFERENCE.holds("( + ( * 7 5 ) 10 ) = 45")
    assert REFERENCE.parses("(+(*75)10)=46")
    assert not REFERENCE.holds("(+(*75)10)=46")
    tree = REFERENCE.parse("(+(*75)10)=46")
    assert (tree.value, tree.stated, tree.depth, tree.operators, tree.holds) == (
        45,
        46,
        2,
        "+*",
        False,
    )
    assert REFERENCE.operators("(*(+11)(*(+11)2))=8") == "*+*+"
    assert [(n.start, n.end) for n in tree.nodes] == [(4, 5), (5, 6), (2, 7), (7, 9), (0, 10)]
    assert REFERENCE.pretty("(+(*75)10)=45") == "(+ (* 7 5) 10) = 45"
    assert REFERENCE.skeleton("(+(*75) 10)=45") == "(+(*##)##)=##"
    assert REFERENCE.parse("(+110)=11").value == 11  # 1 and 10: there is no 11
    infix = make_language(VARIANTS[1])
    assert infix.pretty("((7*5)-100)=-65") == "((7 * 5) - 100) = -65"
    assert infix.holds("((7*5)-100)=-65")
    assert infix.operators("((7*5)-(1+1))=33") == "*-+"


@pytest.mark.parametrize(
    ("text", "position"),
    [
        *(
            ("", 0),
            ("(", 1),
            ("(7", 1),
            ("(+", 2),
            ("(+7", 3),
            ("(+75", 4),
            ("(+75)", 5),
            ("(+75)=", 6),
            ("7", 1),
            ("7=", 2),
        ),
        *(
            ("(+75)=012", 7),
            ("=1", 0),
            ("(+75)=1x", 7),
            ("(+75)=-1", 6),
            ("(+005)=5", 2),
            ("(+7)=7", 3),
            ("(+755)=1", 2),
        ),
        *(
            ("(+7(+11)=9", 8),
            ("11=11", 0),
            ("(+75)12", 5),
            ("(+12(+11))=1", 4),
            ("( + 7 5 ) ; 1", 5),
            ("(+(*75)11)=46", 7),
        ),
        *(("7=7=7", 3), (")", 0), ("7?", 1)),
    ],
)
def test_errors_have_positions(text: str, position: int) -> None:
    with pytest.raises(ParseError) as caught:
        REFERENCE.parse(text)
    assert caught.value.position == position
    assert caught.value.text == text
    assert "\n" not in str(caught.value)
    assert f"position {position}" in str(caught.value)


@pytest.mark.parametrize("config", VARIANTS)
def test_samples_round_trip(config: LanguageConfig) -> None:
    language = make_language(config)
    strings = language.sample_many(400, np.random.default_rng(0))
    for text in strings:
        tree = language.parse(text)
        assert tree.holds
        assert tree.value == reader(text, config)
        assert tree.depth <= config.max_depth
        assert language.min_symbols <= len(text) <= language.max_symbols
        assert language.parse(language.pretty(text)).nodes == tree.nodes
        assert language.vocabulary.decode(language.vocabulary.encode(text)) == text
        skeleton = language.vocabulary.encode(language.skeleton(text), skeleton=True)
        assert len(skeleton) == len(text)
        assert not set(skeleton) & set(language.vocabulary.digit_ids)


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS)
def test_every_single_symbol_mutation_is_decided_as_the_independent_reader_decides(
    config: LanguageConfig,
) -> None:
    language = make_language(config)
    alphabet = [language.vocabulary.symbols[i] for i in language.vocabulary.inner_ids]
    rng = np.random.default_rng(1)
    strings = sorted({s for s in language.sample_many(60, rng) if len(s) <= 24})[:10]
    for text in strings:
        mutants = {text[:i] + s + text[i + 1 :] for i in range(len(text)) for s in alphabet}
        mutants |= {text[:i] + text[i + 1 :] for i in range(len(text))}
        mutants |= {text[:i] + str(rng.choice(alphabet)) + text[i:] for i in range(len(text) + 1)}
        for mutant in mutants:
            value = reader(mutant, config)
            if value is None:
                assert 0 <= position_of_error(language, mutant) <= len(mutant), mutant
            else:
                assert language.parse(mutant).value == value, mutant
                assert language.holds(mutant) == (int(mutant.partition("=")[2]) == value)


def test_error_positions_are_where_the_grammar_breaks() -> None:
    """A text can be continued up to the reported position, but not with the symbol there."""
    config = LanguageConfig(min_int=0, max_int=2, max_depth=2, operators="+")
    language = make_language(config)
    operands = ["0", "1", "2"]
    shallow = [f"(+{a}{b})" for a in operands for b in operands]
    expressions = (
        operands + shallow + [f"(+{a}{b})" for a in operands + shallow for b in operands + shallow]
    )
    prefixes = {e[:i] for e in expressions for i in range(len(e) + 1)} | {
        f"{e}={v}" for e in expressions for v in ("", 0, 12)
    }
    checked = 0
    for symbols in itertools.product("012(+)=", repeat=5):
        text = "".join(symbols)
        if symbols.count("(") > 2:  # deeper than the list of expressions
            continue
        try:
            language.parse(text)
        except ParseError as error:
            good = error.position
            assert text[:good] in prefixes or "=" in text[:good], (text, good)
            if good < len(text) and "=" not in text[:good] and text[good] not in "0123456789":
                assert text[: good + 1] not in prefixes, (text, good)
            checked += 1
    assert checked > 10_000


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789()+*=-,_ ?#\u0663\x00a", max_size=40))
def test_any_text_parses_or_gives_a_position(text: str) -> None:
    symbols = "".join(text.split())
    if reader(symbols, REFERENCE.config) is None:
        assert 0 <= position_of_error(REFERENCE, text) <= len(symbols)
    else:
        assert REFERENCE.parses(text)


@pytest.mark.parametrize(
    "text",
    ["1" * 10**6, "(" * 10**6, "(+" * 5 * 10**5, " " * 10**6, "(+75)=" + "9" * 10**6, "=" * 10**6],
)
def test_a_million_characters_fail_fast(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ParseError) as caught:
        REFERENCE.parse(text)
    assert time.process_time() - start < 0.5
    assert len(str(caught.value)) < 400
    assert not REFERENCE.holds(text)
    assert REFERENCE.log_prob(text) == -np.inf


def test_deep_and_large_strings_meet_no_limit_of_the_interpreter() -> None:
    deep = (MAX_SYMBOLS - 10) // 4
    text = "(+" * deep + "11)" + "1)" * (deep - 1) + f"={deep + 1}"
    assert REFERENCE.holds(text)
    assert REFERENCE.parse(text) == REFERENCE.parse(text)
    assert REFERENCE.pretty(text).startswith("(+ (+ ")
    assert REFERENCE.log_prob(text) == -np.inf
    tens = 400
    product = "(*" * (tens - 1) + "1010)" + "10)" * (tens - 2) + "=1" + "0" * tens
    assert REFERENCE.holds(product)
    assert not REFERENCE.holds(product[:-1])
    assert REFERENCE.parses(product[:-1])
    longest = "0=" + "9" * (MAX_SYMBOLS - 2)
    assert REFERENCE.parses(longest)
    assert not REFERENCE.holds(longest)
    with pytest.raises(ParseError):
        REFERENCE.parse(longest + "9")


def brute_force_ambiguity(low: int, high: int) -> bool:
    runs = [f"{a}{b}" for a in range(low, high + 1) for b in range(low, high + 1)]
    return len(set(runs)) < len(runs)


@pytest.mark.slow
def test_ambiguity_is_decided_exactly() -> None:
    ranges = [(low, high) for low in range(0, 16) for high in range(low, 130, 3 if low < 3 else 11)]
    ranges += [(10, 99), (10, 100), (99, 130), (100, 140), (3, 30), (4, 40), (9, 95)]
    assert {brute_force_ambiguity(*r) for r in ranges} == {True, False}
    for low, high in ranges:
        clash = ambiguity(low, high)
        assert (clash is not None) == brute_force_ambiguity(low, high), (low, high)
        if clash is not None:
            (a, b), (c, d) = clash
            assert f"{a}{b}" == f"{c}{d}"
            assert a != c
            assert all(low <= x <= high for x in (a, b, c, d))
    start = time.process_time()
    assert ambiguity(10**5, 10**6 - 1) is None
    assert ambiguity(11, 10**6) is not None
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_int": 11}, "1 10 and 11 0 are both written 110; set separator"),
        ({"notation": "infix", "separator": ","}, "leave separator empty"),
        ({"notation": "postfix"}, "'prefix', 'infix'"),
        ({"separator": ";"}, "separator"),
        ({"operators": ""}, "operators"),
        ({"operators": "++"}, "at most once"),
        ({"operators": "+/"}, "operators"),
        ({"min_int": 9, "max_int": 3}, "min_int 9 and max_int 3"),
        ({"min_depth": 3, "max_depth": 2}, "min_depth 3"),
        ({"max_len": 6, "min_int": 100, "max_int": 900}, "raise max_len"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_language(LanguageConfig(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_lengths_out_of_reach_are_refused() -> None:
    assert (REFERENCE.min_symbols, REFERENCE.max_symbols) == (3, 62)
    assert [REFERENCE.check_length(n) for n in (3, 5, 24, 62)] == [3, 5, 24, 62]
    with pytest.raises(
        CanvasError, match="length 2 is impossible for arithmetic: its strings have 3 to 62 symbols"
    ):
        REFERENCE.check_length(2)
    with pytest.raises(
        CanvasError, match="no string has 4 symbols; the nearest lengths are 3 and 5"
    ):
        REFERENCE.check_length(4)
    small = make_language(LanguageConfig(max_depth=1))
    assert (
        small.max_symbols == max(map(len, small.sample_many(5000, np.random.default_rng(0)))) == 11
    )


def test_splits_are_stable_and_of_the_stated_sizes() -> None:
    assert [split_of(s) for s in ("(+(*75)10)=45", "7=7", "(*33)=9", "(+1 1)=2")] == [
        split_of(s) for s in ("( + (* 7 5) 10) = 45", " 7=7", "(*33)=9\n", "(+11)=2")
    ]
    names = [split_of(f"({i})") for i in range(20_000)]
    # Five standard deviations of a binomial: sqrt(20000 * 0.05 * 0.95) = 31.
    assert abs(names.count("validation") - 1000) < 155
    assert abs(names.count("test") - 1000) < 155
    assert [split_of(str(i)) for i in range(60)] == [split_of(str(i)) for i in range(60)]
    assert split_of("\udc80") in ("train", "validation", "test")
