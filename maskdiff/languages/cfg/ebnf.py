"""Expands Lark's EBNF (groups, options, repetitions, templates) to plain rules over terminals.

Alternatives inside a body are multiplied out up to `MAX_SPREAD` bodies. Beyond that, a group gets a
rule of its own, so a body with n optional items costs n rules and not 2**n.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskdiff.errors import GrammarError, quote
from maskdiff.languages.cfg.source import Definitions, GrammarSource, load_definitions

MAX_SPREAD = 32  # bodies from one body with groups
MAX_REPEAT = 1_000  # repetitions of an item with `~`
MAX_ITEMS = 60_000  # items of all bodies together
MAX_PATTERN = 20_000  # characters of the regular expression of a terminal
LONG_PATTERN = f"the regular expression of a terminal has over {MAX_PATTERN} characters"

Symbols = tuple[str, ...]  # names of rules and terminals


@dataclass(frozen=True)
class TerminalPattern:
    """The pattern of a terminal.

    Attributes:
        regexp: A regular expression of Python's `re` that contains its flags.
        literal: The string of a terminal that is a string; None for a regular expression.
        ignores_case: Whether the case of `literal` is ignored.
    """

    regexp: str
    literal: str | None = None
    ignores_case: bool = False


@dataclass(frozen=True)
class ExpandedGrammar:
    """A grammar over terminals.

    Attributes:
        rules: The bodies of each rule that the start rule reaches, in the order of first use.
        terminals: The patterns of the terminals in these rules.
        ignored: The patterns of `%ignore`.
        literal_characters: The characters of the strings in rules and terminals that are used.
        unreached: The rules that the start rule does not reach.
    """

    rules: Mapping[str, Sequence[Symbols]]
    terminals: Mapping[str, TerminalPattern]
    ignored: tuple[TerminalPattern, ...]
    literal_characters: frozenset[str]
    unreached: tuple[str, ...]


def expand(source: GrammarSource) -> ExpandedGrammar:
    """Return the plain rules that the start rule of a grammar reaches.

    Raises:
        GrammarError: See `load_definitions`; no start rule, a declared terminal in a rule, an error
            in a regular expression, or more than `MAX_ITEMS` items.
    """
    definitions = load_definitions(source)
    if source.start not in definitions.rules:
        names = ", ".join(list(definitions.rules)[:5])
        raise GrammarError(
            f"{source.name}: no rule {quote(source.start)} to start with; "
            + (f"name one with --start: {names}" if names else "there are no rules at all")
        )
    if definitions.rules[source.start][0]:
        raise GrammarError(f"{source.name}: {quote(source.start)} is a template; start with a rule")
    try:
        return _Expander(definitions).expand(source.start)
    except GrammarError as error:
        raise GrammarError(f"{source.name}: {error}") from None
    except RecursionError:
        raise GrammarError(f"{source.name}: the grammar is nested too deeply") from None


class _Expander:
    """Collects the rules that a start rule reaches."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.patterns = _Patterns(definitions)
        self.rules: dict[str, list[Symbols]] = {}
        self.waiting: list[tuple[str, Any, dict[str, str]]] = []  # rule, tree, values of parameters
        self.groups: dict[tuple[object, ...], str] = {}  # rules for groups, by their bodies
        self.items = 0

    def expand(self, start: str) -> ExpandedGrammar:
        """See `expand`."""
        self._rule(start, ())
        while self.waiting:
            name, tree, scope = self.waiting.pop(0)
            self._add(name, self._bodies(tree, scope))
        literal_characters = frozenset(self.patterns.literal_characters)  # without %ignore
        ignored = tuple(self.patterns.named(name) for name in self.definitions.ignored)
        unreached = tuple(
            name for name, (parameters, _) in self.definitions.rules.items()
            if name not in self.rules and not parameters and "__" not in name
        )  # fmt: skip
        return ExpandedGrammar(
            self.rules, self.patterns.used, ignored, literal_characters, unreached
        )

    def _add(self, name: str, bodies: Sequence[Symbols]) -> None:
        self.rules[name] = list(dict.fromkeys(bodies))
        self.items += sum(len(body) + 1 for body in self.rules[name])
        if self.items > MAX_ITEMS:
            raise GrammarError(
                f"its rules have over {MAX_ITEMS} items without groups and repetitions"
            )

    def _rule(self, name: str, arguments: Symbols) -> str:
        """The name of a rule, or of a template with arguments; its bodies are expanded later."""
        parameters, tree = self.definitions.rules[name]
        if parameters and not arguments:
            raise GrammarError(
                f"the template {quote(name)} is used without arguments, or is an argument itself; "
                "write it out"
            )
        if len(parameters) != len(arguments):
            raise GrammarError(
                f"{quote(name)} takes {len(parameters)} arguments, not {len(arguments)}"
            )
        full = f"{name}{{{','.join(arguments)}}}" if arguments else name
        if full not in self.rules:
            self.rules[full] = []  # in the order of their first use
            self.waiting.append((full, tree, dict(zip(parameters, arguments, strict=True))))
            if len(full) > MAX_PATTERN or len(self.rules) > MAX_ITEMS:
                raise GrammarError(f"the template {quote(name)} is used with ever new arguments")
        return full

    def _bodies(self, tree: Any, scope: Mapping[str, str]) -> list[Symbols]:
        """The alternatives of a part of a right side."""
        kind, children = tree.data, tree.children
        if kind == "expansions":
            return _distinct(body for child in children for body in self._bodies(child, scope))
        if kind == "alias":
            return self._bodies(children[0], scope)
        if kind == "expansion":
            return self._sequence([self._bodies(child, scope) for child in children])
        if kind == "maybe":
            return _distinct([*self._bodies(children[0], scope), ()])
        if kind == "expr":
            return self._repeated(self._bodies(children[0], scope), *map(str, children[1:]))
        return [(self._item(tree, scope),)] if kind != "value" else self._value(children[0], scope)

    def _value(self, value: Any, scope: Mapping[str, str]) -> list[Symbols]:
        """The alternatives of a name, or of a tree in place of one."""
        if hasattr(value, "data"):
            return self._bodies(value, scope)
        return [(self._named(str(value.name), scope),)]

    def _named(self, name: str, scope: Mapping[str, str]) -> str:
        if name in scope:
            return scope[name]
        return (
            self._rule(name, ()) if name in self.definitions.rules else self.patterns.terminal(name)
        )

    def _item(self, tree: Any, scope: Mapping[str, str]) -> str:
        """The symbol of a literal, a range or a template with arguments."""
        if tree.data != "template_usage":
            return self.patterns.anonymous(tree)
        name, *arguments = tree.children
        values = tuple(self._group(self._bodies(argument, scope)) for argument in arguments)
        return self._rule(str(name.name), values)

    def _sequence(self, parts: list[list[Symbols]]) -> list[Symbols]:
        """The concatenations of one alternative of each part; large parts become rules."""
        parts = list(parts)
        while math.prod(map(len, parts)) > MAX_SPREAD:
            largest = max(range(len(parts)), key=lambda i: len(parts[i]))
            parts[largest] = [(self._group(parts[largest]),)]
        length = sum(max(map(len, part), default=0) for part in parts)
        if length * math.prod(map(len, parts)) > MAX_ITEMS:
            raise GrammarError(
                f"a rule has over {MAX_ITEMS} items once its alternatives are multiplied out"
            )
        return _distinct(tuple(itertools.chain(*choice)) for choice in itertools.product(*parts))

    def _group(self, bodies: list[Symbols]) -> str:
        """A symbol that derives what `bodies` derive."""
        if len(bodies) == 1 and len(bodies[0]) == 1:
            return bodies[0][0]
        return self._own_rule("group", (tuple(bodies),), bodies)

    def _own_rule(self, kind: str, key: tuple[object, ...], bodies: list[Symbols]) -> str:
        """A rule without a name in the file; equal groups share one."""
        name = self.groups.get((kind, *key))
        if name is None:
            name = self.groups[(kind, *key)] = f"{kind}@{len(self.groups)}"
            self._add(name, bodies)
        return name

    def _repeated(self, bodies: list[Symbols], sign: str, *counts: str) -> list[Symbols]:
        """The alternatives of an item with `?`, `+`, `*` or `~`."""
        if sign == "?":
            return _distinct([*bodies, ()])
        if sign in "+*":
            some = [body for body in bodies if body]
            name = f"plus@{len(self.groups)}"
            name = self._own_rule(
                "plus", (tuple(some),), [*some, *((name, *body) for body in some)]
            )
            return [(name,), ()] if sign == "*" or len(some) < len(bodies) else [(name,)]
        least, most = int(counts[0]), int(counts[-1])
        if not 0 <= least <= most <= MAX_REPEAT:
            raise GrammarError(
                f"an item is repeated ~{'..'.join(counts)}; at most {MAX_REPEAT} times, "
                "and no range backwards"
            )
        return self._counted(self._group(bodies), least, most)

    def _counted(self, item: str, least: int, most: int) -> list[Symbols]:
        """`item` from `least` to `most` times: multiplied out if few, else a chain of rules."""
        some = (item,) * least
        if most - least <= MAX_SPREAD:
            return [some + (item,) * more for more in range(most - least + 1)]
        tail = item
        for _ in range(most - least - 1):
            tail = self._own_rule("upto", (item, tail), [(item,), (item, tail)])
        return [some, (*some, tail)]


class _Patterns:
    """The terminals of a grammar: their names, and the patterns that Lark builds for them."""

    def __init__(self, definitions: Definitions) -> None:
        from lark.load_grammar import TerminalTreeToPattern

        self.definitions = definitions
        self.used: dict[str, TerminalPattern] = {}
        self.literal_characters: set[str] = set()
        self._build = TerminalTreeToPattern()
        self._known: dict[int, Any] = {}  # by the identity of a tree; trees share parts

    def terminal(self, name: str) -> str:
        """The name of a terminal in a rule."""
        if name not in self.used:
            self.used[name] = self.named(name)
        return name

    def named(self, name: str) -> TerminalPattern:
        """The pattern of a named terminal."""
        tree = self.definitions.terminals[name]
        if tree is None:
            raise GrammarError(
                f"the terminal {quote(name)} is declared and not defined (%declare): a program has "
                "to make it, which a set of strings does not have; define it"
            )
        return _checked(name, self._pattern(tree))

    def anonymous(self, tree: Any) -> str:
        """The name of a literal in a rule: the literal as it is written."""
        name = "..".join(str(child) for child in tree.children)
        if name not in self.used:
            self.used[name] = _checked(name, self._pattern(tree))
        return name

    def _pattern(self, tree: Any) -> Any:
        """Lark's pattern of a tree; shared parts are computed once."""
        if id(tree) not in self._known:
            self._known[id(tree)] = self._make(tree)
        return self._known[id(tree)]

    def _make(self, tree: Any) -> Any:
        from lark.lexer import PatternRE
        from lark.load_grammar import _literal_to_pattern

        if tree.data == "literal":
            made = _guarded(str(tree.children[0]), lambda: _literal_to_pattern(tree.children[0]))
            if made.type == "str":
                cases = {made.value.lower(), made.value.upper()}
                self.literal_characters.update(*(cases if "i" in made.flags else {made.value}))
            return made
        if tree.data == "range":
            first, last = (str(child)[1:-1] for child in tree.children)
            return PatternRE(f"[{first}-{last}]")
        children = [
            self._pattern(child) if hasattr(child, "data") else child for child in tree.children
        ]
        if sum(len(child.value) for child in children if hasattr(child, "value")) > MAX_PATTERN:
            raise GrammarError(LONG_PATTERN)
        made = _guarded(tree.data, lambda: getattr(self._build, tree.data)(children))
        if len(made.value) > MAX_PATTERN:
            raise GrammarError(LONG_PATTERN)
        return made


def _distinct(bodies: Iterable[Symbols]) -> list[Symbols]:
    return list(dict.fromkeys(bodies))


def _checked(name: str, made: Any) -> TerminalPattern:
    """A pattern of Lark as a `TerminalPattern`. Lark's scanner allows no empty terminal."""
    width = _guarded(name, lambda: made.min_width)
    if width == 0:
        raise GrammarError(
            f"the terminal {quote(name)} can match the empty string; "
            "let it match at least one character"
        )
    if made.type == "str":
        return TerminalPattern(made.to_regexp(), made.value, "i" in made.flags)
    return TerminalPattern(made.to_regexp())


def _guarded(what: str, make: Any) -> Any:
    """The result of `make`; an exception becomes an error that names the terminal."""
    try:
        return make()
    except (GrammarError, RecursionError):
        raise
    except Exception as error:  # from Lark, or from `re` or `regex` behind it
        message = (
            error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__
        )
        raise GrammarError(f"the terminal {quote(what)} cannot be read: {message}") from None
