"""An independent judge of answers to arithmetic problems, by trees (helpers/step_trees.py), and
attempts to try it on.

The judge reads an answer symbol by symbol and works with Python's own arithmetic: it shares nothing
with the package.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import chain

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.languages import ArithmeticCorrections
from maskdiff.languages.arithmetic_corrections import Marks
from maskdiff.languages.arithmetic_corrections.slips import Bounds, write_answer
from tests.helpers.step_trees import Tree, read, reducts, value_of, write

BASE = LanguageConfig(
    language="arithmetic-corrections",
    operators="+-*",
    max_int=12,
    max_value=99,
    min_depth=2,
    max_depth=3,
    max_len=256,
)
UNSIGNED = replace(BASE, operators="+*", max_int=6, max_depth=2)
VARIANTS = [
    BASE,
    replace(BASE, min_depth=3, max_depth=4, max_len=512),
    replace(BASE, operators="-", min_int=5, max_int=30, max_value=40, max_depth=2, max_len=128),
    UNSIGNED,
]
LANGUAGE = ArithmeticCorrections(BASE)
MARKS = ">!;|~@="


def bounds_of(config: LanguageConfig = BASE) -> Bounds:
    return Bounds(config.max_value, config.operators)


def drawn(language: ArithmeticCorrections, n: int, seed: int = 0) -> list[str]:
    return language.sample_many(n, np.random.default_rng(seed))


def tree_of(expression: str) -> Tree:
    tree = read(expression)
    assert tree is not None
    return tree


def operations(tree: Tree) -> int:
    return 0 if isinstance(tree, int) else 1 + operations(tree[1]) + operations(tree[2])


def step_tree(step: str) -> Tree | None:
    """The tree of a step, None if it is no expression; what has more than 4096 symbols is none."""
    return read(step) if len(step) <= 4096 else None


def following(step: str) -> list[str]:
    """All reductions of the tree of a step, written out."""
    tree = step_tree(step)
    return [] if tree is None else [write(other) for other in reducts(tree)]


def kept_by_hand(answer: str) -> list[str]:
    """Steps, symbol by symbol: `!` forgets what stands before it, `>` and the end keep it.

    An empty end is no step; an empty text before a mark is an empty step, which cannot be taken
    back.
    """
    kept, now = [], ""
    for symbol in answer:
        if symbol not in ">!":
            now += symbol
            continue
        if symbol == ">" or not now:
            kept.append(now)
        now = ""
    return [*kept, now] if now else kept


def judged_by_trees(problem: str, answer: str) -> Marks:
    """Marks by the definition: a step is right if some reduction of the tree before it is written
    so."""
    kept = kept_by_hand(answer)
    right = [step in following(before) for before, step in zip([problem, *kept], kept)]
    wrong = right.index(False) + 1 if False in right else None
    final = bool(kept) and kept[-1] == str(value_of(tree_of(problem)))
    return Marks(sum(right), len(kept), operations(tree_of(problem)), wrong, final)


def feedback_by_hand(problem: str, answer: str, kind: str) -> str:
    """Feedback by the definition, tenths in whole numbers."""
    marks = judged_by_trees(problem, answer)
    if kind == "first_wrong_step":
        if marks.first_wrong is not None:
            step = kept_by_hand(answer)[marks.first_wrong - 1]
            return f"@{marks.first_wrong}" + f"={step}" * (step_tree(step) is not None)
        return "@0" if marks.final else f"@{marks.kept + 1}"
    tenths = 10 * marks.right // max(marks.kept, marks.needed)
    return {"none": "", "scalar": f"~{tenths}", "leak": f"={value_of(tree_of(problem))}"}[kind]


@cache
def problems(count: int, seed: int = 0, config: LanguageConfig = BASE) -> tuple[str, ...]:
    return tuple(ArithmeticCorrections(config).problems(count, np.random.default_rng(seed)))


def attempts(count: int, seed: int, config: LanguageConfig = BASE) -> Iterator[tuple[str, str]]:
    """Problems with attempts that often go wrong and take much back, and with damaged ones."""
    rng, dice = np.random.default_rng(seed), random.Random(seed)
    for problem in problems(count, seed, config):
        answer = write_answer(
            problem, rng, rng.choice([0.0, 0.3, 0.6]), rng.choice([0.0, 0.4]), bounds_of(config)
        )
        if answer is None:
            continue
        yield problem, answer
        steps = re.split("(?<=[>!])", answer)
        yield problem, "".join(steps[: dice.randrange(len(steps))])  # incomplete
        yield problem, "".join(dice.sample(steps, len(steps)))
        yield problem, "".join(chain.from_iterable(zip(steps, dice.choices(steps, k=len(steps)))))
        damaged = list(answer)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.choice("0123456789()+-* >!>!" + MARKS)
        yield problem, "".join(damaged)
        yield problem, answer.replace(">", "!", 1)
