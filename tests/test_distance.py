"""The closest string of a grammar against a search through all strings."""

from __future__ import annotations

import itertools
import random

import pytest
from grammar_helpers import EQUATION, SMALL, accepts, strings

from maskdiff.languages.cfg import compile_grammar
from maskdiff.languages.cfg.distance import UNREADABLE, EditCosts, closest


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


@pytest.mark.parametrize("costs", [EditCosts(), EditCosts(insert=2.0, delete=0.7, replace=1.5)])
@pytest.mark.parametrize("number", range(4))
def test_the_least_cost_is_that_of_the_best_of_all_strings(number: int, costs: EditCosts) -> None:
    text, symbols, longest = (*SMALL, (EQUATION, "1(=)", 7))[number]
    grammar = compile_grammar(text, symbols)
    every = [s for n in range(1, longest + 1) for s in strings(text, symbols, n)]
    rng = random.Random(number)
    compared = 0
    for _ in range(130):
        given = tuple(rng.choice([*range(len(symbols)), UNREADABLE]) for _ in range(rng.randint(0, 5)))
        found = closest(grammar, given, costs)
        assert accepts(text, "".join(symbols[i] for i in found.symbols))
        assert abs(distance(found.symbols, given, costs) - found.cost) < 1e-9
        best = min(distance(s, given, costs) for s in every)
        beyond = (longest + 1 - len(given)) * costs.insert  # no longer string can cost less than its insertions
        if best <= beyond:
            assert abs(found.cost - best) < 1e-9, given
            compared += 1
        else:
            assert found.cost <= best + 1e-9
    assert compared > 60


def test_within_two_edits_on_a_thousand_short_cases() -> None:
    """Every string of the grammar, edited once or twice at random, against all strings within two edits."""
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
        assert closest(grammar, row).cost == wanted
        seen[wanted] += 1
    assert min(seen) > 50


def test_free_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="cost something"):
        EditCosts(delete=0.0)
