"""Simulates a pattern with the priorities of `re.match`, which returns one preferred match.

Threads are ordered as `re` tries them. A thread at the end of the pattern drops the threads after
it: if the text continues, `re` has already returned a shorter match. The threads before it have
priority and may match more of the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from maskdiff.languages.regex.limits import Budget
from maskdiff.languages.regex.nfa import Guard, Nfa
from maskdiff.languages.regex.simulation import (
    ALWAYS,
    NEVER,
    Alternative,
    Answers,
    Condition,
    Run,
    Runs,
    Simulation,
)

Ordered = tuple[tuple[int, Alternative], ...]  # threads in the order in which `re` tries them


class PrioritySimulation(Simulation):
    """A `Simulation` whose pattern matches a string only if `re.match` matches all of it.

    The last entry of `Runs` is the number of an ordered list of threads, up to `end`.
    """

    def __init__(self, nfa: Nfa, budget: Budget) -> None:
        super().__init__(nfa, budget)
        self._orders: list[Ordered] = [()]
        self._order_numbers: dict[Ordered, int] = {(): 0}
        self._ordered: dict[tuple[int, Answers], Ordered] = {}
        self._closures: dict[int, list[tuple[Guard, int]]] = {}

    def begin(self, earlier: Runs | None = None, seeing: Collection[int] = ()) -> Runs:
        behinds, answers = self._begin_behinds(earlier, seeing)
        entered = self._enter_in_order(self.nfa.start, answers)
        return (*behinds, self._cut((at, frozenset({new})) for at, new in entered))

    def step(self, runs: Runs, letter: int) -> Runs:
        behinds, answers = self._step_behinds(runs, letter)
        found: list[tuple[int, Condition]] = []
        for at, alternative in self._orders[runs[-1]]:
            if self.nfa.reads[at] >> letter & 1:
                later = self._later(alternative, letter, answers) if alternative else ALWAYS
                for to, new in self._enter_in_order(self.nfa.after[at], answers):
                    found.append((to, self._both(frozenset({new}), later)))
                    self.budget.spend(2)
        return (*behinds, self._cut(found))

    def end(self, runs: Runs, seeing: Collection[int] = ()) -> Runs:
        return super().end((*runs[:-1], self._unordered(runs[-1])), seeing)

    def letters(self, runs: Runs) -> list[int]:
        return super().letters((*runs[:-1], self._unordered(runs[-1])))

    def _unordered(self, order: int) -> Run:
        return self._run_of(self._orders[order])

    def _cut(self, threads: Iterable[tuple[int, Condition]]) -> int:
        """The number of the list of the threads that no thread of higher priority has dropped."""
        kept: dict[tuple[int, Alternative], None] = {}
        earlier: dict[int, list[Alternative]] = {}
        open_: Condition = ALWAYS  # no earlier thread is at the end of the pattern
        for at, condition in threads:
            for alternative in sorted(self._both(condition, open_), key=sorted):
                known = earlier.setdefault(at, [])
                self.budget.spend(1 + len(known))
                if not any(other <= alternative for other in known):
                    known.append(alternative)
                    kept[at, alternative] = None
            if at == self.nfa.accept:
                open_ = self._both(open_, self._not(condition))
                if open_ == NEVER:
                    break
        order = tuple(kept)
        number = self._order_numbers.setdefault(order, len(self._orders))
        if number == len(self._orders):
            self._orders.append(order)
        return number

    def _enter_in_order(self, state: int, answers: Answers) -> Ordered:
        key = state, answers
        if key not in self._ordered:
            self._ordered[key] = tuple(
                (to, alternative)
                for guard, to in self._closure_in_order(state)
                for alternative in self._holds(guard, answers)
            )
        return self._ordered[key]

    def _closure_in_order(self, state: int) -> list[tuple[Guard, int]]:
        """The states of `Nfa.closure` in the order in which `re` tries them.

        As in `re`, a copy of a repeated part that reads nothing is the last one.
        """
        if state in self._closures:
            return self._closures[state]
        nfa, found = self.nfa, []
        seen: dict[tuple[int, frozenset[int]], list[Guard]] = {}
        todo: list[tuple[int, Guard, frozenset[int]]] = [(state, frozenset(), frozenset())]
        while todo:
            at, guard, loops = todo.pop()  # `loops`: those with a new copy here
            known = seen.setdefault((at, loops), [])
            self.budget.spend(4 + 4 * len(guard) + len(known))
            if any(other <= guard for other in known):
                continue
            known.append(guard)
            if nfa.reads[at] or at in nfa.accepts:
                found.append((guard, at))
            choice = nfa.iterations.get(at)
            for test, to in reversed(nfa.branches[at]):
                now = loops
                if choice is not None and to == choice.after:
                    now = loops - {choice.loop}
                elif choice is not None:
                    if choice.loop in loops:
                        continue
                    now = loops | {choice.loop}
                todo.append((to, guard | {test} if test else guard, now))
        self._closures[state] = found
        return found
