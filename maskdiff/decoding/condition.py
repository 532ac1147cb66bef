"""The next token given what was typed: p(t | history) conditioned on the prefix of the string.

The state is the history of tokens, not the place in the text, and the probability of a token that
is forced still counts: it weighs the history against others.

    Z(h) = 1                                      if the text of h begins with the prefix
           sum over t of p(t | h) Z(h t)          while it is a proper prefix of it
           0                                      if it contradicts it, or the string ended
    q(t | h) = p(t | h) Z(h t) / Z(h)

*exact* evaluates all histories in one forward pass (their number is known before it), or, of a
model whose histories share nothing (`Costly`), the likeliest first until no share worth counting is
left. *beam* keeps the likeliest at every byte of the prefix, *canonical* those that the tokenizer
itself would write (2410.09303, 2506.07956): what they leave out is bounded by its probability so
far, since no Z exceeds 1. Covers of a string by tokens: 2412.03719.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskdiff.config import CompletionConfig
from maskdiff.decoding.histories import (
    CoverKey,
    Goal,
    Histories,
    count,
    enumerate_histories,
    from_sequences,
    roots,
)
from maskdiff.errors import CanvasError, ConfigError, nearest, quote
from maskdiff.models.continuation import ROOT, Canonical, Continuation, Costly, HistoryTree

CONDITION_MODES = ("auto", "exact", "beam", "canonical")
# Log-probabilities that exact mode keeps at most (2 GiB); it bounds the budget.
CELLS = 2**28
# Latent states that widen the beam: some are far likelier early than they turn out to be.
SPREAD = 16
HEAD = 8  # times the beam: histories that are evaluated together before pruning starts
TOGETHER = 64  # histories of a costly model that are evaluated together, the likeliest first


@dataclass
class Growth:
    """Histories with their distributions, while the set of them grows.

    Attributes:
        log_next: (nodes, vocab) log p(next token), a part for every call.
        log_p: (nodes,) of each history.
        log_dropped: Of what was left out.
        log_covered: Of the goal found so far, where it is counted: a lower bound of Z.
    """

    histories: Histories
    tree: HistoryTree
    log_prior: Tensor
    log_next: list[Tensor] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)
    log_dropped: float = -math.inf
    log_covered: float = -math.inf

    def evaluate(self, log_p: list[float] | None = None) -> None:
        """Evaluate the new nodes in one call; `log_p` of each, if it is known."""
        first, tree = len(self.log_p), self.histories
        if first == len(tree):
            return
        parents, tokens = torch.tensor(tree.parent[first:]), torch.tensor(tree.token[first:])
        rows = self.tree.extend(parents, tokens)
        self.log_next.append(rows)
        if log_p is None:  # no parent is of an earlier call
            inner = parents != ROOT
            own = self.log_prior.double().cpu()[torch.where(inner, 0, tokens)]
            own[inner] = rows[parents[inner], tokens[inner]].double().cpu()
            log_p = own.tolist()
            for node, parent in enumerate(tree.parent):
                if parent != ROOT:
                    log_p[node] += log_p[parent]
        self.log_p += log_p

    def drop(self, log_probs: Tensor) -> None:
        """Count histories (n,) that are left out: their probability bounds their part of Z."""
        if len(log_probs):
            self.log_dropped = float(
                np.logaddexp(float(log_probs.double().logsumexp(0)), self.log_dropped)
            )

    def cover(self, goal: Goal, first: int) -> None:
        """Add to Z the covering tokens of the nodes from `first` on, which were evaluated last."""
        tree, rows = self.histories, self.log_next[-1]
        alike: dict[CoverKey, list[int]] = {}
        for node in range(first, len(tree)):
            alike.setdefault(
                goal.key(tree.offset[node], tree.depth[node], tree.latent[node]), []
            ).append(node)
        for key, nodes in alike.items():
            if ids := goal.covers(key):
                own = torch.tensor([self.log_p[node] for node in nodes], dtype=torch.float64)
                found = (
                    rows[[node - first for node in nodes]][:, ids].double().cpu().logsumexp(1) + own
                )
                self.log_covered = float(np.logaddexp(self.log_covered, float(found.logsumexp(0))))


@dataclass(frozen=True)
class Summary:
    """Result and cost of conditioning."""

    mode: str
    log_z: float  # log p(a string begins with the prefix), nats; a lower bound if `dropped`
    # Upper bound of the share of p(prefix) in histories that were left out, and so of the total
    # variation of the first draws.
    dropped: float
    histories: int  # that were evaluated
    calls: int  # forward passes
    positions: int  # tokens that they evaluated


class Conditioned:
    """A model conditioned on a goal; `log_z` (nodes,) and `log_q` for the histories in the tree."""

    def __init__(
        self,
        model: Continuation,
        goal: Goal,
        mode: str,
        growth: Growth,
        only: dict[int, list[int]] | None,
    ) -> None:
        self.model, self.goal, self.histories, self.tree = (
            model,
            goal,
            growth.histories,
            growth.tree,
        )
        self._only = only  # the covering tokens of each node, where not all of them count
        self._covers: dict[Any, Tensor] = {}
        self.log_next = (
            torch.cat(growth.log_next) if growth.log_next else torch.empty(0, len(model.table))
        )
        self.log_p = torch.tensor(growth.log_p, dtype=torch.float64)
        self.log_z = self._masses()
        self.log_root = self._root_masses()
        log_z = float(self.log_root.logsumexp(0)) if len(self.log_root) else -math.inf
        self.log_dropped = float(np.logaddexp(growth.log_dropped, model.latent_states.log_dropped))
        if log_z == -math.inf:
            raise CanvasError(
                self._impossible() if self.log_dropped == -math.inf else self._lost(mode)
            )
        dropped = math.exp(self.log_dropped - float(np.logaddexp(log_z, self.log_dropped)))
        calls, positions = model.latent_states.spent
        cost = calls + self.tree.calls, positions + self.tree.positions
        self.summary = Summary(mode, log_z, dropped, len(self.histories), *cost)

    def covers(self, node: int) -> Tensor:
        """Ids of the tokens that reach the goal from a node, (n,)."""
        tree = self.histories
        key: int | CoverKey = self.goal.key(tree.offset[node], tree.depth[node], tree.latent[node])
        if self._only is not None:
            key = node
        if key not in self._covers:
            ids = (
                self.goal.covers(key)
                if isinstance(key, tuple)
                else (self._only or {}).get(node, [])
            )
            self._covers[key] = torch.tensor(ids, dtype=torch.int64)
        return self._covers[key]

    def leaves(self) -> list[tuple[int, int, float]]:
        """Every way to reach the goal: a history, the covering token after it, their log p."""
        found = []
        for node in range(len(self.histories)):
            ids = self.covers(node)
            log_p = self.log_p[node] + self.log_next[node][ids].double().cpu()
            found += [
                (node, token, own) for token, own in zip(ids.tolist(), log_p.tolist(), strict=True)
            ]
        return found

    def log_q(self, nodes: list[int]) -> Tensor:
        """log q(next token | history), (n, vocabulary) float64, for nodes of the tree."""
        out = torch.full((len(nodes), len(self.model.table)), -math.inf, dtype=torch.float64)
        for row, node in enumerate(nodes):
            ids, log_next = self.covers(node), self.log_next[node].double().cpu()
            out[row, ids] = log_next[ids]
            for child in self._children[node]:
                token = self.histories.token[child]
                out[row, token] = log_next[token] + self.log_z[child]
        log_z = self.log_z[nodes][:, None]
        return torch.where(
            log_z == -math.inf, -math.inf, out - log_z
        )  # no string of the goal comes by some nodes

    def _masses(self) -> Tensor:
        """log Z of every node, children before parents."""
        tree, n = self.histories, len(self.histories)
        self._children: list[list[int]] = [[] for _ in range(n)]
        for node, parent in enumerate(tree.parent):
            if parent != ROOT:
                self._children[parent].append(node)
        log_z = torch.full((n,), -math.inf, dtype=torch.float64)
        alike: dict[int, list[int]] = {}  # nodes with the same covering tokens
        for node in range(n):
            alike.setdefault(id(self.covers(node)), []).append(node)
        for group in alike.values():
            ids = self.covers(group[0])
            if len(ids):
                log_z[group] = self.log_next[group][:, ids].double().logsumexp(1).cpu()
        parents, tokens, depths = (
            torch.tensor(x, dtype=torch.int64) for x in (tree.parent, tree.token, tree.depth)
        )
        for level in range(max(tree.depth, default=0), 0, -1):
            here = (depths == level).nonzero()[:, 0]
            above = parents[here]
            up = self.log_next[above, tokens[here]].double().cpu() + log_z[here]
            top = log_z.clone().scatter_reduce(
                0, above, up, "amax"
            )  # the largest term of each parent's sum
            safe = torch.where(top == -math.inf, 0.0, top)
            total = (log_z - safe).exp().index_add(0, above, (up - safe[above]).exp())
            log_z = torch.where(top == -math.inf, -math.inf, safe + total.log())
        return log_z

    def _root_masses(self) -> Tensor:
        """(latent states,) log of prior times Z."""
        prior = self.model.latent_states.log_prior.double().cpu()
        log_z = torch.full_like(prior, -math.inf)
        for latent in range(len(prior)):
            root = self.histories.child.get((ROOT, latent))
            if root is not None:
                log_z[latent] = self.log_z[root]
            elif self.goal.reached(latent):
                log_z[latent] = 0.0
        return prior + log_z

    def _lost(self, mode: str) -> str:
        text = quote(self.goal.prefix.decode(errors="backslashreplace"))
        advice = "use exact mode, or a wider beam"
        return f"{mode} mode kept no history that reaches all of {text}; {advice}"

    def _impossible(self) -> str:
        latent_states, prefix = self.model.latent_states, self.goal.prefix
        text, end = (
            quote(part.decode(errors="backslashreplace")) for part in (prefix, latent_states.suffix)
        )
        begins = f"{'is' if self.goal.whole else 'begins with'} {text}" + (
            f" and ends with {end}" if latent_states.suffix else ""
        )
        most, reached = max(latent_states.limits, default=0), max(self.histories.offset, default=0)
        return (
            f"no string of at most {most} tokens {begins}: none goes on after byte {reached} of it"
        )


def condition(
    model: Continuation,
    prefix: bytes,
    mode: str = "auto",
    budget: int = CompletionConfig.budget,
    beam: int = CompletionConfig.beam,
    whole: bool = False,
) -> Conditioned:
    """The model given that its string begins with a prefix.

    Args:
        model: The model. prefix: The bytes that were typed. mode: `exact`, `beam`, `canonical`, or
        `auto`: exact for at most `budget` histories, else beam. budget: Histories that exact mode
        evaluates at most. beam: Width of the beam. whole: The string is the prefix, so that Z is
        the probability of the text.

    Raises:
        ConfigError: For an unknown mode, for more histories than the budget, and for canonical mode
            without a tokenizer.
        CanvasError: For an impossible prefix.
    """
    if mode not in CONDITION_MODES:
        raise ConfigError(
            f"mode {quote(mode)} is unknown; the modes are {', '.join(CONDITION_MODES)}: "
            f"did you mean {nearest(mode, CONDITION_MODES)}?"
        )
    goal = Goal(model.table, model.latent_states, prefix, whole)
    budget = min(budget, CELLS // len(model.table))
    number = count(goal, budget)
    if mode == "auto":
        mode = "exact" if number <= budget else "beam"
    if mode == "exact":
        negligible = model.negligible if isinstance(model, Costly) else 0.0
        if negligible:
            growth = grow_likeliest(model, goal, negligible, budget)
        elif number > budget:
            raise _too_many(goal, budget)
        else:
            growth = Growth(enumerate_histories(goal), model.tree(), model.latent_states.log_prior)
            growth.evaluate()
        return Conditioned(model, goal, mode, growth, None)
    if mode == "canonical":
        return _canonical(model, goal)
    floor = model.floor if isinstance(model, Costly) else 0.0
    growth = grow_beam(model, goal, beam, floor)
    if (
        floor
        and growth.log_covered == -math.inf
        and not any(map(goal.reached, range(len(model.latent_states))))
    ):
        growth = grow_beam(model, goal, beam)  # what leads on was unlikely for long
    return Conditioned(model, goal, mode, growth, None)


def _too_many(goal: Goal, budget: int) -> ConfigError:
    return ConfigError(
        f"exact mode needs over {budget} histories for the {len(goal.prefix)} bytes typed; "
        "raise the budget, or use the modes that scale: beam (bounds what it leaves out) or "
        "canonical"
    )


def grow_likeliest(model: Continuation, goal: Goal, negligible: float, most: int) -> Growth:
    """Histories, the likeliest first, until the others add at most the share `negligible` to Z.

    No history can add more than its own probability.

    Raises:
        ConfigError: If `most` histories do not suffice.
    """
    growth = Growth(Histories(), model.tree(), model.latent_states.log_prior)
    tree, prior = growth.histories, model.latent_states.log_prior.tolist()
    reached = [prior[b] for b in range(len(prior)) if goal.reached(b)]
    growth.log_covered = float(np.logaddexp.reduce(reached, initial=-math.inf))
    # A heap of (-log p, parent, token, bytes explained).
    waiting = [(-prior[b], ROOT, b, 0) for b in roots(goal)]
    heapq.heapify(waiting)
    while waiting:
        left = float(np.logaddexp.reduce([-item[0] for item in waiting]))
        if left <= growth.log_covered + math.log(negligible):
            break
        if len(tree) >= most:
            raise _too_many(goal, most)
        taken = [heapq.heappop(waiting) for _ in range(min(TOGETHER, len(waiting)))]
        first = len(tree)
        for _, parent, token, offset in taken:
            tree.add(parent, token, offset)
        growth.evaluate([-cost for cost, *_ in taken])
        growth.cover(goal, first)
        for node, own, row in _roomy(growth, goal, range(first, len(tree))):
            steps = [
                *goal.steps[tree.offset[node]],
                *((token, tree.offset[node]) for token in goal.table.silent),
            ]
            values = row[[token for token, _ in steps]].tolist()
            for (token, end), value in zip(steps, values, strict=True):
                if value > -math.inf:
                    heapq.heappush(waiting, (-(own + value), node, token, end))
    growth.drop(torch.tensor([-item[0] for item in waiting], dtype=torch.float64))
    return growth


def _roomy(growth: Growth, goal: Goal, nodes: range) -> Iterator[tuple[int, float, Tensor]]:
    """Of the nodes evaluated last, those with room for more than a covering token.

    Each with its log p and that of the next token.
    """
    tree = growth.histories
    for node, row in zip(nodes, growth.log_next[-1] if len(nodes) else (), strict=True):
        if tree.depth[node] + 1 < goal.latent_states.limits[tree.latent[node]]:
            yield node, growth.log_p[node], row


def grow_beam(model: Continuation, goal: Goal, beam: int, floor: float = 0.0) -> Growth:
    """The likeliest `beam` histories at every byte, for each of (at most `SPREAD`) latent states.

    Histories of different lengths in tokens compete where they have explained the same text, those
    of all latent states together. The first bytes, while all their histories are few, are read in
    one pass without pruning. With a `floor` above 0, those that together have less than this share
    of the probability are left out at every byte, from the first on.
    """
    keep = min(beam * min(len(roots(goal)), SPREAD), CELLS // len(model.table))
    head, below = min(max(HEAD * beam, keep), CELLS // len(model.table)), 0
    while not floor and below <= goal.last and count(goal, head, below + 1) <= head:
        below += 1
    tree = enumerate_histories(goal, below, silent=False)
    growth = Growth(tree, model.tree(), model.latent_states.log_prior)
    growth.evaluate()
    # By bytes explained: (log p, parent, token).
    waiting: dict[int, list[tuple[float, int, int]]] = {}
    if below == 0:
        waiting[0] = [(float(model.latent_states.log_prior[b]), ROOT, b) for b in roots(goal)]
    _push(growth, goal, range(len(tree)), below, waiting)
    for offset in range(below, goal.last + 1):
        worth = _worth(growth, waiting, offset, floor) if floor else keep
        found = sorted(waiting.pop(offset, []), reverse=True)
        kept = min(keep, worth)
        growth.drop(torch.tensor([log_p for log_p, _, _ in found[kept:]], dtype=torch.float64))
        first = len(tree)
        for _, parent, token in found[:kept]:
            tree.add(parent, token, offset)
        growth.evaluate([log_p for log_p, _, _ in found[:kept]])
        if floor and first < len(tree):
            growth.cover(goal, first)
        _push(growth, goal, range(first, len(tree)), offset + 1, waiting)
    return growth


def _worth(
    growth: Growth, waiting: dict[int, list[tuple[float, int, int]]], offset: int, floor: float
) -> int:
    """How many of the likeliest histories that explain `offset` bytes are worth their cost.

    The others together have less than `floor` of the probability of all that explain as much or
    more.
    """
    here = sorted((log_p for log_p, _, _ in waiting.get(offset, [])), reverse=True)
    everything = [
        growth.log_covered,
        *(log_p for found in waiting.values() for log_p, _, _ in found),
    ]
    from_last = np.logaddexp.accumulate(here[::-1])[::-1] if here else np.empty(0)
    return int((from_last > np.logaddexp.reduce(everything) + math.log(floor)).sum())


def _push(
    growth: Growth,
    goal: Goal,
    nodes: range,
    below: int,
    waiting: dict[int, list[tuple[float, int, int]]],
) -> None:
    """Queue the children that explain `below` bytes or more; silent tokens are left out."""
    for node, own, row in _roomy(growth, goal, nodes):
        if goal.table.silent:
            growth.drop(own + row[list(goal.table.silent)])
        steps = [
            (token, reached)
            for token, reached in goal.steps[growth.histories.offset[node]]
            if reached >= below
        ]
        if steps:
            values = row[[token for token, _ in steps]].tolist()
            for (token, reached), value in zip(steps, values, strict=True):
                waiting.setdefault(reached, []).append((own + value, node, token))


def _canonical(model: Continuation, goal: Goal) -> Conditioned:
    """Only histories that the tokenizer would write, and covering tokens that it would add."""
    if not isinstance(model, Canonical):
        raise ConfigError("canonical mode needs a model with its tokenizer; use exact or beam")
    cuts = model.encode([goal.prefix[:size] for size in range(goal.last + 1)])
    tree = from_sequences(goal, [tokens for tokens in cuts if tokens is not None])
    growth = Growth(tree, model.tree(), model.latent_states.log_prior)
    growth.evaluate()
    only = _written(model, goal, tree)
    if not any(only.values()) and not any(goal.reached(b) for b in range(len(goal.latent_states))):
        text = quote(goal.prefix.decode(errors="backslashreplace"))
        raise CanvasError(f"the tokenizer would write no string that begins with {text}; use beam")
    onward: list[set[int]] = [set(only[node]) for node in range(len(tree))]
    for token, parent in zip(tree.token, tree.parent, strict=True):
        if parent != ROOT:
            onward[parent].add(token)
    for node, kept in enumerate(onward):
        ids = goal.covers(goal.key(tree.offset[node], tree.depth[node], tree.latent[node]))
        matching = {
            *ids,
            *(token for token, _ in goal.steps[tree.offset[node]]),
            *goal.table.silent,
        } - kept
        growth.drop(growth.log_p[node] + growth.log_next[0][node, sorted(matching)])
    return Conditioned(model, goal, "canonical", growth, only)


def _written(model: Canonical, goal: Goal, tree: Histories) -> dict[int, list[int]]:
    """The covering tokens that the tokenizer would add to each node."""
    pairs: list[tuple[int, int]] = []
    for node in range(len(tree)):
        key = goal.key(tree.offset[node], tree.depth[node], tree.latent[node])
        pairs += [(node, token) for token in goal.covers(key)]
    cuts = model.encode(
        [
            goal.prefix[: tree.offset[node]] + (goal.table.texts[token] or b"")
            for node, token in pairs
        ]
    )
    only: dict[int, list[int]] = {node: [] for node in range(len(tree))}
    for (node, token), cut in zip(pairs, cuts, strict=True):
        if token in goal.table.ends or cut == [*tree.path(node), token]:
            only[node].append(token)
    return only
