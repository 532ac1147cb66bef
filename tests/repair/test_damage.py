"""The channel of a few edits: against brute force, and against strings that `Damage` damages."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskdiff.errors import ConfigError
from maskdiff.languages import Vocabulary
from maskdiff.languages.vocabulary import PRINTABLE_ASCII
from maskdiff.repair import Damage, channel_log_probs, named_damage
from tests.helpers.channels import Tokens, channel_probability

VOCABULARY = Vocabulary.of("abc", digit=False)
INNER = VOCABULARY.inner_ids
CONFUSION = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [0.6, 0.1, 0.3]])
INSERTED = torch.tensor([0.2, 0.7, 0.1])
SKEWED = Damage(0.2, 0.1, 0.5, 0.2, CONFUSION, INSERTED)


def p_value(statistic: float, degrees: int) -> float:
    """Return the probability of a chi-square statistic at least as large."""
    half = torch.tensor([degrees / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("damage", [Damage(), SKEWED], ids=["default", "skewed"])
def test_channel_equals_the_sum_over_all_alignments(damage: Damage, broken: bool) -> None:
    """The condition that a text has some edit, which is a factor, is left out."""
    rng, reached = random.Random(3), 0
    channel = replace(damage.channel(VOCABULARY, broken), untouched=None)
    for _ in range(12):
        y = tuple(rng.choice((*INNER, VOCABULARY.mask)) for _ in range(rng.randint(1, 4)))
        certain = frozenset(j for j in range(len(y)) if rng.random() < 0.2)
        texts = [tuple(rng.choice(INNER) for _ in range(rng.randint(0, 4))) for _ in range(5)]
        found = channel_log_probs(channel, y, texts, VOCABULARY, certain).exp().tolist()
        assert found == pytest.approx(
            [channel_probability(x, y, channel, VOCABULARY, certain) for x in texts],
            rel=1e-9,
            abs=1e-15,
        )
        reached += sum(p > 0 for p in found)
    assert reached > 20


def test_a_text_is_right_with_its_share_and_otherwise_has_an_edit() -> None:
    """The text itself has the share; another one the rest, given that there is some edit."""
    x, y = tuple(VOCABULARY.encode("abca")), tuple(VOCABULARY.encode("abc"))
    rate = 0.1
    damage = Damage(rates={rate: 1.0}, untouched=0.3)
    damaged, mixed = damage.channel(VOCABULARY, broken=True), damage.channel(VOCABULARY)
    free = replace(damaged, untouched=None)
    for text in (x, y):
        p = float(channel_log_probs(free, text, [x], VOCABULARY).exp()) / (1 - (1 - rate) ** len(x))
        some = 0.0 if text == x else p
        found = channel_log_probs(mixed, text, [x], VOCABULARY).exp()
        assert float(found) == pytest.approx(0.3 if text == x else 0.7 * p)
        assert float(channel_log_probs(damaged, text, [x], VOCABULARY).exp()) == pytest.approx(some)
    assert float(mixed.weight.sum()) == pytest.approx(1)


def test_a_blank_is_no_edit() -> None:
    """A text with a blank is as probable as with the symbol there, up to the rate of edits."""
    x, y = VOCABULARY.encode("abca"), VOCABULARY.encode("ab?a", blanks=True)
    for broken in (False, True):  # a blank is damage enough
        channel = Damage(untouched=0.5).channel(VOCABULARY, broken)
        hidden = channel_log_probs(channel, y, [x], VOCABULARY).exp()
        assert float(hidden) == pytest.approx(0.5)


def neighbours(x: Tokens) -> dict[str, set[Tokens]]:
    """Return the strings one edit away from x by the kind of the edit."""
    n = len(x)
    kinds = {
        "insert": {(*x[:i], s, *x[i:]) for i in range(n + 1) for s in INNER},
        "delete": {(*x[:i], *x[i + 1 :]) for i in range(n)},
        "replace": {(*x[:i], s, *x[i + 1 :]) for i in range(n) for s in INNER},
        "swap": {(*x[:i], x[i + 1], x[i], *x[i + 2 :]) for i in range(n - 1)},
    }
    return {kind: strings - {x} for kind, strings in kinds.items()}


def one_edit(damage: Damage, x: Tokens) -> dict[Tokens, float]:
    """Return the channel of `damage` at a vanishing rate: the distribution of one edit."""
    rare = Damage(
        damage.insert, damage.delete, damage.replace, damage.swap, damage.confusion,
        damage.inserted, rates={2e-4: 1.0},
    )  # fmt: skip
    strings = sorted(set().union(*neighbours(x).values()))
    channel = rare.channel(VOCABULARY, broken=True)
    p = {y: float(channel_log_probs(channel, y, [x], VOCABULARY).exp()) for y in strings}
    total = sum(p.values())
    return {y: value / total for y, value in p.items()}


def test_kinds_of_one_edit_have_their_shares_of_the_places() -> None:
    """Of "abcab": 6 gaps, 5 symbols to lose, 5 to replace by one of 2 others, 4 pairs to swap."""
    x = tuple(VOCABULARY.encode("abcab"))
    p, kinds = one_edit(Damage(), x), neighbours(x)
    places = {"insert": 6 * 0.3, "delete": 5 * 0.3, "replace": 5 * 0.3 * 2 / 3, "swap": 4 * 0.1}
    for kind, share in places.items():
        found = sum(p[y] for y in kinds[kind])
        assert found == pytest.approx(share / sum(places.values()), rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [Damage(), SKEWED], ids=["default", "skewed"])
def test_damaged_strings_have_the_probabilities_of_the_channel(damage: Damage) -> None:
    """A chi-square test over all neighbours, which rejects shares that are 0.06 off.

    With 4,000 strings two shares of 0.3 that differ by 0.06 have a noncentrality near 90; at
    p = 1e-4 the test detects it with a power above 0.999.
    """
    x, rng, draws = tuple(VOCABULARY.encode("abcab")), np.random.default_rng(7), 4000
    seen = Counter(tuple(damage.apply(x, 1, VOCABULARY, rng)) for _ in range(draws))
    wrong = Damage(
        damage.insert + 0.06, damage.delete, damage.replace - 0.06, damage.swap,
        damage.confusion, damage.inserted,
    )  # fmt: skip

    def probability(expected: dict[Tokens, float]) -> float:
        assert set(seen) <= set(expected)
        statistic = sum((seen[y] - draws * p) ** 2 / (draws * p) for y, p in expected.items())
        return p_value(statistic, len(expected) - 1)

    assert probability(one_edit(damage, x)) > 1e-3
    assert probability(one_edit(wrong, x)) < 1e-4


def test_a_number_of_edits_reaches_at_most_so_far() -> None:
    """One symbol is never lost, and the same seed gives the same strings."""
    rng = np.random.default_rng(0)
    made = [Damage().apply(VOCABULARY.encode("a"), 3, VOCABULARY, rng) for _ in range(200)]
    assert min(map(len, made)) == 1
    assert max(map(len, made)) == 4
    again = np.random.default_rng(0)
    assert made[0] == Damage().apply(VOCABULARY.encode("a"), 3, VOCABULARY, again)
    assert named_damage("swap", VOCABULARY).apply(INNER[:1] * 3, 2, VOCABULARY, rng) == [
        *INNER[:1] * 3
    ]  # equal symbols cannot be swapped


@pytest.mark.parametrize("name", ["keyboard", "ocr"])
@pytest.mark.parametrize("symbols", [PRINTABLE_ASCII.replace("?", ""), "ab", "\u00e4\u00df\u6f22"])
def test_tables_of_confusions_are_distributions(name: str, symbols: str) -> None:
    damage = named_damage(name, Vocabulary.of(symbols, digit=False))
    assert isinstance(damage, Damage)
    assert damage.confusion is not None
    assert damage.confusion.shape == (len(symbols), len(symbols))
    assert damage.confusion.min() > 0
    assert damage.confusion.sum(1).tolist() == pytest.approx([1] * len(symbols), abs=1e-6)
    assert damage.insert + damage.delete + damage.replace + damage.swap == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "right", "near", "far"),
    [("keyboard", "f", "g", "p"), ("keyboard", "F", "d", "0"), ("ocr", "0", "O", "x")],
)
def test_related_symbols_are_confused(name: str, right: str, near: str, far: str) -> None:
    vocabulary = Vocabulary.of(PRINTABLE_ASCII.replace("?", ""), digit=False)
    damage, row = named_damage(name, vocabulary), vocabulary.inner_symbols.index
    assert isinstance(damage, Damage)
    assert damage.confusion is not None
    table = damage.confusion
    assert table[row(right), row(near)] > 20 * table[row(right), row(far)]


def test_weights_of_the_search_undo_the_damage() -> None:
    """What is never lost is never written again."""
    weights = Damage(0.5, 0.0, 0.2, 0.3).weights(10)
    assert weights.insert == -math.inf
    assert weights.delete == pytest.approx(math.log(0.05))
    assert weights.transpose == pytest.approx(math.log(0.3))


def test_unknown_damage_is_one_line_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'keyborad' is unknown; .*'keyboard'"):
        named_damage("keyborad", VOCABULARY)
