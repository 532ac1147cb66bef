"""The packed derivations of strings: their number, their weights and their rules."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from maskdiff.constraints.chart import RuleTensors, inside_chart
from maskdiff.languages.cfg import (
    ForestParser,
    NormalForm,
    Recogniser,
    compile_grammar,
    normal_form,
    read_grammar,
)
from tests.helpers.grammars import AMBIGUOUS, DYCK, TERMS

GRAMMARS = ((DYCK, "ab"), (TERMS, "12(+*)"), (AMBIGUOUS, "1+"))


def compiled(text: str, symbols: str) -> NormalForm:
    return compile_grammar(text, symbols, accept_ambiguous=True)


def rows(symbols: str, longest: int, count: int) -> list[list[int]]:
    """Random strings over the symbols, most of them no strings of the grammar."""
    rng = random.Random(0)
    return [rng.choices(range(len(symbols)), k=rng.randint(0, longest)) for _ in range(count)]


@pytest.mark.parametrize(("text", "symbols"), GRAMMARS)
def test_with_equal_weights_the_sum_counts_the_derivations(text: str, symbols: str) -> None:
    grammar = compiled(text, symbols)
    strings = [*rows(symbols, 7, 300), [0, len(symbols)], [-1]]
    forests = ForestParser(grammar)(strings)
    found = np.exp(forests.log_probs(np.zeros(forests.rules)))
    wanted = [Recogniser(grammar).derivations(string) for string in strings]
    np.testing.assert_allclose(found, wanted)
    assert any(wanted)
    assert not all(wanted)
    assert forests.ambiguous == (max(wanted) > 1)


def test_an_inside_chart_has_the_same_totals() -> None:
    """The dense chart of constraints, which shares no code, gives the same sums."""
    grammar = compiled(AMBIGUOUS, "1+")
    strings = [[0], [0, 1, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1, 0], [0, 0]]
    rules = RuleTensors(grammar)
    forests = ForestParser(grammar)(strings)
    for string, log_p in zip(strings, forests.log_probs(np.zeros(forests.rules)), strict=True):
        emission = torch.full((1, len(string), 2), -math.inf, dtype=torch.float64)
        emission[0, torch.arange(len(string)), torch.tensor(string)] = 0.0
        chart = inside_chart(rules, emission, torch.tensor([len(string)]))
        assert float(chart.log_total) == pytest.approx(log_p)


@pytest.mark.parametrize(("text", "symbols"), GRAMMARS)
def test_expected_counts_are_the_derivative_of_the_log_probability(text: str, symbols: str) -> None:
    """d log p / d log rule is the expected number of uses (Eisner 2016)."""
    parser = ForestParser(compiled(text, symbols))
    forests = parser(rows(symbols, 7, 200))
    derived = forests.root >= 0
    rng = np.random.default_rng(1)
    log_rules, counts = rng.normal(size=forests.rules), rng.integers(1, 4, len(derived)) * 1.0
    expected = forests.expected_counts(log_rules, counts)
    step = 1e-6
    for rule in range(forests.rules):
        moved = log_rules + step * (np.arange(forests.rules) == rule)
        change = forests.log_probs(moved)[derived] - forests.log_probs(log_rules)[derived]
        assert expected[rule] == pytest.approx((counts[derived] * change).sum() / step, abs=1e-3)


def test_a_derivation_uses_one_rule_for_each_symbol_and_each_pair() -> None:
    grammar = compiled(DYCK, "ab")
    forests = ForestParser(grammar)([[0, 0, 1, 1, 0, 1]])
    counts = forests.expected_counts(np.zeros(forests.rules), np.ones(1))
    binary = len(grammar.parent)
    assert (counts[:binary].sum(), counts[binary:].sum()) == (5, 6)


def test_no_strings_have_no_derivations() -> None:
    forests = ForestParser(normal_form(read_grammar(DYCK, "ab"), "ab"))([])
    assert len(forests.log_probs(np.zeros(forests.rules))) == 0
    assert forests.expected_counts(np.zeros(forests.rules), np.zeros(0)).sum() == 0
