"""Lazy repetitions that end as early as they can, compared with `re.match`, and what look-aheads see of a text."""

from __future__ import annotations

import random
import re

import pytest
from fuzz_helpers import both_seeds, cases
from regex_helpers import all_strings, compiled, random_pattern, random_strings, time_limit

from maskdiff.languages.regex import RegexError, compile_followed, compile_pattern

ESCAPED_STRING = r'".*?(?<!\\)(\\\\)*?"'
PYTHON_STRING = r"""[uf]?r?("(?!"").*?(?<!\\)(\\\\)*?"|'(?!'').*?(?<!\\)(\\\\)*?')"""


def taken(pattern: re.Pattern[str], text: str) -> bool:
    """Whether `re.match` takes the whole of a text."""
    found = pattern.match(text)
    return found is not None and found.end() == len(text)


@pytest.mark.parametrize(
    ("pattern", "symbols", "longest"),
    [
        ('".*?"', '"ab', 7),
        (ESCAPED_STRING, '"a\\', 9),
        (PYTHON_STRING, "\"\\r'", 6),
        ('("""|x).*?(?<!\\\\)(\\\\\\\\)*?"""', '"\\x', 9),
        (r"/\*(.|\n)*?\*/", "/*a\n", 7),
        ("(a*?b)*c", "abc", 7),
        ("(a*?b|c)+?", "abc", 7),
        ("a{1,3}?b?", "ab", 6),
        ("(ab|a)??b*", "ab", 6),
        ("(ab|a)*?bc?", "abc", 7),
        ("a+?b|a*c", "abc", 6),
        ("a*?", "a", 4),
        ("(?=ab*?c)a.*", "abc", 5),
    ],
)
def test_a_lazy_repetition_ends_where_what_follows_it_matches(pattern: str, symbols: str, longest: int) -> None:
    dfa, reference = compile_pattern(pattern, symbols, lazy=True), re.compile(pattern)
    verdicts = {text: dfa.accepts(text) for text in all_strings(symbols, longest)}
    assert verdicts == {text: taken(reference, text) for text in verdicts}
    assert any(verdicts.values())


def test_where_copies_differ_in_length_more_is_accepted_than_re_takes() -> None:
    r"""`re` tries `\\\\/` before `[^/]`, and so passes over a slash; both are possible here."""
    pattern, symbols = r"/(\\/|\\\\|[^/])*?/", "/\\a"
    dfa, full, reference = compile_pattern(pattern, symbols, lazy=True), compile_pattern(pattern, symbols), re.compile(pattern)
    texts = list(all_strings(symbols, 7))
    assert all(dfa.accepts(text) for text in texts if taken(reference, text))
    assert all(full.accepts(text) for text in texts if dfa.accepts(text))
    assert any(dfa.accepts(text) and not taken(reference, text) for text in texts)


def test_patterns_without_lazy_repetitions_do_not_change() -> None:
    assert compile_pattern("a*(b|bc)+", "abc", lazy=True) == compile_pattern("a*(b|bc)+", "abc")


@both_seeds
def test_random_patterns_accept_what_re_takes_and_no_more_than_re_matches_fully(seed: int) -> None:
    tried = different = 0
    for rng in cases(2_000, seed, 3.0):
        pattern = lazy_pattern(rng)
        reference = compiled(pattern)
        if reference is None:
            continue
        try:
            dfa, full = compile_pattern(pattern, "abk1 \n", lazy=True), compile_pattern(pattern, "abk1 \n")
        except RegexError:
            continue
        tried, different = tried + 1, different + (dfa != full)
        with time_limit(20.0):
            for text in random_strings(rng, full, "abk1 \n", 10):
                assert full.accepts(text) or not dfa.accepts(text), (pattern, text)
                assert dfa.accepts(text) or not taken(reference, text), (pattern, text)
    assert tried
    assert different


def lazy_pattern(rng: random.Random) -> str:
    """A random pattern with a lazy repetition in front of another one."""
    repeated = rng.choice([".", "[^a]", "(ab|k)", "(?:a|1)", "\\w", "(a?b)"])
    return f"{random_pattern(rng)}{repeated}{rng.choice(['*', '+', '{1,3}', '{0,2}', ''])}?(?:{random_pattern(rng)})"


@pytest.mark.parametrize(
    "pattern", ["[a-c]+(?=1)", "[a-c]+(?!1)", r"(?!a\b)[a-c]+", r"a\b", r"a\B", "a$", "a(?=b)b?", "ab?(?!b)"]
)
def test_a_pattern_that_is_followed_matches_what_some_text_behind_it_allows(pattern: str) -> None:
    reference = re.compile(pattern)
    followed, alone = compile_followed(pattern, "abc1 "), compile_pattern(pattern, "abc1 ")
    behind = list(all_strings("ab1 ", 2))
    for text in all_strings("ab1", 3):
        assert followed.accepts(text) == any(found(reference, text, more) for more in behind), text
        assert alone.accepts(text) == bool(reference.fullmatch(text)), text


def found(pattern: re.Pattern[str], text: str, more: str) -> bool:
    """Whether a pattern matches `text` exactly, in front of `more`."""
    inside = re.compile(f"(?:{pattern.pattern})(?={re.escape(more)}\\Z)")
    match = inside.match(text + more)
    return match is not None and match.end() == len(text)
