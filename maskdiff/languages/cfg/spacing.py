"""How a grammar with `%ignore` is written: without ignored text, but for what keeps terminals apart.

Between two terminals stands one separator if some string of the first, with the first character of
some string of the second, begins another terminal: `in x`, `< =`. What is written is a function of
the terminals alone, not of their strings, so every derivation has one written form. Behind a
separator, strings that begin with more of what is skipped are left out: nothing would tell them from
skipped text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg.neighbours import TerminalRules, neighbours
from maskdiff.languages.cfg.rules import Cfg, Rule
from maskdiff.languages.cfg.terminals import Terminal
from maskdiff.languages.regex import DEAD, Dfa, Joint

_State = frozenset[tuple[int, int]]  # automata of the scanner that go on, with their states

BEGIN = -1  # the context at the beginning of a string, where nothing has to be kept apart
MAX_CONTEXTS = 16  # kinds of terminals by what must be kept apart from them
MAX_MOVES = 100_000  # of all terminals read side by side


def separators(ignored: Sequence[Dfa]) -> list[str]:
    """Returns the ignored strings of one character, a space first."""
    single = {
        c
        for dfa in ignored
        for letter, to in dfa.steps(0)
        if to in dfa.accepting
        for c in dfa.classes[letter]
    }
    return sorted(single, key=lambda c: (c != " ", c))


def spaced_rules(
    rules: TerminalRules, start_rule: str, terminals: Mapping[str, Terminal], ignored: Sequence[Dfa]
) -> Cfg:
    """Returns the grammar of the written form without the rules of its terminals.

    Args:
        rules: Bodies of names of rules and terminals.
        start_rule: The first rule.
        terminals: By name.
        ignored: Automata of the ignored terminals.

    Raises:
        GrammarError: The terminals fall into more than `MAX_CONTEXTS` kinds by what must not follow them.
    """
    first = {name: terminal.strings.first_characters() for name, terminal in terminals.items()}
    following = neighbours(rules, first)
    after = _going_on(terminals, ignored)
    apart = {
        name: {start: not after[name].isdisjoint(start) for start in starts}
        for name, starts in following.items()
    }
    behind = {start for decided in apart.values() for start, needed in decided.items() if needed}
    separator, barred = _separator(frozenset[str]().union(*behind), ignored)
    cut = {
        name: f"{name}@behind"
        for name, start in first.items()
        if start in behind and not start.isdisjoint(barred)
    }
    made = _Spacing(_short(rules), first, _contexts(apart), separator, cut).rules_of(start_rule)
    more = [
        rule for name, head in cut.items() for rule in terminals[name].rules_without(head, barred)
    ]
    return Cfg(made.start, (*made.rules, *more))


def _short(rules: TerminalRules) -> TerminalRules:
    """The same rules with at most two symbols a body; ends of bodies that are alike are shared."""
    made: dict[str, list[tuple[str, ...]]] = {}
    names: dict[tuple[str, str], str] = {}
    for head, bodies in rules.items():
        made[head] = []
        for body in bodies:
            *front, last = body or ("",)
            while len(front) > 1:
                pair = front.pop(), last
                last = names.setdefault(pair, f"tail@{len(names)}")
            made[head].append((*front, last) if body else ())
    return made | {name: [pair] for pair, name in names.items()}


def _separator(behind: frozenset[str], ignored: Sequence[Dfa]) -> tuple[str, frozenset[str]]:
    """A separator, and the characters with which skipping would go on behind it: none of `behind` if possible."""
    found = [
        (
            separator,
            frozenset(c for c in behind if any(dfa.accepts(separator + c) for dfa in ignored)),
        )
        for separator in separators(ignored)
    ]
    return min(found, key=lambda pair: bool(pair[1]))


def _going_on(
    terminals: Mapping[str, Terminal], ignored: Sequence[Dfa]
) -> dict[str, frozenset[str]]:
    """The characters with which a string of each terminal begins some other string of the scanner."""
    scanner = Joint([*(terminal.strings for terminal in terminals.values()), *ignored])
    known: dict[tuple[_State, int], _State] = {}

    def move(state: _State, letter: int) -> _State:
        if (state, letter) not in known:
            moves = ((number, scanner.move(number, at, letter)) for number, at in state)
            known[state, letter] = frozenset(pair for pair in moves if pair[1] != DEAD)
            if len(known) > MAX_MOVES:
                raise GrammarError(
                    "its terminals overlap in too many ways to say where separators have to stand; write it without "
                    "(--spacing none)"
                )
        return known[state, letter]

    begin = frozenset((number, 0) for number in range(len(scanner)))
    return {
        name: terminal.symbols
        if terminal.looks_ahead
        else _continuations(scanner, own, begin, move)
        for own, (name, terminal) in enumerate(terminals.items())
    }


def _continuations(
    scanner: Joint, own: int, begin: _State, move: Callable[[_State, int], _State]
) -> frozenset[str]:
    """The characters behind a string of the automaton `own` with which it begins a string of the scanner."""
    start = (0, begin)
    seen, waiting = {start}, [start]
    found: set[str] = set()
    while waiting:
        at, others = waiting.pop()
        for letter, members in enumerate(scanner.classes):
            to = scanner.move(own, at, letter)
            if to == DEAD and not scanner.accepts(own, at):
                continue
            reached = move(others, letter)
            if reached and scanner.accepts(own, at):
                found.update(members)
            if to != DEAD and (to, reached) not in seen:
                seen.add((to, reached))
                waiting.append((to, reached))
    return frozenset(found)


def _contexts(
    apart: Mapping[str, Mapping[frozenset[str], bool]],
) -> dict[str, tuple[int, frozenset[frozenset[str]]]]:
    """For each terminal the number of its context, and the first characters before which a separator stands in it.

    Terminals share a context if they agree on all that may follow both.
    """
    decided: list[dict[frozenset[str], bool]] = []
    place: dict[str, int] = {}
    for name, own in apart.items():
        fits = (
            n
            for n, known in enumerate(decided)
            if all(known.get(s, a) == a for s, a in own.items())
        )
        place[name] = next(fits, len(decided))
        if place[name] == len(decided):
            decided.append({})
        decided[place[name]].update(own)
    if len(decided) > MAX_CONTEXTS:
        raise GrammarError(
            f"its terminals fall into {len(decided)} kinds by what must be kept apart from them; at most "
            f"{MAX_CONTEXTS} are written; write it without separators (--spacing none)"
        )
    return {
        name: (n, frozenset(start for start, needed in decided[n].items() if needed))
        for name, n in place.items()
    }


class _Spacing:
    """Nonterminals that know the context in which they begin and the one in which they end."""

    def __init__(
        self,
        rules: TerminalRules,
        first: Mapping[str, frozenset[str]],
        contexts: Mapping[str, tuple[int, frozenset[frozenset[str]]]],
        separator: str,
        cut: Mapping[str, str],
    ) -> None:
        self.rules, self.first, self.separator = rules, first, frozenset(separator)
        self.contexts, self.cut = contexts, cut
        self.needed = dict(contexts.values()) | {BEGIN: frozenset[frozenset[str]]()}
        self.ends: dict[
            tuple[tuple[str, ...], int], set[int]
        ] = {}  # where a row of symbols may end, by its beginning
        self.users: dict[tuple[tuple[str, ...], int], set[tuple[tuple[str, ...], int]]] = {}

    def rules_of(self, start: str) -> Cfg:
        """All rules that derive the written forms of what `start` derives."""
        self._find_ends((start,))
        made: dict[Rule, None] = {}
        for (row, begin), ends in self.ends.items():
            for end in sorted(ends):
                for body in self._bodies(row, begin, end):
                    made[Rule(_name(row, begin, end), body)] = None
        whole = f"{start}@written"
        tops = [
            Rule(whole, (_name((start,), BEGIN, end),))
            for end in sorted(self.ends[(start,), BEGIN])
        ]
        return Cfg(whole, (*tops, *made))

    def _find_ends(self, top: tuple[str, ...]) -> None:
        waiting = [(top, BEGIN)]
        self.ends[top, BEGIN] = set()
        while waiting:
            key = waiting.pop()
            reached = self._reached(key, waiting)
            if reached - self.ends[key]:
                self.ends[key] |= reached
                waiting += sorted(self.users.get(key, ()))

    def _reached(
        self, key: tuple[tuple[str, ...], int], waiting: list[tuple[tuple[str, ...], int]]
    ) -> set[int]:
        """Where a row of symbols ends as far as is known; what it depends on is asked for."""
        row, begin = key

        def ends(part: tuple[str, ...], at: int) -> set[int]:
            self.users.setdefault((part, at), set()).add(key)
            if (part, at) not in self.ends:
                self.ends[part, at] = set()
                waiting.append((part, at))
            return self.ends[part, at]

        if not row:
            return {begin}
        if len(row) > 1:
            return {
                end for middle in set(ends(row[:1], begin)) for end in set(ends(row[1:], middle))
            }
        if row[0] in self.first:
            return {self.contexts[row[0]][0]}
        return {end for body in self.rules[row[0]] for end in set(ends(body, begin))}

    def _bodies(
        self, row: tuple[str, ...], begin: int, end: int
    ) -> Iterator[tuple[str | frozenset[str], ...]]:
        """The right sides of a row of symbols that begins and ends in given contexts."""
        if not row:
            yield ()
        elif len(row) > 1:
            for middle in sorted(self.ends[row[:1], begin]):
                if end in self.ends[row[1:], middle]:
                    yield _name(row[:1], begin, middle), _name(row[1:], middle, end)
        elif row[0] in self.first:
            apart = self.first[row[0]] in self.needed[begin]
            yield (self.separator, self.cut.get(row[0], row[0])) if apart else (row[0],)
        else:
            for body in self.rules[row[0]]:
                if end in self.ends[body, begin]:
                    yield (_name(body, begin, end),)


def _name(row: tuple[str, ...], begin: int, end: int) -> str:
    return f"{' '.join(row)}@{begin}>{end}"
