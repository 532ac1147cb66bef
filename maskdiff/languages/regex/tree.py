"""Syntax trees of regular expressions.

The leaves are sets of characters and look-arounds; anchors and word boundaries are look-arounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from maskdiff.languages.regex.limits import MAX_POSITIONS, RegexError


@dataclass(frozen=True, eq=False)
class Characters:
    """One character of a set."""

    characters: frozenset[str]


@dataclass(frozen=True, eq=False)
class Sequence:
    """A concatenation; the empty string if there are no parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    """An alternation; no string if there are no parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """`least` to `most` copies of `part` (None: no limit); a lazy one prefers fewer copies."""

    part: Node
    least: int
    most: int | None
    lazy: bool = False


@dataclass(frozen=True, eq=False)
class Look:
    """The empty string at a place where `body` matches before or ahead (not, if `negative`).

    Two nodes that are the same object are one look-around. `construct` is the index of the
    construct that the node belongs to; a word boundary consists of several nodes.
    """

    body: Node
    ahead: bool
    negative: bool
    construct: int


Node = Characters | Sequence | Choice | Repeat | Look

EMPTY = Sequence(())
NOTHING = Choice(())


def is_lazy(node: Node) -> bool:
    """Return whether a tree has a lazy quantifier outside look-arounds."""
    if isinstance(node, Sequence | Choice):
        return any(map(is_lazy, node.parts))
    if isinstance(node, Repeat):
        return (node.lazy and node.least != node.most) or is_lazy(node.part)
    return False


def check_size(tree: Node) -> None:
    """Raises `RegexError` if the tree with all repetitions written out has too many leaves."""
    looks: dict[Look, None] = {}
    total, todo = 0, [tree]
    while todo:
        found: dict[Look, None] = {}
        total += _count(todo.pop(), found)
        if total > MAX_POSITIONS:
            raise RegexError(
                f"too many repetitions: written out, the pattern has more than {MAX_POSITIONS} "
                "positions"
            )
        todo += [look.body for look in found if look not in looks]
        looks |= found


def _count(node: Node, looks: dict[Look, None]) -> int:
    """The number of leaves; look-arounds count as one leaf and are added to `looks`."""
    if isinstance(node, Sequence | Choice):
        return 1 + sum(_count(part, looks) for part in node.parts)
    if isinstance(node, Repeat):
        copies = node.least + 1 if node.most is None else node.most
        return 1 + _count(node.part, looks) * copies
    if isinstance(node, Look):
        looks[node] = None
    return 1
