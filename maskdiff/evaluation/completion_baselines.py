"""How other tools complete typed text: proposals of the next token, to compare with the exact one.

- naive mask: p(t | h) of the tokens that do not contradict the prefix, normalised at each step;
- position table: looks ahead, with Z as a function of the bytes explained alone, found along one
  history for each of them;
- token healing: the tokens of the prefix without the last one, then any token whose text begins
  with that of the last one (`heal_tokens` of transformers, guidance);
- as they fall: the tokens of the prefix, whatever they exclude of what was meant to follow;
- rejection: strings of the model until they begin with the prefix, exact, at 1 / p(prefix) draws.

A proposal that runs into a dead end, or forces tokens that never reach the end of the prefix, loses
its mass: a comparison that renormalised the rest would flatter it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maskdiff.decoding.completion import Completion
from maskdiff.decoding.condition import Conditioned
from maskdiff.decoding.histories import Goal
from maskdiff.decoding.loop import Batch, Noise, decode
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import pick
from maskdiff.drawing.settings import Draw
from maskdiff.drawing.stopping import EOS, LENGTH
from maskdiff.models.continuation import ROOT, Canonical, Continuation, HistoryTree, TreeStream

History = tuple[int, ...]


class Baseline(Protocol):
    """A distribution of the next token while the prefix is not covered."""

    @property
    def name(self) -> str: ...

    def log_q(self, histories: Sequence[History]) -> Tensor:
        """(n, vocab) float64 log q(next token | history); all -inf at a dead end."""
        ...


class Reading:
    """log p after single histories of a model of one latent state, each evaluated once."""

    def __init__(self, model: Continuation) -> None:
        if len(model.latent_states) != 1:
            raise ValueError(
                "baselines are for models with one latent state; "
                f"this one has {len(model.latent_states)}"
            )
        self.model, self.tree = model, model.tree()
        self._node: dict[History, int] = {}
        self._rows: list[Tensor] = []

    def __call__(self, histories: Sequence[History]) -> Tensor:
        """log p(next token | history), (n, vocabulary) float64; what is new in one forward pass."""
        parents, tokens = [], []
        for history in histories:
            for size in range(len(history) + 1):
                if history[:size] not in self._node:
                    self._node[history[:size]] = len(self._node)
                    parents.append(self._node[history[: size - 1]] if size else ROOT)
                    tokens.append(history[size - 1] if size else 0)
        if parents:
            self._rows += (
                self.tree.extend(torch.tensor(parents), torch.tensor(tokens)).double().cpu()
            )
        return torch.stack([self._rows[self._node[history]] for history in histories])


@dataclass(frozen=True)
class Masked:
    """p(t | h) times a weight (bytes + 1,) of the bytes explained then, normalised each step."""

    name: str
    goal: Goal
    read: Reading
    log_weight: Tensor

    def log_q(self, histories: Sequence[History]) -> Tensor:
        """See `Baseline.log_q`."""
        log_p = self.read(histories)
        out = torch.full_like(log_p, -math.inf)
        for row, history in enumerate(histories):
            tokens, reached = _moves(self.goal, history)
            out[row, tokens] = log_p[row, tokens] + self.log_weight[reached]
        return _normal(out)


@dataclass(frozen=True)
class Forced:
    """Forced tokens; then, unless `heal` is None, one whose text begins with it."""

    name: str
    goal: Goal
    read: Reading
    forced: History | None  # None: the prefix could not be cut
    heal: bytes | None

    def log_q(self, histories: Sequence[History]) -> Tensor:
        """See `Baseline.log_q`."""
        out = torch.full((len(histories), len(self.goal.table)), -math.inf, dtype=torch.float64)
        for row, history in enumerate(histories):
            size = len(history)
            if self.forced is None or history != self.forced[:size]:
                continue
            if size < len(self.forced):
                out[row, self.forced[size]] = 0.0
            elif self.heal is not None:
                tokens = self.goal.table.covering(self.heal)
                out[row, tokens] = self.read([history])[0, tokens]
        return _normal(out)


def naive_mask(model: Continuation, prefix: bytes) -> Masked:
    """Tokens that contradict the prefix are forbidden, without a look-ahead."""
    return Masked(
        "naive mask",
        _goal(model, prefix),
        Reading(model),
        torch.zeros(len(prefix) + 1, dtype=torch.float64),
    )


def position_table(model: Continuation, prefix: bytes) -> Masked:
    """The masses along one history for each number of bytes, taken for all such histories.

        Z(c) = sum over t of p(t | history of c) Z(c + bytes of t)

    Silent tokens move nothing: those before the next other token are a geometric series.
    """
    goal, read = _goal(model, prefix), Reading(model)
    log_z = torch.full((len(prefix) + 1,), -math.inf, dtype=torch.float64)
    log_z[-1] = 0.0
    for offset, history in reversed(list(enumerate(_representatives(goal, read)))):
        if history is None:
            continue
        row = read([history])[0]
        tokens, reached = _moves(goal, history)
        onward = (row[tokens] + log_z[reached]).logsumexp(
            0
        )  # a silent token adds nothing: log_z[offset] is still -inf
        if onward > -math.inf:
            log_z[offset] = onward - torch.log1p(-row[list(goal.table.silent)].exp().sum())
    return Masked("position table", goal, read, log_z)


def token_healing(model: Continuation, prefix: bytes) -> Forced:
    """A token that begins with the text of the last token of the prefix replaces that one."""
    goal, tokens = _goal(model, prefix), _cut(model, prefix)
    heal = goal.table.text(tokens[-1:]) if tokens else None
    return Forced(
        "token healing", goal, Reading(model), None if tokens is None else tokens[:-1], heal
    )


def as_they_fall(model: Continuation, prefix: bytes) -> Forced:
    """The prefix is a prompt: the model continues its tokens."""
    return Forced(
        "prompt tokens as they fall",
        _goal(model, prefix),
        Reading(model),
        _cut(model, prefix),
        None,
    )


PROPOSALS = (naive_mask, position_table, token_healing, as_they_fall)


@dataclass(frozen=True)
class ConditionedBaseline:
    """A conditioned model of one latent state as a baseline; dropped histories have no mass."""

    conditioned: Conditioned

    @property
    def name(self) -> str:
        return self.conditioned.summary.mode

    def log_q(self, histories: Sequence[History]) -> Tensor:
        """See `Baseline.log_q`."""
        out = torch.full(
            (len(histories), len(self.conditioned.model.table)), -math.inf, dtype=torch.float64
        )
        nodes = [self._node(history) for history in histories]
        index = [i for i, node in enumerate(nodes) if node is not None]
        if index:
            out[index] = self.conditioned.log_q([node for node in nodes if node is not None])
        return out

    def _node(self, history: History) -> int | None:
        node = self.conditioned.histories.child.get((ROOT, 0))
        for token in history:
            node = None if node is None else self.conditioned.histories.child.get((node, token))
        return node


def leaves(proposal: Baseline | Conditioned, goal: Goal) -> dict[History, float]:
    """Probability of each history whose last token covers the prefix.

    They sum to 1 less what the proposal loses.
    """
    _check(goal)
    if goal.reached(0):
        return {(): 1.0}
    baseline: Baseline = (
        ConditionedBaseline(proposal) if isinstance(proposal, Conditioned) else proposal
    )
    found: dict[History, float] = {}
    level: list[tuple[History, float]] = [((), 0.0)]
    while level:
        log_q, following = baseline.log_q([history for history, _ in level]), []
        for (history, log_p), row in zip(level, log_q, strict=True):
            tokens, reached = _moves(goal, history)
            for token, size, own in zip(tokens, reached, row[tokens].tolist(), strict=True):
                if own == -math.inf:
                    continue
                if size == len(goal.prefix):
                    found[(*history, token)] = math.exp(log_p + own)
                else:
                    following.append(((*history, token), log_p + own))
        level = following
    return found


def total_variation(p: dict[History, float], q: dict[History, float]) -> float:
    """Half the sum of |p - q|; what either lacks of 1 is one more outcome."""
    lost = [max(0.0, 1.0 - sum(one.values())) for one in (p, q)]
    return 0.5 * (
        sum(abs(p.get(x, 0.0) - q.get(x, 0.0)) for x in {*p, *q}) + abs(lost[0] - lost[1])
    )


@dataclass(frozen=True)
class Rejection:
    """Result and cost of rejection sampling.

    Attributes:
        completions: The accepted strings.
        draws: Strings until the last one that was accepted; all of them if more were wanted.
        calls: Forward passes, of whole batches.
        positions: Tokens that they evaluated.
    """

    completions: list[Completion]
    draws: int
    calls: int
    positions: int


def reject(
    model: Continuation,
    prefix: bytes,
    n: int,
    most: int,
    generator: torch.Generator,
    batch: int = 1024,
) -> Rejection:
    """Up to `n` strings that begin with the prefix, among at most `most` strings of the model."""
    goal = _goal(model, prefix)
    accepted: list[Completion] = []
    draws = calls = positions = spent = 0
    while len(accepted) < n and spent < most:
        size = min(batch, most - spent)
        made, tree = _strings(model, goal, size, generator)
        kept = list(made)[: n - len(accepted)]
        accepted += [made[i] for i in kept]
        draws = spent + (1 + kept[-1] if len(accepted) == n else size)
        spent, calls, positions = spent + size, calls + tree.calls, positions + tree.positions
    return Rejection(accepted, draws, calls, positions)


def _strings(
    model: Continuation, goal: Goal, size: int, generator: torch.Generator
) -> tuple[dict[int, Completion], HistoryTree]:
    """Strings of one batch that reach the goal, by number, and the tree that was used up."""
    tree = model.tree()
    root = tree.extend(torch.tensor([ROOT]), torch.tensor([0])).double().cpu()
    stream = TreeStream(tree, torch.zeros(size, dtype=torch.int64), 1)  # all share the root
    strings = _Candidates(model, goal, size)
    batch = Batch(sequential_noise(generator, root.shape[1]))
    for _ in decode(stream, root.expand(size, -1), strings, batch, Draw()):
        pass
    return strings.accepted(), tree


class _Candidates:
    """Strings that go on while they do not contradict a prefix; see `GrowingStrings`."""

    history: TokenHistory | None = None
    free = None

    def __init__(self, model: Continuation, goal: Goal, size: int) -> None:
        self.model, self.goal, self.latent_states = model, goal, model.latent_states
        self.ends = torch.tensor(model.table.ends, dtype=torch.int64)
        self.inner = _transitions(goal, False)
        self.last = _transitions(goal, self.latent_states.closed)
        self.written = torch.full((size, self.latent_states.limits[0]), -1)
        prior = float(self.latent_states.log_prior[0])
        self.log_p = torch.full((size,), prior, dtype=torch.float64)
        self.offset = torch.zeros(size, dtype=torch.int64)  # bytes explained, -1: a contradiction
        self.length = torch.zeros(size, dtype=torch.int64)  # of the strings that reach the goal
        self.whole = torch.zeros(size, dtype=torch.bool)
        self.depth = 0

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `GrowingStrings.write`."""
        self.written[rows, self.depth] = tokens
        self.log_p[rows] += pick(scores, tokens)
        self.depth += 1
        full = self.depth == self.latent_states.limits[0]
        offset = (self.last if full else self.inner)[self.offset[rows], tokens]
        self.offset[rows] = offset
        ended = torch.isin(tokens, self.ends)
        found = (ended | full) & (offset == len(self.goal.prefix))
        self.length[rows[found]] = self.depth
        self.whole[rows[found]] = ended[found] | self.latent_states.closed
        return ~(ended | full) & (offset >= 0)

    def accepted(self) -> dict[int, Completion]:
        """The strings that begin with the prefix, by number."""
        made, latent_states = {}, self.latent_states
        for i in self.length.nonzero()[:, 0].tolist():
            ids, whole = tuple(self.written[i, : self.length[i]].tolist()), bool(self.whole[i])
            data = self.model.table.text(ids)
            data += latent_states.tail(0) + latent_states.suffix if whole else b""
            reason = EOS if whole else LENGTH
            made[i] = Completion(data, ids, float(self.log_p[i]), reason, len(ids))
        return made


def sequential_noise(generator: torch.Generator, vocab_size: int) -> Noise:
    """Gumbel noise from a generator; draws with it are those of `torch.multinomial`."""

    def noise(rows: Tensor, step: int) -> Tensor:
        drawn = torch.empty(len(rows), vocab_size, dtype=torch.float64)
        return -drawn.exponential_(generator=generator).log()

    return noise


def follow(
    rows: Callable[[Sequence[History]], Tensor],
    ended: Callable[[History], bool],
    draw: Draw,
    generator: torch.Generator | None = None,
) -> tuple[History, bool]:
    """One history drawn from distributions of the next token.

    Args:
        rows: (n, vocab) log-probabilities of the next token after n histories.
        ended: Whether a history ends with its last token.
        draw: Settings of the draws.
        generator: Of the random numbers, for temperatures above 0.

    Returns:
        The history, and whether it has ended; else it ran into a dead end.
    """
    strings, scores = _History(rows, ended), rows([()])
    batch = Batch(sequential_noise(generator or torch.Generator(), scores.shape[1]))
    for _ in decode(strings, scores, strings, batch, draw):
        pass
    return strings.path, strings.ended


class _History:
    """One history as `CausalStream` and as `GrowingStrings`."""

    history: TokenHistory | None = None
    free = None

    def __init__(
        self, rows: Callable[[Sequence[History]], Tensor], ends: Callable[[History], bool]
    ) -> None:
        self.rows, self.ends = rows, ends
        self.path: History = ()
        self.ended = False

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `GrowingStrings.write`; nothing is drawn where no token has any probability."""
        if float(scores.max()) == -math.inf:
            return torch.tensor([False])
        self.path = (*self.path, int(tokens))
        self.ended = self.ends(self.path)
        return torch.tensor([not self.ended])

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`."""
        return self.rows([self.path])

    def select(self, rows: Tensor) -> _History:
        """See `CausalStream.select`."""
        return self


def _transitions(goal: Goal, last: bool) -> Tensor:
    """(bytes + 1, vocab) bytes explained after each token, -1 where it contradicts the prefix."""
    n = len(goal.prefix)
    table = torch.full((n + 1, len(goal.table)), -1)
    table[n] = n
    for offset in range(n):
        for token, reached in goal.steps[offset]:
            table[offset, token] = reached
        table[offset, list(goal.table.silent)] = offset
        table[offset, goal.covers((offset, last, goal.latent_states.tail(0) if last else b""))] = n
    return table


def _check(goal: Goal) -> None:
    if len(goal.latent_states) != 1 or goal.latent_states.limits[0] == 0 or goal.whole:
        raise ValueError(
            "baselines are for models with one latent state and room for a token, "
            "and for prefixes, not whole texts"
        )


def _goal(model: Continuation, prefix: bytes) -> Goal:
    goal = Goal(model.table, model.latent_states, prefix)
    _check(goal)
    return goal


def _moves(goal: Goal, history: History) -> tuple[list[int], list[int]]:
    """Tokens that do not contradict the prefix after a history, and the bytes explained then."""
    offset = len(goal.table.text(history))
    tokens = goal.covers(goal.key(offset, len(history), 0))
    reached = [len(goal.prefix)] * len(tokens)
    if len(history) + 1 < goal.latent_states.limits[0]:
        tokens = [*tokens, *(token for token, _ in goal.steps[offset]), *goal.table.silent]
        reached += [*(size for _, size in goal.steps[offset]), *[offset] * len(goal.table.silent)]
    return tokens, reached


def _normal(log_q: Tensor) -> Tensor:
    """Rows (n, vocabulary) normalised; those without any mass stay so."""
    total = log_q.logsumexp(1, keepdim=True)
    return log_q - torch.where(total == -math.inf, 0.0, total)


def _cut(model: Continuation, prefix: bytes) -> History | None:
    """The tokens of a prefix; without a tokenizer, or for no text, the longest token each time."""
    known = model.encode([prefix])[0] if isinstance(model, Canonical) else None
    if known is not None:
        return tuple(known)
    tokens: list[int] = []
    while rest := prefix[len(model.table.text(tokens)) :]:
        ids = model.table.inside(rest, whole=True)
        if not ids:
            return None
        tokens.append(max(ids, key=lambda token: len(model.table.texts[token] or b"")))
    return tuple(tokens)


def _representatives(goal: Goal, read: Reading) -> list[History | None]:
    """One history for each number of bytes: the tokenizer's, else the likeliest so far."""
    n, limit, model = len(goal.prefix), goal.latent_states.limits[0], read.model
    cuts: list[History | None] = [None] * n
    if isinstance(model, Canonical):
        known = model.encode([goal.prefix[:size] for size in range(n)])
        cuts = [tuple(cut) if cut is not None and len(cut) < limit else None for cut in known]
        read([cut for cut in cuts if cut is not None])
    best: list[tuple[float, History]] = [(-math.inf if offset else 0.0, ()) for offset in range(n)]
    for offset, cut in enumerate(cuts):
        if cut is not None:
            best[offset] = (
                sum(float(read([cut[:size]])[0, token]) for size, token in enumerate(cut)),
                cut,
            )
        log_p, history = best[offset]
        if log_p == -math.inf or len(history) + 1 >= limit:
            continue
        row = read([history])[0]
        for token, reached in goal.steps[offset]:
            if log_p + float(row[token]) > best[reached][0]:
                best[reached] = log_p + float(row[token]), (*history, token)
    return [history if log_p > -math.inf else None for log_p, history in best]
