"""Nondeterministic automata with look-arounds, built from syntax trees (Thompson's construction).

A state either reads a character or has branches, which read nothing. A branch may test a
look-around. The body of a look-around is an automaton among the same states.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from maskdiff.languages.regex.classes import partition
from maskdiff.languages.regex.limits import Budget
from maskdiff.languages.regex.tree import Characters, Choice, Look, Node, Repeat, Sequence

Guard = frozenset[int]  # a conjunction of tests: +n for look-around n - 1, -n for its negation


@dataclass(frozen=True)
class LookAround:
    """The automaton of a look-around: its start state, its accepting state, its direction."""

    start: int
    accept: int
    ahead: bool
    construct: int


class Iteration(NamedTuple):
    """The choice of a state between one more copy of a repeated part and the end of the loop."""

    loop: int  # the same number for all copies of one repetition
    body: int
    after: int


@dataclass
class Nfa:
    """The states of a pattern and of its look-arounds.

    Attributes:
        classes: The alphabet as classes of characters that the pattern does not distinguish.
        budget: Bounds the work of the construction.
        reads: For each state the classes that it reads, as a bit mask.
        after: For each state the next state after a character is read.
        branches: For each state pairs of a test (0: none) and the next state, in the order in
            which `re` tries them.
        constructs: For each state the construct that it belongs to; -1 for the pattern itself.
        looks: The look-arounds; a nested one comes before the one that contains it.
        iterations: The states that may begin one more copy of a repeated part.
        start, accept: The start state and the accepting state of the pattern.
    """

    classes: tuple[str, ...]
    budget: Budget
    reads: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    branches: list[list[tuple[int, int]]] = field(default_factory=list)
    constructs: list[int] = field(default_factory=list)
    looks: list[LookAround] = field(default_factory=list)
    iterations: dict[int, Iteration] = field(default_factory=dict)
    start: int = 0
    accept: int = 0
    _closures: dict[int, tuple[tuple[Guard, int], ...]] = field(default_factory=dict)

    @cached_property
    def accepts(self) -> frozenset[int]:
        """The accepting states of the pattern and of the look-arounds."""
        return frozenset({self.accept, *(look.accept for look in self.looks)})

    def closure(self, state: int) -> tuple[tuple[Guard, int], ...]:
        """Return the reading and accepting states that branches lead to, each with its tests."""
        if state not in self._closures:
            found: dict[int, list[Guard]] = {}
            todo: list[tuple[Guard, int]] = [(frozenset(), state)]
            while todo:
                guard, at = todo.pop()
                known = found.setdefault(at, [])
                self.budget.spend(4 + 4 * len(guard) + len(known))
                if any(other <= guard for other in known):
                    continue
                known[:] = [other for other in known if not guard <= other]
                known.append(guard)
                for test, to in self.branches[at]:
                    if -test not in guard or not test:
                        todo.append((guard | {test} if test else guard, to))
            self._closures[state] = tuple(
                (guard, at)
                for at, guards in sorted(found.items())
                if self.reads[at] or at in self.accepts
                for guard in guards
            )
        return self._closures[state]


def build_nfa(tree: Node, symbols: frozenset[str], budget: Budget) -> Nfa:
    """Return the automaton of a syntax tree over the characters `symbols`."""
    sets: dict[frozenset[str], int] = {}
    _collect_sets(tree, sets, set())
    classes = _classes(symbols, list(sets), budget)
    masks = {
        chars: sum(1 << n for n, part in enumerate(classes) if part[0] in chars) for chars in sets
    }
    builder = _Builder(Nfa(classes, budget), masks)
    nfa = builder.nfa
    nfa.accept = builder.add_state()
    nfa.start = builder.build(tree, nfa.accept)
    return nfa


class _Builder:
    def __init__(self, nfa: Nfa, masks: dict[frozenset[str], int]) -> None:
        self.nfa, self.masks = nfa, masks
        self._tests: dict[Look, int] = {}
        self._construct = -1
        self._loops = 0  # repetitions built so far

    def add_state(
        self, reads: int = 0, after: int = 0, branches: Iterable[tuple[int, int]] = ()
    ) -> int:
        self.nfa.reads.append(reads)
        self.nfa.after.append(after)
        self.nfa.branches.append(list(branches))
        self.nfa.constructs.append(self._construct)
        return len(self.nfa.reads) - 1

    def build(self, node: Node, after: int) -> int:
        """The start state of an automaton of `node` that continues in the state `after`."""
        if isinstance(node, Characters):
            return self.add_state(self.masks[node.characters], after)
        if isinstance(node, Sequence):
            for part in reversed(node.parts):
                after = self.build(part, after)
            return after
        if isinstance(node, Choice):
            return self.add_state(branches=[(0, self.build(part, after)) for part in node.parts])
        if isinstance(node, Look):
            return self.add_state(branches=[(self.test(node), after)])
        return self.repeat(node, after)

    def repeat(self, node: Repeat, after: int) -> int:
        self._loops += 1
        loop, at = self._loops, after
        if node.most is None:
            at = self.add_state()
            self.choose_iteration(node, loop, at, self.build(node.part, at), after)
        else:
            for _ in range(node.most - node.least):
                body = self.build(node.part, at)
                at = self.add_state()
                self.choose_iteration(node, loop, at, body, after)
        for _ in range(node.least):
            at = self.build(node.part, at)
        return at

    def choose_iteration(self, node: Repeat, loop: int, at: int, body: int, after: int) -> None:
        """Makes the state `at` choose between one more copy and the end of the loop."""
        choices = [(0, body), (0, after)]
        self.nfa.branches[at] += reversed(choices) if node.lazy else choices
        self.nfa.iterations[at] = Iteration(loop, body, after)

    def test(self, look: Look) -> int:
        """The number of a look-around: its index in `Nfa.looks` plus 1, negated if negative."""
        if look not in self._tests:
            outer, self._construct = self._construct, look.construct
            accept = self.add_state()
            start = self.build(look.body, accept)  # adds nested look-arounds first
            self._construct = outer
            self.nfa.looks.append(LookAround(start, accept, look.ahead, look.construct))
            self._tests[look] = len(self.nfa.looks)
        return -self._tests[look] if look.negative else self._tests[look]


def _collect_sets(node: Node, sets: dict[frozenset[str], int], seen: set[Look]) -> None:
    if isinstance(node, Characters):
        sets.setdefault(node.characters, len(sets))
    elif isinstance(node, Sequence | Choice):
        for part in node.parts:
            _collect_sets(part, sets, seen)
    elif isinstance(node, Repeat):
        _collect_sets(node.part, sets, seen)
    elif node not in seen:
        seen.add(node)
        _collect_sets(node.body, sets, seen)


def _classes(
    symbols: frozenset[str], sets: list[frozenset[str]], budget: Budget
) -> tuple[str, ...]:
    """The coarsest partition of the alphabet such that every set is a union of parts."""
    signature = dict.fromkeys(symbols, 0)
    for number, characters in enumerate(sets):
        budget.spend(len(characters) // 8 + 1)
        for character in characters:
            signature[character] |= 1 << number
    return tuple(partition(symbols, signature.__getitem__).values())
