"""The derivations of many strings, packed, and the inside-outside algorithm over them.

A *node* is a nonterminal that derives a span of a string; a *step* is one way to derive a node: a
rule with the nodes of its children (Billot and Lang 1989). A chart over all nonterminals and spans
has far more cells, most of them empty. So each string is parsed once, and every pass over the
derivations of all strings takes one array operation for each width of spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from maskdiff.languages.cfg.normal_form import NormalForm
from maskdiff.languages.cfg.recognise import Recogniser

NONE = -1  # no node
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Forests:
    """The derivations of strings. Nodes are in the order of their widths, steps in that of nodes.

    Attributes:
        rules: The number of rules of the grammar, see `ForestParser`.
        rule: (steps,) the rule of each step.
        node: (steps,) the node that it derives.
        left, right: (steps,) the nodes of its children; NONE for a rule that writes a symbol.
        width: (nodes,) the number of symbols of each node.
        root: (strings,) the node of each whole string; NONE if the grammar does not derive it.
    """

    rules: int
    rule: Ints
    node: Ints
    left: Ints
    right: Ints
    width: Ints
    root: Ints

    @property
    def ambiguous(self) -> bool:
        """Whether some string has several derivations."""
        return len(self.rule) > len(self.width)

    @cached_property
    def _levels(self) -> list[tuple[slice, slice, Ints]]:
        """For each width its nodes, their steps, and the first step of each node."""
        widths = np.arange(1, int(self.width.max(initial=0)) + 2)
        nodes = np.searchsorted(self.width, widths)
        steps = np.searchsorted(self.node, nodes)
        return [
            (slice(a, b), slice(c, d), np.searchsorted(self.node[c:d], np.arange(a, b)))
            for a, b, c, d in zip(nodes, nodes[1:], steps, steps[1:], strict=False)
            if a < b
        ]

    def _inside(self, log_rules: Floats) -> tuple[Floats, Floats]:
        """The log weights of steps, and of nodes with a last one that weighs 1."""
        inside = np.append(np.empty(len(self.width)), 0.0)
        steps = log_rules[self.rule]
        for nodes, which, first in self._levels:
            steps[which] += inside[self.left[which]] + inside[self.right[which]]
            inside[nodes] = np.logaddexp.reduceat(steps[which], first)
        return steps, inside

    def log_probs(self, log_rules: Floats) -> Floats:
        """Return the log of the sum over the derivations of each string of the product of rules.

        Args:
            log_rules: (rules,) log-probabilities.

        Returns:
            (strings,); -inf for a string that the grammar does not derive.
        """
        inside = self._inside(log_rules)[1]
        return np.where(self.root == NONE, -np.inf, inside[self.root])

    def expected_counts(self, log_rules: Floats, counts: Floats) -> Floats:
        """Return how often each rule occurs in the derivations of the strings, in expectation.

        Args:
            log_rules: (rules,) log-probabilities.
            counts: (strings,) how often each string occurs.

        Returns:
            (rules,)
        """
        steps, inside = self._inside(log_rules)
        derived = self.root != NONE
        expected = np.zeros(len(inside))  # of nodes; the last one is that of no node
        expected[self.root[derived]] = counts[derived]
        uses = np.zeros(len(steps))
        for _, which, _ in reversed(self._levels):
            total = inside[self.node[which]]
            share = np.exp(np.where(total == -np.inf, -np.inf, steps[which] - total))
            uses[which] = expected[self.node[which]] * share
            np.add.at(expected, self.left[which], uses[which])
            np.add.at(expected, self.right[which], uses[which])
        return np.bincount(self.rule, uses, minlength=self.rules).astype(np.float64)


class ForestParser:
    """Parses strings, given as indices of the symbols of a grammar.

    Rules are numbered: the binary rules of the grammar in their order, then the pairs of
    nonterminal and symbol of `emits`, row by row.

    Attributes:
        heads: (rules,) the nonterminal on the left-hand side of each rule.
    """

    def __init__(self, grammar: NormalForm) -> None:
        self._recogniser = Recogniser(grammar)
        self._bodies: list[list[tuple[int, int, int]]] = [[] for _ in range(len(grammar))]
        binary = np.stack((grammar.parent, grammar.left, grammar.right), 1).tolist()
        for rule, (parent, left, right) in enumerate(binary):
            self._bodies[parent].append((rule, left, right))
        writers = grammar.emits.nonzero()[0]
        self.heads: Ints = np.concatenate([grammar.parent, writers])
        numbers = np.cumsum(grammar.emits).reshape(grammar.emits.shape) - 1 + len(binary)
        self._writing: list[list[int]] = numbers.tolist()  # where `emits`

    def __call__(self, strings: Sequence[Sequence[int]]) -> Forests:
        """Return the derivations of strings; -1 stands for a foreign symbol."""
        steps: list[tuple[int, int, int, int]] = []
        widths: list[int] = []
        root = []
        for symbols in strings:
            first = len(widths)
            steps += self._steps(symbols, widths)
            root.append(first if len(widths) > first else NONE)
        # Number the nodes by their widths, and sort the steps by their nodes.
        width = np.array(widths, dtype=np.int64)
        order = np.argsort(width, kind="stable")
        place = np.append(np.argsort(order, kind="stable"), NONE)  # place[NONE] is NONE
        rule, node, left, right = np.array(steps, dtype=np.int64).reshape(-1, 4).T
        by_node = np.argsort(place[node], kind="stable")
        node, left, right = (place[nodes[by_node]] for nodes in (node, left, right))
        roots = place[np.array(root, dtype=np.int64)]
        return Forests(len(self.heads), rule[by_node], node, left, right, width[order], roots)

    def _steps(
        self, symbols: Sequence[int], widths: list[int]
    ) -> Iterator[tuple[int, int, int, int]]:
        """Yields the rule, node, left and right child of each step; appends the widths of nodes."""
        ends = self._recogniser.ends(symbols)
        if not ends[0].get(0, 0) >> len(symbols) & 1:
            return
        numbers: dict[tuple[int, int, int], int] = {}
        agenda: list[tuple[int, int, int]] = []

        def number(head: int, start: int, end: int) -> int:
            node = head, start, end
            if node not in numbers:
                numbers[node] = len(widths)
                widths.append(end - start)
                agenda.append(node)
            return numbers[node]

        number(0, 0, len(symbols))
        while agenda:
            head, start, end = node = agenda.pop()
            if end - start == 1:
                yield self._writing[head][symbols[start]], numbers[node], NONE, NONE
                continue
            shorter = (1 << end) - 1
            for rule, left, right in self._bodies[head]:
                splits = ends[start].get(left, 0) & shorter
                while splits:
                    middle = splits.bit_length() - 1
                    splits ^= 1 << middle
                    if ends[middle].get(right, 0) >> end & 1:
                        first, second = number(left, start, middle), number(right, middle, end)
                        yield rule, numbers[node], first, second
