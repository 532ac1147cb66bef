"""Deterministic automata over characters: minimal, numbered canonically, closed under operations.

Two automata over the same characters accept the same strings exactly if they are equal (`==`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from maskdiff.languages.regex.limits import MAX_STATES, Budget, RegexError
from maskdiff.languages.regex.minimise import DEAD, minimise

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True)
class Dfa:
    """A minimal deterministic automaton; state 0 is the initial one.

    Attributes:
        classes: the alphabet, split into the largest sets of characters that behave alike, each a
            sorted string, in the order of their first characters.
        moves: for each state and each class, the next state, or `DEAD` (-1) if no string goes on.
            Every state can be reached and, unless no string is accepted, leads to acceptance.
        accepting: the states where a string may end.
    """

    classes: tuple[str, ...]
    moves: tuple[tuple[int, ...], ...]
    accepting: frozenset[int]

    def accepts(self, text: str) -> bool:
        """Whether the automaton accepts `text`, which may have characters of any alphabet."""
        state = 0
        for character in text:
            letter = self._letters.get(character)
            state = DEAD if letter is None else self.moves[state][letter]
            if state == DEAD:
                return False
        return state in self.accepting

    def letter(self, character: str) -> int:
        """The class of a character of the alphabet."""
        return self._letters[character]

    @property
    def symbols(self) -> frozenset[str]:
        """The alphabet."""
        return frozenset(self._letters)

    @property
    def is_empty(self) -> bool:
        """Whether no string is accepted."""
        return not self.accepting

    @property
    def accepts_empty(self) -> bool:
        """Whether the empty string is accepted."""
        return 0 in self.accepting

    def first_characters(self) -> frozenset[str]:
        """The characters that an accepted string can begin with."""
        return frozenset().union(*(self.classes[letter] for letter, _ in self.steps(0)))

    def steps(self, state: int) -> Iterator[tuple[int, int]]:
        """The classes that lead on from a state, each with the next state."""
        return ((letter, to) for letter, to in enumerate(self.moves[state]) if to != DEAD)

    def intersect(self, other: Dfa) -> Dfa:
        """The strings that both accept."""
        return self._combine(other, lambda mine, others: mine and others)

    def union(self, other: Dfa) -> Dfa:
        """The strings that either accepts."""
        return self._combine(other, lambda mine, others: mine or others)

    def difference(self, other: Dfa) -> Dfa:
        """The strings that this automaton accepts and `other` does not."""
        return self._combine(other, lambda mine, others: mine and not others)

    def complement(self) -> Dfa:
        """The strings over the alphabet that are not accepted."""
        return everything(self.symbols).difference(self)

    def is_subset(self, other: Dfa) -> bool:
        """Whether `other` accepts every string that this automaton accepts."""
        return self.difference(other).is_empty

    def concatenate(self, other: Dfa) -> Dfa:
        """The strings of this automaton followed by one of `other`."""
        classes, letters = self._common_classes(other)

        def entered(state: int, others: Iterable[int]) -> tuple[int, frozenset[int]]:
            return state, frozenset(others) | ({0} if state in self.accepting else frozenset())

        def step(
            state: tuple[int, frozenset[int]],
        ) -> Iterator[tuple[int, tuple[int, frozenset[int]]]]:
            for letter, (mine, theirs) in enumerate(letters):
                to = DEAD if state[0] == DEAD else self.moves[state[0]][mine]
                others = {other.moves[at][theirs] for at in state[1]} - {DEAD}
                if to != DEAD or others:
                    yield letter, entered(to, others)

        return explore(
            classes, entered(0, ()), step, lambda state: not state[1].isdisjoint(other.accepting)
        )

    def star(self) -> Dfa:
        """Any number of strings of this automaton in a row, or none."""

        def step(state: frozenset[int]) -> Iterator[tuple[int, frozenset[int]]]:
            for letter in range(len(self.classes)):
                reached = {self.moves[0 if at == DEAD else at][letter] for at in state} - {DEAD}
                if reached:
                    yield letter, frozenset(reached | ({0} if reached & self.accepting else set()))

        # The initial state accepts and is not state 0, which may be inside of a string.
        ends = self.accepting | {DEAD}
        return explore(
            self.classes, frozenset({DEAD}), step, lambda state: not state.isdisjoint(ends)
        )

    def prefixes(self) -> Dfa:
        """The beginnings of the accepted strings."""
        return Dfa._minimal(
            self.classes, self.moves, range(0 if self.is_empty else len(self.moves))
        )

    def _combine(self, other: Dfa, keep: Callable[[bool, bool], bool]) -> Dfa:
        classes, letters = self._common_classes(other)
        follow = keep(True, False), keep(False, True)  # whether one automaton alone can accept

        def step(state: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
            for letter, (mine, theirs) in enumerate(letters):
                to = (
                    DEAD if state[0] == DEAD else self.moves[state[0]][mine],
                    DEAD if state[1] == DEAD else other.moves[state[1]][theirs],
                )
                if (
                    (to[0] != DEAD or follow[1])
                    and (to[1] != DEAD or follow[0])
                    and to != (DEAD, DEAD)
                ):
                    yield letter, to

        return explore(
            classes,
            (0, 0),
            step,
            lambda at: keep(at[0] in self.accepting, at[1] in other.accepting),
        )

    def _common_classes(self, other: Dfa) -> tuple[tuple[str, ...], list[tuple[int, int]]]:
        """The coarsest classes that refine both, and the classes of either that hold them."""
        if self.symbols != other.symbols:
            raise ValueError("the automata have different alphabets")
        found: dict[tuple[int, int], list[str]] = {}
        for character in sorted(self.symbols):
            found.setdefault((self._letters[character], other._letters[character]), []).append(
                character
            )
        return tuple("".join(members) for members in found.values()), list(found)

    @cached_property
    def _letters(self) -> dict[str, int]:
        return {
            character: letter
            for letter, members in enumerate(self.classes)
            for character in members
        }

    @staticmethod
    def _minimal(
        classes: Sequence[str], moves: Sequence[Iterable[int]], accepting: Collection[int]
    ) -> Dfa:
        edges = [{letter: to for letter, to in enumerate(row) if to != DEAD} for row in moves]
        return Dfa(*minimise(classes, edges, accepting))


def everything(symbols: Collection[str]) -> Dfa:
    """The automaton of all strings over the characters `symbols`."""
    classes = ("".join(sorted(symbols)),) if symbols else ()
    return Dfa(classes, ((0,) * len(classes),), frozenset({0}))


def explore(
    classes: Sequence[str],
    start: State,
    step: Callable[[State], Iterable[tuple[int, State]]],
    accepts: Callable[[State], bool],
    budget: Budget | None = None,
) -> Dfa:
    """The minimal automaton of a transition system with finitely many states.

    Args:
        classes: the alphabet, split into classes, in the order of their first characters.
        start: the initial state.
        step: the classes that lead on from a state, each with the next state.
        accepts: whether a string may end in a state.
        budget: what the construction may cost.

    Raises:
        RegexError: more than `MAX_STATES` states, or the budget is spent.
    """
    budget = budget or Budget()
    numbers, order = {start: 0}, [start]
    edges: list[dict[int, int]] = []
    for state in order:  # grows on the way
        row: dict[int, int] = {}
        for letter, to in step(state):
            row[letter] = number = numbers.setdefault(to, len(order))
            if number == len(order):
                order.append(to)
        budget.spend(len(classes))
        edges.append(row)
        if len(order) > MAX_STATES:
            raise RegexError(f"the automaton has more than {MAX_STATES} states")
    return Dfa(*minimise(classes, edges, [n for n, state in enumerate(order) if accepts(state)]))
