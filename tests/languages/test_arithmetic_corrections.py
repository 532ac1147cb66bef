"""The language of corrections: draws, grammar, pieces and configurations, against trees."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import chain, product

import numpy as np
import pytest

from maskdiff.config import LanguageConfig
from maskdiff.errors import CanvasError, ConfigError
from maskdiff.languages import (
    ArithmeticCorrections,
    HasValue,
    Language,
    Stepwise,
    Vocabulary,
    make_language,
    pieces,
    restore_language,
    split_of,
    text,
)
from maskdiff.languages.arithmetic_corrections import FEEDBACK, feedback_text
from maskdiff.languages.arithmetic_corrections import language as forms
from maskdiff.languages.arithmetic_corrections.language import LEAST_STEPS
from maskdiff.languages.arithmetic_corrections.slips import taken_back, write_answer
from maskdiff.languages.byte_pairs import train_merges
from tests.helpers.corrections import (
    BASE,
    LANGUAGE,
    MARKS,
    UNSIGNED,
    VARIANTS,
    attempts,
    bounds_of,
    drawn,
    feedback_by_hand,
    judged_by_trees,
    operations,
    tree_of,
)
from tests.helpers.grammars import accepts
from tests.helpers.step_trees import depth_of, edits, numbers_of, read


def cut_by_hand(string: str) -> tuple[str, str | None, str | None, str]:
    """Returns the problem, the attempt, the feedback and the answer."""
    first, _, rest = string.partition("|")
    if not rest:
        problem, _, answer = string.partition(">")
        return problem, None, None, answer
    problem, shown, attempt = first.partition(";")
    feedback, _, answer = rest.partition(">")
    return problem, attempt if shown else None, feedback, answer


# Draws


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS)
def test_every_draw_parses_holds_and_is_derived_once(config: LanguageConfig) -> None:
    language = ArithmeticCorrections(config)
    for string in drawn(language, 120):
        assert language.parses(string)
        assert language.holds(string)
        assert language.derivations(string) == 1
        assert language.min_symbols <= len(string) <= language.max_symbols == config.max_len - 2
        problem, attempt, feedback, answer = cut_by_hand(string)
        assert 2 <= depth_of(tree_of(problem)) <= config.max_depth
        assert all(config.min_int <= n <= config.max_int for n in numbers_of(tree_of(problem)))
        expressions = re.split(f"[{re.escape(MARKS)}]", string)
        read_ones = [tree for tree in map(read, expressions) if tree is not None]
        assert all(abs(n) <= config.max_value for tree in read_ones for n in numbers_of(tree))
        marks = judged_by_trees(problem, answer)
        assert (marks.first_wrong, marks.final) == (None, True)
        assert marks.kept == marks.needed >= LEAST_STEPS
        if attempt is not None:
            assert feedback in {feedback_by_hand(problem, attempt, kind) for kind in FEEDBACK}


def test_forms_are_drawn_with_their_probabilities() -> None:
    """2,000 draws; shares that are right pass in all but one in 50,000 runs."""
    parts = [cut_by_hand(string) for string in drawn(LANGUAGE, 2000)]
    plain, hidden = (
        sum(feedback is None for _, _, feedback, _ in parts),
        sum(a is None and s is not None for _, a, s, _ in parts),
    )
    assert abs(plain / 2000 - forms.GENERATED.plain) < 0.05
    assert abs(hidden / 2000 - forms.GENERATED.hidden) < 0.05
    marks = [feedback[:1] for _, _, feedback, _ in parts if feedback is not None]
    for mark, share in zip(("", "~", "@", "="), forms.GENERATED.feedback):
        assert abs(marks.count(mark) / len(marks) - share) < 0.06
    assert any("!" in answer for _, _, feedback, answer in parts if feedback is None)
    assert any("!" in attempt for _, attempt, _, _ in parts if attempt is not None)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_corrections_repeat_the_mistake_with_their_probability(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "REPEATED", share)
    monkeypatch.setattr(forms, "BACK", 0.0)
    parts = [cut_by_hand(string) for string in drawn(LANGUAGE, 1200)]
    wrong = [
        (p, a, answer)
        for p, a, _, answer in parts
        if a is not None and judged_by_trees(p, a).first_wrong is not None
    ]
    repeated = [answer == taken_back(problem, attempt) for problem, attempt, answer in wrong]
    assert len(wrong) > 200
    assert (
        abs(sum(repeated) / len(wrong) - share)
        < 4.5 * (share * (1 - share) / len(wrong)) ** 0.5 + 1e-9
    )
    assert [("!" in answer) for _, _, answer in wrong] == repeated


def test_too_long_draws_are_repeated() -> None:
    """A language in which most records of three parts are just too long or just short enough."""
    language = ArithmeticCorrections(replace(BASE, max_int=9, max_depth=2, max_len=104))
    sizes = [len(string) for string in drawn(language, 300)]
    assert max(sizes) <= language.max_symbols == 102
    assert sum(size > 88 for size in sizes) > 5
    assert sum(size < 60 for size in sizes) > 10


@pytest.mark.parametrize("config", VARIANTS)
def test_the_first_draws_do_not_depend_on_the_count(config: LanguageConfig) -> None:
    language = ArithmeticCorrections(config)
    most = drawn(language, 90, 5)
    held_out = language.problems(90, np.random.default_rng(5))
    for count in (0, 1, 2, 33):
        assert drawn(language, count, 5) == most[:count]
        assert language.problems(count, np.random.default_rng(5)) == held_out[:count]
    assert language.sample(np.random.default_rng(5)) == most[0]
    assert drawn(language, 20, 6) != most[:20]


@pytest.mark.parametrize("config", VARIANTS)
def test_problems_are_held_out(config: LanguageConfig) -> None:
    language = ArithmeticCorrections(config)
    held_out = language.problems(200, np.random.default_rng(1))
    assert all(split_of(problem) == "test" for problem in held_out)
    assert all(operations(tree_of(problem)) >= LEAST_STEPS for problem in held_out)
    begun = {cut_by_hand(string)[0] for string in drawn(language, 600)}
    assert {split_of(problem) for problem in begun} == {"train", "validation"}
    assert not begun & set(held_out)


# Grammar

EXPRESSION = r"\(\+ 1 2\)"
NUMBER = "(?:0|-?[1-9][0-9]*)"
ANSWER = rf"(?:{EXPRESSION}[>!]|{NUMBER}!)*{NUMBER}"
FEEDBACK_PATTERN = (
    rf"(?:|={NUMBER}|~(?:0|[1-9][0-9]*)|@(?:0|[1-9][0-9]*)(?:=(?:{NUMBER}|{EXPRESSION}))?)"
)
STRING = re.compile(
    rf"{EXPRESSION}(?:>{ANSWER}|(?:;{ANSWER})?\|{FEEDBACK_PATTERN}>{ANSWER})"
)  # all strings about one expression


@pytest.mark.slow
def test_grammar_and_parser_are_the_three_forms_by_brute_force() -> None:
    """A problem and up to 5 words, and longer strings with one word changed, against a pattern."""
    words = ["(+ 1 2)", "3", *MARKS]
    short = [("(+ 1 2)", *rest) for n in range(5) for rest in product(words, repeat=n)]
    answers = [("3",), ("(+ 1 2)", "!", "3"), ("3", "!", "(+ 1 2)", ">", "3"), ("3", "!", "3")]
    feedbacks = [
        (),
        ("=", "-", "3"),
        ("~", "3"),
        ("@", "3"),
        ("@", "3", "=", "(+ 1 2)"),
        ("@", "3", "=", "3"),
    ]
    long = [
        ("(+ 1 2)", *((";", *attempt) if shown else ()), "|", *feedback, ">", *answer)
        for shown in (True, False)
        for attempt in answers
        for feedback in feedbacks
        for answer in answers[:2]
    ]
    near = {
        (*row[:i], *new, *row[i + cut :])
        for row in long
        for i in range(len(row) + 1)
        for cut in (0, 1)
        for new in [(), *((word,) for word in [*words, "-", "0"])]
    }
    accepted = refused = 0
    for i, string in enumerate(dict.fromkeys(map("".join, chain(short, long, sorted(near))))):
        expected = STRING.fullmatch(string) is not None
        assert LANGUAGE.parses(string) == expected, string
        if expected or i % 20 == 0:
            assert LANGUAGE.derivations(string) == expected, string
        accepted, refused = accepted + expected, refused + (not expected)
    assert accepted > 500
    assert refused > 8000


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS)
def test_edited_strings_parse_where_lark_s_parser_accepts_them(config: LanguageConfig) -> None:
    language, dice = ArithmeticCorrections(config), random.Random(2)
    grammar, alphabet = language.lark_grammar().text, language.spec.symbols
    assert grammar is not None
    agreed = {False: 0, True: 0}
    for string in [string for string in drawn(language, 200, 3) if len(string) < 110][:12]:
        for edited in [string, *dice.sample(sorted({*edits(string, alphabet)}), 9)]:
            accepted = accepts(grammar, edited)
            assert language.parses(edited) == accepted, edited
            assert language.derivations(edited) == accepted, edited
            agreed[accepted] += 1
    assert min(agreed.values()) > 15


@pytest.mark.parametrize("feedback", ["=-3", "@1=-3", "@1=(- 3 1)"])
def test_feedback_has_the_operators_of_its_language(feedback: str) -> None:
    language = ArithmeticCorrections(UNSIGNED)
    string = f"(+ 1 2)|{feedback}>3"
    assert language.parses(string) == (language.derivations(string) == 1)


@pytest.mark.parametrize(
    "string",
    [
        *(
            "",
            ">",
            "3",
            "(+ 1 2)",
            "(+ 1 2)>",
            "(+ 1 2)>3>",
            "(+ 1 2)>3!",
            "(+ 1 2)>!3",
            "3>3",
            "(+ 1 2)>3>3",
            "(+ 1 2)!3",
        ),
        *(
            "(+ 1 2);3",
            "(+ 1 2);3>3",
            "(+ 1 2);3|>",
            "(+ 1 2);|>3",
            "(+ 1 2)|3",
            "(+ 1 2)|>3|>3",
            "(+ 1 2)|>3;3|>3",
        ),
        *(
            "(+ 1 2)|~>3",
            "(+ 1 2)|~-1>3",
            "(+ 1 2)|~03>3",
            "(+ 1 2)|@>3",
            "(+ 1 2)|@-1>3",
            "(+ 1 2)|@1=>3",
            "(+ 1 2)|=>3",
        ),
        *(
            "(+ 1 2)|=(+ 1 2)>3",
            "(+ 1 2)|@1=(+ 1 2>3",
            "(+ 1 2)|@=3>3",
            "(+ 1 2)|3>3",
            "(+ 1 2)| >3",
            "(+ 1 2)|@0@0>3",
        ),
        *(
            "(+ 1 2)>3 ",
            "(+ 1 2)>3\n",
            "(+ 1 2)>(+ 1 2)!",
            "(+ 1 2)>3!!3",
            "(+ 1 2)>-0",
            "(+ 1  2)>3",
            "(+ 1 ٢)>3",
        ),
    ],
)
def test_no_strings(string: str) -> None:
    assert not LANGUAGE.parses(string)
    assert not LANGUAGE.holds(string)


def test_a_string_holds_where_the_trees_find_no_kept_step_wrong() -> None:
    """Draws with one number changed: it matters in kept steps of the answer and nowhere else."""
    dice, verdicts = random.Random(4), []
    for string in drawn(LANGUAGE, 300, 7):
        at = dice.choice([i for i, symbol in enumerate(string) if symbol.isdigit()])
        changed = string[:at] + str((int(string[at]) + dice.randint(1, 9)) % 10) + string[at + 1 :]
        problem, _, _, answer = cut_by_hand(changed)
        marks = judged_by_trees(problem, answer) if LANGUAGE.parses(changed) else None
        holds = marks is not None and marks.first_wrong is None and marks.final
        assert LANGUAGE.holds(changed) == holds, changed
        assert LANGUAGE.forced_ending(changed) is None
        verdicts.append(holds)
    assert 30 < sum(verdicts) < 270


# Pieces


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses 600 strings instead of 20,000, which suffice for these properties."""
    monkeypatch.setattr(pieces, "DRAWS", 600)
    monkeypatch.setattr(text, "DRAWS", 600)


@pytest.mark.slow
@pytest.mark.parametrize("size", [80, 200])
def test_no_piece_crosses_a_border(size: int) -> None:
    vocabulary = pieces.piece_vocabulary(LANGUAGE, size)
    assert len(vocabulary) <= size
    long = [symbol for symbol in vocabulary.symbols[4:] if len(symbol) > 1]
    assert not any(mark in symbol for symbol in long for mark in MARKS)
    assert all(re.fullmatch(r"-?[0-9]+|[^0-9]+", symbol) for symbol in long)
    borders = 0
    for string in drawn(LANGUAGE, 80, 11):
        fragments = LANGUAGE.fragments(string)
        assert "".join(fragments) == string
        assert all(
            re.fullmatch(rf"-?[0-9]+|[{re.escape(MARKS)}]|[-+*() ]+", fragment)
            for fragment in fragments
        )
        whole, at = vocabulary.encode(string), 0
        for fragment in fragments:
            assert vocabulary.encode(string[:at]) + vocabulary.encode(string[at:]) == whole
            at, borders = at + len(fragment), borders + 1
    assert borders > 2000


def test_pieces_of_whole_strings_cross_borders() -> None:
    """The negative control of `fragments`."""
    texts = pieces.training_strings(LANGUAGE)
    characters = "".join(LANGUAGE.vocabulary.symbols[4:])
    blind = LANGUAGE.vocabulary.with_merges(train_merges(texts, characters, 60))
    crossed = 0
    for string in drawn(LANGUAGE, 50, 11):
        marks = [i for i, symbol in enumerate(string) if symbol in MARKS]
        crossed += any(
            blind.encode(string[:i]) + blind.encode(string[i:]) != blind.encode(string)
            for i in marks
        )
    assert crossed > 25


def test_a_prompt_put_together_is_cut_as_its_text_is() -> None:
    """Also where the attempt is garbage: at its marks a text is always cut."""
    vocabulary = pieces.piece_vocabulary(LANGUAGE, 120)
    dice = random.Random(5)
    for problem, attempt in attempts(60, 4):
        feedback = dice.choice([feedback_text(problem, attempt, kind) for kind in FEEDBACK])
        answer = write_answer(problem, np.random.default_rng(0), 0.0, 0.3, bounds_of()) or ""
        for shown in (attempt, None):
            marks = [
                problem,
                *((";", shown) if shown is not None else ()),
                "|",
                feedback,
                ">",
                answer,
            ]
            together = [token for part in marks for token in vocabulary.encode(part)]
            assert LANGUAGE.prompt(problem, shown, feedback) + answer == "".join(marks)
            assert vocabulary.encode("".join(marks)) == together
        assert LANGUAGE.prompt(problem) == problem + ">"
        assert LANGUAGE.prompt(problem, attempt) == f"{problem};{attempt}|>"
        assert LANGUAGE.prompt(problem, None, feedback) == f"{problem}|{feedback}>"


@pytest.mark.parametrize("name", ["arithmetic", "arithmetic-steps", "json"])
def test_other_languages_keep_their_pieces(name: str) -> None:
    language = make_language(LanguageConfig(language=name))
    texts = pieces.training_strings(language)
    if hasattr(language, "fragments"):
        assert all(language.fragments(string) == [string] for string in texts[:50])
    characters = [symbol for symbol in language.vocabulary.symbols[4:] if symbol != "<DIGIT>"]
    merges = train_merges(texts, "".join(characters), 30)
    expected = Vocabulary(language.vocabulary.symbols[:4] + tuple(characters)).with_merges(merges)
    assert (
        pieces.piece_vocabulary(language, len(characters) + 4 + 30).fingerprint()
        == expected.fingerprint()
    )


# Language, configuration


def test_it_is_a_language_with_truth_and_no_solver_of_steps() -> None:
    assert isinstance(LANGUAGE, Language)
    assert isinstance(LANGUAGE, HasValue)
    assert not isinstance(LANGUAGE, Stepwise)
    assert isinstance(make_language(BASE), ArithmeticCorrections)
    assert (
        LANGUAGE.vocabulary.fingerprint()
        == ArithmeticCorrections(UNSIGNED).vocabulary.fingerprint()
    )
    assert LANGUAGE.pretty("(+ 1 2)|@0>3") == "(+ 1 2)|@0>3"


@pytest.mark.parametrize("config", VARIANTS)
def test_a_checkpoint_restores_the_language(config: LanguageConfig) -> None:
    language = ArithmeticCorrections(config)
    other = restore_language(config, json.loads(json.dumps(language.state())))
    assert isinstance(other, ArithmeticCorrections)
    assert other.config == config
    assert other.state() == language.state()
    assert other.length_probs().tolist() == language.length_probs().tolist()
    assert other.vocabulary.fingerprint() == language.vocabulary.fingerprint()
    assert drawn(other, 20) == drawn(language, 20)
    assert (other.min_symbols, other.max_symbols) == (language.min_symbols, language.max_symbols)
    assert isinstance(restore_language(config, {}), ArithmeticCorrections)


def test_lengths() -> None:
    probs = LANGUAGE.length_probs()
    assert probs.shape == (LANGUAGE.max_symbols + 1,)
    assert probs.sum() == pytest.approx(1)
    assert LANGUAGE.min_symbols == len("(+ 0 0)>0") == LANGUAGE.check_length(9)
    assert not probs[: LANGUAGE.min_symbols].any()
    assert LANGUAGE.length_log_prob(LANGUAGE.max_symbols + 1) == -np.inf
    with pytest.raises(CanvasError, match="the nearest length"):
        LANGUAGE.check_length(LANGUAGE.max_symbols + 1)


@pytest.mark.parametrize("length", [1, 8])
def test_lengths_that_no_string_has_are_refused(length: int) -> None:
    with pytest.raises(CanvasError, match="the nearest length is 9"):
        LANGUAGE.check_length(length)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"notation": "infix"}, "arithmetic-corrections is written in prefix notation"),
        ({"separator": ","}, "arithmetic-corrections is written in prefix notation"),
        ({"max_len": 99}, "max_len is 99; arithmetic-corrections needs 100 or more"),
        ({"operators": ""}, "one or more of"),
        ({"operators": "++"}, "at most once"),
        ({"operators": "+/"}, "'\\+/' are not allowed"),
        ({"min_int": 13}, "min_int 13 and max_int 12 leave no choice"),
        ({"min_depth": 4}, "min_depth 4 and max_depth 3 leave no choice"),
        ({"min_depth": 0, "max_depth": 0}, "at least one operation"),
        (
            {"min_depth": 1, "max_depth": 1},
            "max_depth is 1: problems of arithmetic-corrections have at least three",
        ),
        ({"max_value": 9}, "max_int 12 is above max_value 9"),
        (
            {"validity": "json:loads"},
            "validity is for a language of your own, in a folder; arithmetic-corrections",
        ),
        ({"accept_ambiguous": True}, "accept_ambiguous is for a language of your own"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_language(replace(BASE, **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert "arithmetic-steps" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_len": 100},
        {"max_len": 100, "operators": "*"},
        {"min_depth": 1},
        {"min_int": 50, "max_int": 99},
    ],
)
def test_accepted_configurations_can_be_sampled(change: dict[str, object]) -> None:
    language = make_language(replace(BASE, **change))  # type: ignore[arg-type]
    assert language.parses(language.sample(np.random.default_rng(0)))
