"""The strings of a grammar that are fewest edits away from a given one, and how many they are.

For: repair without any model, the baseline of every other repair, and candidates that always parse. Not for: probabilities;
strings at the same distance come in an order that is fixed and means nothing.
Easy to get wrong: a nonterminal may stand for nothing of what was given, at the cost of inserting its shortest string, so that
the two halves of a span need not both be shorter than it; each such step costs something, which is why no loop is endless.

Least-cost parsing with insertion, deletion and replacement (Aho and Peterson 1972), for a grammar in Chomsky normal form; then
its table is the exact heuristic of a best-first search (A*, Hart et al. 1968) that writes strings from left to right.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maskdiff.languages.cfg.normal_form import NormalForm
from maskdiff.utils.deadline import NEVER, Deadline

UNREADABLE = (
    -1
)  # a symbol that was given but cannot be read: any symbol will do in its place, at no cost
MAX_EXPANSIONS = 50_000  # of the search for several strings; an unambiguous grammar needs a few for every symbol written
DIGITS = 9  # costs that agree so far are equal


@dataclass(frozen=True)
class Closest:
    """`symbols` (indices of the grammar's symbols) of a close string, and its distance."""

    symbols: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class EditCosts:
    """What an edit of the *given* string costs; each above 0."""

    insert: float = 1.0
    delete: float = 1.0
    replace: float = 1.0

    def __post_init__(self) -> None:
        if min(self.insert, self.delete, self.replace) <= 0:
            raise ValueError(f"edits cost something: {self}")


def closest(grammar: NormalForm, given: Sequence[int], costs: EditCosts | None = None) -> Closest:
    """The string of the language that is cheapest to reach from `given` (indices of symbols, or UNREADABLE).

    O(len^3 x rules) time.
    """
    return nearest_strings(grammar, given, 1, costs=costs)[0]


def nearest_strings(
    grammar: NormalForm,
    given: Sequence[int],
    count: int,
    most: float = math.inf,
    costs: EditCosts | None = None,
    certain: Collection[int] = (),
    deadline: Deadline = NEVER,
) -> list[Closest]:
    """Up to `count` different strings of the language in the order of their cost, none of which costs more than `most`.

    given: indices of symbols, or UNREADABLE. certain: positions of `given` that are neither deleted nor replaced; new symbols
    may come between any two. There are fewer strings where the language has no more of them, or, behind the first, where
    `MAX_EXPANSIONS` steps were not enough; none at all only if no string keeps what is certain, or costs at most `most`.
    Raises TimedOut.
    """
    table = _Table(grammar, given, costs or EditCosts(), frozenset(certain), deadline)
    found: list[Closest] = []
    written: set[tuple[int, ...]] = set()
    for item in _in_order(table, most):
        if len(found) == count:
            break
        if item.symbols not in written:  # an ambiguous grammar derives it more than once
            written.add(item.symbols)
            found.append(item)
    return found


class _Table:
    """`cost[a, i, j]`: the least cost at which given[i:j] becomes a string of nonterminal a; j may be i, inf below."""

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
        symbols = np.arange(len(grammar.symbols))
        seen = np.array(given, dtype=np.int64).reshape(n, 1)
        price = np.where(barred, np.inf, costs.replace)[:, None]
        self.wrong = np.where(
            (seen == symbols) | (seen == UNREADABLE), 0.0, price
        )  # (n, symbols) of a symbol in its place
        self.drop = _dropping(barred, costs.delete)
        self.rules = [np.flatnonzero(grammar.parent == head) for head in range(len(grammar))]
        self.emits = [np.flatnonzero(row) for row in grammar.emits]
        self._heads, self._first = np.unique(
            grammar.parent, return_index=True
        )  # rules are sorted by their heads
        self.cost = self._filled(n)

    def _filled(self, n: int) -> np.ndarray:
        emits = self.grammar.emits
        single = np.full(
            (len(emits), n), np.inf
        )  # a symbol of the nonterminal in the place of given[i]
        for head, allowed in enumerate(self.emits):
            single[head] = self.wrong[:, allowed].min(1, initial=np.inf)
        wide = np.full((len(emits), n + 1, n + 1), np.inf)  # [a, i, w] of given[i : i + w]
        cost = np.full_like(wide, np.inf)
        one = np.where(emits.any(1), self.insert, np.inf)[:, None].repeat(
            n + 1, 1
        )  # (a, starts) as one symbol
        place = np.arange(n + 1)
        for width in range(n + 1):
            self.deadline.check()
            starts = n - width + 1
            if width:
                i = place[:starts]
                one = np.minimum(
                    self.drop[i, i + 1] + one[:, 1:],
                    single[:, :starts] + self.drop[i + 1, i + width],
                )
            wide[:, :starts, width] = one
            for k in range(1, width):
                self._join(
                    wide[:, :starts, width], wide[:, :starts, k], wide[:, k : k + starts, width - k]
                )
            self._settle(wide, width)
            cost[:, place[:starts], place[:starts] + width] = wide[:, :starts, width]
        return cost

    def _join(self, cell: np.ndarray, left: np.ndarray, right: np.ndarray) -> bool:
        """Take what is cheaper when the halves of all rules cost so much, (nonterminals, starts); whether anything was."""
        if not len(self._heads):
            return False
        both = np.minimum.reduceat(left[self.grammar.left] + right[self.grammar.right], self._first)
        before = cell[self._heads]
        cell[self._heads] = np.minimum(before, both)
        return bool((both < before).any())

    def _settle(self, wide: np.ndarray, width: int) -> None:
        """Halves that stand for nothing of what was given, until nothing gets cheaper."""
        starts = wide.shape[1] - width
        cell, empty = wide[:, :starts, width], wide[:, :, 0]
        changed = True
        while changed:
            changed = self._join(cell, empty[:, :starts], cell)
            changed = self._join(cell, cell, empty[:, width : width + starts]) or changed


def _dropping(barred: np.ndarray, delete: float) -> np.ndarray:
    """(n + 1, n + 1): what deleting given[i:j] costs; inf where one of them is barred, or j < i."""
    place, before = np.arange(len(barred) + 1), np.concatenate(([0], barred.cumsum()))
    gap = place[None, :] - place[:, None]
    return np.where((gap >= 0) & (before[None, :] == before[:, None]), gap * delete, np.inf)


class _Stack:
    """Nonterminals still to be written, the next on top; `whole[j]`: the least cost at which given[j:] becomes all of them."""

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
        """What it may turn into by the binary rules of its top."""
        if self._bodies is None:
            assert self.below is not None
            left, right, rules = (
                self.table.grammar.left,
                self.table.grammar.right,
                self.table.rules[self.head],
            )
            self._bodies = [self.below.push(int(right[r])).push(int(left[r])) for r in rules]
        return self._bodies


def _in_order(table: _Table, most: float) -> Iterator[Closest]:
    """Strings in the order of their cost, by leftmost derivations.

    A state is what has been written, the stack of what has not, and `paid[j]`, the least cost at which given[:j] became what
    was written, nothing deleted behind its last symbol: alignments are summed up in it, as probabilities are in the beam of
    `maskdiff.repair`, so that no string is met once per alignment. paid + whole is exact: every state that is taken from the
    heap leads to a string of just that cost, and of equal ones the most recent is followed to its end.
    """
    bottom = _Stack(table, -1, None)
    heap: list[tuple[float, int, tuple[int, ...], _Stack, np.ndarray]] = []
    known: set[tuple[tuple[int, ...], _Stack]] = (
        set()
    )  # how often they were derived does not matter
    pushed = 0

    def push(written: tuple[int, ...], stack: _Stack, paid: np.ndarray) -> None:
        nonlocal pushed
        cost = round(float((paid + stack.whole).min()), DIGITS)
        if cost <= most and cost < math.inf and (written, stack) not in known:
            known.add((written, stack))
            pushed += 1
            heapq.heappush(heap, (cost, -pushed, written, stack, paid))

    push((), bottom.push(0), np.where(np.arange(len(table.drop)) == 0, 0.0, np.inf))
    expansions = 0
    while heap and expansions < MAX_EXPANSIONS:
        table.deadline.check()
        cost, _, written, stack, paid = heapq.heappop(heap)
        if stack.below is None:
            yield Closest(written, cost)
            continue
        expansions += 1
        for body in reversed(stack.bodies()):
            push(written, body, paid)
        closed = (paid[:, None] + table.drop).min(0)  # symbols deleted behind what was written
        for symbol in reversed(table.emits[stack.head].tolist()):
            after = closed + table.insert
            np.minimum(after[1:], closed[:-1] + table.wrong[:, symbol], out=after[1:])
            push((*written, symbol), stack.below, after)
