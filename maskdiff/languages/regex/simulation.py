"""Simulates automata with look-arounds on a text, one character at a time.

A *thread* is a reached state with a set of *obligations*, which the rest of the text must meet. A
*run* is a set of threads. It accepts if, at the end of the text, a thread with met obligations is
in an accepting state. An obligation comes from a look-ahead: it is a run over the rest of the text
that must accept (+) or must not (-). The result of a look-behind follows from the text before,
except for look-aheads in its body. It is a *condition*: a disjunction of sets of obligations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from maskdiff.languages.bitsets import positions_of
from maskdiff.languages.regex.limits import Budget
from maskdiff.languages.regex.nfa import Guard, Nfa

Alternative = frozenset[int]  # a conjunction of obligations: +n or -n for the run number n
Condition = frozenset[Alternative]  # a disjunction
Answers = int  # the number of a list of results of look-behinds at one place, nested ones first
Thread = tuple[int, Alternative]
Run = int  # a bit mask of threads
Runs = tuple[Run, ...]  # of the look-behinds, nested ones first, then of the pattern

ALWAYS: Condition = frozenset({frozenset()})
NEVER: Condition = frozenset()


class Simulation:
    """Simulates all automata of a pattern at once."""

    def __init__(self, nfa: Nfa, budget: Budget) -> None:
        self.nfa, self.budget = nfa, budget
        self._behinds = [look for look in nfa.looks if not look.ahead]
        self._answer_of = {look: n for n, look in enumerate(self._behinds)}
        self._threads: list[Thread] = []
        self._numbers: dict[Thread, int] = {}
        self._readers = [0] * len(nfa.classes)  # for each class, the threads that read it
        self._conditional = 0  # the threads with obligations
        self._arrived = 0  # the threads in accepting states
        self._demands: list[Run] = [0]  # the runs of obligations, numbered from 1
        self._demand_numbers: dict[Run, int] = {}
        self._accepting: dict[int, bool] = {}  # whether the run of an obligation accepts
        self._answers: list[tuple[Condition, ...]] = [()]
        self._answer_numbers: dict[tuple[Answers, Condition], Answers] = {}
        # Caches.
        self._advanced: dict[tuple[int, int, Answers], Run] = {}
        self._entered: dict[tuple[int, Answers], Run] = {}
        self._later_of: dict[tuple[int, int, Answers], Condition] = {}

    def begin(self, earlier: Runs | None = None, seeing: Collection[int] = ()) -> Runs:
        """Return the runs at the start of the pattern.

        Args:
            earlier: The runs over the text before the pattern, see `begin_before`.
            seeing: The constructs whose look-behinds see that text.
        """
        runs, answers = self._begin_behinds(earlier, seeing)
        return (*runs, self._enter(self.nfa.start, answers))

    def begin_before(self) -> Runs:
        """Return the runs at the start of a text before the pattern."""
        runs, _ = self._begin_behinds(None, ())
        return (*runs, 0)

    def step(self, runs: Runs, letter: int) -> Runs:
        """Return the runs after one more character of class `letter`."""
        behinds, answers = self._step_behinds(runs, letter)
        return (*behinds, self._simplify(self._advance(runs[-1], letter, answers)))

    def step_after(self, runs: Runs, letter: int) -> Runs:
        """Return the runs after one more character behind the pattern."""
        behinds, answers = self._step_behinds(runs, letter)
        return (*behinds, self._simplify(self._persist(runs[-1], letter, answers)))

    def end(self, runs: Runs, seeing: Collection[int] = ()) -> Runs:
        """Return the runs at the end of the pattern.

        Look-aheads of the constructs `seeing` see the text behind it.
        """
        for _, alternative in self._members(runs[-1] & self._arrived):
            self.budget.spend(3 * len(alternative))
        kept = (
            (at, frozenset(n for n in alternative if self._construct(n) in seeing))
            for at, alternative in self._members(runs[-1] & self._arrived)
            if all(self._construct(n) in seeing or self._is_met(n) for n in alternative)
        )
        return (*runs[:-1], self._run_of(kept))

    def accepts(self, runs: Runs) -> bool:
        """Return whether the pattern matches if the text ends here, given the runs from `end`."""
        return self._accepts(runs[-1])

    def letters(self, runs: Runs) -> list[int]:
        """Return the classes that the pattern itself can read next."""
        return [letter for letter, readers in enumerate(self._readers) if runs[-1] & readers]

    def _begin_behinds(self, earlier: Runs | None, seeing: Collection[int]) -> tuple[Runs, Answers]:
        runs: list[Run] = []
        answers: Answers = 0  # none yet
        for n, look in enumerate(self._behinds):
            if earlier is not None and look.construct in seeing:
                runs.append(earlier[n])
            else:
                runs.append(self._enter(look.start, answers))
            answers = self._with_answer(answers, runs[n])
        return tuple(runs), answers

    def _step_behinds(self, runs: Runs, letter: int) -> tuple[Runs, Answers]:
        self.budget.spend(4 * len(self._behinds))
        found: list[Run] = []
        answers: Answers = 0  # none yet
        for n, look in enumerate(self._behinds):
            run = self._advance(runs[n], letter, answers) | self._enter(look.start, answers)
            found.append(self._simplify(run))
            answers = self._with_answer(answers, found[n])
        return tuple(found), answers

    def _with_answer(self, answers: Answers, run: Run) -> Answers:
        """Appends the result of the next look-behind, given its run."""
        answer = _absorb(alternative for _, alternative in self._members(run & self._arrived))
        key = answers, answer
        number = self._answer_numbers.setdefault(key, len(self._answers))
        if number == len(self._answers):
            self._answers.append((*self._answers[answers], answer))
            self.budget.spend(len(self._answers[number]))
        return number

    def _advance(self, run: Run, letter: int, answers: Answers) -> Run:
        """The threads that follow those of `run` when they read a character."""
        following = 0
        for thread in positions_of(run & self._readers[letter]):
            key = thread, letter if self._conditional >> thread & 1 else -1, answers
            reached = self._advanced.get(key)
            if reached is None:
                at, alternative = self._threads[thread]
                reached = self._enter(self.nfa.after[at], answers)
                if alternative:
                    reached = self._under(reached, self._later(alternative, letter, answers))
                self._advanced[key] = reached
            following |= reached
            self.budget.spend(1)
        return following

    def _persist(self, run: Run, letter: int, answers: Answers) -> Run:
        """The threads in accepting states, with their obligations after one more character."""
        return self._run_of(
            (at, later)
            for at, alternative in self._members(run & self._arrived)
            for later in self._later(alternative, letter, answers)
        )

    def _enter(self, state: int, answers: Answers) -> Run:
        """The threads of an automaton that enters `state` at this place."""
        key = state, answers
        if key not in self._entered:
            self._entered[key] = self._run_of(
                (to, alternative)
                for guard, to in self.nfa.closure(state)
                for alternative in self._holds(guard, answers)
            )
        return self._entered[key]

    def _holds(self, guard: Guard, answers: Answers) -> Condition:
        """The condition under which all tests of a guard hold at this place."""
        condition = ALWAYS
        for test in sorted(guard):
            look = self.nfa.looks[abs(test) - 1]
            if look.ahead:
                answer = self._demand(self._enter(look.start, answers), test > 0)
            else:
                answer = self._answers[answers][self._answer_of[look]]
                answer = answer if test > 0 else self._not(answer)
            condition = self._both(condition, answer)
        return condition

    def _demand(self, run: Run, wanted: bool) -> Condition:
        """The condition that a run over the rest of the text accepts, or does not."""
        if run & self._arrived & ~self._conditional:
            return ALWAYS if wanted else NEVER
        if not run:
            return NEVER if wanted else ALWAYS
        if wanted:
            return frozenset({frozenset({self._demand_number(run)})})
        # One obligation per thread, so that alternatives are comparable as sets.
        return frozenset(
            {frozenset(-self._demand_number(1 << thread) for thread in positions_of(run))}
        )

    def _later(self, alternative: Alternative, letter: int, answers: Answers) -> Condition:
        """The condition that obligations become after a character of class `letter`."""
        self.budget.spend(3 * len(alternative))
        certain: set[int] = set()  # obligations from conditions with one alternative
        condition = ALWAYS
        for obligation in sorted(alternative):
            demands = self._continued(obligation, letter, answers)
            if len(demands) == 1:
                certain.update(*demands)
            else:
                condition = self._both(condition, demands)
        return self._both(frozenset({frozenset(certain)}), condition)

    def _continued(self, obligation: int, letter: int, answers: Answers) -> Condition:
        """The condition that one obligation becomes after a character of class `letter`."""
        key = obligation, letter, answers
        if key not in self._later_of:
            run = self._demands[abs(obligation)]
            following = self._advance(run, letter, answers)
            following |= self._persist(run, letter, answers)
            self._later_of[key] = self._demand(self._simplify(following), obligation > 0)
        return self._later_of[key]

    def _under(self, run: Run, condition: Condition) -> Run:
        """The threads of `run` under one more condition."""
        return self._run_of(
            (at, both)
            for at, alternative in self._members(run)
            for both in self._both(frozenset({alternative}), condition)
        )

    def _both(self, one: Condition, other: Condition) -> Condition:
        """The conjunction of two conditions."""
        if one == ALWAYS or other == ALWAYS:
            return other if one == ALWAYS else one
        for alternative in one:
            self.budget.spend((2 + len(alternative) // 4) * len(other))
        return _absorb(a | b for a in one for b in other)

    def _not(self, condition: Condition) -> Condition:
        """The negation of a condition."""
        negated = ALWAYS
        for alternative in condition:
            unmet = [self._demand(self._demands[abs(n)], n < 0) for n in alternative]
            negated = self._both(negated, _absorb(frozenset().union(*unmet)))
        return negated

    def _accepts(self, run: Run) -> bool:
        """Whether a run accepts if the text ends here."""
        arrived = run & self._arrived
        return bool(arrived & ~self._conditional) or any(
            all(map(self._is_met, alternative)) for _, alternative in self._members(arrived)
        )

    def _is_met(self, obligation: int) -> bool:
        """Whether an obligation is met if the text ends here."""
        number = abs(obligation)
        if number not in self._accepting:
            self._accepting[number] = self._accepts(self._demands[number])
        return self._accepting[number] == (obligation > 0)

    def _construct(self, obligation: int) -> int:
        """The construct that an obligation comes from."""
        thread = next(positions_of(self._demands[abs(obligation)]))
        return self.nfa.constructs[self._threads[thread][0]]

    def _simplify(self, run: Run) -> Run:
        """Drops threads that have more obligations than another thread in the same state."""
        return self._run_of(self._members(run)) if run & self._conditional else run

    def _members(self, run: Run) -> Iterator[Thread]:
        return (self._threads[thread] for thread in positions_of(run))

    def _run_of(self, threads: Iterable[Thread]) -> Run:
        by_state: dict[int, list[Alternative]] = {}
        count = 0
        for at, alternative in threads:
            by_state.setdefault(at, []).append(alternative)
            count += 1
        self.budget.spend(2 * count)
        run = 0
        for at, found in by_state.items():
            for alternative in _absorb(found):
                run |= 1 << self._number(at, alternative)
        return run

    def _number(self, at: int, alternative: Alternative) -> int:
        """The number of a thread, which is its bit in a run."""
        thread = at, alternative
        number = self._numbers.setdefault(thread, len(self._threads))
        if number == len(self._threads):
            self.budget.spend(50 if alternative else 1)  # long masks slow every step down
            self._threads.append(thread)
            self._conditional |= bool(alternative) << number
            self._arrived |= (at in self.nfa.accepts) << number
            for letter in positions_of(self.nfa.reads[at]):
                self._readers[letter] |= 1 << number
        return number

    def _demand_number(self, run: Run) -> int:
        """The number of the obligation that is a run."""
        number = self._demand_numbers.setdefault(run, len(self._demands))
        if number == len(self._demands):
            self._demands.append(run)
        return number


def _absorb(alternatives: Iterable[Alternative]) -> Condition:
    """Drops alternatives that contain another one."""
    distinct = frozenset(alternatives)
    if len(distinct) < 2:
        return distinct
    kept: list[Alternative] = []
    for alternative in sorted(distinct, key=len):
        if not any(other <= alternative for other in kept):
            kept.append(alternative)
    return frozenset(kept)
