"""Several automata that read the same text."""

from __future__ import annotations

from collections.abc import Sequence

from maskdiff.languages.regex.dfa import Dfa, common_classes
from maskdiff.languages.regex.minimise import DEAD


class ParallelAutomata:
    """Automata over one alphabet, stepped by character classes that none of them divides.

    Attributes:
        classes: The partition of the alphabet into such classes, each a sorted string.
    """

    def __init__(self, automata: Sequence[Dfa]) -> None:
        self.automata = tuple(automata)
        self.classes, self._letters = common_classes(self.automata)

    def __len__(self) -> int:
        return len(self.automata)

    def move(self, number: int, state: int, letter: int) -> int:
        """Return the next state of automaton `number` by class `letter`; `DEAD` stays `DEAD`."""
        if state == DEAD:
            return DEAD
        return self.automata[number].moves[state][self._letters[letter][number]]

    def accepts(self, number: int, state: int) -> bool:
        """Return whether `state` of automaton `number` is accepting."""
        return state in self.automata[number].accepting
