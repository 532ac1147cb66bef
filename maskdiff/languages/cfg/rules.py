"""Rules of a context-free grammar over characters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

Item = str | frozenset[str]  # the name of a nonterminal, or a set of characters


class Rule(NamedTuple):
    """The rule `head -> body`."""

    head: str
    body: tuple[Item, ...]


@dataclass(frozen=True)
class Cfg:
    """A context-free grammar over characters; names that are not in its file contain an `@`."""

    start: str
    rules: tuple[Rule, ...]


def productive(rules: Iterable[Rule]) -> set[str]:
    """Return the nonterminals that derive some string, the empty string included."""
    waiting: dict[str, list[int]] = {}  # rules by the names in their bodies, with repetitions
    missing: list[int] = []  # unproductive names in the body of each rule
    heads: list[str] = []
    found: list[str] = []
    known: set[str] = set()
    for number, (head, body) in enumerate(rules):
        names = [item for item in body if isinstance(item, str)]
        heads.append(head)
        missing.append(len(names))
        for name in names:
            waiting.setdefault(name, []).append(number)
        if not names and head not in known:
            known.add(head)
            found.append(head)
    for name in found:  # `found` grows during the loop
        for number in waiting.get(name, ()):
            missing[number] -= 1
            if not missing[number] and heads[number] not in known:
                known.add(heads[number])
                found.append(heads[number])
    return known
