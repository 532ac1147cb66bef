"""Completion: conditioning on typed characters beside its baselines, on random tables and on a
model.

On tables that can be enumerated, the rows are total variation from the exact distribution. On a
model they say whether completions begin as was typed, parse and end; the log-likelihood of the true
string and its next token; and forward passes and milliseconds, beside rejection sampling. Prefixes
are cut from held-out strings at a number of characters, wherever that falls in a token: cuts at the
borders of tokens would hide the problem. The methods are in `completion_methods.py`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from maskdiff import metrics
from maskdiff.config import CompletionConfig
from maskdiff.data import held_out
from maskdiff.decoding import Conditioned, Continuation, TableModel, TokenTable, condition
from maskdiff.decoding.histories import Goal, count
from maskdiff.evaluation.completion_baselines import (
    Baseline,
    ConditionedBaseline,
    History,
    Reading,
    leaves,
    reject,
    total_variation,
)
from maskdiff.evaluation.completion_methods import (
    BASELINES,
    PREFIX_METHODS,
    complete_once,
    next_token,
    next_token_rows,
    text_log_prob,
    true_next,
)
from maskdiff.evaluation.rows import Plan, RowGroup, SuiteRun, timed_call
from maskdiff.evaluation.yardsticks import fit_yardsticks
from maskdiff.metrics import Estimate, Unit
from maskdiff.tasks.completing import CausalPrior, causal_prior

BUDGET = CompletionConfig.budget
POOL = 6  # held-out strings for each that is completed: some are too short
TABLES = 30  # random tables
TABLE_DRAWS = 20_000  # of rejection sampling on a table
COMPARED = 20  # prefixes whose whole distributions over covering tokens are compared
FEW = 500  # ... if they have at most this many histories
SCORED = 50  # prefixes whose true continuation is scored
REJECTED = 12  # characters typed at which rejection sampling is timed
REJECTIONS = 20  # prefixes
MOST = 4096  # draws that are timed for each prefix


def completion_suite(run: SuiteRun) -> None:
    """Add the rows of the tables, then of each number of characters typed, on longer strings."""
    plan, loaded = run.plan, run.subject.loaded
    with run.progress("completion, tables"):
        for method, values in on_tables(plan).items():
            rows = run.group(method, run.subject.settings(on="random tables"))
            rows.add("total_variation", metrics.mean(values, plan.rng(80)), ceiling=0.0)
    model = causal_prior(loaded)
    with run.progress("completion, nothing typed"):
        _add_completions(run, model, "free", [""] * plan.num_samples, 0)
    texts = held_out(run.language, plan.split, POOL * plan.num_samples, plan.seed)
    for size in plan.typed:
        long = [text for text in texts if len(text) > size][: plan.num_samples]
        if not long:
            continue
        for method in methods_for(model, [text[:size] for text in long]):
            with run.progress(f"completion, {size} typed, {method}"):
                _add_completions(run, model, method, [text[:size] for text in long], size)
                if not model.length_conditioned:
                    _add_likelihoods(run, model, method, long, size)
        if not model.length_conditioned:
            simple = fit_yardsticks(run.language, plan.seed)
            with run.progress(f"completion, {size} typed, ngram"):
                rest = -simple.nats(long[:SCORED], size)
                figure = metrics.mean(rest, plan.rng(82), Unit.NATS)
            _group(run, "ngram", size).add("log_likelihood", figure)
        if size == REJECTED and not model.length_conditioned:
            with run.progress(f"completion, {size} typed, rejection"):
                _add_rejection(run, model, long[:REJECTIONS], size)


def count_completion(plan: Plan) -> int:
    """Return the number of measurements of `completion_suite` at most."""
    return (
        2 + len(plan.typed) * (len(PREFIX_METHODS) + len(BASELINES) + 1) + (REJECTED in plan.typed)
    )


def methods_for(model: CausalPrior, prefixes: Sequence[str]) -> list[str]:
    """Return the methods that can complete all prefixes.

    The exact mode needs histories within its budget. Baselines need a model that is not given the
    length.
    """
    goals = [Goal(model.table, model.latent_states, prefix.encode()) for prefix in prefixes]
    exact = all(count(goal, BUDGET) <= BUDGET for goal in goals)
    return [*PREFIX_METHODS[not exact :], *(() if model.length_conditioned else BASELINES)]


# ------------------------------------------------------------------------------------------- tables


def random_case(rng: np.random.Generator) -> tuple[TableModel, bytes]:
    """Return a random distribution over strings of at most 7 tokens of the letters a and b, and a
    prefix of 4 or 5 letters."""

    def letters(size: int) -> bytes:
        return bytes(rng.choice(list(b"ab"), size).tolist())

    pieces = [b"a", b"b", *(letters(size) for size in (2, 2, 3, 3))]
    model = TableModel(TokenTable((*pieces, None), (len(pieces),)), 7, int(rng.integers(2**31)))
    return model, letters(int(rng.integers(4, 6)))


def enumerated(model: TableModel, prefix: bytes) -> dict[History, float]:
    """Return the exact distribution of the covering history, from every string that begins so."""
    found: dict[History, float] = {}
    stack: list[tuple[History, float]] = [((), 0.0)]
    while stack:
        history, log_p = stack.pop()
        for token, own in enumerate(model.log_next(history).tolist()):
            text = model.table.text([*history, token])
            if token in model.table.ends or own == -math.inf:
                continue
            if text.startswith(prefix):
                found[(*history, token)] = math.exp(log_p + own)
            elif prefix.startswith(text):
                stack.append(((*history, token), log_p + own))
    total = sum(found.values())
    return {history: p / total for history, p in found.items()}


def on_tables(plan: Plan) -> dict[str, list[float]]:
    """Return each method's total variation from the enumerated distribution, for each table."""
    rng = plan.rng(81)
    found: dict[str, list[float]] = defaultdict(list)
    for index in range(TABLES):
        model, prefix = random_case(rng)
        truth, goal = enumerated(model, prefix), Goal(model.table, model.latent_states, prefix)
        # Methods whose distributions are known.
        exact: Baseline | Conditioned = condition(model, prefix, "exact")
        proposals = {name: make(model, prefix) for name, make in BASELINES.items()}
        for name, proposal in (("exact", exact), *proposals.items()):
            found[name].append(total_variation(leaves(proposal, goal), truth))
        # Rejection sampling, and the distance that chance alone leaves after as many true draws.
        generator = torch.Generator().manual_seed(plan.seed + index)
        made = reject(model, prefix, TABLE_DRAWS, TABLE_DRAWS, generator)
        tokens = [_covering(model, prefix, item.tokens) for item in made.completions]
        shares = {history: n / len(tokens) for history, n in Counter(tokens).items()}
        found["rejection"].append(total_variation(shares, truth))
        counts = rng.multinomial(len(tokens), list(truth.values())) / max(len(tokens), 1)
        by_chance = dict(zip(truth, counts.tolist(), strict=True))
        found["as_many_true_draws"].append(total_variation(by_chance, truth))
    return found


def _covering(model: Continuation, prefix: bytes, tokens: History) -> History:
    return next(
        tokens[:size]
        for size in range(len(tokens) + 1)
        if model.table.text(tokens[:size]).startswith(prefix)
    )


# ------------------------------------------------------------------------------------------ a model


def _group(run: SuiteRun, method: str, size: int) -> RowGroup:
    share = run.subject.loaded.mixture  # of the n-gram
    mixture = {"mixture": share} if share else {}
    return run.group(method, run.subject.settings(typed=size, **mixture))


def _add_likelihoods(
    run: SuiteRun, model: CausalPrior, method: str, texts: Sequence[str], size: int
) -> None:
    """Add the likelihood of the true strings, the hits of the next token and total variation."""
    scores, hits, distances = [], [], []
    for index, text in enumerate(texts[:SCORED]):
        prefix = text[:size].encode()
        goal = Goal(model.table, model.latent_states, prefix)
        proposal: Baseline = (
            ConditionedBaseline(condition(model, prefix, method))
            if method in PREFIX_METHODS
            else BASELINES[method](model, prefix)
        )
        rows = next_token_rows(proposal, goal, Reading(model))
        scores.append(text_log_prob(rows, goal, text.encode()))
        guess = next_token(rows, goal, model.latent_states.limits[0])
        hits.append(guess == true_next(model, text.encode(), len(prefix)))
        if index < COMPARED and method != "exact" and count(goal, FEW) <= FEW:
            truth = leaves(condition(model, prefix, "exact"), goal)
            distances.append(total_variation(leaves(proposal, goal), truth))
    plan, group = run.plan, _group(run, method, size)
    possible = [score for score in scores if score > -math.inf]
    group.add("log_likelihood", metrics.mean(possible, plan.rng(82), Unit.NATS))
    group.add("likelihood_impossible", metrics.rate(score == -math.inf for score in scores))
    group.add("next_token_exact", metrics.rate(hits))
    if distances:
        group.add("total_variation", metrics.mean(distances, plan.rng(83)), ceiling=0.0)


def _add_completions(
    run: SuiteRun, model: CausalPrior, method: str, prefixes: Sequence[str], size: int
) -> None:
    """Add the rows of one completion of each prefix: validity, cost, and figures of the mode."""
    plan, group = run.plan, _group(run, method, size)
    made = [
        complete_once(model, "exact" if method == "free" else method, p.encode(), plan.seed + i)
        for i, p in enumerate(prefixes)
    ]
    texts = [item.data.decode(errors="replace") for item in made]
    if run.language.validity:
        group.add("parses", metrics.rate(metrics.parses(texts, run.language)), ceiling=1.0)
    begins = metrics.rate(t.startswith(p) for t, p in zip(texts, prefixes, strict=True))
    group.add("starts_as_typed", begins, ceiling=1.0)
    prefix_calls, calls = ([getattr(x, n) for x in made] for n in ("prefix_calls", "calls"))
    group.add("prefix_calls", metrics.mean(prefix_calls, plan.rng(84)))
    group.add("calls", metrics.mean(calls, plan.rng(85)))
    milliseconds = [1000 * item.seconds for item in made]
    group.add("milliseconds", metrics.mean(milliseconds, plan.rng(86), Unit.MILLISECONDS))
    if method in PREFIX_METHODS:
        summaries = [item.conditioned.summary for item in made if item.conditioned is not None]
        for name in ("histories", "log_z"):
            values = [getattr(summary, name) for summary in summaries]
            group.add(name, metrics.mean(values, plan.rng(87)))
        dropped = np.array([summary.dropped for summary in summaries])
        group.add("dropped_median", _median(dropped, plan.rng(88)))
        worst = Estimate(float(dropped.max()), math.nan, math.nan, len(dropped))
        group.add("dropped_worst", worst)


def _median(
    values: NDArray[np.float64], rng: np.random.Generator, unit: Unit = Unit.NUMBER
) -> Estimate:
    return metrics.bootstrap(values, lambda i: float(np.median(values[i])), rng, unit=unit)


def _add_rejection(run: SuiteRun, model: CausalPrior, texts: Sequence[str], size: int) -> None:
    """Add the milliseconds of rejection sampling for one completion, and their ratio to exact mode.

    Rejection needs 1 / p(prefix) draws on average. The cost of one is measured on `MOST` draws; the
    exact mode is timed on the same prefixes.
    """
    plan, expected, ratios = run.plan, [], []
    for index, text in enumerate(texts):
        prefix = text[:size].encode()
        runs = [complete_once(model, "exact", prefix, plan.seed + i) for i in range(3)]
        mine = min(runs, key=lambda item: item.seconds)
        assert mine.conditioned is not None
        generator = torch.Generator().manual_seed(plan.seed + index)
        made, seconds = timed_call(reject, model, prefix, MOST, MOST, generator)
        expected.append(1000 * seconds / made.draws / math.exp(mine.conditioned.summary.log_z))
        ratios.append(expected[-1] / (1000 * mine.seconds))
    group = _group(run, "rejection", size)
    median = _median(np.array(expected), plan.rng(89), Unit.MILLISECONDS)
    group.add("milliseconds_median", median)
    group.add("times_exact_median", _median(np.array(ratios), plan.rng(89)))
