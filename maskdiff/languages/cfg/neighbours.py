"""Which terminals can stand side by side in the strings of a grammar over terminals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

TerminalRules = Mapping[str, Sequence[tuple[str, ...]]]  # bodies of names of rules and terminals


def neighbours(rules: TerminalRules, terminals: Iterable[str]) -> dict[str, set[str]]:
    """Returns the terminals that may follow each terminal directly."""
    empty = _nullable(rules)
    first = _ends(rules, terminals, empty, 1)
    last = _ends(rules, terminals, empty, -1)
    found: dict[str, set[str]] = {name: set() for name in terminals}
    for body in (body for bodies in rules.values() for body in bodies):
        for i, left in enumerate(body):
            for right in body[i + 1 :]:
                for name in last[left]:
                    found[name] |= first[right]
                if right not in empty:
                    break
    return found


def _nullable(rules: TerminalRules) -> set[str]:
    found: set[str] = set()
    while True:
        more = {head for head, bodies in rules.items() if any(found.issuperset(body) for body in bodies)} - found
        if not more:
            return found
        found |= more


def _ends(rules: TerminalRules, terminals: Iterable[str], empty: set[str], step: int) -> dict[str, set[str]]:
    """The terminals with which each symbol may begin (step 1) or end (step -1)."""
    found: dict[str, set[str]] = {name: {name} for name in terminals} | {head: set() for head in rules}
    changed = True
    while changed:
        changed = False
        for head, bodies in rules.items():
            before = len(found[head])
            for body in bodies:
                for item in body[::step]:
                    found[head] |= found[item]
                    if item not in empty:
                        break
            changed = changed or len(found[head]) > before
    return found
