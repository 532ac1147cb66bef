"""Context-free grammars over characters from Lark's EBNF.

A grammar has two forms, which differ only with `%ignore`. The written form is what is generated: no
ignored text except single separators (`spacing.py`). The readable form is what is accepted: ignored
text anywhere between terminals (`ignoring.py`).

Each terminal becomes the rules of a deterministic automaton, since a regular expression that
matches a string in two ways would count it twice. Priorities, aliases and tree shaping (`?rule`,
`-> name`) change no string.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.ebnf import ExpandedGrammar, expand
from maskdiff.languages.cfg.ignoring import reading_rules, skipped_text
from maskdiff.languages.cfg.neighbours import following_labels
from maskdiff.languages.cfg.rules import Cfg, Rule, productive
from maskdiff.languages.cfg.source import MAX_RULES, GrammarSource, as_source
from maskdiff.languages.cfg.spacing import separators, spaced_rules
from maskdiff.languages.cfg.terminals import Terminal, compile_ignored
from maskdiff.languages.regex import Dfa, RegexError

Form = Literal["written", "readable"]

MAX_CHARACTER_RULES = 10 * MAX_RULES  # rules over characters
MAX_BODY = 2_000  # symbols of one rule
PRINTABLE = frozenset(map(chr, range(32, 127)))  # candidates for separators


@lru_cache(maxsize=16)
def _read(source: GrammarSource, symbols: frozenset[str], form: Form) -> Cfg:
    parts = _parts(source, symbols)
    return _readable(source, parts) if form == "readable" else _written(source, parts)


def read_grammar(
    grammar: GrammarSource | str, symbols: Collection[str], form: Form = "written"
) -> Cfg:
    """Return the rules of a grammar over the characters `symbols`.

    Other characters in regular expressions are left out, with the rules that need them.

    Args:
        grammar: The grammar; a text can import Lark's library only.
        symbols: The alphabet, strings of one character each.
        form: `written` for the strings that are generated, `readable` for those accepted.

    Raises:
        GrammarError: See `expand`; a rule that derives no string, a literal that needs another
            character, an empty language, a regular expression that is not regular or depends on
            the text around it, or more than `MAX_CHARACTER_RULES` rules.
    """
    source = as_source(grammar)
    try:
        return _read(source, frozenset(symbols), form)
    except (GrammarError, RegexError) as error:
        named = str(error).startswith(source.name)
        raise (error if named else GrammarError(f"{source.name}: {error}")) from None
    except RecursionError:
        raise GrammarError(f"{source.name}: the grammar is nested too deeply") from None


def literal_characters(grammar: GrammarSource | str) -> set[str]:
    """Return the characters of the literals of a grammar, and a separator of its written form.

    Line ends are left out, since no line of a corpus contains one. Raises `GrammarError`.
    """
    expanded = expand(as_source(grammar))
    found = set(expanded.literal_characters)
    if expanded.ignored:
        found |= set(separators(compile_ignored(expanded.ignored, found | PRINTABLE))[:1])
    return found - set("\r\n")


@dataclass(frozen=True)
class _Parts:
    """A grammar over terminals, with its terminals over characters."""

    expanded: ExpandedGrammar
    terminals: Mapping[str, Terminal]
    ignored: tuple[Dfa, ...]
    followed: frozenset[str]  # terminals whose look-aheads can see the text behind them

    def rules(self) -> list[Rule]:
        """The rules over terminals."""
        return [Rule(head, body) for head, bodies in self.expanded.rules.items() for body in bodies]

    def terminal_rules(self) -> list[Rule]:
        """The rules of all terminals over characters."""
        return [rule for terminal in self.terminals.values() for rule in terminal.rules()]


@lru_cache(maxsize=16)
def _parts(source: GrammarSource, symbols: frozenset[str]) -> _Parts:
    expanded = expand(source)
    longest = max(len(body) for bodies in expanded.rules.values() for body in bodies)
    if longest > MAX_BODY:
        raise GrammarError(f"a rule of {longest} symbols in a row; at most {MAX_BODY} are allowed")
    _check_ends(expanded, source.start)
    terminals = {
        name: Terminal(name, pattern, symbols) for name, pattern in expanded.terminals.items()
    }
    ignored = tuple(compile_ignored(expanded.ignored, symbols))
    followed = _check_context(source, expanded, terminals, ignored)
    return _Parts(expanded, terminals, ignored, followed)


def _written(source: GrammarSource, parts: _Parts) -> Cfg:
    if source.spacing == "none" or not separators(parts.ignored):
        return _checked(source.start, [*parts.rules(), *parts.terminal_rules()])
    spaced = spaced_rules(parts.expanded.rules, source.start, parts.terminals, parts.ignored)
    return _checked(spaced.start, [*spaced.rules, *parts.terminal_rules()])


def _readable(source: GrammarSource, parts: _Parts) -> Cfg:
    terminals = [
        terminal.readable if name in parts.followed else terminal
        for name, terminal in parts.terminals.items()
    ]
    if not parts.ignored:
        return _checked(
            source.start,
            [*parts.rules(), *(rule for terminal in terminals for rule in terminal.rules())],
        )
    read = reading_rules(parts.rules(), terminals, skipped_text(parts.ignored), source.start)
    return _checked(read.start, list(read.rules))


def _check_ends(expanded: ExpandedGrammar, start: str) -> None:
    """Raises `GrammarError` for a rule that derives no string of terminals."""
    able = productive(
        Rule(head, tuple(frozenset(item) if item in expanded.terminals else item for item in body))
        for head, bodies in expanded.rules.items()
        for body in bodies
    )
    if start not in able:
        raise GrammarError(
            f"no string can be derived from {start}; every way through its rules goes on for ever"
        )
    endless = sorted(name for name in expanded.rules if name not in able and "@" not in name)
    if endless:
        raise GrammarError(
            f"no string can be derived from {quote(endless[0])}; remove it or give it an end"
        )


def _check_context(
    source: GrammarSource,
    expanded: ExpandedGrammar,
    terminals: Mapping[str, Terminal],
    ignored: Sequence[Dfa],
) -> frozenset[str]:
    """Return the terminals with look-arounds that something can follow.

    Raises `GrammarError` for a look-around that can forbid a written string.
    """
    looking = [name for name, terminal in terminals.items() if terminal.context]
    if not looking:
        return frozenset()
    following = following_labels(expanded.rules, {name: name for name in terminals})
    preceded = set().union(*following.values())
    between = separators(ignored) if source.spacing == "needed" else []
    for name in looking:
        first, last = not ignored and name not in preceded, not ignored and not following[name]
        terminals[name].check_context(first, last, between)
    return frozenset(name for name in looking if ignored or following[name])


def _checked(start: str, rules: list[Rule]) -> Cfg:
    if len(rules) > MAX_CHARACTER_RULES:
        raise GrammarError(
            f"{len(rules)} rules over characters; at most {MAX_CHARACTER_RULES} are allowed"
        )
    longest = max(len(rule.body) for rule in rules)
    if longest > MAX_BODY:
        raise GrammarError(
            f"a rule or literal of {longest} symbols in a row; at most {MAX_BODY} are allowed"
        )
    cfg = Cfg(start, tuple(dict.fromkeys(rules)))
    if start not in productive(cfg.rules):
        raise GrammarError(
            "no string can be derived of the language's symbols and what look-arounds leave"
        )
    return cfg
