"""Methods of completing a prefix, each as a distribution of the next token.

For each method: one draw, the probability that it gives to a whole text, and its likeliest next
token. The probability of a text is a sum over its cuts into tokens, also behind the prefix;
comparing one cut would punish a method that spreads its mass over several.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maskdiff.decoding import Canonical, Conditioned, Continuation, Decoding, condition
from maskdiff.decoding.histories import Goal
from maskdiff.drawing.random import new_keys
from maskdiff.drawing.settings import Draw
from maskdiff.evaluation.completion_baselines import (
    Baseline,
    History,
    Reading,
    as_they_fall,
    follow,
    naive_mask,
    position_table,
    token_healing,
)

BASELINES: dict[str, Callable[[Continuation, bytes], Baseline]] = {
    "naive_mask": naive_mask,
    "position_table": position_table,
    "token_healing": token_healing,
    "as_they_fall": as_they_fall,
}
PREFIX_METHODS = ("exact", "beam", "canonical")
CUTS = 16  # cuts of the text so far that `text_log_prob` follows at every byte
Rows = Callable[[Sequence[History]], Tensor]


@dataclass(frozen=True)
class TimedCompletion:
    """One completion and its cost.

    Attributes:
        data: The text as bytes.
        prefix_calls: Forward passes before the prefix was covered.
        calls: All forward passes.
    """

    data: bytes
    prefix_calls: int
    calls: int
    seconds: float
    conditioned: Conditioned | None = None


def complete_once(model: Continuation, method: str, prefix: bytes, seed: int) -> TimedCompletion:
    """Complete a prefix by a mode or a baseline."""
    start, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    if method in PREFIX_METHODS:
        conditioned = condition(model, prefix, method)
        item = Decoding(conditioned, new_keys(1, generator)).run()[0]
        seconds, before = time.perf_counter() - start, conditioned.summary.calls
        return TimedCompletion(item.data, before, item.calls, seconds, conditioned)
    proposal = BASELINES[method](model, prefix)
    read = proposal.read  # type: ignore[attr-defined]  # all four have one
    goal = Goal(model.table, model.latent_states, prefix)
    ends, limit, before = model.table.ends, model.latent_states.limits[0], 0
    rows = next_token_rows(proposal, goal, read)

    def counted(histories: Sequence[History]) -> Tensor:
        nonlocal before
        if len(model.table.text(histories[0])) < len(prefix):
            before = read.tree.calls
        return rows(histories)

    def ended(history: History) -> bool:
        return history[-1] in ends or len(history) >= limit

    history, _ = follow(counted, ended, Draw(), generator)
    calls, seconds = read.tree.calls, time.perf_counter() - start
    return TimedCompletion(model.table.text(history), max(before, 1), calls, seconds)


def next_token_rows(proposal: Baseline, goal: Goal, read: Reading) -> Rows:
    """Return a function from histories to log-probabilities of the next token, (n, vocab): the
    proposal's until the prefix is covered, then the model's."""

    def rows(histories: Sequence[History]) -> Tensor:
        covered = [len(goal.table.text(history)) >= len(goal.prefix) for history in histories]
        out = torch.full((len(histories), len(goal.table)), -math.inf, dtype=torch.float64)
        for wanted, source in ((True, read), (False, proposal.log_q)):
            index = [i for i, done in enumerate(covered) if done is wanted]
            if index:
                out[index] = source([histories[i] for i in index])
        return out

    return rows


def text_log_prob(rows: Rows, goal: Goal, text: bytes) -> float:
    """Return the log-probability (nats) of completing to exactly `text`, over its likeliest cuts
    into tokens."""
    waiting: list[list[tuple[float, History]]] = [[] for _ in range(len(text) + 1)]
    waiting[0].append((0.0, ()))
    for offset, found in enumerate(waiting):
        best = sorted(found, reverse=True)[:CUTS]
        if not best:
            continue
        log_q = rows([history for _, history in best])
        ids = (
            list(goal.table.ends)
            if offset == len(text)
            else goal.table.inside(text[offset:], whole=True)
        )
        if offset == len(text):
            terms = [
                log_p + row
                for (log_p, _), row in zip(best, log_q[:, ids].logsumexp(1).tolist(), strict=True)
            ]
            return float(np.logaddexp.reduce(terms))
        for (log_p, history), row in zip(best, log_q[:, ids].tolist(), strict=True):
            for token, own in zip(ids, row, strict=True):
                if own > -math.inf:
                    waiting[offset + len(goal.table.texts[token] or b"")].append(
                        (log_p + own, (*history, token))
                    )
    return -math.inf


def next_token(rows: Rows, goal: Goal, limit: int) -> tuple[int, int] | None:
    """Return the first byte and the id of the token that reaches beyond the prefix, chosen
    greedily; None at a dead end."""

    def beyond(history: History) -> bool:
        return history[-1] in goal.table.ends or len(goal.table.text(history)) > len(goal.prefix)

    history, ended = follow(
        rows, lambda own: beyond(own) or len(own) >= limit, Draw(temperature=0.0)
    )
    if not ended or not beyond(history):
        return None
    return len(goal.table.text(history[:-1])), history[-1]


def true_next(model: Continuation, text: bytes, size: int) -> tuple[int, int] | None:
    """Return the first byte and the id of the token that reaches beyond `size` bytes in the
    tokenizer's cut of `text`."""
    cut = model.encode([text])[0] if isinstance(model, Canonical) else None
    start = 0
    for token in cut or []:
        end = start + len(model.table.texts[token] or b"")
        if end > size:
            return start, token
        start = end
    return None
