"""Generator, exact probabilities, lengths and entropies of the arithmetic language.

`enumerate_language` states the generator independently: all derivations with probabilities.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from maskdiff.config import LanguageConfig
from maskdiff.languages import make_language
from maskdiff.languages.arithmetic.lengths import (
    compute_length_table,
    expression_lengths,
    length_table,
)
from maskdiff.languages.arithmetic.probability import log_generated

TINY = [
    LanguageConfig(max_int=2, max_depth=2),
    LanguageConfig(max_int=1, min_depth=0, max_depth=2, operators="+-*", notation="infix"),
    LanguageConfig(max_int=2, min_depth=2, max_depth=2, operators="-", separator=","),
    LanguageConfig(min_int=9, max_int=10, max_depth=2, max_len=15),
    LanguageConfig(max_int=1, min_depth=1, max_depth=3, max_len=22, operators="+"),
]
REFERENCE = make_language(LanguageConfig())
Drawn = dict[tuple[str, int], float]


def enumerate_expressions(depth: int, config: LanguageConfig) -> Drawn:
    """Probability of each (expression, value) at `depth`, straight from the definition."""
    found: defaultdict[tuple[str, int], float] = defaultdict(float)
    operands = range(config.min_int, config.max_int + 1)
    stop = 1.0 if depth == 0 else 0.2
    for i in operands:
        found[str(i), i] += stop / len(operands)
    apply: dict[str, Callable[[int, int], int]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
    }
    for other in range(depth):
        for left_depth, right_depth in ((depth - 1, other), (other, depth - 1)):
            lefts, rights = (
                enumerate_expressions(left_depth, config),
                enumerate_expressions(right_depth, config),
            )
            for op in config.operators:
                for (left, a), p in lefts.items():
                    for (right, b), q in rights.items():
                        infix = config.notation == "infix"
                        text = (
                            f"({left}{op}{right})"
                            if infix
                            else f"({op}{left}{config.separator}{right})"
                        )
                        if len(text) <= config.max_len - 4:
                            found[text, apply[op](a, b)] += (
                                0.8 * p * q / depth / 2 / len(config.operators)
                            )
    return dict(found)


def enumerate_language(config: LanguageConfig) -> dict[str, float]:
    """P(string) after rejection, for every string."""
    found: defaultdict[str, float] = defaultdict(float)
    depths = range(config.min_depth, config.max_depth + 1)
    for depth in depths:
        for (text, value), p in enumerate_expressions(depth, config).items():
            if len(text) + 1 + len(str(value)) <= config.max_len - 2:
                found[f"{text}={value}"] += p / len(depths)
    total = sum(found.values())
    return {text: p / total for text, p in found.items()}


@pytest.fixture(
    scope="module", params=TINY, ids=lambda c: f"{c.notation}{c.operators}{c.max_depth}"
)
def tiny(request: pytest.FixtureRequest) -> tuple[LanguageConfig, dict[str, float]]:
    return request.param, enumerate_language(request.param)


def test_log_prob_is_the_enumerated_probability(
    tiny: tuple[LanguageConfig, dict[str, float]],
) -> None:
    config, exact = tiny
    language = make_language(config)
    texts = list(exact)
    if len(texts) > 4000:
        texts = [texts[i] for i in np.random.default_rng(0).choice(len(texts), 4000, replace=False)]
    for text in texts:
        assert language.log_prob(text) == pytest.approx(math.log(exact[text]), abs=1e-9)


def test_log_prob_sums_to_one_and_vanishes_outside() -> None:
    config = TINY[0]
    language, exact = make_language(config), enumerate_language(config)
    assert sum(math.exp(language.log_prob(text)) for text in exact) == pytest.approx(1.0, abs=1e-9)
    assert math.exp(language.log_prob(" (+ 1 2) = 3")) == pytest.approx(exact["(+12)=3"])
    # Wrong value, too deep, ungrammatical, too long, empty: nothing that the generator can draw.
    for text in ("(+12)=4", "(+1(+1(+11)))=4", "(+12=3", "", "3=3"):
        assert language.log_prob(text) == -math.inf
    assert make_language(replace(config, max_len=8)).log_prob("(+12)=3") == -math.inf
    assert make_language(replace(config, max_len=9)).log_prob("(+12)=3") > -math.inf
    # The depth is always 2: an operation on two operands needs the coin twice.
    assert make_language(TINY[2]).log_prob("(-1,2)=-1") > -math.inf


def test_length_distribution_of_small_languages_is_exact(
    tiny: tuple[LanguageConfig, dict[str, float]],
) -> None:
    config, exact = tiny
    language = make_language(config)
    assert length_table(config).exact
    expected: defaultdict[int, float] = defaultdict(float)
    for text, p in exact.items():
        expected[len(text)] += p
    for n in range(language.max_symbols + 2):
        assert math.exp(language.length_log_prob(n)) == pytest.approx(
            expected.get(n, 0.0), abs=1e-12
        )
    assert language.length_log_prob(-1) == -math.inf
    lengths = language.length_probs()
    assert lengths.shape == (language.max_symbols + 1,)
    assert lengths.sum() == pytest.approx(1.0)
    if "-" not in config.operators:
        assert max(expected) == language.max_symbols or config.max_len < 64
    assert min(expected) == language.min_symbols


def test_draws_follow_log_prob(tiny: tuple[LanguageConfig, dict[str, float]]) -> None:
    """G-test against the exact distribution, strings expected fewer than 10 times lumped together.

    With 40, 000 draws and some 100 cells,
    a shift of 5% of the probability between halves of the strings is detected with
    power > 0.99; the bound is 5 standard deviations of the statistic.
    """
    config, exact = tiny
    drawn = Counter(make_language(config).sample_many(40_000, np.random.default_rng(3)))
    assert set(drawn) <= set(exact)
    common = [text for text, p in exact.items() if p * 40_000 >= 10]
    observed = np.array(
        [drawn[t] for t in common] + [40_000 - sum(drawn[t] for t in common)], dtype=float
    )
    expected = np.array([exact[t] for t in common])
    expected = 40_000 * np.append(expected, max(1e-9, 1.0 - expected.sum()))
    keep = expected > 5
    statistic = (
        2 * (observed[keep] * np.log(np.maximum(observed[keep], 1e-12) / expected[keep])).sum()
    )
    freedom = keep.sum() - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def test_the_test_of_draws_detects_a_wrong_coin() -> None:
    """Negative control: the frequencies for another operand range fail."""
    exact = enumerate_language(TINY[0])
    drawn = Counter(
        make_language(replace(TINY[0], min_depth=0)).sample_many(40_000, np.random.default_rng(3))
    )
    top = sorted(exact, key=lambda t: -exact[t])[:20]
    z = [(drawn[t] - 40_000 * exact[t]) / math.sqrt(40_000 * exact[t]) for t in top]
    assert np.square(z).sum() > 200


def test_sampling_is_deterministic_and_a_prefix() -> None:
    many = REFERENCE.sample_many(300, np.random.default_rng(5))
    assert many == REFERENCE.sample_many(300, np.random.default_rng(5))
    assert REFERENCE.sample_many(20, np.random.default_rng(5)) == many[:20]
    assert REFERENCE.sample(np.random.default_rng(5)) == many[0]
    assert REFERENCE.sample_many(0, np.random.default_rng(5)) == []


def test_long_draws_are_rejected_and_never_cut() -> None:
    language = make_language(LanguageConfig(max_len=13, max_depth=12, min_depth=12))
    strings = language.sample_many(500, np.random.default_rng(0))
    assert max(map(len, strings)) == 11
    assert all(language.holds(s) for s in strings)


def test_expression_lengths_by_enumeration() -> None:
    config = LanguageConfig(min_int=8, max_int=11, max_depth=2, notation="infix")
    language = make_language(config)
    table = expression_lengths(config, language.grammar, 40)  # type: ignore[attr-defined]
    for depth in range(3):
        expected: defaultdict[int, float] = defaultdict(float)
        for (text, _), p in enumerate_expressions(depth, config).items():
            expected[len(text)] += p
        assert table[depth] == pytest.approx([expected[m] for m in range(41)], abs=1e-12)
        assert table[depth].sum() == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"operators": "-", "notation": "infix", "max_int": 99, "max_len": 48}]
)
def test_estimated_lengths_match_draws(options: dict[str, Any]) -> None:
    """Chi-square of 60,000 draws against P(n) within 5 standard deviations.

    A 10% error in any common length fails.
    """
    language = make_language(LanguageConfig(**options))
    assert not length_table(language.config).exact
    probs = language.length_probs()
    drawn = [len(s) for s in language.sample_many(60_000, np.random.default_rng(8))]
    count = np.bincount(drawn, minlength=len(probs))
    assert not count[probs == 0].any()
    assert probs.sum() == pytest.approx(1.0)
    expected, seen = 60_000 * probs[probs > 1e-4], count[probs > 1e-4]
    freedom = len(expected) - 1
    assert ((seen - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom)
    wrong = np.roll(expected, 1)
    assert ((seen - wrong) ** 2 / wrong).sum() > 1000


def test_given_its_length_a_string_has_a_probability_below_one() -> None:
    for text in REFERENCE.sample_many(300, np.random.default_rng(2)):
        assert -60 < REFERENCE.log_prob(text) - REFERENCE.length_log_prob(len(text)) < 0
    # All eleven strings of depth 0 by hand: P(7=7) = P(operand) / 11 / acceptance.
    acceptance = REFERENCE.acceptance  # type: ignore[attr-defined]
    assert acceptance == pytest.approx(0.9662, abs=2e-4)
    assert REFERENCE.log_prob("7=7") == pytest.approx(math.log(0.2 / 11 / acceptance), abs=1e-12)
    assert REFERENCE.length_log_prob(3) == pytest.approx(
        math.log(0.2 * 10 / 11 / acceptance), abs=1e-12
    )


@pytest.mark.slow
def test_entropy_floors_are_the_reference_figures() -> None:
    floors = REFERENCE.entropy()
    assert floors["per_token_given_length"] == pytest.approx(0.772, abs=0.003)
    assert floors["per_token_free"] == pytest.approx(0.910, abs=0.002)
    assert floors["per_token_known_length"] == pytest.approx(0.73, abs=0.003)
    assert floors["mean_length"] == pytest.approx(17.9, abs=0.05)
    assert floors["length"] == pytest.approx(3.39, abs=0.005)
    assert floors["standard_error"] < 0.001


@pytest.mark.slow
def test_entropy_of_a_tiny_language_is_exact_up_to_its_error() -> None:
    config = TINY[0]
    exact = enumerate_language(config)
    floors = make_language(config).entropy()
    entropy = -sum(p * math.log(p) for p in exact.values())
    mean = sum(p * len(text) for text, p in exact.items())
    assert floors["mean_length"] == pytest.approx(mean)
    assert abs(floors["string"] - entropy) < 5 * floors["standard_error"] * mean + 1e-9


def test_probabilities_of_very_long_strings_do_not_underflow() -> None:
    language = make_language(LanguageConfig(max_len=1024, max_depth=12, min_depth=12))
    text = max(language.sample_many(300, np.random.default_rng(0)), key=len)
    tree = language.parse(text)
    assert len(text) > 300
    log_p = log_generated(tree, language.config, language.grammar)  # type: ignore[attr-defined]
    operations = sum(bool(n.operator) for n in tree.nodes)
    leaves = len(tree.nodes) - operations
    # Every leaf costs at least log 11, every operation at least log 2 (its operator).
    assert -len(text) * 10 < log_p < -leaves * math.log(11) - operations * math.log(2)


@pytest.mark.slow
def test_the_stored_table_of_the_default_language_is_the_computed_one() -> None:
    stored, computed = length_table(LanguageConfig()), compute_length_table(LanguageConfig())
    assert np.array_equal(stored.probs, computed.probs)
    assert (stored.acceptance, stored.exact) == (computed.acceptance, computed.exact)
