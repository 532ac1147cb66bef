"""Deterministic finite automata over characters: minimal, in canonical order, with operations.

Two automata over the same characters accept the same strings if and only if they are equal (`==`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from maskdiff.languages.regex.classes import partition
from maskdiff.languages.regex.limits import MAX_STATES, Budget, RegexError
from maskdiff.languages.regex.minimise import DEAD, minimise

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True)
class Dfa:
    """A minimal deterministic automaton; state 0 is the initial state.

    Attributes:
        classes: The coarsest partition of the alphabet into classes of characters that behave
            alike, each a sorted string, in the order of their first characters.
        moves: For each state and each class the next state, or `DEAD` (-1). Every state is
            reachable and, unless the language is empty, leads to an accepting state.
        accepting: The accepting states.
    """

    classes: tuple[str, ...]
    moves: tuple[tuple[int, ...], ...]
    accepting: frozenset[int]

    def accepts(self, text: str) -> bool:
        """Return whether the automaton accepts `text`, whatever its characters are."""
        state = 0
        for character in text:
            letter = self._letters.get(character)
            state = DEAD if letter is None else self.moves[state][letter]
            if state == DEAD:
                return False
        return state in self.accepting

    def letter(self, character: str) -> int:
        """Return the class of a character of the alphabet."""
        return self._letters[character]

    @property
    def symbols(self) -> frozenset[str]:
        """The alphabet."""
        return frozenset(self._letters)

    @property
    def is_empty(self) -> bool:
        """Whether the automaton accepts no string."""
        return not self.accepting

    def first_characters(self) -> frozenset[str]:
        """Return the first characters of the accepted strings."""
        return frozenset().union(*(self.classes[letter] for letter, _ in self.steps(0)))

    def steps(self, state: int) -> Iterator[tuple[int, int]]:
        """Return the pairs of a class and the next state for all moves from `state`."""
        return ((letter, to) for letter, to in enumerate(self.moves[state]) if to != DEAD)

    def intersect(self, other: Dfa) -> Dfa:
        """Return the automaton of the strings that both accept."""
        return self._combine(other, lambda mine, others: mine and others)

    def union(self, other: Dfa) -> Dfa:
        """Return the automaton of the strings that at least one accepts."""
        return self._combine(other, lambda mine, others: mine or others)

    def difference(self, other: Dfa) -> Dfa:
        """Return the automaton of the strings that this one accepts and `other` does not."""
        return self._combine(other, lambda mine, others: mine and not others)

    def complement(self) -> Dfa:
        """Return the automaton of the strings over the alphabet that this one does not accept."""
        return everything(self.symbols).difference(self)

    def is_subset(self, other: Dfa) -> bool:
        """Return whether `other` accepts every string that this automaton accepts."""
        return self.difference(other).is_empty

    def star(self) -> Dfa:
        """Return the automaton of any number of accepted strings in a row, none included."""

        def step(state: frozenset[int]) -> Iterator[tuple[int, frozenset[int]]]:
            for letter in range(len(self.classes)):
                reached = {self.moves[0 if at == DEAD else at][letter] for at in state} - {DEAD}
                if reached:
                    yield letter, frozenset(reached | ({0} if reached & self.accepting else set()))

        # The initial state accepts. It is not state 0, which may be entered again in a string.
        ends = self.accepting | {DEAD}
        return explore(self.classes, frozenset({DEAD}), step, lambda at: not at.isdisjoint(ends))

    def _combine(self, other: Dfa, keep: Callable[[bool, bool], bool]) -> Dfa:
        """The product automaton that accepts where `keep` of the two acceptances is true."""
        classes, letters = common_classes((self, other))
        alone = keep(True, False), keep(False, True)  # whether one automaton alone can accept

        def step(state: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
            for letter, (mine, theirs) in enumerate(letters):
                one = DEAD if state[0] == DEAD else self.moves[state[0]][mine]
                two = DEAD if state[1] == DEAD else other.moves[state[1]][theirs]
                if (one != DEAD or (two != DEAD and alone[1])) and (two != DEAD or alone[0]):
                    yield letter, (one, two)

        def accepts(state: tuple[int, int]) -> bool:
            return keep(state[0] in self.accepting, state[1] in other.accepting)

        return explore(classes, (0, 0), step, accepts)

    @cached_property
    def _letters(self) -> dict[str, int]:
        return {char: letter for letter, part in enumerate(self.classes) for char in part}


def common_classes(automata: Sequence[Dfa]) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Return the coarsest common refinement of the classes of several automata.

    Args:
        automata: Automata over one alphabet.

    Returns:
        The refined classes, and for each of them its class in every automaton.

    Raises:
        ValueError: The alphabets differ.
    """
    alphabet = automata[0].symbols if automata else frozenset[str]()
    if any(dfa.symbols != alphabet for dfa in automata):
        raise ValueError("the automata have different alphabets")
    parts = partition(alphabet, lambda char: tuple(dfa.letter(char) for dfa in automata))
    return tuple(parts.values()), list(parts)


def everything(symbols: Collection[str]) -> Dfa:
    """Return the automaton of all strings over the characters `symbols`."""
    classes = ("".join(sorted(symbols)),) if symbols else ()
    return Dfa(classes, ((0,) * len(classes),), frozenset({0}))


def explore(
    classes: Sequence[str],
    start: State,
    step: Callable[[State], Iterable[tuple[int, State]]],
    accepts: Callable[[State], bool],
    budget: Budget | None = None,
) -> Dfa:
    """Return the minimal automaton of a deterministic transition system.

    Args:
        classes: The alphabet as classes, in the order of their first characters.
        start: The initial state.
        step: Returns the pairs of a class and the next state for a state.
        accepts: Returns whether a state is accepting.
        budget: Bounds the work of the construction.

    Raises:
        RegexError: More than `MAX_STATES` states, or the budget is spent.
    """
    budget = budget or Budget()
    numbers, order = {start: 0}, [start]
    edges: list[dict[int, int]] = []
    for state in order:  # `order` grows during the loop
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
