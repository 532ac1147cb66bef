"""The next-symbol mask against brute force: exactly the symbols after which the canvas can still be completed."""

from __future__ import annotations

import random

import pytest
import torch
from grammar_helpers import DYCK, EQUATION, SMALL, strings
from test_cfg import random_grammar

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import compile_grammar, normal_form, read_grammar
from maskdiff.sampling.chart import Rules, fill
from maskdiff.sampling.prefix import PrefixMask

GRAMMARS = (*SMALL, (EQUATION, "1(=)", 6), (DYCK, "abc", 6))


def walk(text: str, symbols: str, n: int, known: dict[int, str], seed: int, rules: Rules) -> int:
    """Random walks, some of which lose their way, through canvases of lengths n and n - 1; how many steps went well."""
    rng, rows = random.Random(seed), 12
    length = torch.tensor([n - (row % 2) for row in range(rows)])
    emission = torch.zeros(rows, n, len(symbols), dtype=torch.float64)
    for place, symbol in known.items():
        emission[:, place] = -torch.inf
        emission[:, place, symbols.index(symbol)] = 0.0
    mask = PrefixMask(fill(rules, emission, length))
    fits = [
        [s for s in strings(text, symbols, int(m)) if all(p >= m or symbols[s[p]] == k for p, k in known.items())]
        for m in length
    ]
    checked = 0
    for position in range(n):
        allowed, written = mask.allowed(), []
        for row in range(rows):
            wanted = {s[position] for s in fits[row]} if position < length[row] else set()
            assert set(allowed[row].nonzero()[:, 0].tolist()) == wanted, (text, position, row)
            checked += bool(wanted)
            written.append(rng.choice(sorted(wanted)) if wanted and rng.random() < 0.95 else rng.randrange(len(symbols)))
            fits[row] = [s for s in fits[row] if position >= length[row] or s[position] == written[row]]
        mask.write(torch.nn.functional.one_hot(torch.tensor(written), len(symbols)).bool())
    return checked


@pytest.mark.parametrize("number", range(len(GRAMMARS)))
def test_what_is_allowed_is_what_can_be_completed(number: int) -> None:
    text, symbols, longest = GRAMMARS[number]
    rules = Rules(compile_grammar(text, symbols))
    checked = 0
    for n in range(2, longest + 1):
        for known in ({}, {n - 1: symbols[-1]}, {n // 2: symbols[0]}, {0: symbols[0], n - 2: symbols[1]}):
            checked += walk(text, symbols, n, known, n, rules)
    assert checked > 60


def test_random_grammars() -> None:
    rng, used, checked = random.Random(3), 0, 0
    for number in range(60):
        text = random_grammar(rng)
        try:
            rules = Rules(normal_form(read_grammar(text, "abc"), "abc"))
        except GrammarError:
            continue
        used += 1
        known = {place: rng.choice("abc") for place in range(5) if rng.random() < 0.15}
        checked += walk(text, "abc", 5, known, number, rules)
    assert used > 20
    assert checked > 300
