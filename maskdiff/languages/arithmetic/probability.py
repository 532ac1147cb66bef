"""The exact probability of a given string under the generator.

For: `log_generated`, before rejection; `ArithmeticLanguage.log_prob` adds the acceptance. Not for: lengths (`lengths.py`).
Easy to get wrong: one string comes from many draws (of the depth at the top, and of the depths of all arguments), so its
probability is a sum over them, done here for all depths at once from the leaves up.
"""

from __future__ import annotations

import math

from maskdiff.config import LanguageConfig
from maskdiff.languages.arithmetic.grammar import COIN, Grammar
from maskdiff.languages.arithmetic.parser import Tree

_TINY = 1e-100  # below it a row is rescaled, so that strings of any length keep their precision


def log_generated(tree: Tree, config: LanguageConfig, grammar: Grammar) -> float:
    """log of the probability (nats) that the generator draws the expression of `tree`; -inf if it cannot.

    With Q(t, d) the probability that a node at depth d becomes the tree t, S(t, d) = Q(t, 0) + ... + Q(t, d-1) and o operators:
    an operand has Q = COIN / operands (without COIN at d = 0); an operation has Q(t, 0) = 0 and
    Q(t, d) = (1 - COIN) / (2 o d) * (Q(left, d-1) S(right, d) + S(left, d) Q(right, d-1)). Time: nodes x depths.
    """
    depths = config.max_depth
    if tree.depth > depths:
        return -math.inf
    leaf = [1.0 / grammar.operands] + [COIN / grammar.operands] * depths
    factors = [0.0] + [
        (1.0 - COIN) / (2 * len(grammar.operators) * d) for d in range(1, depths + 1)
    ]
    rows: list[list[float]] = []  # Q(t, d) for d = 0..depths, divided by exp(scale)
    scales: list[float] = []
    for node in tree.nodes:  # children come first
        if not node.operator:
            rows.append(leaf)
            scales.append(0.0)
            continue
        left, right = rows[node.left], rows[node.right]
        scale = scales[node.left] + scales[node.right]
        row = [0.0]
        left_sum = right_sum = 0.0
        for d in range(1, depths + 1):
            left_sum += left[d - 1]
            right_sum += right[d - 1]
            row.append(factors[d] * (left[d - 1] * right_sum + left_sum * right[d - 1]))
        largest = max(row)
        if 0.0 < largest < _TINY:
            row = [q / largest for q in row]
            scale += math.log(largest)
        rows.append(row)
        scales.append(scale)
    total = sum(rows[-1][config.min_depth :])
    if total == 0.0:
        return -math.inf
    return math.log(total / (depths - config.min_depth + 1)) + scales[-1]
