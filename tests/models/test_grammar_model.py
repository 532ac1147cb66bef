"""Fitted grammars are distributions, whose rules are those that made the strings."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maskdiff.data import draw_texts
from maskdiff.errors import DataError
from maskdiff.languages import Vocabulary, make_language
from maskdiff.languages.cfg import ForestParser, NormalForm, compile_grammar
from maskdiff.models import grammar_model
from maskdiff.models.grammar_model import FittedGrammar, fit_grammar

LIST = 'start: item | item "," start\nitem: "a" | "b" | "(" start ")"'
SUMS = 'start: start "+" start | "a" | "b"'  # ambiguous
SYMBOLS = ",ab()+"
VOCABULARY = Vocabulary.of(SYMBOLS)


def grammar(text: str) -> NormalForm:
    return compile_grammar(text, VOCABULARY.inner_symbols, accept_ambiguous=True)


def known(text: str, seed: int = 0, escape: float = 0.01) -> FittedGrammar:
    """A grammar with random probabilities, in which long strings are rare."""
    made = grammar(text)
    heads = ForestParser(made).heads
    weights = np.random.default_rng(seed).uniform(1, 3, len(heads))
    weights[: len(made.parent)] *= 0.25
    log_rules = np.log(weights / np.bincount(heads, weights)[heads])
    return FittedGrammar(made, VOCABULARY, log_rules, escape)


def draw(model: FittedGrammar, count: int, seed: int = 0) -> list[list[int]]:
    """Strings of token ids, drawn from the top down."""
    rng, made = random.Random(seed), model.grammar
    bodies: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in range(len(made))]
    pairs = zip(made.left.tolist(), made.right.tolist(), strict=True)
    writers, symbols = made.emits.nonzero()
    children = [*pairs, *((symbol,) for symbol in symbols.tolist())]
    heads = [*made.parent.tolist(), *writers.tolist()]
    for head, body, log_p in zip(heads, children, model.log_rules, strict=True):
        bodies[head].append((math.exp(log_p), body))

    def expand(head: int) -> list[int]:
        shares, options = zip(*bodies[head], strict=True)
        body = rng.choices(options, shares)[0]
        if len(body) == 1:
            return [VOCABULARY.inner_ids[body[0]]]
        return expand(body[0]) + expand(body[1])

    return [expand(0) for _ in range(count)]


def every_string(symbols: str, longest: int) -> list[list[int]]:
    ids = VOCABULARY.encode(symbols)
    return [list(row) for n in range(1, longest + 1) for row in itertools.product(ids, repeat=n)]


@pytest.mark.parametrize(("text", "symbols", "longest"), [(LIST, ",a()", 6), (SUMS, "ab+", 7)])
def test_the_probabilities_of_all_strings_are_those_of_draws(
    text: str, symbols: str, longest: int
) -> None:
    """Short strings have the share of the draws; all of them and the rest sum to 1."""
    model = known(text)
    drawn = draw(model, 4000)
    ids = set(VOCABULARY.encode(symbols))
    short = sum(len(row) <= longest and set(row) <= ids for row in drawn)
    total = np.exp(model.log_probs(every_string(symbols, longest))).sum()
    assert 0.2 < total < 1
    assert short / len(drawn) == pytest.approx(total, abs=4 * math.sqrt(0.25 / len(drawn)))


def test_a_finite_language_sums_to_one() -> None:
    model = known('start: x y | "a"\nx: "a" | "b" | "(" x1 ")"\nx1: "a"\ny: "," | "+"')
    assert np.exp(model.log_probs(every_string(SYMBOLS, 4))).sum() == pytest.approx(1.0)


def test_with_the_escape_all_strings_have_a_probability_and_sum_to_at_most_one() -> None:
    model = known('start: "a" | "b" "+"', escape=0.2)
    strings = every_string(SYMBOLS, 4)
    p = np.exp(model.smoothed_log_probs(strings))
    # Of the uniform strings, those of 0 symbols and of more than 4 are missing.
    size = len(SYMBOLS) + 1
    assert p.sum() == pytest.approx(1 - 0.2 * (1 / size + (len(SYMBOLS) / size) ** 5))
    assert (p > 0).all()
    alone = model.log_probs([[VOCABULARY.mask], []])
    assert (alone == -math.inf).all()


@pytest.mark.parametrize("text", [LIST, 'start: "a" start "b" | "(" start ")" | "a" | ","'])
def test_the_rules_of_an_unambiguous_grammar_are_recovered(text: str) -> None:
    model = known(text, seed=3)
    fitted = FittedGrammar.fit(model.grammar, draw(model, 4000), draw(model, 300, 9), VOCABULARY)
    tests = draw(model, 1000, seed=5)
    own, others = model.log_probs(tests), fitted.log_probs(tests)
    symbols = sum(len(row) + 1 for row in tests)
    assert abs((own - others).sum()) / symbols < 0.01
    # Nonterminals that occur have the probabilities of their rules.
    parser = ForestParser(model.grammar)
    first = VOCABULARY.inner_ids[0]
    forests = parser([[token - first for token in row] for row in tests])
    uses = forests.expected_counts(model.log_rules, np.ones(len(tests)))
    often = np.bincount(parser.heads, uses)[parser.heads] > 100
    assert often.sum() > 5
    np.testing.assert_allclose(
        np.exp(fitted.log_rules)[often], np.exp(model.log_rules)[often], atol=0.08
    )


def test_one_count_of_an_unambiguous_grammar_is_the_share_of_its_rules() -> None:
    """With alpha near 0, the probability of a rule is its relative frequency."""
    strings = [VOCABULARY.encode(text) for text in ("a", "a", "a", "b")]
    fitted = FittedGrammar.fit(grammar('start: "a" | "b"'), strings, strings, VOCABULARY)
    assert np.exp(fitted.log_probs(strings)) == pytest.approx([0.75, 0.75, 0.75, 0.25], abs=0.001)


def test_em_never_lowers_the_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    model = known('start: x x | x start | "a"\nx: "a" x | "b" | start "b"', seed=2)
    strings = [row for row in draw(model, 400) if len(row) < 12]
    forests = ForestParser(model.grammar)(
        [[VOCABULARY.inner_ids.index(token) for token in row] for row in strings]
    )
    heads, counts = ForestParser(model.grammar).heads, np.ones(len(strings))
    monkeypatch.setattr(grammar_model, "ENOUGH", -1.0)
    likelihood = []
    for rounds in range(6):
        monkeypatch.setattr(grammar_model, "ROUNDS", rounds)
        expected = grammar_model._expected_counts(forests, counts, heads)
        log_rules = grammar_model._smoothed(expected, heads, 0.0)
        likelihood.append(forests.log_probs(log_rules).sum())
    assert forests.ambiguous
    assert (np.diff(likelihood) >= -1e-9).all()
    assert likelihood[-1] > likelihood[0] + 1e-3


def test_strings_that_it_does_not_derive_only_raise_the_escape() -> None:
    strings = [VOCABULARY.encode(text) for text in ("a,b", "(a)", "b")]
    foreign = [VOCABULARY.encode("))")] * 3
    made = grammar(LIST)
    pure = FittedGrammar.fit(made, strings, strings, VOCABULARY)
    mixed = FittedGrammar.fit(made, strings + foreign, strings, VOCABULARY)
    np.testing.assert_allclose(pure.log_rules, mixed.log_rules)
    assert (pure.escape, mixed.escape) == (1 / 8, 4 / 11)
    with pytest.raises(DataError, match="derives none"):
        FittedGrammar.fit(made, foreign, [], VOCABULARY)


def test_many_strings_are_thinned_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    strings = draw(known(LIST), 500)
    monkeypatch.setattr(grammar_model, "MAX_SYMBOLS", 20)
    chosen, counts = grammar_model._chosen(strings, seed=0)
    assert 1 <= sum(map(len, chosen)) <= 20
    assert counts.tolist() == [strings.count(list(row)) for row in chosen]
    assert chosen != grammar_model._chosen(strings, seed=1)[0]


def test_on_arithmetic_it_beats_the_uniform_guess_and_not_the_generator() -> None:
    """Its excess over the exact probabilities is the value, which no grammar of this form knows."""
    language = make_language("arithmetic")
    rng = np.random.default_rng(0)
    training, held_out = (draw_texts(language, n, rng, "train") for n in (1500, 200))
    tests = draw_texts(language, 300, rng, "test")
    model = fit_grammar(language, training, held_out)
    assert model is not None
    encode = language.vocabulary.encode_many
    values = [len(text.split("=")[1]) for text in tests]
    excess = sum(map(language.log_prob, tests)) - model.smoothed_log_probs(encode(tests)).sum()
    assert 0 < excess < math.log(11) * (sum(values) + len(tests))


def test_a_language_without_a_grammar_has_no_fit() -> None:
    class Plain:
        vocabulary = VOCABULARY

        def lark_grammar(self) -> None:
            return None

    assert fit_grammar(Plain(), ["a"], ["a"]) is None  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- files


def test_its_state_makes_the_same_model() -> None:
    model = known(LIST)
    again = FittedGrammar.of_state(model.state(), VOCABULARY)
    tests = every_string(",a()", 5)
    np.testing.assert_array_equal(model.log_probs(tests), again.log_probs(tests))
    assert again.escape == model.escape


def _damaged(name: str, change: Any) -> dict[str, torch.Tensor]:
    state = known(LIST).state()
    return {**state, name: change(state[name])}


def _out_of_range(values: torch.Tensor) -> torch.Tensor:
    return torch.cat((values[:-1], torch.tensor([99])))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("left", _out_of_range),
        ("right", lambda x: x[:-1]),
        ("right", lambda x: x.double()),
        ("parent", lambda x: x.flip(0)),
        ("emits", lambda x: x[:, :-1]),
        ("emits", lambda x: x * 2),
        ("log_rules", lambda x: x + 0.1),
        ("log_rules", lambda x: x[:-1]),
        ("log_rules", lambda x: x * math.nan),
        ("escape", lambda x: x * 0),
        ("escape", lambda x: x[:0]),
        ("other", lambda x: x),
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused(name: str, change: Any) -> None:
    with pytest.raises(DataError, match="damaged"):
        if name == "other":
            FittedGrammar.of_state({"parent": torch.zeros(1)}, VOCABULARY)
        FittedGrammar.of_state(_damaged(name, change), VOCABULARY)


def test_probabilities_of_left_hand_sides_sum_to_one() -> None:
    heads: NDArray[np.int64] = np.array([0, 0, 1, 1, 2])
    for alpha in (0.0, 0.1, 1.0):
        log_rules = grammar_model._smoothed(np.array([3.0, 1.0, 0.0, 0.0, 5.0]), heads, alpha)
        np.testing.assert_allclose(np.bincount(heads, np.exp(log_rules)), 1.0)
        np.testing.assert_allclose(np.exp(log_rules[2:4]), 0.5)  # nothing was counted
