"""Chomsky normal form: every rule is one character or two nonterminals, as arrays that a chart can work with.

For: `normal_form`, and the lengths that strings of a grammar can have. Not for: reading grammars (`reader.py`) or filling
charts (`maskdiff/sampling/chart.py`). The empty string is dropped: no canvas is empty.
Easy to get wrong: what matters for probabilities is how often a string is derived *here*. Rules are sets, so two ways of
getting the same rule (through rules that derive nothing, or through chains of single nonterminals) count once; all other
ambiguity stays, and `ambiguity.py` looks for it here. Nonterminals with the same rules are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maskdiff.errors import GrammarError
from maskdiff.languages.cfg.reader import Cfg, Item, Rule, productive

MAX_BINARY = 20_000  # rules of the normal form


@dataclass(frozen=True, eq=False)
class NormalForm:
    """A grammar over `symbols` with nonterminals 0..N-1: the start, others that have binary rules, then those of one symbol.

    `emits` (N, V) bool: the nonterminal may be this one symbol. `parent`, `left`, `right` (R,) int64: binary rules.
    """

    symbols: tuple[str, ...]
    names: tuple[str, ...]
    emits: np.ndarray
    parent: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def long(self) -> int:
        """How many nonterminals, counted from the first, may be longer than one symbol (the start counts as one of them)."""
        return int(self.parent.max(initial=0)) + 1

    def lengths(self, longest: int) -> np.ndarray:
        """(longest + 1,) bool: whether some string of the language has so many symbols."""
        return self.all_lengths(longest)[:, 0]

    def all_lengths(self, longest: int) -> np.ndarray:
        """(longest + 1, N) bool: whether a nonterminal derives some string of so many symbols."""
        possible = np.zeros((longest + 1, len(self)), dtype=bool)
        if longest >= 1:
            possible[1] = self.emits.any(1)
        for n in range(2, longest + 1):
            halves = (possible[1:n][:, self.left] & possible[n - 1 : 0 : -1][:, self.right]).any(0)
            possible[n, self.parent[halves]] = True
        return possible


def normal_form(cfg: Cfg, symbols: Sequence[str], source: str = "grammar") -> NormalForm:
    """The normal form of `cfg` over the characters `symbols`, in their order.

    Raises `GrammarError` where nothing but the empty string is left, or more than `MAX_BINARY` rules are.
    """
    rules = _without_unit(_without_empty(_binary(cfg)))
    rules = _merged(_trimmed(rules, cfg.start), cfg.start)
    if not any(head == cfg.start for head, _ in rules):
        raise GrammarError(f"{source}: the language has no string with at least one symbol")
    longer = {head for head, body in rules if len(body) == 2}
    names = sorted({head for head, _ in rules}, key=lambda name: (name != cfg.start, name not in longer, name))
    number = {name: i for i, name in enumerate(names)}
    place = {symbol: i for i, symbol in enumerate(symbols)}
    emits = np.zeros((len(names), len(symbols)), dtype=bool)
    binary = []
    for head, body in rules:
        if len(body) == 2:
            binary.append((number[head], number[str(body[0])], number[str(body[1])]))
        else:
            emits[number[head], [place[symbol] for symbol in body[0]]] = True
    if len(binary) > MAX_BINARY:
        raise GrammarError(f"{source}: the normal form has {len(binary)} rules; at most {MAX_BINARY} are allowed")
    parent, left, right = np.array(sorted(binary), dtype=np.int64).reshape(-1, 3).T
    return NormalForm(tuple(symbols), tuple(names), emits, parent, left, right)


Rules = set[Rule]


def _binary(cfg: Cfg) -> Rules:
    """Bodies of at most two items, two only if both are nonterminals; ends of bodies that are alike are shared."""
    rules: Rules = set()

    def name_of(items: tuple[Item, ...]) -> str:
        """A nonterminal that stands for these items and nothing else."""
        if len(items) == 1 and isinstance(items[0], str):
            return items[0]
        name = " ".join(item if isinstance(item, str) else f"[{''.join(sorted(item))}]" for item in items)
        add(name, items)
        return name

    def add(head: str, items: tuple[Item, ...]) -> None:
        if len(items) < 2:
            rules.add(Rule(head, items))
        else:
            rules.add(Rule(head, (name_of(items[:1]), name_of(items[1:]))))

    for rule in cfg.rules:
        add(rule.head, rule.body)
    return rules


def _without_empty(rules: Rules) -> Rules:
    """The same language, the empty string apart, without rules that derive nothing."""
    empty: set[str] = set()
    while True:
        more = {head for head, body in rules if head not in empty and all(item in empty for item in body)}
        if not more:
            break
        empty |= more
    kept = {rule for rule in rules if rule.body}
    for head, body in list(kept):
        if len(body) == 2:
            kept |= {Rule(head, (body[1 - i],)) for i in range(2) if body[i] in empty}
    return kept


def _without_unit(rules: Rules) -> Rules:
    """The same language without `A -> B`: A gets the other rules of every B that it may turn into."""
    turns: dict[str, set[str]] = {}
    own: dict[str, list[tuple[Item, ...]]] = {}
    for head, body in rules:
        if len(body) == 1 and isinstance(body[0], str):
            turns.setdefault(head, set()).add(body[0])
        else:
            own.setdefault(head, []).append(body)
    result: Rules = set()
    for head in {head for head, _ in rules}:
        seen, waiting = {head}, [head]
        while waiting:
            for target in turns.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        result |= {Rule(head, body) for name in seen for body in own.get(name, [])}
    return result


def _trimmed(rules: Rules, start: str) -> Rules:
    """Only rules that some derivation of some string uses."""
    able = productive(rules)
    rules = {rule for rule in rules if all(isinstance(item, frozenset) or item in able for item in rule.body)}
    bodies: dict[str, list[tuple[Item, ...]]] = {}
    for head, body in rules:
        bodies.setdefault(head, []).append(body)
    reached, waiting = {start}, [start]
    while waiting:
        for body in bodies.get(waiting.pop(), []):
            for item in body:
                if isinstance(item, str) and item not in reached:
                    reached.add(item)
                    waiting.append(item)
    return {rule for rule in rules if rule.head in reached}


def _merged(rules: Rules, start: str) -> Rules:
    """The same language with one nonterminal for all that have the same rules; the start keeps its name."""
    while True:
        bodies: dict[str, set[tuple[Item, ...]]] = {}
        for head, body in rules:
            bodies.setdefault(head, set()).add(body)
        alike: dict[frozenset[tuple[Item, ...]], str] = {}
        for head in sorted(bodies, key=lambda name: (name != start, name)):
            alike.setdefault(frozenset(bodies[head]), head)
        if len(alike) == len(bodies):
            return rules
        names = {head: alike[frozenset(own)] for head, own in bodies.items()}
        rules = {Rule(names[h], tuple(names[i] if isinstance(i, str) else i for i in body)) for h, body in rules}
