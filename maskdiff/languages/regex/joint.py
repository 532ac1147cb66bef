"""Several automata read side by side."""

from __future__ import annotations

from collections.abc import Sequence

from maskdiff.languages.regex.dfa import Dfa
from maskdiff.languages.regex.minimise import DEAD


class Joint:
    """Automata over one alphabet, stepped by classes of characters that all of them treat alike.

    Attributes:
        classes: The alphabet split into such classes, each a sorted string.
    """

    def __init__(self, automata: Sequence[Dfa]) -> None:
        self.automata = tuple(automata)
        letters = [
            {
                character: letter
                for letter, members in enumerate(dfa.classes)
                for character in members
            }
            for dfa in self.automata
        ]
        kinds: dict[tuple[int, ...], list[str]] = {}
        for character in sorted(letters[0]) if letters else ():
            kinds.setdefault(tuple(own[character] for own in letters), []).append(character)
        self.classes = tuple("".join(members) for members in kinds.values())
        self._letters = list(kinds)

    def __len__(self) -> int:
        return len(self.automata)

    def move(self, number: int, state: int, letter: int) -> int:
        """The state of one automaton after a character of class `letter`; `DEAD` stays `DEAD`."""
        return (
            DEAD
            if state == DEAD
            else self.automata[number].moves[state][self._letters[letter][number]]
        )

    def accepts(self, number: int, state: int) -> bool:
        """Whether a string of one automaton may end in a state."""
        return state in self.automata[number].accepting
