"""What `%ignore` adds to the strings of a grammar: skipped text before, between and behind terminals.

Lark's scanner skips a match of an ignored terminal as `re.match` takes it, which is a matter of what
follows: `//[^\\n]*` never ends before the end of its line. So skipped text does not end where the next
character alone makes a longer match. Where it takes more characters (`/a(bb)?/` before `bb`), more is
read than by Lark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg.rules import Cfg, Item, Rule
from maskdiff.languages.cfg.terminals import Terminal, automaton_rules
from maskdiff.languages.regex import DEAD, Dfa, Joint, explore

MAX_STATES = 2_000  # of skipped text

State = frozenset[tuple[int, int]]  # pairs of an ignored terminal and a state of its automaton


@dataclass(frozen=True)
class Skipped:
    """One or more ignored terminals in a row, by what may follow them.

    Attributes:
        before: Pairs of the characters that cannot follow and the automaton of such text.
        last: The automaton of such text at the end of a string.
    """

    before: tuple[tuple[frozenset[str], Dfa], ...]
    last: Dfa


def skipped_text(ignored: Sequence[Dfa]) -> Skipped:
    """Returns the text that a scanner skips, given the automata of all ignored terminals."""
    runs = _Runs(ignored)
    barred = sorted({runs.barred(state) for state in runs.states() if runs.ends(state)}, key=sorted)
    before = tuple((some, runs.dfa(partial(_equals, runs, some))) for some in barred)
    return Skipped(before, runs.dfa(lambda state: True))


def _equals(runs: _Runs, barred: frozenset[str], state: State) -> bool:
    return runs.barred(state) == barred


class _Runs:
    """All ways of reading a text as ignored terminals in a row, followed at once."""

    def __init__(self, ignored: Sequence[Dfa]) -> None:
        self.joint = Joint(ignored)

    def step(self, state: State | None) -> Iterator[tuple[int, State]]:
        """The classes of characters that lead on from a state (None before any text), each with the next state."""
        for letter in range(len(self.joint.classes)):
            reached = frozenset(self._reached(state, letter))
            if reached:
                yield letter, reached

    def _reached(self, state: State | None, letter: int) -> Iterator[tuple[int, int]]:
        joint, begin = self.joint, state is None
        for number, at in state or ():
            to = joint.move(number, at, letter)
            if to != DEAD:
                yield number, to
            begin = begin or (joint.accepts(number, at) and not joint.accepts(number, to))
        if begin:
            first = ((number, joint.move(number, 0, letter)) for number in range(len(joint)))
            yield from (item for item in first if item[1] != DEAD)

    def ends(self, state: State | None) -> bool:
        """Whether the text read so far is ignored terminals as a whole."""
        return any(self.joint.accepts(number, at) for number, at in state or ())

    def barred(self, state: State) -> frozenset[str]:
        """The characters that cannot follow: every terminal that ends here would go on with them."""
        free: set[str] = set()
        for number, at in state:
            if self.joint.accepts(number, at):
                for letter, members in enumerate(self.joint.classes):
                    if not self.joint.accepts(number, self.joint.move(number, at, letter)):
                        free.update(members)
        return frozenset("".join(self.joint.classes)) - free

    def states(self) -> Iterable[State]:
        """All states that some text leads to."""
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

    def dfa(self, wanted: Callable[[State], bool]) -> Dfa:
        """The automaton of the texts that end in a state that is `wanted`."""
        return explore(
            self.joint.classes,
            None,
            self.step,
            lambda state: state is not None and self.ends(state) and wanted(state),
        )


def reading_rules(
    rules: Iterable[Rule], terminals: Sequence[Terminal], skipped: Skipped, start: str
) -> Cfg:
    """Returns the grammar that also derives skipped text before every terminal and at the end.

    A string may have several derivations: the rules are there to recognise it.
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
