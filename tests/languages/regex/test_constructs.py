"""Regular expressions as automata: each construct as `re.fullmatch` reads it; refused patterns."""

from __future__ import annotations

import re
import sys
from importlib.resources import files

import pytest
from lark import Lark

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import read_grammar
from maskdiff.languages.regex import (
    DEAD,
    Dfa,
    RegexError,
    compile_followed,
    compile_pattern,
    context_dependences,
    everything,
)
from maskdiff.languages.regex.parsing import parse_pattern
from maskdiff.languages.regex.unparsing import parser, unparse
from tests.helpers.regexes import all_strings

PRINTABLE = "".join(map(chr, range(32, 127))) + "\n\t"


@pytest.mark.parametrize(
    ("pattern", "accepted", "rejected"),
    [
        (r"[^\W\D]+", ["7", "789", "0"], ["y", "y03", "a1", "_"]),
        (r"[\W\D]", ["a", "-", " ", "_"], ["1"]),
        (r"[\S\D]", ["1", "a", " "], []),
        (r"(?i:[\Wa])", ["a", "A", "-"], ["b", "1"]),
        (r"(?i:[^\Wa])", ["b", "1", "_"], ["a", "A", "-"]),
        ("fn{}", ["fn{}"], ["f", "fn"]),
        (r"[a-e]+\(\){}", ["cdb(){}"], ["cdb("]),
        ("@[ab]+{", ["@a{", "@ab{"], ["@a"]),
        ("x{2, 3}", ["x{2, 3}"], ["xx", "xxx"]),
        ("x{,2}y{,}", ["", "xx", "xy", "yyy"], ["xxx", "x{,2}y{,}"]),
        (r"\\begin\{", ["\\begin{"], ["begin{"]),
        (r"C:\\Program", ["C:\\Program"], ["C:Program"]),
        (r"[({\[]", ["(", "{", "["], ["]", ")"]),
        (r"[^\[]", ["a", "]"], ["["]),
        ("[a[]", ["a", "["], ["b"]),
        ("[(?=]", ["(", "?", "="], ["x"]),
        ("[]a]", ["]", "a"], ["[", "]a"]),
        ("[^]1]", ["a", "["], ["]", "1"]),
        ("[a-]b", ["ab", "-b"], ["bb"]),
        ("1(?#why)2", ["12"], ["1(?#why)2"]),
        (r"\061\x31\u0031", ["111"], ["061"]),
        ("(?x) a b # c\n | \\  d", ["ab", " d"], ["a b", "d"]),
        ("(?P<year>[0-9]{4})-(?:1[0-2]|0[1-9])", ["1999-12"], ["1999-13", "999-12"]),
        ('".*?(?<!\\\\)(\\\\\\\\)*?"', ['""', '"a"', '"\\""', '"\\\\"'], ['"', '"\\"', '"\n"']),
        ("/(?!/)(\\\\/|\\\\\\\\|[^/])*?/[imslux]*", ["/a/", "/\\//i"], ["//", "//a/", "/a/b"]),
        ("(?!(?:if|else)\\b)[a-z]+", ["i", "iff", "elsewhere"], ["if", "else", ""]),
        ("(?=.*[a-z])(?=.*[0-9]).{3,4}", ["a1b", "aa11"], ["abc", "123", "a1", "aaa11"]),
    ],
)
def test_constructs_that_are_easily_misread(
    pattern: str, accepted: list[str], rejected: list[str]
) -> None:
    dfa = compile_pattern(pattern, PRINTABLE)
    for text in accepted:
        assert re.fullmatch(pattern, text)
        assert dfa.accepts(text)
    for text in rejected:
        assert not re.fullmatch(pattern, text)
        assert not dfa.accepts(text)


PATTERN_TEXT = r"""
a b (a|b)*b a{2} a{1,2} a{,2} a{2,} a{0} a*?b a+? a??b a{1,2}?b (?:a?){3} (a*)*b (?:|a){2,3}b
(?:a|){2,} .* (?s:.*) (?s:a.)b. [^a]+ \w\W \d\D \s\S (?a:\w)+ (?i:a)b (?i:A(?-i:a)) (?i)[^A]
[^\n]* ^a$ ^$ a$\n? a$b a\Z\n? a\n\Z (?m:^a$\n?)* (?m:(^|b)a$)\n* a^b \Aa(\A)? (?m)^.*$\n^.*$ $^
(?:^a|b)+ (?:a$|\n)* \ba+\b \Ba \b \B a\b1 a\B1 (?:\b\w+\b\W*)* (?s:.*)\b(?s:.*) (?a:\bé) \b\B
(?:a|\B\n)* (?=a).* (?!a).* (?=ab)\w+ (?!ab).* (?:(?!ab).)* (?:(?=a)|b)* (?:(?=a)..|b)+
(?=.*a)(?=.*b)(?s:.*) a(?=b) a(?!b) (?=(?=a).b).. (?!(?!a)).* (?!a(?!b)).* (?=a*(?!b)).* (?=)a
(?!)a (?:(?!(?:a|b)*1).)* (?=a*$)(?=(?:aa)*$).* .*(?<=a) .*(?<!a) .*(?<=a)b (?:a|(?<=a)b)* (?<=a)b
(?<!a)b (?:.(?<!ab))* (?<=^a)b a(?<=^a)b (?s:.*)(?<=\n)a .*(?<=(?<!a)b)a* (?:.(?<!(?<!a)b))*
.*(?<!(?<=a)b)1 (?<=)a (?<!)a (?<!^)a a(?<=a|b)b (?:(?<=b)a|[ab](?<!bb))* .*(?<=a(?=b)).*
.*(?<!a(?=b)).* (?:.(?<=\b.))* (?s:.*)(?<=\b.)(?s:.*) (?=a(?<=a)b).* (?=(?<=a)b)b a(?=(?<=a)b)b
(?=\w+\b1?).* (?!\w+\b\n).* (?:(?=\ba)a|b(?!\b))* (?:.(?!(?<=a)b))* (?:(?<!a(?!b)).)*
(?=a(?!b|(?<=ba))).* a|b a||b | a| (?:a|ab)(?:c|b1)? (a|b|)+?1
"""
PATTERNS = PATTERN_TEXT.split()


@pytest.mark.parametrize("pattern", [*PATTERNS, '".*?"', "1?b|1a", "(?:|a)+b", "(a|ab)(c|b1)?"])
def test_lazy_patterns_are_taken_as_re_match_takes_them(pattern: str) -> None:
    """A lazy quantifier that changes nothing else makes every pattern lazy."""
    flags = re.match(r"(\(\?[a-z]+\))?", pattern).end()  # type: ignore[union-attr]
    pattern = f"{pattern[:flags]}(?:{pattern[flags:]})(?:)??"
    dfa, reference = compile_pattern(pattern, 'ab1\n"', lazy=True), re.compile(pattern)
    for text in all_strings('ab1\n"', 4):
        found = reference.match(text)
        assert dfa.accepts(text) == (found is not None and found.end() == len(text)), text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_short_string_is_taken_as_re_takes_it(pattern: str) -> None:
    symbols = "ab1\né"
    dfa, reference = compile_pattern(pattern, symbols), re.compile(pattern)
    for text in all_strings(symbols, 4):
        assert dfa.accepts(text) == bool(reference.fullmatch(text)), text


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern",
    [
        "s",
        "k",
        "ß",
        "ı",
        "İ",
        "µ",
        "[i-k]",
        "[^ſ]",
        "\\w",
        "[^\\Wk]",
        "[ǅά]",
        "[\\d\u0390]",
        ".",
        "\\s",
    ],
)
@pytest.mark.parametrize("flags", [0, re.IGNORECASE, re.IGNORECASE | re.ASCII])
def test_one_character_is_taken_as_re_takes_it(pattern: str, flags: int) -> None:
    """Characters of the basic plane and some beyond: few of the ideographs and syllables of
    0x3400 to 0xA000 and 0xAC00 to 0xD800, which have no case."""
    few = (*range(0x3400, 0xA000, 97), *range(0xAC00, 0xD800, 97))
    all_of = (*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x10800))
    symbols = [chr(code) for code in (*all_of, *few)]
    reference = re.compile(pattern, flags)
    found = compile_pattern(pattern, symbols, flags).first_characters()
    assert found == {symbol for symbol in symbols if reference.fullmatch(symbol)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(a)\1", r"a backreference '\1' is not regular"),
        ("(?P<n>a)(?P=n)", "a backreference"),
        ("(a)?(?(1)b|c)", "a conditional group '(?(1)b|c)' is not supported"),
        ("a(?", "unexpected end of pattern"),
        ("(", "missing ), unterminated subpattern at position 0"),
        ("a**", "multiple repeat"),
        ("[b-a]", "bad character range b-a"),
        ("\\p{L}", "bad escape \\p"),
        ("(?<=a*)b", "look-behind requires fixed-width pattern"),
        ("(?L:a)", "bad inline flags"),
        ("a{99999999999}", "the repetition number is too large"),
        ("(" * 5000 + ")" * 5000, "nested too deeply"),
        ("a" * 100_001, "100001 characters; at most 100000"),
        ("((a{100}){100}){100}", "more than 10000 positions"),
        ("(?:){10001}", "more than 10000 positions"),
        ("(?=a{6000})(?=b{6000})", "more than 10000 positions"),
        ("(a|b)*a(a|b){20}", "more than 10000 states"),
        (".*(?<=a.{20})", "more than 10000 states"),
        ("(?=.*a)(?=.*b)(?=.*1)(?=.*(?:a|b).{7}).*", ""),
        ("(?:a(?=b)|" * 1500 + "a" + ")*" * 1500, "nested too deeply"),
        ("(a?){3000}", "more than 1500000 steps"),
        ("(?!" * 200 + ".*a" + ")" * 200, ""),
        ("(?:a" * 40 + ")*" * 40, ""),
    ],
)
def test_patterns_that_do_not_compile_raise_a_one_line_error(pattern: str, message: str) -> None:
    """What is too large is refused before the work is done (or, without a message, read)."""
    try:
        compile_pattern(pattern, "ab123")
    except RegexError as error:
        line = str(error)
    else:
        line = ""
    assert message in line
    assert line or not message
    assert "\n" not in line


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not know these constructs")
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a++a", "a possessive quantifier 'a++' is not supported"),
        ("a?+a", "a possessive quantifier 'a?+'"),
        ("(?:ab|c){1,2}+a", "a possessive quantifier '(?:ab|c){1,2}+'"),
        ("(?>a|bc)c", "an atomic group '(?>a|bc)'"),
        ("(?=b(?>a))", "an atomic group '(?>a)'"),
    ],
)
def test_irregular_constructs_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(RegexError, match=re.escape(message)):
        compile_pattern(pattern, "abc")


@pytest.mark.slow
def test_deep_nesting_is_refused_by_every_function() -> None:
    """Also between the depth where Python's parser ends and the depth where the rest does."""
    for depth in range(0, 400, 20):
        pattern = "(?:a(?=" * depth + "b" + ")?)" * depth + "*"
        for function in (compile_pattern, context_dependences, compile_followed):
            try:
                function(pattern, "ab")
            except RegexError as error:
                refused = str(error)
    assert "nested too deeply" in refused


def test_flags_are_letters_or_those_of_re() -> None:
    assert compile_pattern("a.", "aA\n", "is") == compile_pattern("a.", "aA\n", re.I | re.S)
    assert compile_pattern("a.", "aA\n", ["i"]).accepts("Aa")
    with pytest.raises(RegexError, match="'q' is no flag"):
        compile_pattern("a", "a", "q")
    with pytest.raises(RegexError, match="LOCALE"):
        compile_pattern("a", "a", "L")
    with pytest.raises(ValueError, match="single characters"):
        compile_pattern("a", ["ab"])


def test_automata_are_minimal_and_canonical() -> None:
    for one, other in [
        ("a|ab|abb", "ab{0,2}"),
        ("(a*b*)*", "[ab]*"),
        ("(?!a).+", "b.*"),
        ("a*?b??", "a*b?"),
    ]:
        assert compile_pattern(one, "ab") == compile_pattern(other, "ab")
    dfa = compile_pattern("[a-c]x|[d-f]y*", "fedcbayxz")
    assert dfa.classes == ("abc", "def", "x", "y", "z")
    assert len(dfa.moves) == 4
    assert dfa.moves[0] == (1, 2, DEAD, DEAD, DEAD)
    nothing = compile_pattern("q", "ab")
    assert nothing == Dfa(("ab",), ((DEAD,),), frozenset())
    assert nothing.is_empty
    assert not nothing.first_characters()
    assert compile_pattern("", "") == everything("")
    for pattern in PATTERNS:
        dfa = compile_pattern(pattern, "ab1\né")
        rows = {(row, state in dfa.accepting) for state, row in enumerate(dfa.moves)}
        assert dfa.is_empty or len(rows) == len(dfa.moves)  # states with equal rows are equal


def test_automata_of_other_alphabets_are_not_combined() -> None:
    with pytest.raises(ValueError, match="different alphabets"):
        compile_pattern("a", "ab").union(compile_pattern("a", "a"))


def test_properties_and_operations() -> None:
    blanks, name = compile_pattern(" +", " ab"), compile_pattern("a[ab]?", " ab")
    assert not blanks.accepts("")
    assert blanks.star() == compile_pattern(" *", " ab")
    assert name.union(blanks).first_characters() == {" ", "a"}
    assert name.is_subset(compile_pattern("[ab]+", " ab"))
    assert not blanks.is_subset(name)
    assert not name.accepts("aé")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("abc", []),
        ("(?=a)a", []),
        ("x\\ba|a.(?<=b)", []),
        ("(?:(?!-->).)*-->", []),
        ('".*?(?<!\\\\)(\\\\\\\\)*?"', []),
        ("a(?=b)", [("(?=b)", "after", "allows")]),
        ("a(?=b)(?=b)", [("(?=b)", "after", "allows")]),
        ("a(?=b)(?!b)", []),
        ("a(?=b)(?=[ab])", [("(?=b), (?=[ab])", "after", "allows")]),
        ("a(?!b)", [("(?!b)", "after", "forbids")]),
        ("(?!ab).b?", [("(?!ab)", "after", "forbids")]),
        ("(?<=-)a", [("(?<=\\-)", "before", "allows")]),
        ("a\\b", [("\\b", "after", "forbids")]),
        ("\\Ba", [("\\B", "before", "allows")]),
        ("\\ba\\b", [("\\b", "before", "forbids"), ("\\b", "after", "forbids")]),
        ("^a|b$", [("^", "before", "forbids"), ("$", "after", "forbids")]),
        ("(?=a(?<=-a)b?)a", [("(?=a(?<=\\-a)b?)", "before", "allows")]),
        ("a(?!$)", [("(?!$)", "after", "allows")]),
        ("(?m)(?<!.)^a", [("(?<!.)", "before", "forbids"), ("^", "before", "forbids")]),
        ("[?](?![a-z])", [("(?![a-z])", "after", "forbids")]),
    ],
)
def test_look_arounds_that_see_beyond_a_match(
    pattern: str, expected: list[tuple[str, str, str]]
) -> None:
    found = context_dependences(pattern, PRINTABLE)
    assert [(one.construct, one.side, one.effect) for one in found] == expected


def test_text_seen_beyond_a_match_is_shown_by_an_example() -> None:
    (found,) = context_dependences('"(?!"")[^"]*"', '"a')
    assert found.example == ("", '""', '"')
    assert str(found) == (
        "the negative look-ahead '(?!\"\")' can see beyond the end of the match: "
        "'\"\"' matches alone, but not before '\"'"
    )


@pytest.mark.parametrize(
    "pattern", [*PATTERNS, "(?i:a|b{2,}?)", "(a|b)c|(?:ac|ad)*", "[^]\\-\\w-]", "a{2}{", "(?s-i:.)"]
)
def test_patterns_are_written_back_as_they_are_read(pattern: str) -> None:
    items = parser.parse(pattern)
    assert compile_pattern(unparse(items), "abcdé1\n", items.state.flags) == compile_pattern(
        pattern, "abcdé1\n"
    )


def test_the_terminals_of_lark_compile() -> None:
    """All of them, exactly; the look-arounds that see beyond their terminal are known."""
    symbols = PRINTABLE + "\r\féßж"
    seeing = set()
    for name in ("common", "python", "lark"):
        text = files("lark").joinpath(f"grammars/{name}.lark").read_text(encoding="utf-8")
        names = sorted(set(re.findall(r"^([A-Z]\w+)(?:\.\d+)?\s*:", text, re.MULTILINE)))
        imports = "\n".join(f"%import {name}.{terminal}" for terminal in names)
        grammar = Lark(f"start: {' | '.join(names)}\n{imports}", parser="earley", lexer="dynamic")
        assert len(grammar.terminals) > 5
        for terminal in grammar.terminals:
            pattern = terminal.pattern.to_regexp()
            assert not compile_pattern(pattern, symbols).is_empty
            seeing |= {
                (terminal.name, one.construct) for one in context_dependences(pattern, symbols)
            }
    assert seeing == {
        ("DEC_NUMBER", "(?![1-9])"), ("OP", "(?![a-z])"),
        ("STRING", '(?!"")'), ("STRING", "(?!'')"),
    }  # fmt: skip


def test_a_grammar_names_the_look_around_that_sees_beyond_its_terminal() -> None:
    with pytest.raises(
        GrammarError, match=r"the look-ahead .* can see beyond the end of the match"
    ):
        read_grammar('start: /a(?=b)/ "b"', "ab")
    assert read_grammar("start: /(?=a)[ab]/", "ab").rules[-1].body == (frozenset("a"),)


def test_the_tree_holds_each_set_and_look_around_once() -> None:
    """A repetition then costs no more than its states."""
    read = parse_pattern("(?:\\bab(?!c)){3}a(?!c)", "abc")
    assert [construct.text for construct in read.constructs] == ["\\b", "(?!c)"]
