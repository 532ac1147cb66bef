"""Histories whose text is a proper prefix of what was typed, counted and listed without a model.

The number of histories grows exponentially with the text, but counting them takes only a table over
(tokens, bytes).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from maskdiff.models.continuation import ROOT, LatentStates
from maskdiff.models.token_table import TokenTable

# Bytes explained, whether one token is left, the bytes after the last one.
CoverKey = tuple[int, bool, bytes]


@dataclass(frozen=True)
class Goal:
    """A string that begins with `prefix` or, if `whole`, is it."""

    table: TokenTable
    latent_states: LatentStates
    prefix: bytes
    whole: bool = False

    @cached_property
    def last(self) -> int:
        """The largest number of bytes that a history may explain without reaching the goal."""
        return len(self.prefix) - (not self.whole)

    @cached_property
    def steps(self) -> list[list[tuple[int, int]]]:
        """By bytes explained: the tokens that explain more, but not all: (token, bytes then)."""
        found = []
        for offset in range(self.last + 1):
            ids = self.table.inside(self.prefix[offset:], self.whole)
            found.append([(token, offset + len(self.table.texts[token] or b"")) for token in ids])
        return found

    def reached(self, latent: int) -> bool:
        """Whether a latent state reaches the goal before any token."""
        if self.latent_states.limits[latent] == 0:
            tail = self.latent_states.tail(latent)
            return tail == self.prefix if self.whole else tail.startswith(self.prefix)
        return not self.prefix and not self.whole

    def key(self, offset: int, depth: int, latent: int) -> CoverKey:
        """The values on which the covering tokens of a node depend."""
        last = self.latent_states.closed and depth + 1 == self.latent_states.limits[latent]
        return offset, last, self.latent_states.tail(latent) if last else b""

    def covers(self, key: CoverKey) -> list[int]:
        """Ids of the tokens that reach the goal."""
        offset, last, tail = key
        rest = self.prefix[offset:]
        if self.whole:
            ends = list(self.table.ends) if not rest else []
            return ends + (
                self.table.exactly(rest[: len(rest) - len(tail)])
                if last and rest.endswith(tail)
                else []
            )
        found = self.table.covering(rest)
        if last and tail:
            shorter = (*self.table.inside(rest), *self.table.silent)
            found += [
                token
                for token in shorter
                if tail.startswith(rest[len(self.table.texts[token] or b"") :])
            ]
        return found


@dataclass
class Histories:
    """A tree of histories, parents before children; `offset` is in bytes, `depth` in tokens."""

    parent: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)  # of a latent state: its number
    offset: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    latent: list[int] = field(default_factory=list)
    child: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent, token) -> node

    def __len__(self) -> int:
        return len(self.parent)

    def add(self, parent: int, token: int, offset: int) -> int:
        """A new node's number."""
        node = len(self.parent)
        self.parent.append(parent)
        self.token.append(token)
        self.offset.append(offset)
        self.depth.append(0 if parent == ROOT else self.depth[parent] + 1)
        self.latent.append(token if parent == ROOT else self.latent[parent])
        self.child[parent, token] = node
        return node

    def path(self, node: int) -> list[int]:
        """The tokens of a node's history."""
        tokens: list[int] = []
        while self.parent[node] != ROOT:
            tokens.append(self.token[node])
            node = self.parent[node]
        return tokens[::-1]


def roots(goal: Goal) -> list[int]:
    """The latent states that have not reached the goal, and may."""
    return [
        b
        for b in range(len(goal.latent_states))
        if goal.latent_states.limits[b] > 0 and not goal.reached(b)
    ]


def count(goal: Goal, enough: int, below: int | None = None) -> int:
    """The number of histories that explain fewer than `below` bytes, or one above `enough`."""
    below = goal.last + 1 if below is None else min(below, goal.last + 1)
    limits = sorted(goal.latent_states.limits[b] for b in roots(goal))
    silent = len(goal.table.silent)
    total, depth = 0, 0
    level = {0: 1} if below > 0 else {}  # histories of `depth` tokens, by bytes explained
    while level and limits and depth < limits[-1]:
        total += sum(level.values()) * sum(limit > depth for limit in limits)
        if total > enough:
            return total
        following: dict[int, int] = {}
        for offset, ways in level.items():
            if silent:
                following[offset] = following.get(offset, 0) + silent * ways
            for _, reached in goal.steps[offset]:
                if reached < below:
                    following[reached] = following.get(reached, 0) + ways
        level, depth = following, depth + 1
    return total


def enumerate_histories(goal: Goal, below: int | None = None, silent: bool = True) -> Histories:
    """All histories that explain fewer than `below` bytes, with or without `silent` tokens."""
    below = goal.last + 1 if below is None else min(below, goal.last + 1)
    tree = Histories()
    level = [tree.add(ROOT, latent, 0) for latent in roots(goal)] if below > 0 else []
    quiet = goal.table.silent if silent else ()
    while level:
        following = []
        for node in level:
            if tree.depth[node] + 1 >= goal.latent_states.limits[tree.latent[node]]:
                continue  # the token after it is the last one: only a covering one is of use
            offset = tree.offset[node]
            following += [tree.add(node, token, offset) for token in quiet]
            following += [
                tree.add(node, token, reached)
                for token, reached in goal.steps[offset]
                if reached < below
            ]
        level = following
    return tree


def from_sequences(goal: Goal, sequences: Iterable[list[int]]) -> Histories:
    """The tree of given token sequences, which explain prefixes of the goal, after every state."""
    tree, sequences = Histories(), list(sequences)
    for latent in roots(goal):
        root = tree.add(ROOT, latent, 0)
        for tokens in sequences:
            node = root
            for token in tokens[: goal.latent_states.limits[latent] - 1]:
                reached = tree.offset[node] + len(goal.table.texts[token] or b"")
                known = tree.child.get((node, token))
                node = tree.add(node, token, reached) if known is None else known
    return tree
