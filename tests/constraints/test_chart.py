"""Charts against brute force: totals, posteriors, draws, best strings; with negative controls."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from maskdiff.constraints.chart import NONE, RuleTensors, descend, inside_chart
from maskdiff.constraints.posterior import posterior
from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import compile_grammar, normal_form, read_grammar
from tests.helpers.grammars import AMBIGUOUS, EQUATION, SMALL, accepts, random_grammar, strings

DRAWS = 40_000


def random_emission(
    batch: int, n: int, symbols: str, seed: int, known: dict[int, str] | None = None
) -> Tensor:
    """Random marginals (batch, n, symbols); known symbols are certain."""
    generator = torch.Generator().manual_seed(seed)
    emission = torch.randn(
        batch, n, len(symbols), generator=generator, dtype=torch.float64
    ).log_softmax(-1)
    for place, symbol in (known or {}).items():
        if place < n:
            emission[:, place] = -torch.inf
            emission[:, place, symbols.index(symbol)] = 0.0
    return emission


def exact(text: str, symbols: str, emission: Tensor) -> dict[tuple[int, ...], float]:
    """The weights of all strings of the language, by enumeration; `emission` is (n, symbols)."""
    table = emission.exp().numpy()
    n = len(table)
    weights = {row: float(np.prod(table[range(n), row])) for row in strings(text, symbols, n)}
    return {row: weight for row, weight in weights.items() if weight > 0}


def cases() -> list[tuple[str, str, int, dict[int, str]]]:
    """Three grammars, all lengths, with and without known tokens, which may leave no string."""
    knowns = (
        {},
        {0: "("},
        {1: "1", 3: "2"},
        {2: "*", 0: "("},
        {2: "b"},
        {3: "d", 0: "a"},
        {1: "a", 2: "b"},
    )
    return [
        (text, symbols, n, known)
        for text, symbols, longest in SMALL
        for n in range(1, longest + 1)
        for known in knowns
        if set(known.values()) <= set(symbols)
    ]


@pytest.mark.slow
def test_totals_posteriors_and_best_strings_equal_brute_force() -> None:
    some, none = 0, 0
    for number, (text, symbols, n, known) in enumerate(cases()):
        rules = RuleTensors(compile_grammar(text, symbols))
        emission = random_emission(2, n, symbols, number, known)
        length = torch.tensor([n, n])
        chart, best = (
            inside_chart(rules, emission, length),
            inside_chart(rules, emission, length, best=True),
        )
        marginals, tops = posterior(chart).exp(), descend(best)
        for row in range(2):
            weights = exact(text, symbols, emission[row])
            if not weights:
                none += 1
                assert chart.log_total[row] == -math.inf
                assert (marginals[row] == 0).all()
                assert (tops[row] == NONE).all()
                continue
            some += 1
            total = sum(weights.values())
            wanted = np.zeros((n, len(symbols)))
            for string, weight in weights.items():
                wanted[range(n), string] += weight / total
            assert math.isclose(
                chart.log_total[row].item(), math.log(total), rel_tol=0, abs_tol=1e-9
            )
            assert (
                np.abs(marginals[row].numpy() - wanted).sum(1).max() / 2 < 1e-9
            )  # total variation
            assert tuple(tops[row].tolist()) == max(weights, key=weights.__getitem__)
            assert math.isclose(
                best.log_total[row].item(), math.log(max(weights.values())), abs_tol=1e-9
            )
    assert some > 60
    assert none > 40


def test_strings_of_mixed_length_are_independent() -> None:
    text, symbols, longest = EQUATION, "1(=)", 6
    rules = RuleTensors(compile_grammar(text, symbols))
    emission = random_emission(longest, longest, symbols, 5)
    length = torch.arange(1, longest + 1)
    together = inside_chart(rules, emission, length)
    many, uniform = (
        posterior(together),
        torch.rand(longest, longest, longest + 1, dtype=torch.float64),
    )
    drawn = descend(together, uniform)
    for row in range(longest):
        n = row + 1
        alone = inside_chart(rules, emission[row : row + 1, :n], length[row : row + 1])
        assert torch.allclose(alone.log_total, together.log_total[row : row + 1], atol=1e-12)
        assert torch.allclose(posterior(alone)[0], many[row, :n], atol=1e-12)
        assert (many[row, n:] == -torch.inf).all()
        assert torch.equal(descend(alone, uniform[row : row + 1, :n, : n + 1])[0], drawn[row, :n])
        assert (drawn[row, n:] == NONE).all()


def chi_square_z(
    counts: dict[tuple[int, ...], int], weights: dict[tuple[int, ...], float], draws: int
) -> float:
    """Pearson's statistic as a standard normal number (Wilson and Hilferty).

    Cells with fewer than 10 expected draws are pooled.
    """
    total = sum(weights.values())
    expected = {row: draws * weight / total for row, weight in weights.items()}
    small = {row for row, mean in expected.items() if mean < 10}
    cells = [(counts.get(row, 0), mean) for row, mean in expected.items() if row not in small]
    if sum(expected[row] for row in small) >= 10:
        cells.append(
            (sum(counts.get(row, 0) for row in small), sum(expected[row] for row in small))
        )
    k = len(cells) - 1
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in cells)
    return ((statistic / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))


def counted(rows: Tensor) -> dict[tuple[int, ...], int]:
    distinct, counts = torch.unique(rows, dim=0, return_counts=True)
    return dict(zip(map(tuple, distinct.tolist()), counts.tolist()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "known"), [(0, {}), (1, {}), (2, {}), (0, {2: "*"}), (1, {2: "b"}), (2, {1: "b"})]
)
def test_joint_samples_have_the_distribution_of_the_posterior(
    number: int, known: dict[int, str]
) -> None:
    """Power: probabilities that are off by 11% fail, which is asserted."""
    text, symbols, n = SMALL[number]
    rules = RuleTensors(compile_grammar(text, symbols))
    emission = random_emission(1, n, symbols, 11 + number, known)
    weights = exact(text, symbols, emission[0])
    part, generator = DRAWS // 10, torch.Generator().manual_seed(number)
    one = inside_chart(rules, emission.expand(part, -1, -1), torch.full((part,), n))
    uniform = [
        torch.rand(part, n, n + 1, generator=generator, dtype=torch.float64) for _ in range(10)
    ]
    counts = counted(torch.cat([descend(one, u) for u in uniform]))
    assert set(counts) <= set(weights)
    assert len(weights) >= 4
    assert abs(chi_square_z(counts, weights, DRAWS)) < 4
    skewed = {
        row: weight * (1.11 if i % 2 else 0.89)
        for i, (row, weight) in enumerate(sorted(weights.items()))
    }
    assert chi_square_z(counts, skewed, DRAWS) > 5


@pytest.mark.slow
def test_independent_draws_of_positions_break_strings() -> None:
    """Negative control: the exact posterior of every position is not a joint distribution."""
    text, symbols, n = SMALL[1]
    rules = RuleTensors(compile_grammar(text, symbols))
    chart = inside_chart(rules, random_emission(1, n, symbols, 3), torch.tensor([n]))
    marginals = posterior(chart)[0].exp()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(marginals, 2000, replacement=True, generator=generator).T
    allowed = set(strings(text, symbols, n))
    broken = sum(tuple(row) not in allowed for row in drawn.tolist())
    assert broken > 200


def test_an_ambiguous_grammar_gives_wrong_posteriors() -> None:
    """Negative control: a string with two derivations counts twice."""
    text, symbols, n = 'start: e\ne: e "+" e | "1" | "(" ', "1+(", 5
    with pytest.raises(GrammarError):
        compile_grammar(text, symbols)
    rules = RuleTensors(normal_form(read_grammar(text, symbols), symbols))
    emission = random_emission(1, n, symbols, 4)
    weights = exact(text, symbols, emission[0])
    wrong = inside_chart(rules, emission, torch.tensor([n])).log_total.item()
    assert math.isclose(
        wrong, math.log(2 * sum(weights.values())), abs_tol=1e-9
    )  # 1+1+1 is ((1+1)+1) and (1+(1+1))
    assert accepts(AMBIGUOUS, "1+1+1")


def test_unlikely_strings_do_not_underflow() -> None:
    """Forty symbols at e-50 each, against ones that are likely and lead nowhere."""
    text, symbols = 'start: "(" start ")" | "1"', "(1)"
    rules = RuleTensors(compile_grammar(text, symbols))
    n = 41
    emission = torch.full((1, n, 3), -50.0, dtype=torch.float64)
    emission[:, :, 1] = 0.0  # ones everywhere
    chart = inside_chart(rules, emission, torch.tensor([n]))
    assert math.isclose(chart.log_total.item(), -50.0 * (n - 1), rel_tol=1e-12)
    wanted = "(" * 20 + "1" + ")" * 20
    assert (
        "".join(symbols[i] for i in descend(chart, torch.full((1, n, n + 1), 0.5))[0].tolist())
        == wanted
    )
    assert torch.allclose(posterior(chart).exp().amax(-1), torch.ones(1, n, dtype=torch.float64))
    emission[:, 0, 0] = -1e6  # nothing that is allowed is ever impossible
    chart = inside_chart(rules, emission, torch.tensor([n]))
    assert math.isclose(chart.log_total.item(), -1e6 - 50.0 * (n - 2), rel_tol=1e-12)
    assert torch.allclose(posterior(chart).exp().amax(-1), torch.ones(1, n, dtype=torch.float64))


@pytest.mark.parametrize("gap", [0.3, 30.0, 900.0, 4000.0])
def test_the_order_of_unlikely_strings_is_kept(gap: float) -> None:
    """Two strings, `gap` nats apart, both a thousand nats below the best symbols."""
    rules = RuleTensors(compile_grammar('start: "a" x | "b" y\nx: "a"\ny: "b"', "abc"))
    emission = torch.tensor(
        [[[-1000.0, -1000.0 - gap, 0.0], [-1000.0, -1000.0, 0.0]]], dtype=torch.float64
    )
    chart = inside_chart(rules, emission, torch.tensor([2]))
    wanted = math.log1p(math.exp(-gap))
    assert math.isclose(chart.log_total.item(), -2000 + wanted, rel_tol=1e-12)
    assert torch.allclose(
        posterior(chart)[0, :, 0], torch.tensor(-wanted, dtype=torch.float64), atol=1e-9
    )
    assert (
        torch.allclose(
            posterior(chart)[0, :, 1], torch.tensor(-gap - wanted, dtype=torch.float64), atol=1e-9
        )
        or gap > 700
    )
    assert descend(inside_chart(rules, emission, torch.tensor([2]), best=True))[0].tolist() == [
        0,
        0,
    ]


@pytest.mark.slow
def test_random_grammars_and_canvases_give_strings_of_larks_parser() -> None:
    rng, made, refused = random.Random(7), 0, 0
    for number in range(60):
        text = random_grammar(rng)
        try:
            rules = RuleTensors(normal_form(read_grammar(text, "abc"), "abc"))
        except GrammarError:
            continue
        n = rng.randint(1, 6)
        known = {place: rng.choice("abc") for place in range(n) if rng.random() < 0.2}
        emission = random_emission(4, n, "abc", number, known)
        length = torch.full((4,), n)
        uniform = torch.rand(
            4, n, n + 1, generator=torch.Generator().manual_seed(number), dtype=torch.float64
        )
        for best in (False, True):
            chart = inside_chart(rules, emission, length, best)
            for row, total in zip(
                descend(chart, None if best else uniform).tolist(), chart.log_total.tolist()
            ):
                if total == -math.inf:
                    refused += 1
                    candidates = itertools.product("abc", repeat=n)
                    fitting = (
                        s
                        for s in candidates
                        if all(s[place] == symbol for place, symbol in known.items())
                    )
                    assert not any(accepts(text, "".join(s)) for s in fitting)
                else:
                    made += 1
                    string = "".join("abc"[i] for i in row)
                    assert accepts(text, string)
                    assert all(string[place] == symbol for place, symbol in known.items())
    assert made > 75
    assert refused > 25


def test_posteriors_of_a_best_chart_are_refused() -> None:
    text, symbols, n = SMALL[0]
    rules = RuleTensors(compile_grammar(text, symbols))
    with pytest.raises(ValueError, match="adds up"):
        posterior(
            inside_chart(rules, random_emission(1, n, symbols, 0), torch.tensor([n]), best=True)
        )
