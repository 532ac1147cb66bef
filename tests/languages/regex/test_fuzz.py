"""Random regular expressions: the automaton accepts what `re` matches, whatever the construct."""

from __future__ import annotations

import itertools
import random
import re
import warnings
from collections import Counter

import pytest
from lark import Lark
from lark.exceptions import LarkError

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import compile_grammar
from maskdiff.languages.regex import Dfa, RegexError, compile_pattern, context_dependences
from maskdiff.languages.regex.parsing import parse_pattern
from maskdiff.languages.regex.tree import is_lazy
from tests.helpers.fuzz import SECONDS, both_seeds, cases
from tests.helpers.grammars import recognises
from tests.helpers.regexes import (
    POOL,
    all_strings,
    broken,
    compiled,
    random_pattern,
    random_set,
    random_strings,
    time_limit,
)

FLAGS = (0, 0, 0, re.I, re.M, re.S, re.A, re.I | re.A, re.I | re.M)
NOT_REGULAR = (
    "possessive quantifier", "atomic group", "backreference", "conditional group",
)  # fmt: skip


def symbols_of(rng: random.Random, count: int) -> str:
    extra = rng.choice(["", "ab", "1a", "\n"])
    return "".join(dict.fromkeys("".join(rng.sample(POOL, count)) + extra))


def disagreement(dfa: Dfa, reference: re.Pattern[str], strings: list[str]) -> str | None:
    """The first string that an automaton and `re` take differently."""
    wrong = (text for text in strings if dfa.accepts(text) != bool(reference.fullmatch(text)))
    return next(wrong, None)


@pytest.mark.slow
@both_seeds
def test_random_patterns_accept_what_re_matches(seed: int) -> None:
    """Also every invalid pattern is refused, and valid ones only if they are not regular."""
    seen: Counter[str] = Counter()
    compared = matched = 0
    for rng in cases(20_000, seed):
        pattern, flags, symbols = random_pattern(rng), rng.choice(FLAGS), symbols_of(rng, 7)
        reference = compiled(pattern, flags)
        try:
            dfa = compile_pattern(pattern, symbols, flags)
        except RegexError as error:
            named = next((name for name in NOT_REGULAR if name in str(error)), None)
            seen[named or ("refused" if reference else "invalid")] += 1
            continue
        assert reference is not None, pattern
        seen["compiled"] += 1
        strings = [*all_strings(symbols, 1), *random_strings(rng, dfa, symbols, 20)]
        try:
            with time_limit(1):
                found = disagreement(dfa, reference, strings)
        except TimeoutError:
            seen["slow in re"] += 1
            continue
        assert found is None, (pattern, flags, symbols, found)
        compared += len(strings)
        matched += sum(map(dfa.accepts, strings))
    print(f"seed {seed}: {dict(seen)}, {compared} strings compared, {matched} of them matched")
    assert matched > compared / 10
    assert seen["refused"] == 0
    assert seen["compiled"] > 0.8 * seen.total() - 5
    assert seen["slow in re"] < 0.01 * seen.total() + 2


@pytest.mark.slow
@both_seeds
def test_random_sets_hold_the_characters_that_re_finds(seed: int) -> None:
    """Sets of one pattern, with and without the case, over many characters."""
    symbols = [chr(code) for code in (*range(0x250), 0x3A3, 0x3C2, 0x3C3, 0x212A, 0x1E9E, 0xFB05)]
    for rng in cases(400, seed, SECONDS / 5):
        pattern, flags = random_set(rng), rng.choice(FLAGS)
        reference = compiled(pattern, flags)
        if reference is not None:
            found = compile_pattern(pattern, symbols, flags).first_characters()
            assert found == set(filter(reference.fullmatch, symbols)), (pattern, flags)


@pytest.mark.slow
@both_seeds
def test_a_broken_automaton_is_found(seed: int) -> None:
    """The comparison above would find one wrong state or move, in almost every automaton."""
    tried = found = 0
    for rng in cases(300, seed, SECONDS / 5):
        pattern, symbols = random_pattern(rng), symbols_of(rng, 4)
        reference = compiled(pattern)
        try:
            right = compile_pattern(pattern, symbols)
        except RegexError:
            continue
        assert reference is not None
        wrong = broken(right, rng)
        strings = [*all_strings(symbols, 2), *random_strings(rng, right, symbols, 100)]
        try:
            with time_limit(1):
                found += disagreement(wrong, reference, strings) is not None
        except TimeoutError:
            continue
        tried += 1
    assert found >= 0.9 * tried - 1


@pytest.mark.slow
@both_seeds
def test_operations_are_those_on_sets_of_strings(seed: int) -> None:
    for rng in cases(2_000, seed, SECONDS / 4):
        symbols = "ab\n" if rng.random() < 0.3 else "aB1"
        try:
            one, other = (compile_pattern(random_pattern(rng), symbols) for _ in range(2))
        except RegexError:
            continue
        every = list(all_strings(symbols, 4))
        left = {text for text in every if one.accepts(text)}
        right = {text for text in every if other.accepts(text)}
        repeated = {""}
        while more := {a + b for a in repeated for b in left if len(a + b) <= 4} - repeated:
            repeated |= more
        expected = {
            one.intersect(other): left & right,
            one.union(other): left | right,
            one.difference(other): left - right,
            one.complement(): set(every) - left,
            one.star(): repeated,
        }
        for dfa, strings in expected.items():
            assert {text for text in every if dfa.accepts(text)} == strings
        assert not left or one.first_characters() >= {text[0] for text in left if text}
        assert one.is_subset(other) <= (left <= right)
        assert one.complement().complement() == one
        assert one.union(other) == one.complement().intersect(other.complement()).complement()
        assert one.star().star() == one.star()


def matches_inside(pattern: str, before: str, text: str, after: str) -> bool:
    """Whether some match of `re` in a longer text is exactly `text`."""
    whole = compiled(f"(?:{pattern})(?={re.escape(after)}\\Z)")
    assert whole is not None
    return whole.match(before + text + after, len(before)) is not None


@pytest.mark.slow
@both_seeds
def test_context_dependence_of_look_arounds_is_decided_exactly(seed: int) -> None:
    """Every example is one of `re`, and without any no short context changes a short match."""
    symbols, contexts = "a1\n", list(all_strings("a1\n", 2))
    seen: Counter[str] = Counter()
    for rng in cases(5_000, seed, SECONDS / 2):
        pattern = random_pattern(rng)
        reference = compiled(pattern)
        looks_around = re.search(r"[$^]|\(\?[=!<]|\\[AZbB]", pattern)
        if reference is None or not looks_around or re.match(r"\(\?[a-z]+\)", pattern):
            continue  # flags of the whole pattern would not be at the beginning of `matches_inside`
        try:
            found = context_dependences(pattern, symbols)
        except RegexError:
            continue
        for one in found:
            alone = reference.fullmatch(one.example[1]) is not None
            assert alone == (one.effect == "forbids"), (pattern, one)
            assert matches_inside(pattern, *one.example) != alone, (pattern, one)
            seen[one.side, one.effect] += 1
        if not found:
            for _ in range(20):
                before, after = rng.choices(contexts, k=2)
                text = rng.choice(contexts)
                alone = reference.fullmatch(text) is not None
                assert matches_inside(pattern, before, text, after) == alone, (
                    pattern,
                    before,
                    text,
                    after,
                )
        seen["dependent" if found else "independent"] += 1
    print(f"seed {seed}: {dict(seen)}")
    assert seen["independent"]
    assert seen["dependent"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@both_seeds
def test_grammars_of_one_pattern_agree_with_lark(seed: int) -> None:
    """Lark takes the match that `re` prefers; so do we where quantifiers are lazy."""
    seen: Counter[str] = Counter()
    for rng in cases(1_000, seed, SECONDS / 2):
        pattern, symbols = random_pattern(rng), symbols_of(rng, 3)
        if re.search(r"[/\n]|\(\?x", pattern) or not pattern:
            continue
        grammar = f"start: /{pattern}/"
        try:
            ours = compile_grammar(grammar, symbols, accept_ambiguous=True)
            theirs = Lark(grammar, parser="earley", lexer="dynamic_complete")
        except GrammarError:
            seen["refused"] += 1
            continue
        reference = compiled(pattern)
        assert reference is not None
        lazy = is_lazy(parse_pattern(pattern, symbols).tree)
        for text in itertools.islice(all_strings(symbols, 3), 1, 120):
            preferred = reference.match(text)
            try:
                accepted = theirs.parse(text) is not None
            except LarkError:
                accepted = False
            assert accepted == (preferred is not None and preferred.end() == len(text))
            found, whole = recognises(ours, text), bool(reference.fullmatch(text))
            assert accepted <= whole
            assert found == (accepted if lazy else whole), (pattern, text)
            seen["strings"] += 1
            seen["accepted"] += accepted
    print(f"seed {seed}: {dict(seen)}")
    assert seen["strings"]


@pytest.mark.slow
@both_seeds
def test_quantifiers_inside_each_other_end(seed: int) -> None:
    """Either an automaton or one line that names the limit."""
    for rng in cases(200, seed, SECONDS / 5):
        pattern = rng.choice("ab.")
        for _ in range(rng.randint(2, 7)):
            part = rng.choice(["(?:{}){}", "(?:{}|b){}", "(?:a{}){}", "(?={})b{}", "(?:(?!{}).){}"])
            count = rng.choice(["*", "+", "{2}", "{3,30}", "{0,9}", f"{{{rng.randint(0, 200)}}}"])
            pattern = part.format(pattern, count)
        try:
            dfa = compile_pattern(pattern, "ab")
        except RegexError as error:
            named = re.search("more than [0-9]+ (positions|states|steps)", str(error))
        else:
            named = len(dfa.moves) <= 10_000
        assert named, pattern


def test_warnings_of_the_parser_are_not_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile_pattern("[[a]", "a[").accepts("[")
