"""Terminals of a grammar as automata, and as rules over characters.

A terminal stands for the strings that its whole regular expression matches (`re.fullmatch`). One with
a lazy quantifier stands for fewer: a lazy quantifier states where the terminal ends, so `".*?"` ends at
the first quote. Such a terminal stands for the strings that `re.match` takes as a whole, as in Lark.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.ebnf import Pattern
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
    """A terminal over the characters `symbols`; look-aheads of one that is `followed` see any text behind it."""

    name: str
    pattern: Pattern
    symbols: frozenset[str]
    followed: bool = False

    @cached_property
    def strings(self) -> Dfa:
        """The automaton of its strings. Raises `GrammarError`, as all that needs it."""
        compiler = compile_followed if self.followed else compile_pattern
        return _guarded(self.name, lambda: compiler(self.pattern.regexp, self.symbols, lazy=True))

    @cached_property
    def context(self) -> tuple[ContextDependence, ...]:
        """How its look-arounds depend on what stands around it."""
        if self.pattern.literal is not None:
            return ()
        return self._dependences()

    @property
    def looks_ahead(self) -> bool:
        """Whether what follows can forbid a match."""
        return any(found.side == "after" and found.effect == "forbids" for found in self.context)

    @cached_property
    def readable(self) -> Terminal:
        """The terminal with the strings that it matches in front of any text, rather than at the end of one."""
        return (
            replace(self, followed=True)
            if any(found.side == "after" for found in self.context)
            else self
        )

    def check_context(self, first: bool, last: bool, between: Sequence[str]) -> None:
        """Raises `GrammarError` if a string that is written can be refused because of what stands around it.

        Args:
            first: Nothing can stand before it.
            last: Nothing can follow it.
            between: Characters with which all begins that can follow it; empty if that can be anything.
        """
        behind = self._dependences(between) if between else self.context
        found = [one for one in self.context if one.side == "before" and not first]
        if (
            not last
        ):  # a negative look-ahead may allow a few strings more, which need not be written
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
        """Rules that derive, from `head`, the strings that begin with none of the characters `barred`."""
        first = self.strings.first_characters()
        if first.isdisjoint(barred):
            return [Rule(head, (self.name,))]
        return automaton_rules(head, self.strings, barred)

    def rules(self) -> list[Rule]:
        """Rules over characters that derive its strings, each in one way, from a nonterminal of its name."""
        literal = self.pattern.literal
        if literal is not None and not self.pattern.folded:
            for character in literal:
                if character not in self.symbols:
                    raise GrammarError(
                        f"{quote(literal)} needs {quote(character)}, which is not a symbol of the language"
                    )
            return [Rule(self.name, tuple(frozenset(character) for character in literal))]
        if literal is not None and self.strings.is_empty:
            missing = next(c for c in literal if not {c.lower(), c.upper()} & self.symbols)
            raise GrammarError(
                f"{quote(literal)} needs {quote(missing)}, which is not a symbol of the language"
            )
        return automaton_rules(self.name, self.strings)


def compile_ignored(patterns: Iterable[Pattern], symbols: Collection[str]) -> list[Dfa]:
    """The automata of ignored terminals: what Lark's scanner skips is what `re.match` takes.

    Raises `GrammarError` for one whose look-arounds see what stands around it.
    """
    found = []
    for pattern in patterns:
        for dependence in Terminal(pattern.regexp, pattern, frozenset(symbols)).context:
            raise GrammarError(f"ignored /{pattern.regexp}/: {dependence}")
        found.append(_guarded(pattern.regexp, partial(compile_preferred, pattern.regexp, symbols)))
    return [strings for strings in found if not strings.is_empty]


def automaton_rules(name: str, strings: Dfa, without: Collection[str] = ()) -> list[Rule]:
    """Right-linear rules for the strings of an automaton that begin with none of the characters `without`."""
    inner = [f"{name}@{state}" if state or without else name for state in range(len(strings.moves))]
    rules = _state_rules(name, strings, 0, inner, frozenset(without))
    for state in range(0 if without else 1, len(inner)):
        rules += _state_rules(inner[state], strings, state, inner, frozenset())
    return rules


def _state_rules(
    head: str, strings: Dfa, state: int, names: Sequence[str], without: frozenset[str]
) -> list[Rule]:
    """`head -> characters next-state`, and `head -> characters` where the next state accepts."""
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


def _guarded(name: str, make: Callable[[], Made]) -> Made:
    """What `make` returns; an error names the terminal."""
    try:
        return make()
    except RegexError as error:
        raise GrammarError(f"terminal {name}: {error}") from None
