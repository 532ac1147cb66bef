"""A damage fitted to pairs: it recovers what made them, few pairs change little, files are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskdiff.errors import DataError, ParseError
from maskdiff.languages import Vocabulary
from maskdiff.repair import Damage, damage_of_file, fit_damage
from maskdiff.repair.damage import TYPICAL

SYMBOLS = "abcdef"
VOCABULARY = Vocabulary.of(SYMBOLS, digit=False)
KINDS = ("insert", "delete", "replace", "swap")
Pair = tuple[str, str]


def known_damage() -> Damage:
    """Return a damage that often writes the next symbol of the alphabet and inserts "a"."""
    size = len(SYMBOLS)
    table = torch.full((size, size), 0.2 / (size - 2))
    for i in range(size):
        table[i, i], table[i, (i + 1) % size] = 0.0, 0.8
    inserted = torch.tensor([0.6, *[0.4 / (size - 1)] * (size - 1)])
    return Damage(
        0.2, 0.15, 0.45, 0.2, table, inserted, rates={0.03: 0.7, 0.1: 0.3}, untouched=0.2
    )  # fmt: skip


def sampled_pairs(damage: Damage, count: int, seed: int = 0) -> list[Pair]:
    """Return pairs of random strings of 12 symbols and what the damage makes of them."""
    rng = np.random.default_rng(seed)
    rates, weights = [*damage.rates], [*damage.rates.values()]
    pairs = []
    for _ in range(count):
        right = rng.choice(VOCABULARY.inner_ids, 12).tolist()
        edits = 0
        if rng.random() >= damage.untouched:
            rate = rng.choice(rates, p=weights) * TYPICAL / 12
            while not edits:  # a damaged string has some edit
                edits = int(rng.binomial(12, rate))
        broken = damage.apply(right, edits, VOCABULARY, rng)
        pairs.append((VOCABULARY.decode(broken), VOCABULARY.decode(right)))
    return pairs


@pytest.mark.slow
def test_a_known_damage_is_recovered_from_two_thousand_pairs() -> None:
    """Shares within 0.06 (three standard errors of 490 edits), tables within 0.25, 0.05 on average.

    Each symbol is replaced about 37 times: three standard errors are 0.2, and the prior adds 0.1.
    Neighbouring rates can hardly be distinguished, so what they predict is compared: the share
    of equal pairs and the mean number of edits.
    """
    damage, pairs = known_damage(), sampled_pairs(known_damage(), 2000)
    fitted = fit_damage(pairs, VOCABULARY)
    assert fitted.confusion is not None
    assert fitted.inserted is not None
    assert damage.confusion is not None
    assert damage.inserted is not None
    for kind in KINDS:
        assert getattr(fitted, kind) == pytest.approx(getattr(damage, kind), abs=0.06)
    for found, known in ((fitted.confusion, damage.confusion), (fitted.inserted, damage.inserted)):
        assert (found - known).abs().mean() < 0.05
        assert (found - known).abs().max() < 0.25

    def edits(damage: Damage) -> float:
        rates = [(r * TYPICAL / 12, w) for r, w in damage.rates.items()]
        each = sum(12 * r * w / (1 - (1 - r) ** 12) for r, w in rates)
        return (1 - damage.untouched) * each

    assert fitted.untouched == pytest.approx(damage.untouched, abs=0.04)
    assert edits(fitted) == pytest.approx(edits(damage), rel=0.12)


def test_fitted_parts_are_distributions() -> None:
    fitted = fit_damage(sampled_pairs(known_damage(), 60), VOCABULARY)
    assert fitted.confusion is not None
    assert fitted.inserted is not None
    assert sum(getattr(fitted, kind) for kind in KINDS) == pytest.approx(1)
    assert fitted.confusion.sum(1).tolist() == pytest.approx([1] * len(SYMBOLS))
    assert float(fitted.inserted.sum()) == pytest.approx(1)
    assert sum(fitted.rates.values()) == pytest.approx(1)
    assert 0 < fitted.untouched < 1


def test_three_pairs_change_little() -> None:
    fitted = fit_damage([("abd", "abc"), ("ab", "ab"), ("fabc", "abc")], VOCABULARY)
    usual = Damage()
    for kind in KINDS:
        assert getattr(fitted, kind) == pytest.approx(getattr(usual, kind), abs=0.06)
    assert fitted.untouched == pytest.approx(usual.untouched, abs=0.05)
    for rate, weight in usual.rates.items():
        assert fitted.rates[rate] == pytest.approx(weight, abs=0.06)
    assert fitted.confusion is not None
    table = fitted.confusion[2]  # "c" was once written as "d"
    assert table[3] == table.max() < 0.35
    assert fit_damage([], VOCABULARY) == usual


@pytest.mark.slow
def test_pairs_of_broken_texts_alone_make_right_texts_rare() -> None:
    pairs = [pair for pair in sampled_pairs(known_damage(), 600) if pair[0] != pair[1]]
    assert fit_damage(pairs, VOCABULARY).untouched < 0.1
    right = [(text, text) for _, text in pairs]
    assert fit_damage(right, VOCABULARY).untouched > 0.9


def test_one_transposition_is_one_edit() -> None:
    pairs = [("abdc", "abcd"), ("bacd", "abcd")] * 40
    fitted = fit_damage(pairs, VOCABULARY)
    assert fitted.swap > 0.7
    assert fitted.confusion is None
    assert fitted.inserted is None


def test_foreign_symbols_and_blanks_of_broken_texts_are_no_edits() -> None:
    fitted = fit_damage([("a%c", "abc"), ("?bc", "abc")] * 30, VOCABULARY)
    assert fitted.replace == Damage().replace
    with pytest.raises(ParseError, match="%"):
        fit_damage([("abc", "a%c")], VOCABULARY)


# -------------------------- files

FILES = {
    "a.txt": "abd\tabc\nab\tab\n\nfabc\tabc\n",
    "a.csv": "id,right,broken\n1,abc,abd\n2,ab,ab\n\n3,abc,fabc\n",
    "a.tsv": "broken\tright\nabd\tabc\nab\tab\nfabc\tabc\n",
    "a.jsonl": '{"right":"abc","broken":"abd"}\n{"broken":"ab","right":"ab"}\n'
    '{"broken":"fabc","right":"abc"}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_all_formats_have_the_same_damage(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    fitted = damage_of_file(tmp_path / name, VOCABULARY)
    expected = fit_damage([("abd", "abc"), ("ab", "ab"), ("fabc", "abc")], VOCABULARY)
    assert fitted.rates == expected.rates
    assert fitted.confusion is not None
    assert expected.confusion is not None
    assert torch.equal(fitted.confusion, expected.confusion)


BAD = {
    "no TAB": ("a.txt", "abd\tabc\nabc\n", "line 2: 'abc.*' is no pair"),
    "two TABs": ("a.txt", "abd\tabc\tabc\n", "line 1: .* is no pair"),
    "foreign": ("a.txt", "\nabd\ta%c\n", "line 2: .*%"),
    "empty right": ("a.txt", "ab\tab\nabc\t\n", "line 2: the right text is empty"),
    "not UTF-8": ("a.txt", b"ab\tab\n\xff\tab\n", "line 2: .*UTF-8"),
    "nothing": ("a.txt", "\n\n", "has no pairs"),
    "no column": ("a.csv", "broken,wrong\nab,ab\n", "no column 'right'"),
    "short row": ("a.csv", "broken,right\nab,ab\nab\n", "line 3: a row of 1 cells"),
    "no text": ("a.jsonl", '{"broken":"ab","right":7}\n', "line 1: 'right' is no text"),
    "no key": ("a.jsonl", '{"broken":"a","right":"a"}\n{"broken":"a"}\n', "line 2: .*'right'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line_with_the_number_of_the_line(case: str, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as refused:
        damage_of_file(tmp_path / name, VOCABULARY)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read pairs from .*No such file"):
        damage_of_file(tmp_path / "none.txt", VOCABULARY)
