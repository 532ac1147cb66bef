"""Chomsky normal form: every rule derives one character or two nonterminals.

The empty string is dropped. Probabilities count derivations *in this form*: rules are sets, so two
ways to the same rule (through empty rules or chains of unit rules) count once. All other ambiguity
stays, and `ambiguity.py` looks for it here. Nonterminals with the same rules are merged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maskdiff.errors import GrammarError
from maskdiff.languages.bitsets import mask_of
from maskdiff.languages.cfg.rules import Cfg, Item, Rule, productive

MAX_BINARY = 20_000  # rules of the normal form
MAX_WITHOUT_UNIT = 100_000  # rules when unit rules are removed
MAX_SHOWN = 40  # characters of a name that is made of other names


@dataclass(frozen=True, eq=False)
class NormalForm:
    """A grammar in Chomsky normal form over V `symbols`.

    Nonterminals are numbered 0..N-1: the start symbol, others with binary rules, then the others.

    Attributes:
        symbols: The characters.
        names: The names of the nonterminals.
        emits: (N, V) bool, whether a nonterminal derives a symbol.
        parent, left, right: (R,) int64, the binary rules `parent -> left right`, sorted.
        cyclic: A nonterminal that derives itself in the grammar as written; empty if none does.
    """

    symbols: tuple[str, ...]
    names: tuple[str, ...]
    emits: np.ndarray
    parent: np.ndarray
    left: np.ndarray
    right: np.ndarray
    cyclic: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def long(self) -> int:
        """The number of nonterminals with binary rules, the start symbol included."""
        return int(self.parent.max(initial=0)) + 1

    @cached_property
    def children(self) -> list[list[tuple[int, int]]]:
        """For each nonterminal the pairs (left, right) of its rules."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.names]
        for parent, left, right in np.stack((self.parent, self.left, self.right), 1).tolist():
            found[parent].append((left, right))
        return found

    @cached_property
    def parents(self) -> list[list[tuple[int, int]]]:
        """For each nonterminal the pairs (parent, right) of the rules that it begins."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.names]
        for parent, bodies in enumerate(self.children):
            for left, right in bodies:
                found[left].append((parent, right))
        return found

    @cached_property
    def emitters(self) -> list[tuple[int, ...]]:
        """For each symbol the nonterminals that derive it."""
        return [tuple(column.nonzero()[0].tolist()) for column in self.emits.T]

    @cached_property
    def symbol_masks(self) -> list[int]:
        """For each nonterminal the symbols that it derives, as bits."""
        return [mask_of(row.nonzero()[0]) for row in self.emits]

    def lengths(self, longest: int) -> np.ndarray:
        """Return whether the language has a string of each length, (longest + 1,) bool."""
        return self.all_lengths(longest)[:, 0]

    def all_lengths(self, longest: int) -> np.ndarray:
        """Return whether each nonterminal has a string of each length, (longest + 1, N) bool."""
        possible = np.zeros((longest + 1, len(self)), dtype=bool)
        if longest >= 1:
            possible[1] = self.emits.any(1)
        for n in range(2, longest + 1):
            halves = (possible[1:n][:, self.left] & possible[n - 1 : 0 : -1][:, self.right]).any(0)
            possible[n, self.parent[halves]] = True
        return possible


def normal_form(cfg: Cfg, symbols: Sequence[str], source: str = "grammar") -> NormalForm:
    """Return the normal form of `cfg` over the characters `symbols`, in their order.

    Args:
        cfg: The grammar.
        symbols: The characters.
        source: The name of the grammar in error messages.

    Raises:
        GrammarError: The language has no string but the empty one, or the normal form has more than
            `MAX_BINARY` rules.
    """
    rules = _without_empty(_binary(cfg))
    rules, cyclic = _without_unit(_trimmed(rules, cfg.start), source)
    rules = _merged(_trimmed(rules, cfg.start), cfg.start)
    if not any(head == cfg.start for head, _ in rules):
        raise GrammarError(f"{source}: the language has no string with at least one symbol")
    # Number the nonterminals.
    longer = {head for head, body in rules if len(body) == 2}
    heads = {head for head, _ in rules}
    names = sorted(heads, key=lambda name: (name != cfg.start, name not in longer, name))
    number = {name: i for i, name in enumerate(names)}
    # Write the rules as arrays.
    place = {symbol: i for i, symbol in enumerate(symbols)}
    emits = np.zeros((len(names), len(symbols)), dtype=bool)
    binary = []
    for head, body in rules:
        if len(body) == 2:
            binary.append((number[head], number[str(body[0])], number[str(body[1])]))
        else:
            emits[number[head], [place[symbol] for symbol in body[0]]] = True
    if len(binary) > MAX_BINARY:
        raise GrammarError(
            f"{source}: the normal form has {len(binary)} rules; at most {MAX_BINARY} are allowed"
        )
    parent, left, right = np.array(sorted(binary), dtype=np.int64).reshape(-1, 3).T
    return NormalForm(tuple(symbols), tuple(names), emits, parent, left, right, cyclic)


Rules = set[Rule]


def _binary(cfg: Cfg) -> Rules:
    """Bodies of at most two items, of two only if both are nonterminals; equal tails are shared."""
    rules: Rules = set()
    names: dict[Item | tuple[str, str], str] = {}  # nonterminals for characters and for pairs

    def single(item: Item) -> str:
        if isinstance(item, str):
            return item
        if item not in names:
            names[item] = (
                f"[{''.join(sorted(item))}]" if len(item) <= MAX_SHOWN else f"[@{len(names)}]"
            )
            rules.add(Rule(names[item], (item,)))
        return names[item]

    def pair(left: str, right: str) -> str:
        if (left, right) not in names:
            shown = f"{left} {right}"
            names[left, right] = shown if len(shown) <= MAX_SHOWN else f"rest@{len(names)}"
            rules.add(Rule(names[left, right], (left, right)))
        return names[left, right]

    for head, body in cfg.rules:
        if len(body) < 2:
            rules.add(Rule(head, body))
            continue
        first, *others = map(single, body)
        last = others.pop()
        while others:
            last = pair(others.pop(), last)
        rules.add(Rule(head, (first, last)))
    return rules


def _without_empty(rules: Rules) -> Rules:
    """The language without the empty string, without empty rules."""
    empty = productive(rule for rule in rules if all(isinstance(item, str) for item in rule.body))
    kept = {rule for rule in rules if rule.body}
    for head, body in list(kept):
        if len(body) == 2:
            kept |= {Rule(head, (body[1 - i],)) for i in range(2) if body[i] in empty}
    return kept


def _without_unit(rules: Rules, source: str) -> tuple[Rules, str]:
    """The same language without unit rules `A -> B`, and a nonterminal that derives itself if any.

    A gets the other rules of every B that it derives by unit rules.
    """
    units: dict[str, list[str]] = {}
    own: dict[str, list[tuple[Item, ...]]] = {}
    for head, body in rules:
        if len(body) == 1 and isinstance(body[0], str):
            units.setdefault(head, []).append(body[0])
        else:
            own.setdefault(head, []).append(body)
    groups = _components(units)
    cyclic = [
        name for group in groups for name in group if len(group) > 1 or name in units.get(name, ())
    ]
    bodies: dict[str, set[tuple[Item, ...]]] = {}
    total = len(rules)
    for group in groups:  # the targets of a name come before it
        shared = {body for name in group for body in own.get(name, ())}
        inside = set(group)
        for target in (
            target for name in group for target in units.get(name, ()) if target not in inside
        ):
            shared.update(bodies[target] if target in bodies else own.get(target, ()))
        bodies.update(dict.fromkeys(group, shared))
        total += len(shared) * len(group)
        if total > MAX_WITHOUT_UNIT:
            raise GrammarError(
                f"{source}: over {MAX_WITHOUT_UNIT} rules once no rule stands for a single other "
                "one; write fewer alternatives that are names alone"
            )
    made = {Rule(head, body) for head in own for body in bodies.get(head) or own[head]}
    made |= {Rule(head, body) for head in bodies for body in bodies[head]}
    return made, min(cyclic, key=lambda name: (" " in name, "@" in name, name), default="")


def _components(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The strongly connected components of a graph in reverse topological order (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    inside: set[str] = set()
    found: list[list[str]] = []
    for root in graph:
        stack = [(root, iter(graph.get(root, ())))] if root not in number else []
        while stack:
            name, targets = stack[-1]
            if name not in number:
                number[name] = lowest[name] = len(number)
                path.append(name)
                inside.add(name)
            for target in targets:
                if target not in number:
                    stack.append((target, iter(graph.get(target, ()))))
                    break
                if target in inside:
                    lowest[name] = min(lowest[name], lowest[target])
            else:
                stack.pop()
                if lowest[name] == number[name]:
                    start = path.index(name)
                    found.append(path[start:])
                    inside -= set(path[start:])
                    del path[start:]
                if stack:
                    lowest[stack[-1][0]] = min(lowest[stack[-1][0]], lowest[name])
    return found


def _trimmed(rules: Rules, start: str) -> Rules:
    """Only the rules that occur in a derivation of a string."""
    able = productive(rules)
    rules = {
        rule
        for rule in rules
        if all(isinstance(item, frozenset) or item in able for item in rule.body)
    }
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
    """Merges nonterminals with the same rules; the start symbol keeps its name.

    The rules that use a merged nonterminal are renamed and compared again.
    """
    bodies: dict[str, set[tuple[Item, ...]]] = {}
    users: dict[str, set[str]] = {}
    for head, body in rules:
        bodies.setdefault(head, set()).add(body)
        for item in body:
            if isinstance(item, str):
                users.setdefault(item, set()).add(head)
    alike: dict[frozenset[tuple[Item, ...]], str] = {}
    order = {
        name: n for n, name in enumerate(sorted(bodies, key=lambda name: (name != start, name)))
    }
    agenda = deque(order)
    while agenda:
        head = agenda.popleft()
        other = alike.setdefault(frozenset(bodies[head]), head) if head in bodies else head
        if other == head:
            continue
        kept, lost = sorted((head, other), key=order.__getitem__)
        alike[frozenset(bodies.pop(lost))] = kept
        for user in sorted(users.pop(lost, set()) & bodies.keys(), key=order.__getitem__):
            old = frozenset(bodies[user])
            if alike.get(old) == user:
                del alike[old]
            bodies[user] = {tuple(kept if item == lost else item for item in body) for body in old}
            users.setdefault(kept, set()).add(user)
            agenda.append(user)
    return {Rule(head, body) for head, own in bodies.items() for body in own}
