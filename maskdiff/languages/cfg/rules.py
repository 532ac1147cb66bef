"""Rules of a context-free grammar over characters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

Item = str | frozenset[str]  # the name of a nonterminal, or the characters that may stand here


class Rule(NamedTuple):
    """`head` may be written as `body`."""

    head: str
    body: tuple[Item, ...]


@dataclass(frozen=True)
class Cfg:
    """A context-free grammar over characters; names that its file does not have contain an `@`."""

    start: str
    rules: tuple[Rule, ...]


def productive(rules: Iterable[Rule]) -> set[str]:
    """Returns the nonterminals from which some string of characters can be derived; the empty one counts."""
    waiting: dict[
        str, list[int]
    ] = {}  # numbers of rules by a name in their bodies, as often as it stands there
    missing: list[int] = []
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
    for name in found:  # grows on the way
        for number in waiting.get(name, ()):
            missing[number] -= 1
            if not missing[number] and heads[number] not in known:
                known.add(heads[number])
                found.append(heads[number])
    return known
