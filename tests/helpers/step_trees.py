"""Arithmetic in steps by trees: `read`, `write` and `reducts` decide what is right, by recursion.

The package rewrites text and never builds a tree, so that this shares nothing with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.languages.arithmetic_steps import ArithmeticSteps

Tree = int | tuple[str, "Tree", "Tree"]

BASE = LanguageConfig(language="arithmetic-steps")
VARIANTS = [
    BASE,
    replace(
        BASE, operators="+-*", max_int=30, max_value=999, min_depth=2, max_depth=3, max_len=224
    ),
    replace(BASE, operators="-", min_int=5, max_int=15, max_value=40, max_depth=4, max_len=120),
    replace(BASE, operators="*", max_int=4, max_value=64, max_depth=3, max_len=100),
    replace(BASE, operators="+", min_int=10, max_int=99, min_depth=0, max_depth=1, max_len=20),
]
SIGNED = ArithmeticSteps(VARIANTS[1])
PLAIN = ArithmeticSteps(BASE)


def read(text: str, operators: str = "+-*") -> Tree | None:
    """The tree of an expression, None if it is none."""

    def number(word: str) -> int:
        if (
            not word.lstrip("-").isdigit()
            or str(int(word)) != word
            or (word[0] == "-" and "-" not in operators)
        ):
            raise ValueError(word)
        return int(word)

    def expression(at: int) -> tuple[Tree, int]:
        if text[at] != "(":
            end = min((i for i in range(at, len(text)) if text[i] in " )"), default=len(text))
            return number(text[at:end]), end
        operator = text[at + 1]
        left, after_left = expression(at + 3)
        right, after_right = expression(after_left + 1)
        if operator not in operators or (text[at + 2], text[after_left], text[after_right]) != (
            " ",
            " ",
            ")",
        ):
            raise ValueError(text)
        return (operator, left, right), after_right + 1

    try:
        tree, end = expression(0)
    except (ValueError, IndexError):
        return None
    return tree if end == len(text) else None


def write(tree: Tree) -> str:
    return str(tree) if isinstance(tree, int) else f"({tree[0]} {write(tree[1])} {write(tree[2])})"


def value_of(tree: Tree) -> int:
    if isinstance(tree, int):
        return tree
    left, right = value_of(tree[1]), value_of(tree[2])
    return {"+": left + right, "-": left - right, "*": left * right}[tree[0]]


def reducts(tree: Tree) -> list[Tree]:
    """Returns the results of one reduction, those of the left argument first."""
    if isinstance(tree, int):
        return []
    operator, left, right = tree
    if isinstance(left, int) and isinstance(right, int):
        return [value_of(tree)]
    return [(operator, other, right) for other in reducts(left)] + [
        (operator, left, other) for other in reducts(right)
    ]


def depth_of(tree: Tree) -> int:
    return 0 if isinstance(tree, int) else 1 + max(depth_of(tree[1]), depth_of(tree[2]))


def numbers_of(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else numbers_of(tree[1]) + numbers_of(tree[2])


def well_formed(text: str, operators: str) -> bool:
    *trees, last = (read(step, operators) for step in text.split(">"))
    return (
        len(trees) > 0 and isinstance(last, int) and all(isinstance(tree, tuple) for tree in trees)
    )


def wrong_step(steps: list[str]) -> int | None:
    """The first of `steps` that no reduction of the one before it gives; None without one."""
    for i in range(1, len(steps)):
        before = read(steps[i - 1])
        if before is None or steps[i] not in map(write, reducts(before)):
            return i
    return None


def all_derivations(tree: Tree) -> Iterator[str]:
    """Every string that holds and begins with this problem."""
    if isinstance(tree, int):
        yield str(tree)
    else:
        for after in dict.fromkeys(reducts(tree)):
            yield from (f"{write(tree)}>{rest}" for rest in all_derivations(after))


def edits(text: str, alphabet: str) -> Iterator[str]:
    """Everything one edit away."""
    yield from (text[:i] + text[i + 1 :] for i in range(len(text)))
    yield from (
        text[:i] + s + text[i + 1 :] for i in range(len(text)) for s in alphabet if s != text[i]
    )
    yield from (text[:i] + s + text[i:] for i in range(len(text) + 1) for s in alphabet)


def drawn(language: ArithmeticSteps, n: int, seed: int = 0) -> list[str]:
    return language.sample_many(n, np.random.default_rng(seed))
