"""Runs automata with look-arounds over a text, one character at a time.

A *condition* says what must follow in the text for a look-ahead to hold: a set of alternatives,
each a set of *obligations*. The obligation +s demands that some continuation from the
state s of a look-ahead leads to its accepting state, -s that none does. What a look-behind finds
is known from the text before, except for the look-aheads inside of it; so its answer is a condition
as well. A run is the set of states that are reached, each with the obligations under which it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from maskdiff.languages.regex.limits import Budget
from maskdiff.languages.regex.nfa import Guard, Nfa

Alternative = frozenset[int]
Condition = frozenset[Alternative]
Thread = tuple[int, Alternative]
Run = frozenset[Thread]
Runs = tuple[Run, ...]  # of the look-behinds, nested ones first, and at the end of the pattern itself

ALWAYS: Condition = frozenset({frozenset()})
NEVER: Condition = frozenset()


class Runner:
    """Steps of all automata of a pattern at once."""

    def __init__(self, nfa: Nfa, budget: Budget) -> None:
        self.nfa, self.budget = nfa, budget
        self.behinds = [n for n, look in enumerate(nfa.looks) if not look.ahead]
        self._order = {look: n for n, look in enumerate(self.behinds)}
        self._advanced: dict[tuple[Thread, int, tuple[Condition, ...]], Run] = {}
        self._entered: dict[tuple[int, tuple[Condition, ...]], Run] = {}

    def begin(self, earlier: Runs | None = None, seeing: Collection[int] = ()) -> Runs:
        """Runs where the pattern begins.

        Args:
            earlier: runs of the text before, from `begin_before`.
            seeing: the constructs whose look-behinds see that text.
        """
        return self._begin(earlier, seeing, started=True)

    def begin_before(self) -> Runs:
        """Runs where a text begins that goes before the pattern."""
        return self._begin(None, (), started=False)

    def _begin(self, earlier: Runs | None, seeing: Collection[int], started: bool) -> Runs:
        runs: list[Run] = []
        answers: tuple[Condition, ...] = ()
        for n, look in enumerate(self.nfa.looks[k] for k in self.behinds):
            if earlier is not None and look.construct in seeing:
                run = earlier[n]
            else:
                run = self._enter(look.start, answers)
            runs.append(run)
            answers += (_reached(run, look.accept),)
        runs.append(self._enter(self.nfa.start, answers) if started else frozenset())
        return tuple(runs)

    def step(self, runs: Runs, letter: int, ended: bool = False) -> Runs:
        """Runs after one more character, of the class `letter`.

        After the end of the pattern (`ended`), only the obligations of its threads go on.
        """
        found: list[Run] = []
        answers: tuple[Condition, ...] = ()
        for n, look in enumerate(self.nfa.looks[k] for k in self.behinds):
            run = _union([*self._advance(runs[n], letter, answers), self._enter(look.start, answers)])
            found.append(run)
            answers += (_reached(run, look.accept),)
        if ended:
            last: Iterable[Run] = (
                frozenset((at, new) for new in self._later(alternative, letter, answers))
                for at, alternative in runs[-1]
            )
        else:
            last = self._advance(runs[-1], letter, answers)
        found.append(_union(last))
        self.budget.spend(sum(map(len, found)))
        return tuple(found)

    def end(self, runs: Runs, seeing: Collection[int] = ()) -> Runs:
        """Runs where the pattern ends: look-aheads that are not of `seeing` find no more text."""
        constructs = self.nfa.constructs
        kept = frozenset(
            (at, frozenset(n for n in alternative if constructs[abs(n)] in seeing))
            for at, alternative in runs[-1]
            if at == self.nfa.accept and all(n < 0 or constructs[n] in seeing for n in alternative)
        )
        return (*runs[:-1], kept)

    def accepts(self, runs: Runs) -> bool:
        """Whether the pattern matches, if the text ends here."""
        accept = self.nfa.accept
        return any(at == accept and all(n < 0 for n in condition) for at, condition in runs[-1])

    def letters(self, runs: Runs) -> int:
        """The classes that the pattern itself can read next, as a bit mask."""
        mask = 0
        for at, _ in runs[-1]:
            mask |= self.nfa.reads[at]
        return mask

    def _advance(self, run: Run, letter: int, answers: tuple[Condition, ...]) -> Iterable[Run]:
        """The threads that each thread of `run` becomes."""
        for thread in run:
            at, alternative = thread
            if not self.nfa.reads[at] >> letter & 1:
                continue
            key = thread, letter if alternative else 0, answers
            if key not in self._advanced:
                later = self._later(alternative, letter, answers)
                self._advanced[key] = _simplify(
                    (to, new)
                    for to, conditions in self._enter(self.nfa.after[at], answers)
                    for new in self._both(later, frozenset({conditions}))
                )
            yield self._advanced[key]

    def _enter(self, state: int, answers: tuple[Condition, ...]) -> Run:
        """The threads of an automaton that enters `state` here, given what look-behinds found."""
        key = state, answers
        if key not in self._entered:
            self._entered[key] = _simplify(
                (to, alternative)
                for guard, to in self.nfa.closure(state)
                for alternative in self._holds(guard, answers)
            )
        return self._entered[key]

    def _holds(self, guard: Guard, answers: tuple[Condition, ...]) -> Condition:
        """When all tests of a guard hold here."""
        condition = ALWAYS
        for test in sorted(guard):
            number = abs(test) - 1
            look = self.nfa.looks[number]
            if look.ahead:
                answer = self._can_accept(look.start, answers)
            else:
                answer = answers[self._order[number]]
            condition = self._both(condition, answer if test > 0 else self._not(answer))
        return condition

    def _can_accept(self, state: int, answers: tuple[Condition, ...]) -> Condition:
        """When a look-ahead that enters `state` here comes to its accepting state."""
        found: set[Alternative] = set()
        for to, alternative in self._enter(state, answers):
            found.add(alternative if to in self.nfa.accepts else alternative | {to})
        return _absorb(found)

    def _later(self, alternative: Alternative, letter: int, answers: tuple[Condition, ...]) -> Condition:
        """What obligations demand of the rest, after a character of the class `letter`."""
        condition = ALWAYS
        for obligation in sorted(alternative):
            at = abs(obligation)
            reads = self.nfa.reads[at] >> letter & 1
            answer = self._can_accept(self.nfa.after[at], answers) if reads else NEVER
            condition = self._both(condition, answer if obligation > 0 else self._not(answer))
        return condition

    def _both(self, one: Condition, other: Condition) -> Condition:
        if one == ALWAYS or other == ALWAYS:
            return other if one == ALWAYS else one
        self.budget.spend(len(one) * len(other))
        joined = (a | b for a in one for b in other)
        return _absorb(a for a in joined if not any(-n in a for n in a))

    def _not(self, condition: Condition) -> Condition:
        negated = ALWAYS
        for alternative in condition:
            negated = self._both(negated, frozenset(frozenset({-n}) for n in alternative))
        return negated


def _reached(run: Run, accept: int) -> Condition:
    return _absorb(alternative for at, alternative in run if at == accept)


def _union(runs: Iterable[Run]) -> Run:
    return _simplify(frozenset().union(*runs))


def _simplify(threads: Iterable[Thread]) -> Run:
    """Drop threads that are at the same state under more obligations than another one."""
    threads = frozenset(threads)
    if not any(alternative for _, alternative in threads):
        return threads
    by_state: dict[int, list[Alternative]] = {}
    for at, alternative in threads:
        by_state.setdefault(at, []).append(alternative)
    return frozenset((at, new) for at, found in by_state.items() for new in _absorb(found))


def _absorb(alternatives: Iterable[Alternative]) -> Condition:
    """Drop alternatives that demand more than another one."""
    kept: list[Alternative] = []
    for alternative in sorted(set(alternatives), key=len):
        if not any(other <= alternative for other in kept):
            kept.append(alternative)
    return frozenset(kept)
