"""The exact probability of a string under the generator.

One string comes from many draws of the depths of the expression and of all its arguments, so its
probability is a sum over them. It is computed for all depths at once, from the leaves to the root.
"""

from __future__ import annotations

import math

from maskdiff.config import LanguageConfig
from maskdiff.languages.arithmetic.grammar import COIN, Grammar
from maskdiff.languages.arithmetic.parser import Tree

_TINY = 1e-100  # rows with a smaller maximum are rescaled, so that long strings do not underflow


def log_generated(tree: Tree, config: LanguageConfig, grammar: Grammar) -> float:
    """Return the log-probability that the generator draws an expression, before rejection.

    Let Q(t, d) be the probability that a node at depth d becomes the tree t, S(t, d) = Q(t, 0) +
    ... + Q(t, d - 1), and o the number of operators. An operand has Q = COIN / operands (without
    COIN at d = 0). An operation has Q(t, 0) = 0 and Q(t, d) = (1 - COIN) / (2 o d) *
    (Q(left, d - 1) S(right, d) + S(left, d) Q(right, d - 1)). Takes O(nodes x depths) time.

    Args:
        tree: The expression.
        config: The configuration of the language.
        grammar: The grammar of `config`.
    """
    depths = config.max_depth
    if tree.depth > depths:
        return -math.inf
    leaf = [1.0 / grammar.operands] + [COIN / grammar.operands] * depths
    operators = len(grammar.operators)
    factors = [0.0] + [(1.0 - COIN) / (2 * operators * d) for d in range(1, depths + 1)]
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
