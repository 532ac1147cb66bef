"""Syntax trees of regular expressions over sets of characters.

Only sets of characters and look-arounds are leaves: anchors and word boundaries are look-arounds,
and groups, flags and the order of alternatives are gone.
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
    """Parts in a row; without parts, the empty string."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    """One of several parts; without parts, nothing matches."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """`least` to `most` copies of `part`; `most` is None where there is no upper limit.

    A lazy one prefers fewer copies, others prefer more.
    """

    part: Node
    least: int
    most: int | None
    lazy: bool = False


@dataclass(frozen=True, eq=False)
class Look:
    """The empty string where `body` does (or, if `negative`, does not) match beside it.

    Two nodes that are the same object are one look-around. `construct` is the index of the
    construct of the pattern that the node belongs to; a word boundary consists of several nodes.
    """

    body: Node
    ahead: bool
    negative: bool
    construct: int


Node = Characters | Sequence | Choice | Repeat | Look

EMPTY = Sequence(())
NOTHING = Choice(())


def is_lazy(node: Node) -> bool:
    """Whether a tree has a lazy quantifier outside of look-arounds, where it has no effect."""
    if isinstance(node, Sequence | Choice):
        return any(map(is_lazy, node.parts))
    if isinstance(node, Repeat):
        return (node.lazy and node.least != node.most) or is_lazy(node.part)
    return False


def check_size(tree: Node) -> None:
    """Raise `RegexError` if the tree has too many leaves once every repetition is written out."""
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
    """Number of leaves, each look-around counted as one and added to `looks`."""
    if isinstance(node, Sequence | Choice):
        return 1 + sum(_count(part, looks) for part in node.parts)
    if isinstance(node, Repeat):
        copies = node.least + 1 if node.most is None else node.most
        return 1 + _count(node.part, looks) * copies
    if isinstance(node, Look):
        looks[node] = None
    return 1
