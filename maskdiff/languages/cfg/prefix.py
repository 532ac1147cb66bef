"""Which symbol may come next: a parser of prefixes that knows how long the whole string will be.

For: `PrefixParser`, one string at a time, from the left. Not for: probabilities, or batches (`maskdiff/constraints/prefix.py`).
Easy to get wrong: "may come next" means that the rest can still be made to fit in *exactly* the symbols that are left, some
of which may be known. So every goal carries the set of places where it may end, as the bits of one integer.

An Earley parser of the normal form (Earley 1970) without its predicted items: the left corners of a goal and where each may
end depend on nothing but the goal, its ends and what may follow (`Outlook`), and are worked out once for all strings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import NamedTuple

from maskdiff.languages.cfg.normal_form import NormalForm

REMEMBERED_GOALS, REMEMBERED_ENDS = (
    4096,
    65536,
)  # some tens of megabytes for a grammar of a thousand rules


class Corners(NamedTuple):
    """With what a goal may begin: the ends of each nonterminal, counted from the goal's start, and symbols, both as bits."""

    ends: Mapping[int, int]
    symbols: int


class Productions:
    """The rules of a normal form, looked up from all sides."""

    def __init__(self, grammar: NormalForm) -> None:
        self.parts: list[list[tuple[int, int]]] = [[] for _ in grammar.names]  # children by parent
        self.wholes: list[list[tuple[int, int]]] = [
            [] for _ in grammar.names
        ]  # parent and second child by first child
        for parent, left, right in zip(
            grammar.parent.tolist(), grammar.left.tolist(), grammar.right.tolist(), strict=True
        ):
            self.parts[parent].append((left, right))
            self.wholes[left].append((parent, right))
        self.emits = [_as_bits(row.nonzero()[0]) for row in grammar.emits]  # symbols by nonterminal
        self.emitters = [
            tuple(column.nonzero()[0].tolist()) for column in grammar.emits.T
        ]  # nonterminals by symbol


class Outlook(ABC):
    """What goals may begin with, given what may still come."""

    def __init__(self, productions: Productions) -> None:
        self.productions = productions
        self._earlier = lru_cache(REMEMBERED_ENDS)(self._look_back)
        self._corners = lru_cache(REMEMBERED_GOALS)(self._work_out)

    @abstractmethod
    def follows(self, at: int, second: int, ends: int) -> int:
        """Which of the `ends`, places of the canvas as bits, a nonterminal may have that starts at `at`."""

    @abstractmethod
    def corners(self, at: int, goal: int, ends: int) -> Corners:
        """The left corners of a goal that starts at `at` and may end at `ends`, bits counted from there."""

    @abstractmethod
    def _look_back(self, at: int, second: int, ends: int) -> int:
        """Bits m > 0 such that `second`, begun m symbols after `at`, may end at one of the `ends`, counted from `at` too."""

    def _work_out(self, at: int, goal: int, ends: int) -> Corners:
        parts, emits = self.productions.parts, self.productions.emits
        found = {goal: ends}
        waiting = [
            (goal, ends)
        ]  # a nonterminal, and ends of it that its left corners have not heard of
        while waiting:
            parent, new = waiting.pop()
            for left, right in parts[parent]:
                known = found.get(left, 0)
                more = self._earlier(at, right, new) & ~known
                if more:
                    found[left] = known | more
                    waiting.append((left, more))
        symbols = 0
        for nonterminal, reached in found.items():
            if reached & 2:
                symbols |= emits[nonterminal]
        return Corners(found, symbols)


class OpenOutlook(Outlook):
    """Nothing is known of the symbols to come, so that all that counts is how many there are: at most `longest`."""

    def __init__(self, grammar: NormalForm, longest: int) -> None:
        super().__init__(Productions(grammar))
        self.longest = longest
        self._lengths = [_as_bits(column.nonzero()[0]) for column in grammar.all_lengths(longest).T]

    def follows(self, at: int, second: int, ends: int) -> int:
        """See `Outlook`."""
        return self._lengths[second] << at & ends

    def corners(self, at: int, goal: int, ends: int) -> Corners:
        """See `Outlook`; the same wherever the goal starts."""
        return self._corners(0, goal, ends)

    def _look_back(self, at: int, second: int, ends: int) -> int:
        found = 0
        for length in _places(self._lengths[second] & (1 << ends.bit_length()) - 1):
            found |= ends >> length
        return found & ~1


class KnownOutlook(Outlook):
    """Some symbols of one canvas are known: ``ends[i][a]`` is where nonterminal a may end that starts at i, as bits."""

    def __init__(self, productions: Productions, ends: Sequence[Mapping[int, int]]) -> None:
        super().__init__(productions)
        self._ends = ends

    def follows(self, at: int, second: int, ends: int) -> int:
        """See `Outlook`."""
        return self._ends[at].get(second, 0) & ends

    def corners(self, at: int, goal: int, ends: int) -> Corners:
        """See `Outlook`."""
        return self._corners(at, goal, ends)

    def _look_back(self, at: int, second: int, ends: int) -> int:
        places, found = ends << at, 0
        for start in range(at + 1, places.bit_length() - 1):
            if self._ends[start].get(second, 0) & places:
                found |= 1 << start - at
        return found


class PrefixParser:
    """One string of `n` symbols: `allowed`, then `write`, then `allowed` of the next one."""

    def __init__(self, outlook: Outlook, n: int) -> None:
        self.outlook, self.n, self.position = outlook, n, 0
        self.allowed = 0  # bits: what may come next as far as the outlook knows; nothing at the end, or once lost
        self._waiting: list[
            dict[int, list[tuple[int, int]]]
        ] = []  # by place and wanted nonterminal: parents, their starts
        self._corners: list[list[Corners]] = []  # of the goals at every place
        self._enter({0: 1 << n}, {})

    def copy(self) -> PrefixParser:
        """Another one that has read the same; what both have read is shared."""
        other = copy(self)
        other._waiting, other._corners = list(self._waiting), list(self._corners)
        return other

    def write(self, symbols: int) -> None:
        """Read one of these symbols, bits, as a rule a single one; what is not `allowed` loses the string."""
        symbols &= self.allowed
        self.position += 1
        self.allowed = 0
        if symbols and self.position < self.n:
            self._enter(*self._read(symbols))

    def _enter(self, goals: dict[int, int], waiting: dict[int, list[tuple[int, int]]]) -> None:
        """Begin the goals, nonterminals and their ends, at the present place."""
        corners = [
            self.outlook.corners(self.position, goal, ends >> self.position)
            for goal, ends in goals.items()
        ]
        self._waiting.append(waiting)
        self._corners.append(corners)
        for corner in corners:
            self.allowed |= corner.symbols

    def _read(self, symbols: int) -> tuple[dict[int, int], dict[int, list[tuple[int, int]]]]:
        """Goals behind the symbol just read, and who waits for them."""
        here, rules = self.position, self.outlook.productions
        ends: dict[tuple[int, int], int] = {}  # of a nonterminal and its start
        heads = {(head, here - 1) for symbol in _places(symbols) for head in rules.emitters[symbol]}
        complete: list[tuple[int, int]] = []
        seen: set[tuple[int, int]] = set()
        goals: dict[int, int] = {}
        waiting: dict[int, list[tuple[int, int]]] = {}

        def wanted(head: int, start: int) -> int:
            if (head, start) not in ends:
                found = 0
                for corner in self._corners[start]:
                    found |= corner.ends.get(head, 0)
                ends[head, start] = found << start
            return ends[head, start]

        def finish(heads: Iterable[tuple[int, int]]) -> None:
            new = {item for item in heads if item not in seen and wanted(*item) >> here & 1}
            seen.update(new)
            complete.extend(new)

        finish(heads)
        while complete:
            head, start = complete.pop()
            finish(self._waiting[start].get(head, ()))
            for parent, second in rules.wholes[head]:
                reached = self.outlook.follows(here, second, wanted(parent, start))
                if reached:
                    goals[second] = goals.get(second, 0) | reached
                    waiting.setdefault(second, []).append((parent, start))
        return goals, waiting


def _places(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _as_bits(places: Sequence[int]) -> int:
    return sum(1 << int(place) for place in places)
