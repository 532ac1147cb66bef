"""Which terminals can follow each other in the strings of a grammar over terminals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from maskdiff.languages.bitsets import positions_of
from maskdiff.languages.cfg.rules import Rule, productive

Label = TypeVar("Label", bound=Hashable)

TerminalRules = Mapping[str, Sequence[tuple[str, ...]]]  # bodies of names of rules and terminals


def following_labels(rules: TerminalRules, labels: Mapping[str, Label]) -> dict[str, set[Label]]:
    """Return, for each terminal, the labels of the terminals that may follow it directly.

    Args:
        rules: The grammar.
        labels: The label of each terminal; terminals may share one.
    """
    kinds = list(dict.fromkeys(labels.values()))
    bit = {label: 1 << n for n, label in enumerate(kinds)}
    # The nonterminals that derive the empty string.
    empty = productive(
        Rule(head, body)
        for head, bodies in rules.items()
        for body in bodies
        if labels.keys().isdisjoint(body)
    )
    first = _ends(rules, {name: bit[label] for name, label in labels.items()}, empty, 1)
    last = _ends(rules, {name: 1 << n for n, name in enumerate(labels)}, empty, -1)
    # The labels that may follow a symbol of a body.
    after: dict[str, int] = {}
    for body in (body for bodies in rules.values() for body in bodies):
        behind = 0
        for item in reversed(body):
            after[item] = after.get(item, 0) | behind
            behind = first[item] | (behind if item in empty else 0)
    # The same for terminals, which end those symbols.
    found = dict.fromkeys(labels, 0)
    names = list(labels)
    for item, mask in after.items():
        for n in positions_of(last[item]) if mask else ():
            found[names[n]] |= mask
    return {name: {kinds[n] for n in positions_of(mask)} for name, mask in found.items()}


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
