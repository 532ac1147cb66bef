"""The readable form of a grammar with `%ignore`: skipped text before, between and after terminals.

Lark's scanner skips what `re.match` matches of an ignored terminal, which depends on the text that
follows: `//[^\\n]*` never ends before the end of its line. So skipped text does not end where the
next character alone would extend the match. Where more characters are needed to extend it
(`/a(bb)?/` before `bb`), more is read here than by Lark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg.rules import Cfg, Item, Rule
from maskdiff.languages.cfg.terminals import Terminal, automaton_rules
from maskdiff.languages.regex import DEAD, Dfa, ParallelAutomata, explore

MAX_STATES = 2_000  # of the automaton of skipped text

State = frozenset[tuple[int, int]]  # pairs of an ignored terminal and a state of its automaton


@dataclass(frozen=True)
class Skipped:
    """Texts of one or more ignored terminals.

    Attributes:
        before: The automata of such texts by the characters that cannot follow them.
        last: The automaton of such texts at the end of a string.
    """

    before: tuple[tuple[frozenset[str], Dfa], ...]
    last: Dfa


def skipped_text(ignored: Sequence[Dfa]) -> Skipped:
    """Return the text that a scanner skips, given the automata of all ignored terminals."""
    runs = _Runs(ignored)
    kinds = sorted({runs.barred(state) for state in runs.states() if runs.ends(state)}, key=sorted)
    before = tuple((barred, runs.dfa(barred)) for barred in kinds)
    return Skipped(before, runs.dfa(None))


class _Runs:
    """Follows all divisions of a text into ignored terminals in parallel."""

    def __init__(self, ignored: Sequence[Dfa]) -> None:
        self.automata = ParallelAutomata(ignored)

    def step(self, state: State | None) -> Iterator[tuple[int, State]]:
        """Yields the pairs of a class and the next state for a state (None: the initial state)."""
        for letter in range(len(self.automata.classes)):
            reached = frozenset(self._reached(state, letter))
            if reached:
                yield letter, reached

    def _reached(self, state: State | None, letter: int) -> Iterator[tuple[int, int]]:
        automata, begin = self.automata, state is None
        for number, at in state or ():
            to = automata.move(number, at, letter)
            if to != DEAD:
                yield number, to
            begin = begin or (automata.accepts(number, at) and not automata.accepts(number, to))
        if begin:
            first = ((number, automata.move(number, 0, letter)) for number in range(len(automata)))
            yield from (item for item in first if item[1] != DEAD)

    def ends(self, state: State | None) -> bool:
        """Return whether the text so far is a sequence of ignored terminals."""
        return any(self.automata.accepts(number, at) for number, at in state or ())

    def barred(self, state: State) -> frozenset[str]:
        """Return the characters that cannot follow: they extend every terminal that ends here."""
        free: set[str] = set()
        for number, at in state:
            if self.automata.accepts(number, at):
                for letter, members in enumerate(self.automata.classes):
                    if not self.automata.accepts(number, self.automata.move(number, at, letter)):
                        free.update(members)
        return frozenset("".join(self.automata.classes)) - free

    def states(self) -> Iterable[State]:
        """Return all reachable states. Raises `GrammarError` beyond `MAX_STATES`."""
        found: dict[State, None] = {}
        waiting: list[State | None] = [None]
        while waiting:
            for _, state in self.step(waiting.pop()):
                if state not in found:
                    found[state] = None
                    waiting.append(state)
                    if len(found) > MAX_STATES:
                        raise GrammarError(f"ignored text has more than {MAX_STATES} states")
        return found

    def dfa(self, barred: frozenset[str] | None) -> Dfa:
        """Return the automaton of the texts that `barred` cannot follow; None for all texts."""

        def accepts(state: State | None) -> bool:
            ended = state is not None and self.ends(state)
            return ended and (barred is None or self.barred(state or frozenset()) == barred)

        return explore(self.automata.classes, None, self.step, accepts)


def reading_rules(
    rules: Iterable[Rule], terminals: Sequence[Terminal], skipped: Skipped, start: str
) -> Cfg:
    """Return the grammar with skipped text before every terminal and at the end.

    A string may have several derivations: the grammar is for recognition.

    Args:
        rules: The rules over terminals.
        terminals: The terminals.
        skipped: The text that a scanner skips.
        start: The start rule.
    """
    names = {terminal.name: f"{terminal.name}@read" for terminal in terminals}
    made = [Rule(head, tuple(_renamed(item, names) for item in body)) for head, body in rules]
    for number, (barred, text) in enumerate(skipped.before):
        made += automaton_rules(f"skip@{number}", text)
        for terminal in terminals:
            rest = f"{terminal.name}@after{number}"
            made += terminal.rules_without(rest, barred)
            made.append(Rule(names[terminal.name], (f"skip@{number}", rest)))
    for terminal in terminals:
        made += terminal.rules()
        made.append(Rule(names[terminal.name], (terminal.name,)))
    made += automaton_rules("skip@end", skipped.last)
    whole = f"{start}@read"
    return Cfg(whole, (Rule(whole, (start,)), Rule(whole, (start, "skip@end")), *made))


def _renamed(item: Item, names: dict[str, str]) -> Item:
    return names.get(item, item) if isinstance(item, str) else item
