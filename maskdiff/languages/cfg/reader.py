"""Reads a grammar in Lark's EBNF into plain context-free rules over characters.

For: `read_grammar`, and the `Cfg` it returns. Not for: parsing strings (Lark does that), or the normal form (`normal_form.py`).
The language is that of the rules with every terminal standing for all strings of its regular expression, which is what Lark's
Earley parser accepts with `lexer="dynamic_complete"`; priorities, aliases and tree shaping (`?rule`, `-> name`) change nothing.
Easy to get wrong: a regular expression that can match one string in two ways would count it twice, so each becomes the rules of
a *deterministic* automaton.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.regex import Dfa, RegexError, compile_pattern, context_dependences

START = "start"
MAX_CHARACTERS = 200_000  # of a grammar's text
MAX_RULES = 2_000  # that a grammar may define, and ten times as many after its expansion
_DEFINITION = re.compile(r"^[?!]{0,2}[a-z_]\w*(\{[^}]*\})?(\.-?\d+)?\s*:", re.MULTILINE)

Item = str | frozenset[str]  # the name of a nonterminal, or the characters that may stand here


class Rule(NamedTuple):
    """`head` may be written as `body`."""

    head: str
    body: tuple[Item, ...]


@dataclass(frozen=True)
class Cfg:
    """A context-free grammar over characters; names are those of the file, or have an `@` for states of a terminal."""

    start: str
    rules: tuple[Rule, ...]


def read_grammar(text: str, symbols: Collection[str], source: str = "grammar") -> Cfg:
    """The rules of a grammar over the characters `symbols`; other characters of its regular expressions are left out.

    Raises `GrammarError`: a syntax error (with Lark's line and column), an undefined, unreachable or unproductive rule, a
    literal that needs another character, an empty language, %ignore, a regular expression that is not regular, or more than
    `MAX_RULES` rules.
    """
    definitions = len(_DEFINITION.findall(text))
    if definitions > MAX_RULES or len(text) > MAX_CHARACTERS:
        raise GrammarError(
            f"{source}: {definitions} rules in {len(text)} characters; at most {MAX_RULES} rules and "
            f"{MAX_CHARACTERS} characters are read"
        )
    compiled = _compile(text, source)
    if compiled.ignore_tokens:
        raise GrammarError(
            f"{source}: %ignore has no meaning here, every symbol counts; write what may stand between into the rules"
        )
    reached = {rule.origin.name for rule in compiled.rules}
    lost = sorted(name for name, parameters in _defined(compiled) if name not in reached and not parameters)
    if lost:
        raise GrammarError(f"{source}: rule {quote(lost[0])} cannot be reached from {START}; remove it or use it")
    terminals = {terminal.name: terminal for terminal in compiled.terminals}
    rules = [Rule(str(rule.origin.name), tuple(str(item.name) for item in rule.expansion)) for rule in compiled.rules]
    used = {item for rule in rules for item in rule.body if item in terminals}
    for name in sorted(map(str, used)):
        rules += _terminal_rules(terminals[name], frozenset(symbols), source)
    if len(rules) > 10 * MAX_RULES:
        raise GrammarError(
            f"{source}: the grammar has {len(rules)} rules after its expansion; at most {10 * MAX_RULES} are allowed"
        )
    cfg = Cfg(START, tuple(dict.fromkeys(rules)))
    _check_productive(cfg, source)
    return cfg


def literal_characters(text: str, source: str = "grammar") -> set[str]:
    """The characters that a grammar spells out, those of its regular expressions aside. Raises `GrammarError`."""
    found: set[str] = set()
    for terminal in _compile(text, source).terminals:
        if terminal.pattern.type == "str":
            folded = "i" in terminal.pattern.flags
            found |= {*terminal.pattern.value.lower(), *terminal.pattern.value.upper()} if folded else {*terminal.pattern.value}
    return found - set("\r\n")


def _compile(text: str, source: str) -> Any:
    from lark import Lark  # here, because most runs read no grammar
    from lark.exceptions import LarkError

    bad: tuple[type[Exception], ...] = (LarkError, ImportError, OSError, *_regex_errors())
    try:
        # Earley with the dynamic lexer is the one mode of Lark that takes every context-free grammar.
        return Lark(text, parser="earley", lexer="dynamic_complete", keep_all_tokens=True, maybe_placeholders=False)
    except RecursionError:
        raise GrammarError(f"{source}: the grammar is nested too deeply") from None
    except bad as error:
        told = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
        raise GrammarError(f"{source}: {told}") from None


def _regex_errors() -> tuple[type[Exception], ...]:
    """What Lark lets through about a regular expression: it uses the package `regex` where that is installed, else `re`."""
    try:
        return re.error, importlib.import_module("regex").error
    except ImportError:
        return (re.error,)


def _defined(compiled: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and template parameters of every rule that the file itself defines."""
    for definition in compiled.grammar.rule_defs:
        if "__" not in definition[0]:  # imported: the file asked for one rule and gets its helpers
            yield str(definition[0]), tuple(definition[1])


def _terminal_rules(terminal: Any, symbols: frozenset[str], source: str) -> list[Rule]:
    """Rules of one terminal: its characters in a row, or one state after another of its automaton."""
    name, pattern = str(terminal.name), terminal.pattern
    if pattern.type == "str":
        folded = "i" in pattern.flags
        body = []
        for character in pattern.value:
            choices = frozenset({character.lower(), character.upper()} if folded else {character}) & symbols
            if not choices:
                raise GrammarError(
                    f"{source}: {quote(pattern.value)} needs {quote(character)}, which is not a symbol of the language"
                )
            body.append(choices)
        return [Rule(name, tuple(body))]
    try:
        automaton = compile_pattern(pattern.to_regexp(), symbols)
        beyond = context_dependences(pattern.to_regexp(), symbols)
        if beyond:
            raise RegexError(str(beyond[0]))
    except RegexError as error:
        raise GrammarError(f"{source}: terminal {name}, /{pattern.value}/: {error}") from None
    return _automaton_rules(name, automaton)


def _automaton_rules(name: str, automaton: Dfa) -> list[Rule]:
    """`state -> characters next-state`, and `state -> characters` where the next state accepts."""
    heads = [f"{name}@{state}" if state else name for state in range(len(automaton.moves))]
    rules = []
    for state, head in enumerate(heads):
        targets: dict[int, set[str]] = {}
        for letter, to in automaton.steps(state):
            targets.setdefault(to, set()).update(automaton.classes[letter])
        for to, characters in targets.items():
            if to in automaton.accepting:
                rules.append(Rule(head, (frozenset(characters),)))
            if any(automaton.steps(to)):
                rules.append(Rule(head, (frozenset(characters), heads[to])))
    return rules


def productive(rules: Collection[Rule]) -> set[str]:
    """The nonterminals from which some string of characters can be derived (the empty one counts)."""
    found: set[str] = set()
    while True:
        more = {h for h, body in rules if h not in found and all(isinstance(i, frozenset) or i in found for i in body)}
        if not more:
            return found
        found |= more


def _check_productive(cfg: Cfg, source: str) -> None:
    able = productive(cfg.rules)
    if cfg.start not in able:
        raise GrammarError(f"{source}: no string can be derived from {cfg.start}; every way through its rules goes on for ever")
    heads = {rule.head for rule in cfg.rules} | {item for rule in cfg.rules for item in rule.body if isinstance(item, str)}
    for name in sorted(heads - able):
        if "@" not in name:
            raise GrammarError(
                f"{source}: no string of the language's symbols can be derived from {quote(name)}; remove it or mend it"
            )
