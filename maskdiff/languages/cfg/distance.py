"""The strings of a grammar at the smallest edit distances from a given string.

Least-cost parsing with insertions, deletions and replacements (Aho and Peterson 1972) fills a
table. The table is the exact heuristic of a best-first search (A*, Hart et al. 1968) that writes
strings from left to right. Strings at equal distances come in a fixed, arbitrary order.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maskdiff.languages.cfg.normal_form import NormalForm
from maskdiff.utils.deadline import NEVER, Deadline

UNREADABLE = -1  # a given symbol that is unknown: any symbol replaces it at no cost
MAX_EXPANSIONS = 50_000  # of the search; an unambiguous grammar needs a few per symbol written
DIGITS = 9  # decimals of costs that are compared


@dataclass(frozen=True)
class NearestString:
    """A string of the language, as indices of the grammar's symbols, and its distance."""

    symbols: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class EditCosts:
    """The costs of edits of the given string, each above 0. Raises `ValueError` otherwise."""

    insert: float = 1.0
    delete: float = 1.0
    replace: float = 1.0

    def __post_init__(self) -> None:
        if min(self.insert, self.delete, self.replace) <= 0:
            raise ValueError(f"edit costs must be above 0, not {self}")


def nearest_strings(
    grammar: NormalForm,
    given: Sequence[int],
    count: int,
    most: float = math.inf,
    costs: EditCosts | None = None,
    certain: Collection[int] = (),
    deadline: Deadline = NEVER,
) -> list[NearestString]:
    """Return up to `count` different strings of the language in the order of their distances.

    Takes O(len^3 x rules) time. Fewer strings are returned if the language has no more, or, after
    the first, if `MAX_EXPANSIONS` steps do not suffice. None is returned only if no string keeps
    the certain symbols within `most`.

    Args:
        grammar: The grammar.
        given: Indices of symbols, or `UNREADABLE`.
        count: The number of strings.
        most: The largest distance.
        costs: The costs of edits; 1 each by default.
        certain: Positions of `given` that must not be deleted or replaced; insertions between
            them are possible.
        deadline: Checked during the search.

    Raises:
        TimedOut: The deadline has passed.
    """
    table = _Table(grammar, given, costs or EditCosts(), frozenset(certain), deadline)
    found: dict[tuple[int, ...], NearestString] = {}  # an ambiguous grammar yields a string twice
    for string in _in_order(table, most):
        if len(found) == count:
            break
        found.setdefault(string.symbols, string)
    return list(found.values())


class _Table:
    """`cost[a, i, j]`: the least cost at which given[i:j] becomes a string of nonterminal a.

    A nonterminal may stand for the empty span at the cost of inserting its shortest string. So the
    halves of a span need not be shorter than the span; each such step has a cost above 0.
    """

    def __init__(
        self,
        grammar: NormalForm,
        given: Sequence[int],
        costs: EditCosts,
        certain: frozenset[int],
        deadline: Deadline,
    ) -> None:
        self.grammar, self.insert, self.deadline, n = grammar, costs.insert, deadline, len(given)
        barred = np.array([i in certain for i in range(n)], dtype=bool)
        seen = np.array(given, dtype=np.int64).reshape(n, 1)
        same = (seen == np.arange(len(grammar.symbols))) | (seen == UNREADABLE)
        price = np.where(barred, np.inf, costs.replace)[:, None]
        self.replace = np.where(same, 0.0, price)  # (n, symbols)
        self.drop = _deletions(barred, costs.delete)  # (n + 1, n + 1)
        self.emits = [np.flatnonzero(row) for row in grammar.emits]
        # Rules are sorted by their parents.
        self._parents, self._first = np.unique(grammar.parent, return_index=True)
        self.cost = self._fill(n)  # (nonterminals, n + 1, n + 1)

    def _fill(self, n: int) -> np.ndarray:
        # Cost of one symbol of each nonterminal in place of given[i].
        single = np.full((len(self.grammar), n), np.inf)
        for head, allowed in enumerate(self.emits):
            single[head] = self.replace[:, allowed].min(1, initial=np.inf)
        # Cost of given[i : i + width] as one symbol, by nonterminal and start.
        one = np.where(self.grammar.emits.any(1), self.insert, np.inf)[:, None].repeat(n + 1, 1)
        wide = np.full((len(self.grammar), n + 1, n + 1), np.inf)  # [a, i, w]: given[i : i + w]
        cost = np.full_like(wide, np.inf)
        place = np.arange(n + 1)
        for width in range(n + 1):
            self.deadline.check()
            starts = n - width + 1
            i = place[:starts]
            if width:
                deleted_before = self.drop[i, i + 1] + one[:, 1:]
                deleted_behind = single[:, :starts] + self.drop[i + 1, i + width]
                one = np.minimum(deleted_before, deleted_behind)
            cell = wide[:, :starts, width]
            cell[:] = one
            for k in range(1, width):
                self._join(cell, wide[:, :starts, k], wide[:, k : k + starts, width - k])
            # Halves that stand for empty spans, until no cost decreases.
            empty, changed = wide[:, :, 0], True
            while changed:
                changed = self._join(cell, empty[:, :starts], cell)
                changed = self._join(cell, cell, empty[:, width : width + starts]) or changed
            cost[:, i, i + width] = cell
        return cost

    def _join(self, cell: np.ndarray, left: np.ndarray, right: np.ndarray) -> bool:
        """Lowers costs (nonterminals, starts) to those of all rules; whether one decreased."""
        if not len(self._parents):
            return False
        both = np.minimum.reduceat(left[self.grammar.left] + right[self.grammar.right], self._first)
        before = cell[self._parents]
        cell[self._parents] = np.minimum(before, both)
        return bool((both < before).any())


def _deletions(barred: np.ndarray, delete: float) -> np.ndarray:
    """(n + 1, n + 1): the cost of deleting given[i:j]; inf if a symbol is barred, or j < i."""
    place, before = np.arange(len(barred) + 1), np.concatenate(([0], barred.cumsum()))
    gap = place[None, :] - place[:, None]
    return np.where((gap >= 0) & (before[None, :] == before[:, None]), gap * delete, np.inf)


class _Stack:
    """Nonterminals that are still to be written, the next one on top.

    `whole[j]` is the least cost at which given[j:] becomes all of them.
    """

    def __init__(self, table: _Table, head: int, below: _Stack | None) -> None:
        self.table, self.head, self.below = table, head, below
        self.whole: np.ndarray = (
            table.drop[:, -1] if below is None else (table.cost[head] + below.whole).min(1)
        )
        self._above: dict[int, _Stack] = {}
        self._bodies: list[_Stack] | None = None

    def push(self, head: int) -> _Stack:
        if head not in self._above:
            self._above[head] = _Stack(self.table, head, self)
        return self._above[head]

    def bodies(self) -> list[_Stack]:
        """The stacks after each binary rule of the nonterminal on top."""
        if self._bodies is None:
            assert self.below is not None
            rules = self.table.grammar.children[self.head]
            self._bodies = [self.below.push(right).push(left) for left, right in rules]
        return self._bodies


def _in_order(table: _Table, most: float) -> Iterator[NearestString]:
    """Yields strings in the order of their costs, by leftmost derivations.

    A state is the string written so far, the stack of what follows, and `paid[j]`: the least cost
    at which given[:j] became the string, with no deletion behind its last symbol. All alignments
    are in one state, so no string is met once per alignment. `paid + whole` is exact: every state
    on the heap leads to a string of that cost. Of equal states the newest is expanded first.
    """
    heap: list[tuple[float, int, tuple[int, ...], _Stack, np.ndarray]] = []
    known: set[tuple[tuple[int, ...], _Stack]] = set()
    pushed = 0

    def push(written: tuple[int, ...], stack: _Stack, paid: np.ndarray) -> None:
        nonlocal pushed
        cost = round(float((paid + stack.whole).min()), DIGITS)
        if cost <= most and cost < math.inf and (written, stack) not in known:
            known.add((written, stack))
            pushed += 1
            heapq.heappush(heap, (cost, -pushed, written, stack, paid))

    start = np.where(np.arange(len(table.drop)) == 0, 0.0, np.inf)
    push((), _Stack(table, -1, None).push(0), start)
    expansions = 0
    while heap and expansions < MAX_EXPANSIONS:
        table.deadline.check()
        cost, _, written, stack, paid = heapq.heappop(heap)
        if stack.below is None:
            yield NearestString(written, cost)
            continue
        expansions += 1
        for body in reversed(stack.bodies()):
            push(written, body, paid)
        deleted = (paid[:, None] + table.drop).min(0)  # with deletions behind the last symbol
        for symbol in reversed(table.emits[stack.head].tolist()):
            after = deleted + table.insert
            np.minimum(after[1:], deleted[:-1] + table.replace[:, symbol], out=after[1:])
            push((*written, symbol), stack.below, after)
