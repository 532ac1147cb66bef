"""What can stand side by side in the strings of a grammar over terminals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Label = TypeVar("Label", bound=Hashable)

TerminalRules = Mapping[str, Sequence[tuple[str, ...]]]  # bodies of names of rules and terminals


def neighbours(rules: TerminalRules, labels: Mapping[str, Label]) -> dict[str, set[Label]]:
    """Returns, for each terminal, the labels of the terminals that may follow it directly.

    Args:
        rules: The grammar.
        labels: By terminal; terminals may share one.
    """
    kinds = list(dict.fromkeys(labels.values()))
    bit = {label: 1 << n for n, label in enumerate(kinds)}
    empty = _nullable(rules)
    first = _ends(rules, {name: bit[label] for name, label in labels.items()}, empty, 1)
    last = _ends(rules, {name: 1 << n for n, name in enumerate(labels)}, empty, -1)
    after: dict[str, int] = {}  # labels that may follow a symbol of a body
    for body in (body for bodies in rules.values() for body in bodies):
        behind = 0
        for item in reversed(body):
            after[item] = after.get(item, 0) | behind
            behind = first[item] | (behind if item in empty else 0)
    found = dict.fromkeys(labels, 0)
    names = list(labels)
    for item, mask in after.items():
        for n in _bits(last[item]) if mask else ():
            found[names[n]] |= mask
    return {name: {kinds[n] for n in _bits(mask)} for name, mask in found.items()}


def _nullable(rules: TerminalRules) -> set[str]:
    found: set[str] = set()
    while True:
        more = {
            head for head, bodies in rules.items() if any(found.issuperset(body) for body in bodies)
        } - found
        if not more:
            return found
        found |= more


def _ends(
    rules: TerminalRules, terminals: Mapping[str, int], empty: set[str], step: int
) -> dict[str, int]:
    """The bits of the terminals with which each symbol may begin (step 1) or end (step -1)."""
    found = dict.fromkeys(rules, 0) | dict(terminals)
    changed = True
    while changed:
        changed = False
        for head, bodies in rules.items():
            mask = found[head]
            for body in bodies:
                for item in body[::step]:
                    mask |= found[item]
                    if item not in empty:
                        break
            changed, found[head] = changed or mask != found[head], mask
    return found


def _bits(mask: int) -> list[int]:
    return [n for n in range(mask.bit_length()) if mask >> n & 1]
