"""The closest string of a grammar against a search through all strings."""

from __future__ import annotations

import itertools
import math
import random
from functools import cache

import pytest

from maskdiff.languages.cfg import compile_grammar
from maskdiff.languages.cfg.distance import UNREADABLE, EditCosts, nearest_strings
from tests.helpers.grammars import AMBIGUOUS, EQUATION, SMALL, accepts, strings


def distance(x: tuple[int, ...], y: tuple[int, ...], costs: EditCosts) -> float:
    """Weighted Levenshtein distance from the given ``y`` to ``x``, one row at a time."""
    row = [j * costs.delete for j in range(len(y) + 1)]
    for symbol in x:
        new = [row[0] + costs.insert]
        for j, seen in enumerate(y):
            change = 0.0 if seen in (symbol, UNREADABLE) else costs.replace
            new.append(min(row[j] + change, row[j + 1] + costs.insert, new[j] + costs.delete))
        row = new
    return row[-1]


@pytest.mark.slow
@pytest.mark.parametrize("costs", [EditCosts(), EditCosts(insert=2.0, delete=0.7, replace=1.5)])
@pytest.mark.parametrize("number", range(4))
def test_the_least_cost_is_that_of_the_best_of_all_strings(number: int, costs: EditCosts) -> None:
    text, symbols, longest = (*SMALL, (EQUATION, "1(=)", 7))[number]
    grammar = compile_grammar(text, symbols)
    every = [s for n in range(1, longest + 1) for s in strings(text, symbols, n)]
    rng = random.Random(number)
    compared = 0
    for _ in range(80):
        given = tuple(
            rng.choice([*range(len(symbols)), UNREADABLE]) for _ in range(rng.randint(0, 5))
        )
        found = nearest_strings(grammar, given, 1, costs=costs)[0]
        assert accepts(text, "".join(symbols[i] for i in found.symbols))
        assert abs(distance(found.symbols, given, costs) - found.cost) < 1e-9
        best = min(distance(s, given, costs) for s in every)
        beyond = (
            longest + 1 - len(given)
        ) * costs.insert  # no longer string can cost less than its insertions
        if best <= beyond:
            assert abs(found.cost - best) < 1e-9, given
            compared += 1
        else:
            assert found.cost <= best + 1e-9
    assert compared > 40


@pytest.mark.slow
def test_within_two_edits_on_a_thousand_short_cases() -> None:
    """Each string of the grammar, edited once or twice, against all strings within two edits."""
    text, symbols, longest = SMALL[1]
    grammar = compile_grammar(text, symbols)
    language = {s for n in range(1, longest + 1) for s in strings(text, symbols, n)}

    def edits(row: tuple[int, ...]) -> set[tuple[int, ...]]:
        kinds = range(len(symbols))
        return (
            {row[:i] + row[i + 1 :] for i in range(len(row))}
            | {(*row[:i], v, *row[i + 1 :]) for i, v in itertools.product(range(len(row)), kinds)}
            | {(*row[:i], v, *row[i:]) for i, v in itertools.product(range(len(row) + 1), kinds)}
        )

    rng, seen = random.Random(9), [0, 0, 0]
    for _ in range(1000):
        row = rng.choice(sorted(s for s in language if len(s) <= 4))
        for _ in range(rng.randint(0, 2)):
            row = rng.choice(sorted(edits(row) - {()}))
        near = edits(row)
        wanted = 0 if row in language else 1 if near & language else 2
        assert nearest_strings(grammar, row, 1)[0].cost == wanted
        seen[wanted] += 1
    assert min(seen) > 50


def test_free_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        EditCosts(delete=0.0)


def keeps(
    x: tuple[int, ...], given: tuple[int, ...], certain: frozenset[int], costs: EditCosts
) -> float:
    """`distance`, of alignments that keep the certain symbols of ``given`` only."""

    @cache
    def least(i: int, j: int) -> float:
        if i == len(x) and j == len(given):
            return 0.0
        found = [math.inf]
        if i < len(x):
            found.append(costs.insert + least(i + 1, j))
        if j < len(given) and j not in certain:
            found.append(costs.delete + least(i, j + 1))
        if i < len(x) and j < len(given):
            same = given[j] in (x[i], UNREADABLE)
            if same or j not in certain:
                found.append((0.0 if same else costs.replace) + least(i + 1, j + 1))
        return min(found)

    return least(0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("costs", [EditCosts(), EditCosts(insert=2.0, delete=0.7, replace=1.5)])
@pytest.mark.parametrize("number", range(4))
def test_the_nearest_strings_are_those_of_brute_force_in_order(
    number: int, costs: EditCosts
) -> None:
    """All strings below the cost of a string longer than those enumerated; with certain symbols."""
    text, symbols, longest = (*SMALL, (EQUATION, "1(=)", 7))[number]
    grammar = compile_grammar(text, symbols)
    every = [s for n in range(1, longest + 1) for s in strings(text, symbols, n)]
    rng, compared, barred = random.Random(number), 0, 0
    for _ in range(40):
        given = tuple(
            rng.choice([*range(len(symbols)), UNREADABLE]) for _ in range(rng.randint(0, 4))
        )
        certain = frozenset(i for i in range(len(given)) if rng.random() < 0.25)
        beyond = (longest + 1 - len(given)) * costs.insert - 1e-6
        priced = sorted((keeps(s, given, certain, costs), s) for s in every)
        wanted = [(cost, s) for cost, s in priced if cost < beyond]
        found = nearest_strings(grammar, given, 10_000, beyond, costs, certain)
        assert [item.cost for item in found] == pytest.approx([cost for cost, _ in wanted])
        assert {item.symbols for item in found} == {s for _, s in wanted}
        assert found[:2] == nearest_strings(grammar, given, 2, beyond, costs, certain)
        compared += len(wanted)
        barred += len(certain) > 0 and [s for _, s in wanted] != [
            s for c, s in priced if distance(s, given, costs) < beyond
        ]
    assert compared > 100
    assert barred >= 3


def test_an_ambiguous_grammar_gives_each_string_once() -> None:
    grammar = compile_grammar(AMBIGUOUS, "1+", accept_ambiguous=True)
    found = nearest_strings(grammar, [0, 1, 0, 1, 0, 1, 0], 6)
    assert len({item.symbols for item in found}) == 6
    assert found[:1] == nearest_strings(grammar, [0, 1, 0, 1, 0, 1, 0], 1)
    assert found[0].cost == 0


def test_certain_symbols_that_no_string_has_leave_none() -> None:
    grammar = compile_grammar(EQUATION, "1(=)")
    assert (
        nearest_strings(grammar, [2, 2], 3, certain=(0, 1)) == []
    )  # no string has two equals signs
    assert nearest_strings(grammar, [2, 2], 3, most=0.5) == []
    assert len(nearest_strings(grammar, [2, 2], 3, certain=(1,))) == 3
