"""The next-symbol mask against brute force: exactly the symbols that keep a canvas completable."""

from __future__ import annotations

import random

import pytest
import torch

from maskdiff.constraints.chart import RuleTensors
from maskdiff.constraints.prefix import PrefixMask
from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import NormalForm, compile_grammar, normal_form, read_grammar
from tests.helpers.grammars import DYCK, EQUATION, SMALL, random_grammar, strings

GRAMMARS = (*SMALL, (EQUATION, "1(=)", 6), (DYCK, "abc", 6))


def walk(
    text: str, symbols: str, n: int, known: dict[int, str], seed: int, grammar: NormalForm
) -> int:
    """Checks random walks through canvases of lengths n and n - 1; returns the steps checked."""
    rng, rows = random.Random(seed), 12
    length = torch.tensor([n - (row % 2) for row in range(rows)])
    possible = torch.ones(rows, n, len(symbols), dtype=torch.bool)
    for place, symbol in known.items():
        possible[:, place] = False
        possible[:, place, symbols.index(symbol)] = True
    mask = PrefixMask(grammar, RuleTensors(grammar), possible, length)
    fits = [
        [
            s
            for s in strings(text, symbols, int(m))
            if all(p >= m or symbols[s[p]] == k for p, k in known.items())
        ]
        for m in length
    ]
    checked = 0
    for position in range(n):
        allowed, written = mask.allowed(), []
        for row in range(rows):
            wanted = {s[position] for s in fits[row]} if position < length[row] else set()
            assert set(allowed[row].nonzero()[:, 0].tolist()) == wanted, (text, position, row)
            checked += bool(wanted)
            written.append(
                rng.choice(sorted(wanted))
                if wanted and rng.random() < 0.95
                else rng.randrange(len(symbols))
            )
            fits[row] = [
                s for s in fits[row] if position >= length[row] or s[position] == written[row]
            ]
        mask.write(torch.nn.functional.one_hot(torch.tensor(written), len(symbols)).bool())
    return checked


@pytest.mark.parametrize("number", range(len(GRAMMARS)))
def test_allowed_symbols_are_those_with_a_completion(number: int) -> None:
    text, symbols, longest = GRAMMARS[number]
    grammar = compile_grammar(text, symbols)
    checked = 0
    for n in range(2, longest + 1):
        for known in (
            {},
            {n - 1: symbols[-1]},
            {n // 2: symbols[0]},
            {0: symbols[0], n - 2: symbols[1]},
        ):
            checked += walk(text, symbols, n, known, n, grammar)
    assert checked > 60


@pytest.mark.slow
def test_random_grammars() -> None:
    rng, used, checked = random.Random(3), 0, 0
    for number in range(15):
        text = random_grammar(rng)
        try:
            grammar = normal_form(read_grammar(text, "abc"), "abc")
        except GrammarError:
            continue
        used += 1
        known = {place: rng.choice("abc") for place in range(5) if rng.random() < 0.15}
        checked += walk(text, "abc", 5, known, number, grammar)
    assert used > 5
    assert checked > 75


def test_a_selected_mask_is_independent() -> None:
    """Copies of a string are independent: each equals a mask that wrote the same from the start."""
    text, symbols, _ = GRAMMARS[-1]
    grammar = compile_grammar(text, symbols)
    n, rng = 6, random.Random(5)
    length = torch.tensor([6, 6, 5, 4])
    possible = torch.ones(4, n, len(symbols), dtype=torch.bool)
    possible[1, 3] = torch.tensor([symbol == symbols[0] for symbol in symbols])
    mask = PrefixMask(grammar, RuleTensors(grammar), possible, length)
    history, of = [[] for _ in range(4)], list(range(4))
    for position in range(n - 1):
        allowed = mask.allowed()
        written = [rng.choice(row.nonzero()[:, 0].tolist() or [0]) for row in allowed]
        mask.write(torch.nn.functional.one_hot(torch.tensor(written), len(symbols)).bool())
        for row, symbol in enumerate(written):
            history[row] = [*history[row], symbol]
        if position < 3:
            rows = [rng.randrange(len(of)) for _ in range(6)]
            mask = mask.select(torch.tensor(rows))
            history, of = [history[row] for row in rows], [of[row] for row in rows]
    again = PrefixMask(grammar, RuleTensors(grammar), possible[of], length[of])
    for position in range(n - 1):
        again.write(
            torch.nn.functional.one_hot(
                torch.tensor([row[position] for row in history]), len(symbols)
            ).bool()
        )
    assert torch.equal(mask.allowed(), again.allowed())
    assert mask.allowed().any()
