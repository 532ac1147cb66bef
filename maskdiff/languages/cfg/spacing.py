"""The written form of a grammar with `%ignore`: no ignored text except necessary separators.

Two terminals have one separator between them if a string of the first with a first character of the
second begins another terminal: `in x`, `< =`. Separators depend on the terminals alone, not on
their strings, so every derivation has one written form. Behind a separator, strings that would
extend the skipped text are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg.neighbours import TerminalRules, following_labels
from maskdiff.languages.cfg.rules import Cfg, Item, Rule
from maskdiff.languages.cfg.terminals import Terminal
from maskdiff.languages.regex import DEAD, Dfa, ParallelAutomata

_State = frozenset[tuple[int, int]]  # live automata of the scanner with their states
_Row = tuple[str, ...]  # the names of rules and terminals of a body, or of a part of one

BEGIN = -1  # the context at the start of a string
MAX_CONTEXTS = 16  # contexts, see `_contexts`
MAX_MOVES = 100_000  # of all terminals read in parallel


def separators(ignored: Sequence[Dfa]) -> list[str]:
    """Return the ignored strings of one character; a space comes first."""
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
    """Return the grammar of the written form without the rules of its terminals.

    Args:
        rules: The rules over terminals.
        start_rule: The start rule.
        terminals: The terminals by name.
        ignored: The automata of the ignored terminals.

    Raises:
        GrammarError: More than `MAX_CONTEXTS` contexts or `MAX_MOVES` moves.
    """
    # Find before which first characters each terminal needs a separator.
    first = {name: terminal.strings.first_characters() for name, terminal in terminals.items()}
    following = following_labels(rules, first)
    after = _extensions(terminals, ignored)
    apart = {
        name: {start: not after[name].isdisjoint(start) for start in starts}
        for name, starts in following.items()
    }
    # Choose the separator, and the terminals that cannot have all their strings behind it.
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
    """The same rules with at most two symbols per body; equal tails are shared."""
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
    """A separator, and the characters of `behind` that would extend it; none if possible."""
    found = [
        (
            separator,
            frozenset(c for c in behind if any(dfa.accepts(separator + c) for dfa in ignored)),
        )
        for separator in separators(ignored)
    ]
    return min(found, key=lambda pair: bool(pair[1]))


def _extensions(
    terminals: Mapping[str, Terminal], ignored: Sequence[Dfa]
) -> dict[str, frozenset[str]]:
    """For each terminal the characters that extend a string of it to the start of another one."""
    scanner = ParallelAutomata([*(terminal.strings for terminal in terminals.values()), *ignored])
    known: dict[tuple[_State, int], _State] = {}

    def move(state: _State, letter: int) -> _State:
        if (state, letter) not in known:
            moves = ((number, scanner.move(number, at, letter)) for number, at in state)
            known[state, letter] = frozenset(pair for pair in moves if pair[1] != DEAD)
            if len(known) > MAX_MOVES:
                raise GrammarError(
                    "its terminals overlap in too many ways to say where separators have to stand; "
                    "write it without (--spacing none)"
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
    scanner: ParallelAutomata, own: int, begin: _State, move: Callable[[_State, int], _State]
) -> frozenset[str]:
    """The characters that extend a string of automaton `own` to the start of a string of any."""
    start = (0, begin)
    seen, agenda = {start}, [start]
    found: set[str] = set()
    while agenda:
        at, others = agenda.pop()
        for letter, members in enumerate(scanner.classes):
            to = scanner.move(own, at, letter)
            if to == DEAD and not scanner.accepts(own, at):
                continue
            reached = move(others, letter)
            if reached and scanner.accepts(own, at):
                found.update(members)
            if to != DEAD and (to, reached) not in seen:
                seen.add((to, reached))
                agenda.append((to, reached))
    return frozenset(found)


def _contexts(
    apart: Mapping[str, Mapping[frozenset[str], bool]],
) -> dict[str, tuple[int, frozenset[frozenset[str]]]]:
    """For each terminal its context, and the first characters that need a separator in it.

    Terminals share a context if they agree on everything that may follow both.
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
            f"its terminals fall into {len(decided)} kinds by what must be kept apart from them; "
            f"at most {MAX_CONTEXTS} are written; write it without separators (--spacing none)"
        )
    return {
        name: (n, frozenset(start for start, needed in decided[n].items() if needed))
        for name, n in place.items()
    }


class _Spacing:
    """Builds nonterminals that are indexed by the contexts in which they begin and end."""

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
        self.ends: dict[tuple[_Row, int], set[int]] = {}  # contexts at the end of a row, by start
        self.users: dict[tuple[_Row, int], set[tuple[_Row, int]]] = {}

    def rules_of(self, start: str) -> Cfg:
        """Return the rules of the written form of what `start` derives."""
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

    def _find_ends(self, top: _Row) -> None:
        """Fills `ends` for everything that `top` needs, until nothing changes."""
        waiting = [(top, BEGIN)]
        self.ends[top, BEGIN] = set()
        while waiting:
            key = waiting.pop()
            reached = self._reached(key, waiting)
            if reached - self.ends[key]:
                self.ends[key] |= reached
                waiting += sorted(self.users.get(key, ()))

    def _reached(self, key: tuple[_Row, int], waiting: list[tuple[_Row, int]]) -> set[int]:
        """The known contexts at the end of a row; unknown parts of it are added to `waiting`."""
        row, begin = key

        def ends(part: _Row, at: int) -> set[int]:
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

    def _bodies(self, row: _Row, begin: int, end: int) -> Iterator[tuple[Item, ...]]:
        """Yields the right sides of a row that begins and ends in given contexts."""
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


def _name(row: _Row, begin: int, end: int) -> str:
    return f"{' '.join(row)}@{begin}>{end}"
