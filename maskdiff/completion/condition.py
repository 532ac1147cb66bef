"""The next token given what was typed: p(t | history) conditioned on a string that begins with the prefix.

For: `condition` and its modes, the masses Z, and q. Not for: drawing (`decode.py`). Easy to get wrong: the state is the history
of tokens, not the place in the text, and the probability of a token that is forced still counts: it weighs the history against
others.

    Z(h) = 1                                        if the text of h begins with the prefix
           sum over t of p(t | h) Z(h t)            while it is a proper beginning of the prefix
           0                                        if it contradicts the prefix, or the string ended
    q(t | h) = p(t | h) Z(h t) / Z(h)

*exact* evaluates all histories in one forward pass (their number is known before it). *beam* keeps the likeliest at every byte
of the prefix, *canonical* those that the tokenizer itself would write (2410.09303, 2506.07956): what they leave out is bounded
by its probability so far, since no Z exceeds 1. Covers of a string by tokens: 2412.03719.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskdiff.completion.histories import CoverKey, Goal, Histories, count, enumerate_histories, from_sequences, roots
from maskdiff.completion.model import ROOT, Canonical, NextTokenModel, Reader
from maskdiff.config import CompletionConfig
from maskdiff.errors import CanvasError, ConfigError, nearest, quote

MODES = ("auto", "exact", "beam", "canonical")
CELLS = 2**28  # log-probabilities that exact mode keeps at most: 2 GiB, which lowers the budget of a large vocabulary
SPREAD = 16  # beginnings, each of which widens the beam: of several, some are far likelier early than they turn out to be
HEAD = 8  # times the beam: histories that it evaluates together before it starts to prune


@dataclass
class Growth:
    """A tree with what a model said of it: `log_next` (nodes, vocabulary), `log_p` (nodes,) of each history, and what was left
    out.
    """

    tree: Histories
    reader: Reader
    log_prior: Tensor
    log_next: list[Tensor] = field(default_factory=list)  # a part for every call
    log_p: list[float] = field(default_factory=list)
    log_dropped: float = -math.inf

    def evaluate(self, log_p: list[float] | None = None) -> None:
        """Ask the model about the nodes that it has not seen, in one call; `log_p` of each, where that is known before."""
        first, tree = len(self.log_p), self.tree
        if first == len(tree):
            return
        parents, tokens = torch.tensor(tree.parent[first:]), torch.tensor(tree.token[first:])
        rows = self.reader.extend(parents, tokens)
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
        """Count histories (n,) that are left out: their probability bounds what they would have added to Z."""
        if len(log_probs):
            self.log_dropped = float(np.logaddexp(float(log_probs.double().logsumexp(0)), self.log_dropped))


@dataclass(frozen=True)
class Summary:
    """What conditioning found and cost.

    log_z: log p(a string begins with the prefix), nats; in the modes that leave out histories a lower bound of it. dropped:
    upper bound of the share of p(prefix) that lies in those, and so of the total variation of the first draws; 0 where none are
    left out. mode: what was done. histories: how many were evaluated. calls, positions: forward passes, and the tokens that
    they evaluated.
    """

    mode: str
    log_z: float
    dropped: float
    histories: int
    calls: int
    positions: int


class Conditioned:
    """A model conditioned on a goal; `log_z` (nodes,) and `log_q` for the histories in the tree."""

    def __init__(self, model: NextTokenModel, goal: Goal, mode: str, growth: Growth, only: dict[int, list[int]] | None) -> None:
        self.model, self.goal, self.tree, self.reader = model, goal, growth.tree, growth.reader
        self._only = only  # the covering tokens of each node, where not all of them count
        self._covers: dict[Any, Tensor] = {}
        self.log_next = torch.cat(growth.log_next) if growth.log_next else torch.empty(0, len(model.table))
        self.log_p = torch.tensor(growth.log_p, dtype=torch.float64)
        self.log_z = self._masses()
        self.log_root = self._root_masses()
        log_z = float(self.log_root.logsumexp(0)) if len(self.log_root) else -math.inf
        self.log_dropped = float(np.logaddexp(growth.log_dropped, model.beginnings.log_dropped))
        if log_z == -math.inf:
            raise CanvasError(self._impossible() if self.log_dropped == -math.inf else self._lost(mode))
        dropped = math.exp(self.log_dropped - float(np.logaddexp(log_z, self.log_dropped)))
        calls, positions = model.beginnings.spent
        cost = calls + self.reader.calls, positions + self.reader.positions
        self.summary = Summary(mode, log_z, dropped, len(self.tree), *cost)

    def covers(self, node: int) -> Tensor:
        """Ids of the tokens that reach the goal from a node, (n,)."""
        tree = self.tree
        key: int | CoverKey = self.goal.key(tree.offset[node], tree.depth[node], tree.beginning[node])
        if self._only is not None:
            key = node
        if key not in self._covers:
            ids = self.goal.covers(key) if isinstance(key, tuple) else (self._only or {}).get(node, [])
            self._covers[key] = torch.tensor(ids, dtype=torch.int64)
        return self._covers[key]

    def leaves(self) -> list[tuple[int, int, float]]:
        """Every way to reach the goal: a node of the tree, the covering token after it, and their log p together."""
        found = []
        for node in range(len(self.tree)):
            ids = self.covers(node)
            log_p = self.log_p[node] + self.log_next[node][ids].double().cpu()
            found += [(node, token, own) for token, own in zip(ids.tolist(), log_p.tolist(), strict=True)]
        return found

    def log_q(self, nodes: list[int]) -> Tensor:
        """log q(next token | history), (n, vocabulary) float64, for nodes of the tree."""
        out = torch.full((len(nodes), len(self.model.table)), -math.inf, dtype=torch.float64)
        for row, node in enumerate(nodes):
            ids, log_next = self.covers(node), self.log_next[node].double().cpu()
            out[row, ids] = log_next[ids]
            for child in self._children[node]:
                token = self.tree.token[child]
                out[row, token] = log_next[token] + self.log_z[child]
        log_z = self.log_z[nodes][:, None]
        return torch.where(log_z == -math.inf, -math.inf, out - log_z)  # no string of the goal comes by some nodes

    def _masses(self) -> Tensor:
        """log Z of every node, children before parents."""
        tree, n = self.tree, len(self.tree)
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
        parents, tokens, depths = (torch.tensor(x, dtype=torch.int64) for x in (tree.parent, tree.token, tree.depth))
        for level in range(max(tree.depth, default=0), 0, -1):
            here = (depths == level).nonzero()[:, 0]
            above = parents[here]
            up = self.log_next[above, tokens[here]].double().cpu() + log_z[here]
            top = log_z.clone().scatter_reduce(0, above, up, "amax")  # the largest term of each parent's sum
            safe = torch.where(top == -math.inf, 0.0, top)
            total = (log_z - safe).exp().index_add(0, above, (up - safe[above]).exp())
            log_z = torch.where(top == -math.inf, -math.inf, safe + total.log())
        return log_z

    def _root_masses(self) -> Tensor:
        """(beginnings,) log of prior times Z."""
        prior = self.model.beginnings.log_prior.double().cpu()
        log_z = torch.full_like(prior, -math.inf)
        for beginning in range(len(prior)):
            root = self.tree.child.get((ROOT, beginning))
            if root is not None:
                log_z[beginning] = self.log_z[root]
            elif self.goal.reached(beginning):
                log_z[beginning] = 0.0
        return prior + log_z

    def _lost(self, mode: str) -> str:
        text = quote(self.goal.prefix.decode(errors="backslashreplace"))
        return f"{mode} mode kept no history that reaches all of {text}; use exact mode, or a wider beam"

    def _impossible(self) -> str:
        beginnings, prefix = self.model.beginnings, self.goal.prefix
        text, end = (quote(part.decode(errors="backslashreplace")) for part in (prefix, beginnings.suffix))
        begins = f"{'is' if self.goal.whole else 'begins with'} {text}" + (f" and ends with {end}" if beginnings.suffix else "")
        most, reached = max(beginnings.limits, default=0), max(self.tree.offset, default=0)
        return f"no string of at most {most} tokens {begins}: none goes on after byte {reached} of it"


def condition(
    model: NextTokenModel,
    prefix: bytes,
    mode: str = "auto",
    budget: int = CompletionConfig.budget,
    beam: int = CompletionConfig.beam,
    whole: bool = False,
) -> Conditioned:
    """The model given that its string begins with `prefix` (with `whole`: is it, so that Z is the probability of the text).

    `auto` is exact where the histories are at most `budget`, else beam. Raises ConfigError for an unknown mode, for more
    histories than exact mode may evaluate, and for canonical mode without a tokenizer; CanvasError for an impossible prefix.
    """
    if mode not in MODES:
        raise ConfigError(
            f"mode {quote(mode)} is unknown; the modes are {', '.join(MODES)}: did you mean {nearest(mode, MODES)}?"
        )
    goal = Goal(model.table, model.beginnings, prefix, whole)
    budget = min(budget, CELLS // len(model.table))
    number = count(goal, budget)
    if mode == "auto":
        mode = "exact" if number <= budget else "beam"
    if mode == "exact":
        if number > budget:
            raise ConfigError(
                f"exact mode needs over {budget} histories for the {len(prefix)} bytes typed; "
                "raise the budget, or use the modes that scale: beam (bounds what it leaves out) or canonical"
            )
        growth = Growth(enumerate_histories(goal), model.reader(), model.beginnings.log_prior)
        growth.evaluate()
        return Conditioned(model, goal, mode, growth, None)
    if mode == "canonical":
        return _canonical(model, goal)
    return Conditioned(model, goal, mode, grow_beam(model, goal, beam), None)


def grow_beam(model: NextTokenModel, goal: Goal, beam: int) -> Growth:
    """The likeliest `beam` histories at every byte of the goal, for each of (at most `SPREAD`) beginnings.

    Histories of different lengths in tokens compete where they have explained the same text, those of all beginnings together.
    The first bytes, while all their histories are few, are read in one pass without pruning.
    """
    keep = min(beam * min(len(roots(goal)), SPREAD), CELLS // len(model.table))
    head, below = min(max(HEAD * beam, keep), CELLS // len(model.table)), 0
    while below <= goal.last and count(goal, head, below + 1) <= head:
        below += 1
    tree = enumerate_histories(goal, below, silent=False)
    growth = Growth(tree, model.reader(), model.beginnings.log_prior)
    growth.evaluate()
    waiting: dict[int, list[tuple[float, int, int]]] = {}  # bytes explained -> (log p, parent, token)
    if below == 0:
        waiting[0] = [(float(model.beginnings.log_prior[b]), ROOT, b) for b in roots(goal)]
    _push(growth, goal, range(len(tree)), below, waiting)
    for offset in range(below, goal.last + 1):
        found = sorted(waiting.pop(offset, []), reverse=True)
        growth.drop(torch.tensor([log_p for log_p, _, _ in found[keep:]], dtype=torch.float64))
        first = len(tree)
        for _, parent, token in found[:keep]:
            tree.add(parent, token, offset)
        growth.evaluate([log_p for log_p, _, _ in found[:keep]])
        _push(growth, goal, range(first, len(tree)), offset + 1, waiting)
    return growth


def _push(growth: Growth, goal: Goal, nodes: range, below: int, waiting: dict[int, list[tuple[float, int, int]]]) -> None:
    """Put the children of nodes that explain `below` bytes or more in the queue; silent tokens are left out, and counted."""
    if not len(nodes):
        return
    tree, log_next = growth.tree, growth.log_next[-1]
    first = len(tree) - len(log_next)
    for node in nodes:
        if tree.depth[node] + 1 >= goal.beginnings.limits[tree.beginning[node]]:
            continue
        own, row = growth.log_p[node], log_next[node - first]
        if goal.table.silent:
            growth.drop(own + row[list(goal.table.silent)])
        steps = [(token, reached) for token, reached in goal.steps[tree.offset[node]] if reached >= below]
        if steps:
            values = row[[token for token, _ in steps]].tolist()
            for (token, reached), value in zip(steps, values, strict=True):
                waiting.setdefault(reached, []).append((own + value, node, token))


def _canonical(model: NextTokenModel, goal: Goal) -> Conditioned:
    """Only histories that the tokenizer would write, and only covering tokens with which it would go on from them."""
    if not isinstance(model, Canonical):
        raise ConfigError("canonical mode needs a model with its tokenizer; use exact or beam")
    cuts = model.encode([goal.prefix[:size] for size in range(goal.last + 1)])
    tree = from_sequences(goal, [tokens for tokens in cuts if tokens is not None])
    growth = Growth(tree, model.reader(), model.beginnings.log_prior)
    growth.evaluate()
    only = _written(model, goal, tree)
    if not any(only.values()) and not any(goal.reached(b) for b in range(len(goal.beginnings))):
        text = quote(goal.prefix.decode(errors="backslashreplace"))
        raise CanvasError(f"the tokenizer would write no string that begins with {text}; use beam")
    onward: list[set[int]] = [set(only[node]) for node in range(len(tree))]
    for token, parent in zip(tree.token, tree.parent, strict=True):
        if parent != ROOT:
            onward[parent].add(token)
    for node, kept in enumerate(onward):
        ids = goal.covers(goal.key(tree.offset[node], tree.depth[node], tree.beginning[node]))
        matching = {*ids, *(token for token, _ in goal.steps[tree.offset[node]]), *goal.table.silent} - kept
        growth.drop(growth.log_p[node] + growth.log_next[0][node, sorted(matching)])
    return Conditioned(model, goal, "canonical", growth, only)


def _written(model: Canonical, goal: Goal, tree: Histories) -> dict[int, list[int]]:
    """The covering tokens with which the tokenizer would go on from each node."""
    pairs: list[tuple[int, int]] = []
    for node in range(len(tree)):
        key = goal.key(tree.offset[node], tree.depth[node], tree.beginning[node])
        pairs += [(node, token) for token in goal.covers(key)]
    cuts = model.encode([goal.prefix[: tree.offset[node]] + (goal.table.texts[token] or b"") for node, token in pairs])
    only: dict[int, list[int]] = {node: [] for node in range(len(tree))}
    for (node, token), cut in zip(pairs, cuts, strict=True):
        if token in goal.table.ends or cut == [*tree.path(node), token]:
            only[node].append(token)
    return only
