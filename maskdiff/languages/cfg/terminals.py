"""Terminals of a grammar as automata, and as rules over characters.

A terminal stands for the strings that its regular expression matches as a whole (`re.fullmatch`). A
lazy quantifier states where a terminal ends: `".*?"` ends at the first quote. Such a terminal
stands for the strings that `re.match` matches as a whole, as in Lark.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.ebnf import TerminalPattern
from maskdiff.languages.cfg.rules import Rule
from maskdiff.languages.regex import (
    ContextDependence,
    Dfa,
    RegexError,
    compile_followed,
    compile_pattern,
    compile_preferred,
    context_dependences,
)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Terminal:
    """A terminal of a grammar.

    Attributes:
        name: Its name.
        pattern: Its pattern.
        symbols: The alphabet.
        followed: Whether its look-aheads see any text behind it.
    """

    name: str
    pattern: TerminalPattern
    symbols: frozenset[str]
    followed: bool = False

    @cached_property
    def strings(self) -> Dfa:
        """The automaton of its strings. Raises `GrammarError`."""
        compiler = compile_followed if self.followed else compile_pattern
        return _guarded(self.name, lambda: compiler(self.pattern.regexp, self.symbols, lazy=True))

    @cached_property
    def context(self) -> tuple[ContextDependence, ...]:
        """The look-arounds that depend on the text around the terminal."""
        if self.pattern.literal is not None:
            return ()
        return self._dependences()

    @property
    def looks_ahead(self) -> bool:
        """Whether the text behind it can forbid a match."""
        return any(found.side == "after" and found.effect == "forbids" for found in self.context)

    @cached_property
    def readable(self) -> Terminal:
        """The terminal with all strings that it matches before some text."""
        return (
            replace(self, followed=True)
            if any(found.side == "after" for found in self.context)
            else self
        )

    def check_context(self, first: bool, last: bool, between: Sequence[str]) -> None:
        """Raises `GrammarError` if the text around a written string can forbid it.

        Args:
            first: Whether nothing can precede the terminal.
            last: Whether nothing can follow it.
            between: The characters that can follow it directly; empty for all.
        """
        behind = self._dependences(between) if between else self.context
        found = [one for one in self.context if one.side == "before" and not first]
        if not last:  # strings that a negative look-ahead allows need not be written
            found += [
                one
                for one in behind
                if one.side == "after"
                and (one.effect == "forbids" or not one.kind.startswith("negative"))
            ]
        if found:
            raise GrammarError(f"terminal {self.name}: {found[0]}")

    def _dependences(self, behind: Sequence[str] | None = None) -> tuple[ContextDependence, ...]:
        return _guarded(
            self.name,
            lambda: context_dependences(
                self.pattern.regexp, self.symbols, lazy=True, behind=behind
            ),
        )

    def rules_without(self, head: str, barred: Collection[str]) -> list[Rule]:
        """Return rules from `head` for the strings that begin with no character of `barred`."""
        first = self.strings.first_characters()
        if first.isdisjoint(barred):
            return [Rule(head, (self.name,))]
        return automaton_rules(head, self.strings, barred)

    def rules(self) -> list[Rule]:
        """Return rules over characters that derive each string in one way from its name."""
        literal = self.pattern.literal
        if literal is not None and not self.pattern.ignores_case:
            for character in literal:
                if character not in self.symbols:
                    raise _missing(literal, character)
            return [Rule(self.name, tuple(frozenset(character) for character in literal))]
        if literal is not None and self.strings.is_empty:
            missing = next(c for c in literal if not {c.lower(), c.upper()} & self.symbols)
            raise _missing(literal, missing)
        return automaton_rules(self.name, self.strings)


def compile_ignored(patterns: Iterable[TerminalPattern], symbols: Collection[str]) -> list[Dfa]:
    """Return the automata of ignored terminals: Lark's scanner skips what `re.match` matches.

    Raises:
        GrammarError: A look-around of one depends on the text around it.
    """
    found = []
    for pattern in patterns:
        for dependence in Terminal(pattern.regexp, pattern, frozenset(symbols)).context:
            raise GrammarError(f"ignored /{pattern.regexp}/: {dependence}")
        found.append(_guarded(pattern.regexp, partial(compile_preferred, pattern.regexp, symbols)))
    return [strings for strings in found if not strings.is_empty]


def automaton_rules(name: str, strings: Dfa, without: Collection[str] = ()) -> list[Rule]:
    """Return right-linear rules for the strings of an automaton.

    Args:
        name: The nonterminal that derives the strings.
        strings: The automaton.
        without: Characters that no string begins with.
    """
    inner = [f"{name}@{state}" if state or without else name for state in range(len(strings.moves))]
    rules = _state_rules(name, strings, 0, inner, frozenset(without))
    for state in range(0 if without else 1, len(inner)):
        rules += _state_rules(inner[state], strings, state, inner, frozenset())
    return rules


def _state_rules(
    head: str, strings: Dfa, state: int, names: Sequence[str], without: frozenset[str]
) -> list[Rule]:
    """`head -> characters next-state`, and `head -> characters` if the next state accepts."""
    targets: dict[int, set[str]] = {}
    for letter, to in strings.steps(state):
        targets.setdefault(to, set()).update(set(strings.classes[letter]) - without)
    rules = []
    for to, characters in targets.items():
        if characters and to in strings.accepting:
            rules.append(Rule(head, (frozenset(characters),)))
        if characters and any(True for _ in strings.steps(to)):
            rules.append(Rule(head, (frozenset(characters), names[to])))
    return rules


def _missing(literal: str, character: str) -> GrammarError:
    return GrammarError(
        f"{quote(literal)} needs {quote(character)}, which is not a symbol of the language"
    )


def _guarded(name: str, make: Callable[[], Made]) -> Made:
    """The result of `make`; an error names the terminal."""
    try:
        return make()
    except RegexError as error:
        raise GrammarError(f"terminal {name}: {error}") from None
