"""Parses prefixes of strings of known length: which symbols may come next.

A symbol may come next if the rest fits in *exactly* the symbols that are left, some of which may be
known. So every goal carries the set of places where it may end, as the bits of one integer.

An Earley parser of the normal form (Earley 1970) without predicted items: the left corners of a
goal, and where each may end, depend only on the goal, its ends and the `Lookahead`. They are
computed once for all strings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import NamedTuple

from maskdiff.languages.bitsets import mask_of, positions_of
from maskdiff.languages.cfg.normal_form import NormalForm

# Sizes of the caches: some tens of megabytes for a grammar of a thousand rules.
CACHED_GOALS, CACHED_ENDS = 4096, 65536


class LeftCorners(NamedTuple):
    """The left corners of a goal.

    Attributes:
        ends: The ends of each nonterminal that the goal may begin with, as bits counted from the
            start of the goal.
        symbols: The symbols that the goal may begin with, as bits.
    """

    ends: Mapping[int, int]
    symbols: int


class Lookahead(ABC):
    """Where nonterminals may end, given what may come."""

    def __init__(self, grammar: NormalForm) -> None:
        self.grammar = grammar
        self._earlier = lru_cache(CACHED_ENDS)(self._first_ends)
        self._corners = lru_cache(CACHED_GOALS)(self._left_corners)

    @abstractmethod
    def possible_ends(self, at: int, second: int, ends: int) -> int:
        """Return which of `ends`, places as bits, nonterminal `second` may have from `at`."""

    def corners(self, at: int, goal: int, ends: int) -> LeftCorners:
        """Return the left corners of a goal from `at` that may end at `ends`, relative to it."""
        return self._corners(at, goal, ends)

    @abstractmethod
    def _first_ends(self, at: int, second: int, ends: int) -> int:
        """The m > 0 such that `second`, from `at` + m, may end at one of `ends`; all relative."""

    def _left_corners(self, at: int, goal: int, ends: int) -> LeftCorners:
        found = {goal: ends}
        agenda = [(goal, ends)]  # nonterminals with new ends
        while agenda:
            parent, new = agenda.pop()
            for left, right in self.grammar.children[parent]:
                known = found.get(left, 0)
                more = self._earlier(at, right, new) & ~known
                if more:
                    found[left] = known | more
                    agenda.append((left, more))
        symbols = 0
        for nonterminal, reached in found.items():
            if reached & 2:  # may be one symbol
                symbols |= self.grammar.symbol_masks[nonterminal]
        return LeftCorners(found, symbols)


class LengthLookahead(Lookahead):
    """Only the number of symbols to come is known: at most `longest`."""

    def __init__(self, grammar: NormalForm, longest: int) -> None:
        super().__init__(grammar)
        self._lengths = [mask_of(column.nonzero()[0]) for column in grammar.all_lengths(longest).T]

    def possible_ends(self, at: int, second: int, ends: int) -> int:
        """See `Lookahead`."""
        return self._lengths[second] << at & ends

    def corners(self, at: int, goal: int, ends: int) -> LeftCorners:
        """See `Lookahead`; the same for all starts of the goal."""
        return self._corners(0, goal, ends)

    def _first_ends(self, at: int, second: int, ends: int) -> int:
        found = 0
        for length in positions_of(self._lengths[second] & (1 << ends.bit_length()) - 1):
            found |= ends >> length
        return found & ~1


class CanvasLookahead(Lookahead):
    """Some symbols of one canvas are known.

    Args:
        grammar: The grammar.
        ends: `ends[i][a]` are the places where nonterminal a may end that starts at i, as bits.
    """

    def __init__(self, grammar: NormalForm, ends: Sequence[Mapping[int, int]]) -> None:
        super().__init__(grammar)
        self._ends = ends

    def possible_ends(self, at: int, second: int, ends: int) -> int:
        """See `Lookahead`."""
        return self._ends[at].get(second, 0) & ends

    def _first_ends(self, at: int, second: int, ends: int) -> int:
        places, found = ends << at, 0
        for start in range(at + 1, places.bit_length() - 1):
            if self._ends[start].get(second, 0) & places:
                found |= 1 << start - at
        return found


_Waiting = dict[int, list[tuple[int, int]]]  # by wanted nonterminal: parents and their starts


class PrefixParser:
    """Parses one string of `n` symbols from left to right: `allowed`, `write`, `allowed`, ...

    Attributes:
        allowed: The symbols that may come next, as bits, as far as `lookahead` knows; 0 at the end
            and after a symbol that was not allowed.
        position: The number of symbols written.
    """

    def __init__(self, lookahead: Lookahead, n: int) -> None:
        self.lookahead, self.n, self.position, self.allowed = lookahead, n, 0, 0
        self._waiting: list[_Waiting] = []  # by place
        self._corners: list[list[LeftCorners]] = []  # of the goals at each place
        self._enter({0: 1 << n}, {})

    def copy(self) -> PrefixParser:
        """Return a parser in the same state, which shares what has been read."""
        other = copy(self)
        other._waiting, other._corners = list(self._waiting), list(self._corners)
        return other

    def write(self, symbols: int) -> None:
        """Reads one of the symbols given as bits, normally a single one."""
        symbols &= self.allowed
        self.position += 1
        self.allowed = 0
        if symbols and self.position < self.n:
            self._enter(*self._read(symbols))

    def _enter(self, goals: dict[int, int], waiting: _Waiting) -> None:
        """Starts goals, nonterminals with their ends, at the present place."""
        at = self.position
        corners = [self.lookahead.corners(at, goal, ends >> at) for goal, ends in goals.items()]
        self._waiting.append(waiting)
        self._corners.append(corners)
        for corner in corners:
            self.allowed |= corner.symbols

    def _read(self, symbols: int) -> tuple[dict[int, int], _Waiting]:
        """The goals behind the symbol that was read, and the parents that wait for them."""
        here, grammar = self.position, self.lookahead.grammar
        ends: dict[tuple[int, int], int] = {}  # of a nonterminal and its start
        complete: list[tuple[int, int]] = []  # agenda of items (nonterminal, start) that end here
        seen: set[tuple[int, int]] = set()
        goals: dict[int, int] = {}
        waiting: _Waiting = {}

        def wanted(head: int, start: int) -> int:
            if (head, start) not in ends:
                found = 0
                for corner in self._corners[start]:
                    found |= corner.ends.get(head, 0)
                ends[head, start] = found << start
            return ends[head, start]

        def finish(items: Iterable[tuple[int, int]]) -> None:
            new = {item for item in items if item not in seen and wanted(*item) >> here & 1}
            seen.update(new)
            complete.extend(new)

        # Scan, then complete items until none is new.
        finish(
            {(a, here - 1) for symbol in positions_of(symbols) for a in grammar.emitters[symbol]}
        )
        while complete:
            head, start = complete.pop()
            finish(self._waiting[start].get(head, ()))
            for parent, second in grammar.parents[head]:
                reached = self.lookahead.possible_ends(here, second, wanted(parent, start))
                if reached:
                    goals[second] = goals.get(second, 0) | reached
                    waiting.setdefault(second, []).append((parent, start))
        return goals, waiting
