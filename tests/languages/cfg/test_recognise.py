"""The fast recogniser says what Lark's Earley parser and a textbook say."""

from __future__ import annotations

import random
from functools import cache, lru_cache

import numpy as np
import pytest

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg import NormalForm, compile_grammar, normal_form, read_grammar
from maskdiff.languages.cfg.recognise import Recogniser
from maskdiff.languages.cfg.recognise import recognises as fast
from tests.helpers.grammars import BRACKETS, DYCK, EQUATION, SMALL, recognises, strings


@lru_cache(maxsize=1)
def random_grammars() -> tuple[NormalForm, ...]:
    """Dense grammars, most of them ambiguous, with rules of every shape."""
    rng = random.Random(0)
    found: list[NormalForm] = []
    names = ("start", "x", "y", "z")
    while len(found) < 40:
        lines = []
        for name in names:
            bodies = [
                rng.choices([*names, '"a"', '"b"', '"c"'], k=rng.randint(2, 3))
                for _ in range(rng.randint(1, 3))
            ]
            lines.append(
                f"{name}: " + " | ".join([f'"{rng.choice("abc")}"', *map(" ".join, bodies)])
            )
        try:
            found.append(normal_form(read_grammar("\n".join(lines), "abc"), "abc"))
        except GrammarError:  # some rule is never used
            continue
    return tuple(found)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "symbols", "longest"), SMALL)
def test_every_short_string_is_judged_as_lark_does(text: str, symbols: str, longest: int) -> None:
    recogniser = Recogniser(compile_grammar(text, symbols))
    for n in range(1, longest + 1):
        belong = set(strings(text, symbols, n))
        for row in np.ndindex(*[len(symbols)] * n):
            assert recogniser(row) == (row in belong), (n, row)


@pytest.mark.slow
def test_random_grammars_are_recognised_as_by_the_textbook() -> None:
    rng = random.Random(1)
    agreed = {False: 0, True: 0}
    for grammar in random_grammars():
        recogniser = Recogniser(grammar)
        for _ in range(40):
            row = rng.choices(range(3), k=rng.randint(1, 9))
            judged = recogniser(row)
            assert judged == recognises(grammar, "".join("abc"[i] for i in row)), (
                grammar.names,
                row,
            )
            agreed[judged] += 1
    assert min(agreed.values()) > 100


def test_derivations_are_counted_as_by_the_textbook() -> None:
    rng = random.Random(2)
    several = 0
    for grammar in random_grammars():
        recogniser = Recogniser(grammar)
        rules = list(
            zip(grammar.parent.tolist(), grammar.left.tolist(), grammar.right.tolist(), strict=True)
        )
        for _ in range(40):
            row = rng.choices(range(3), k=rng.randint(1, 6))

            @cache
            def ways(
                a: int,
                i: int,
                k: int,
                row: tuple[int, ...],
                grammar: NormalForm = grammar,
                rules: list = rules,
            ) -> int:
                own = int(k == i + 1 and grammar.emits[a, row[i]])
                return own + sum(
                    ways(left, i, m, row) * ways(right, m, k, row)
                    for parent, left, right in rules
                    if parent == a
                    for m in range(i + 1, k)
                )

            found = recogniser.derivations(row)
            assert found == ways(0, 0, len(row), tuple(row))
            assert (found > 0) == recogniser(row)
            several += found > 1
    assert several > 5
    assert Recogniser(compile_grammar(DYCK, "ab")).derivations([7]) == 0


@pytest.mark.parametrize("text", [BRACKETS, EQUATION])
def test_nested_brackets(text: str) -> None:
    symbols = "1(+)="
    grammar = compile_grammar(text, symbols)
    for depth in (1, 5, 20):
        inner = (
            "(1+" * depth + "1" + ")" * depth
            if text == BRACKETS
            else "(1" * depth + "1" + ")" * depth + "=11"
        )
        assert fast(grammar, [symbols.index(s) for s in inner])
        assert not fast(grammar, [symbols.index(s) for s in inner[1:]])
        assert not fast(grammar, [symbols.index(s) for s in inner + ")"])


def test_sequences_of_other_symbols_are_refused() -> None:
    grammar = compile_grammar(DYCK, "ab")
    assert fast(grammar, [0, 1])
    assert fast(grammar, np.array([0, 0, 1, 1]).tolist())
    for wrong in ([], [-1], [0, -1], [0, 2], [0, 1, -1], [1, 0]):
        assert not fast(grammar, wrong)
