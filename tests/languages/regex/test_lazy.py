"""Lazy patterns, compared with `re.match`, and what look-aheads see of the text that follows."""

from __future__ import annotations

import re

import pytest

from maskdiff.languages.regex import RegexError, compile_followed, compile_pattern
from tests.helpers.fuzz import SECONDS, both_seeds, cases
from tests.helpers.regexes import (
    POOL,
    all_strings,
    compiled,
    nested_pattern,
    random_pattern,
    random_strings,
    time_limit,
)

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
        (r"/(\\/|\\\\|[^/])*?/", "/\\a", 7),  # `\\\\/` is tried before `[^/]`
        ("(b|a??b)*?(c|ab)", "abc", 7),
        ("a*?", "a", 4),
        ("(?=ab*?c)a.*", "abc", 5),
    ],
)
def test_lazy_patterns_match_as_re_match_does(pattern: str, symbols: str, longest: int) -> None:
    dfa, reference = compile_pattern(pattern, symbols, lazy=True), re.compile(pattern)
    verdicts = {text: dfa.accepts(text) for text in all_strings(symbols, longest)}
    assert verdicts == {text: taken(reference, text) for text in verdicts}
    assert any(verdicts.values())


def test_patterns_without_lazy_repetitions_do_not_change() -> None:
    assert compile_pattern("a*(b|bc)+", "abc", lazy=True) == compile_pattern("a*(b|bc)+", "abc")


@pytest.mark.slow
@both_seeds
def test_random_lazy_patterns_accept_what_re_match_takes_as_a_whole(seed: int) -> None:
    """Whatever the construct, and where repeated parts match the empty string."""
    differing = 0
    for rng in cases(10_000, seed, SECONDS / 2):
        nested = rng.random() < 0.5
        pattern = nested_pattern(rng, rng.randint(2, 5)) if nested else random_pattern(rng)
        pattern += "(?:)??"  # a lazy quantifier that changes nothing else
        symbols, reference = "ab" if nested else "".join(rng.sample(POOL, 5)), compiled(pattern)
        try:
            dfa = compile_pattern(pattern, symbols, lazy=True)
        except RegexError:
            continue
        assert reference is not None
        every = all_strings(symbols, 5 if nested else 1)
        try:
            with time_limit(1):
                for text in [*every, *random_strings(rng, dfa, symbols, 8)]:
                    assert dfa.accepts(text) == taken(reference, text), (pattern, symbols, text)
        except TimeoutError:
            continue
        differing += dfa != compile_pattern(pattern, symbols)
    assert differing > 0


@pytest.mark.parametrize(
    "pattern",
    ["[a-c]+(?=1)", "[a-c]+(?!1)", r"(?!a\b)[a-c]+", r"a\b", r"a\B", "a$", "a(?=b)b?", "ab?(?!b)"],
)
def test_a_followed_pattern_matches_if_some_following_text_allows_it(pattern: str) -> None:
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
