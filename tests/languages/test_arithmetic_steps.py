"""Arithmetic in steps: grammar, draws and configurations, against trees."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from maskdiff.config import LanguageConfig
from maskdiff.data import draw_texts
from maskdiff.errors import CanvasError, ConfigError, DataError, ParseError
from maskdiff.languages import (
    HasValue,
    Language,
    Stepwise,
    make_language,
    restore_language,
    split_of,
)
from maskdiff.languages.arithmetic_steps import ArithmeticSteps
from tests.helpers.step_trees import (
    BASE,
    PLAIN,
    SIGNED,
    VARIANTS,
    depth_of,
    drawn,
    edits,
    numbers_of,
    read,
    reducts,
    value_of,
    well_formed,
)

# Grammar


def agree(language: ArithmeticSteps, texts: Iterator[str] | set[str]) -> int:
    """The number of texts that are strings; the parser, the grammar and the trees agree on each."""
    count = 0
    for text in texts:
        expected = well_formed(text, language.config.operators)
        assert language.parses(text) == expected, text
        assert (language.derivations(text) == 1) == expected, text
        count += expected
    return count


@pytest.mark.slow
def test_grammar_parser_and_trees_agree_on_every_short_string() -> None:
    """All texts of `(` and up to 6 symbols, and all within two edits of the shortest string."""
    language = ArithmeticSteps(replace(BASE, operators="+-"))
    short = (f"({''.join(rest)}>0" for n in range(7) for rest in product("+ 10)", repeat=n))
    assert agree(language, short) == 2 * 2  # two digits
    near = {text for one in {*edits("(+ 1 0)>1", "(+ 1)->")} for text in edits(one, "(+ 1)->")}
    assert 30 < agree(language, near) < len(near) / 4


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS[:3])
def test_grammar_parser_and_trees_agree_on_mutated_draws(config: LanguageConfig) -> None:
    language, rng = ArithmeticSteps(config), random.Random(0)
    alphabet = "".join(language.spec.symbols)
    near = {
        text for full in drawn(language, 12) if len(full) < 60 for text in edits(full, alphabet)
    }
    chosen = rng.sample(sorted(near), 800)
    assert 50 < agree(language, set(chosen)) < 750
    assert agree(language, set(drawn(language, 40, 1))) > 30


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ">",
            "5",
            "5>5",
            "(+ 1 2)",
            "(+ 1 2)>",
            ">3",
            "(+ 1 2)>3>",
            "(+ 1 2)>>3",
            "(+ 1 2)>3>3",
            " (+ 1 2)>3",
        ),
        *(
            "(+ 1 2)>3 ",
            "(+  1 2)>3",
            "(+ 1  2)>3",
            "( + 1 2)>3",
            "(+ 1 2 )>3",
            "(+ 1 2) >3",
            "(+ 1 2)> 3",
            "(+1 2)>3",
        ),
        *("(+ 1\t2)>3", "(+ 1 2)>3\n"),
        *(
            "(+ 01 2)>3",
            "(+ 00 2)>2",
            "(+ 1 2)>03",
            "(- 1 1)>-0",
            "(+ -0 1)>1",
            "(+ --1 1)>0",
            "(+ - 1 1)>0",
            "(+ -01 1)>0",
        ),
        *(
            "1(+ 1 2)>13",
            "(+ 1(+ 1 2) 5)>18",
            "(+ (+ 1 2)1 5)>36",
            "-(+ 1 2)>-3",
            "(+ 1 2)(+ 1 2)>33",
            "(+ 1 2)0>30",
        ),
        *(
            "(+ 1 2 3)>6",
            "(+ 1)>1",
            "(1 + 2)>3",
            "((+ 1 2))>3",
            "(/ 4 2)>2",
            "(+ ١ 2)>3",
            "(+ 1 2)=3",
            "(+ x 2)>3",
        ),
        *("(+ 1 2)>3>(+ 1 2)>3", "(+ 1 2)>(+ 1 2)"),
    ],
)
def test_no_strings(text: str) -> None:
    assert not SIGNED.parses(text)
    assert not SIGNED.holds(text)


@pytest.mark.parametrize(
    ("text", "signed", "plain"),
    [
        ("(+ -3 -4)>-7", True, False),
        ("(- 3 -4)>7", True, False),
        ("(* -3 -4)>12", True, False),
        ("(* -3 0)>0", True, False),
        ("(- 3 4)>-1", True, False),
        ("(+ -5 8)>3", True, False),
        ("(+ (- 3 4) 1)>(+ -1 1)>0", True, False),
        ("(* 3 4)>12", True, True),
        ("(+ (* 2 3) (* 4 5))>(+ (* 2 3) 20)>(+ 6 20)>26", True, True),
    ],
)
def test_numbers_may_be_negative_where_minus_is_an_operator(
    text: str, signed: bool, plain: bool
) -> None:
    assert (SIGNED.holds(text), PLAIN.holds(text)) == (signed, plain)
    assert (SIGNED.parses(text), PLAIN.parses(text)) == (signed, plain)
    assert (SIGNED.derivations(text), PLAIN.derivations(text)) == (int(signed), int(plain))


@pytest.mark.slow
def test_values_beyond_pythons_limit_are_refused() -> None:
    """Python converts no integers of more than 4,300 digits; a long value raises no other error."""
    long = "9" * 5000
    many = "(+ 1 " * 100_000 + "1" + ")" * 100_000
    for problem in (f"(* {long} 2)", f"(+ 1 {long})", many):
        for text in (f"{problem}>3", f"{problem}>(+ 1 2)>3", f"(+ 1 2)>{problem}>3"):
            assert not SIGNED.holds(text)
            assert SIGNED.first_wrong(text) == 1
            assert SIGNED.forced_ending(text) is None
        assert SIGNED.next_step(problem) is None
        with pytest.raises(ParseError):
            SIGNED.problem(problem)
    big = "9" * 2000
    assert SIGNED.holds(f"(* {big} {big})>{int(big) ** 2}")
    assert not SIGNED.holds(f"(* {big} {big})>{int(big) ** 2 + 1}")
    assert not SIGNED.holds(f"(+ 1 2)>{long}")


# Draws


@pytest.mark.parametrize("config", VARIANTS)
def test_every_draw_holds_within_all_bounds_and_reduces_in_reading_order(
    config: LanguageConfig,
) -> None:
    language = ArithmeticSteps(config)
    for text in drawn(language, 300):
        assert language.parses(text)
        assert language.holds(text)
        assert language.first_wrong(text) is None
        assert language.min_symbols <= len(text) <= config.max_len - 2 == language.max_symbols
        trees = [read(step, config.operators) for step in text.split(">")]
        problem = trees[0]
        assert isinstance(problem, tuple)
        assert 1 <= depth_of(problem) <= config.max_depth
        for before, after in zip(trees, trees[1:]):
            assert before is not None
            assert after == reducts(before)[0]
        assert trees[-1] == value_of(problem)
        assert all(
            abs(n) <= config.max_value
            for tree in trees
            if tree is not None
            for n in numbers_of(tree)
        )
        assert all(config.min_int <= n <= config.max_int for n in numbers_of(problem))


def test_the_distribution_is_arithmetic_with_an_operation_as_root() -> None:
    """Operators and depths of 6,000 draws without rejection.

    A share of 0.5 that is off by 0.05 fails in 99.9% of runs.
    """
    language = ArithmeticSteps(replace(BASE, max_depth=2, max_len=1024, max_value=10**9))
    trees = [read(text.split(">")[0]) for text in drawn(language, 6000)]
    plus, deep = (
        np.mean([test(tree) for tree in trees])
        for test in (lambda t: t[0] == "+", lambda t: depth_of(t) == 2)
    )
    assert abs(plus - 0.5) < 4.5 * 0.5 / 6000**0.5
    assert (
        abs(deep - 0.5 * (1 - 0.2 * 0.6)) < 4.5 * 0.5 / 6000**0.5
    )  # asked for, and an argument goes so deep
    digits = np.bincount([n for tree in trees for n in numbers_of(tree)], minlength=11)
    assert np.abs(digits / digits.sum() - 1 / 11).max() < 4.5 * (1 / 11 / digits.sum()) ** 0.5


@pytest.mark.slow
def test_all_depths_are_drawn_equally_often() -> None:
    """The depths of draws from 1..3 are the mean of those from 1..1, 2..2 and 3..3.

    A share that is off by 0.07 fails in 99.9% of runs.

    Were the depth drawn again with every rejected problem, that of depth 1 would be 0.1 more.
    """

    def shares(low: int, high: int) -> np.ndarray:
        language = ArithmeticSteps(
            replace(BASE, max_value=60, max_len=70, min_depth=low, max_depth=high)
        )
        problems = language.problems(4000, np.random.default_rng((low, high)))
        return (
            np.bincount([depth_of(read(problem) or 0) for problem in problems], minlength=4) / 4000
        )

    expected = np.mean([shares(d, d) for d in (1, 2, 3)], axis=0)
    assert np.abs(shares(1, 3) - expected).max() < 4.5 * 0.5 * (4 / 3 / 4000) ** 0.5


@pytest.mark.parametrize("config", VARIANTS)
def test_the_first_draws_do_not_depend_on_the_count(config: LanguageConfig) -> None:
    language = ArithmeticSteps(config)
    most = drawn(language, 700, 5)
    for count in (0, 1, 2, 5, 64, 300):
        assert drawn(language, count, 5) == most[:count]
        assert language.problems(count, np.random.default_rng(5)) == [
            text.split(">")[0] for text in most[:count]
        ]
    if config in VARIANTS[1:4]:  # the others have no space for deeper ones
        deeper = language.problems(40, np.random.default_rng(5), 1)
        assert language.problems(7, np.random.default_rng(5), 1) == deeper[:7]
    assert language.sample(np.random.default_rng(5)) == most[0]
    assert drawn(language, 20, 6) != most[:20]


@pytest.mark.parametrize("config", VARIANTS[1:4])
def test_deeper_problems_have_exactly_that_many_levels_more_and_fit(config: LanguageConfig) -> None:
    language = ArithmeticSteps(config)
    for deeper in (0, 1):
        for problem in language.problems(25, np.random.default_rng(1), deeper):
            tree = read(problem, config.operators)
            assert tree is not None
            assert language.problem(problem) == problem
            assert language.depth(problem) == depth_of(tree)
            if deeper:
                assert depth_of(tree) == config.max_depth + deeper
            else:
                assert depth_of(tree) <= config.max_depth
            text = ">".join((problem, *language.solution(problem)))
            assert language.holds(text)
            assert len(text) <= language.max_symbols
            assert (
                max(abs(n) for step in text.split(">") for n in numbers_of(read(step) or 0))
                <= config.max_value
            )


def test_bounds_without_a_problem_raise_a_one_line_error() -> None:
    tight = ArithmeticSteps(replace(BASE, min_int=1000, max_int=1000, max_len=18))
    with pytest.raises(
        DataError,
        match=r"no problem of depth 1 to 6 .* fits: raise max_len or max_value, or lower max_int$",
    ):
        tight.sample(np.random.default_rng(0))
    for deeper in (1, 40, 10**9):
        with pytest.raises(
            DataError, match=rf"^a problem of depth {6 + deeper} has at least .* max_len 64 .* 62: "
        ):
            PLAIN.problems(1, np.random.default_rng(0), deeper)
    with pytest.raises(DataError, match="a problem of depth 2 has at least 23 symbols"):
        ArithmeticSteps(replace(BASE, max_depth=1, max_len=24)).problems(
            1, np.random.default_rng(0), 1
        )
    just = ArithmeticSteps(replace(BASE, max_int=0, max_depth=1, max_len=25))
    assert just.problems(1, np.random.default_rng(0), 1)[0].startswith("(")


@pytest.mark.slow
def test_lengths() -> None:
    probs = SIGNED.length_probs()
    assert probs.shape == (SIGNED.max_symbols + 1,)
    assert probs.sum() == pytest.approx(1)
    assert all(probs[len(text)] > 0 for text in drawn(SIGNED, 200, 9))
    assert SIGNED.min_symbols == len("(+ 0 0)>0") == SIGNED.check_length(9)
    assert np.isfinite(SIGNED.length_log_prob(9))
    assert SIGNED.length_log_prob(8) == SIGNED.length_log_prob(SIGNED.max_symbols + 1) == -np.inf
    for length in (-1, 0, 8, SIGNED.max_symbols + 1):
        with pytest.raises(CanvasError, match="the nearest length"):
            SIGNED.check_length(length)


def test_a_problem_is_on_one_side_of_the_split() -> None:
    """The string follows from the problem, so no problem that is trained on is held out."""
    sides = {
        split: {
            text.split(">")[0] for text in draw_texts(SIGNED, 300, np.random.default_rng(i), split)
        }
        for i, split in enumerate(("train", "validation", "test"))
    }
    assert (
        not sides["train"] & sides["validation"]
        | sides["train"] & sides["test"]
        | sides["validation"] & sides["test"]
    )
    for split, problems in sides.items():
        assert all(
            split_of(">".join((problem, *SIGNED.solution(problem)))) == split
            for problem in problems
        )


# Language, configuration


def test_it_is_a_language_with_steps_and_truth() -> None:
    assert isinstance(SIGNED, Language)
    assert isinstance(SIGNED, HasValue)
    assert isinstance(SIGNED, Stepwise)
    assert isinstance(make_language(BASE), ArithmeticSteps)
    for config in (LanguageConfig(), LanguageConfig(language="json")):
        assert not isinstance(make_language(config), Stepwise)
    assert SIGNED.separator == ">"
    assert (
        SIGNED.vocabulary.fingerprint() == PLAIN.vocabulary.fingerprint()
    )  # the same symbols for all operators
    assert SIGNED.pretty("(+ 1 2)>4") == "(+ 1 2)>4"


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS)
def test_a_checkpoint_restores_the_language(config: LanguageConfig) -> None:
    language = ArithmeticSteps(config)
    state = json.loads(json.dumps(language.state()))
    other = restore_language(config, state)
    assert isinstance(other, ArithmeticSteps)
    assert other.config == config
    assert other.state() == language.state()
    assert other.lark_grammar() == language.lark_grammar()
    assert other.length_probs().tolist() == language.length_probs().tolist()
    assert other.vocabulary.fingerprint() == language.vocabulary.fingerprint()
    assert drawn(other, 20) == drawn(language, 20)
    assert (other.min_symbols, other.max_symbols) == (language.min_symbols, language.max_symbols)
    assert isinstance(
        restore_language(config, {}), ArithmeticSteps
    )  # an old or foreign state: counted again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"notation": "infix"}, "prefix notation"),
        ({"separator": ","}, "prefix notation"),
        ({"operators": ""}, "one or more of"),
        ({"operators": "++"}, "at most once"),
        ({"operators": "+/"}, "'\\+/' are not allowed"),
        ({"min_int": 11}, "min_int 11 and max_int 10 leave no choice"),
        ({"min_depth": 4, "max_depth": 3}, "min_depth 4 and max_depth 3 leave no choice"),
        ({"min_depth": 0, "max_depth": 0}, "at least one operation"),
        ({"max_len": 15}, "needs 16 or more"),
        ({"max_value": 9}, "max_int 10 is above max_value 9"),
        ({"validity": "json:loads"}, "validity is for a language of your own"),
        ({"accept_ambiguous": True}, "accept_ambiguous is for a language of your own"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_language(replace(BASE, **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
