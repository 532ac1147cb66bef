"""Completion: conditioning on typed characters beside what is done instead, on tables that can be enumerated and on a model.

For: total variation from the exact distribution; whether completions begin as was typed, parse, and end; the log-likelihood of
the string that was really there; its next token; forward passes and milliseconds, beside rejection sampling. Not for: how each
way works (``completion_methods.py``). Easy to get wrong: prefixes are cut from held-out strings at a number of characters,
wherever that falls in a token: cuts at the tokenizer's own borders would hide the problem.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from maskdiff import metrics
from maskdiff.config import CompletionConfig
from maskdiff.data import held_out
from maskdiff.decoding import CausalModel, Continuation, TableModel, TokenTable, condition
from maskdiff.decoding.histories import Goal, count
from maskdiff.evaluation.completion_baselines import (
    ConditionedBaseline,
    History,
    Reading,
    Rejection,
    leaves,
    reject,
    total_variation,
)
from maskdiff.evaluation.completion_methods import (
    BASELINES,
    MODES,
    Drawn,
    ahead,
    draw,
    next_token,
    text_log_prob,
    true_next,
)
from maskdiff.evaluation.rows import Ledger, Plan, Row, Settings, Subject, Watch, unwatched
from maskdiff.metrics import Estimate

BUDGET = CompletionConfig.budget
MANY = 6  # times as many held-out strings are drawn as are completed: some are too short
TABLES = 30  # random tables
TABLE_DRAWS = 20_000  # of rejection sampling on a table
COMPARED = 20  # prefixes whose distributions over covering tokens are compared whole
FEW = 500  # histories, up to which they are
SCORED = 50  # prefixes whose true continuation is scored
REJECTED = 12  # characters typed at which rejection sampling is timed
REJECTIONS = 20  # prefixes
MOST = 4096  # draws that are timed for each of them


def completion(subject: Subject, plan: Plan, watch: Watch = unwatched) -> list[Row]:
    """Rows of the suite: of the tables, then of every number of characters typed, on held-out strings of more."""
    ledger, settings = Ledger("completion"), subject.settings()
    with watch("completion, tables"):
        for method, values in on_tables(plan).items():
            where = {**settings, "on": "random tables"}
            ledger.add(
                method, where, "total_variation", metrics.mean(values, plan.rng(80)), ceiling=0.0
            )
    model = CausalModel(subject.loaded.denoiser, subject.loaded.lengths)
    with watch("completion, nothing typed"):
        _drawn(
            ledger, subject, plan, model, "free", [""] * plan.num_samples, {**settings, "typed": 0}
        )
    texts = held_out(subject.language, plan.split, MANY * plan.num_samples, plan.seed)  # type: ignore[arg-type]
    for size in plan.typed:
        long = [text for text in texts if len(text) > size][: plan.num_samples]
        if not long:
            continue
        where = {**settings, "typed": size}
        for method in methods_for(model, [text[:size] for text in long]):
            with watch(f"completion, {size} typed, {method}"):
                _measured(ledger, subject, plan, model, method, long, where)
        if size == REJECTED and not model.length_conditioned:
            with watch(f"completion, {size} typed, rejection"):
                _rejected(ledger, plan, model, long[:REJECTIONS], where)
    return ledger.rows


def planned(plan: Plan) -> int:
    """Measurements that the suite shows at most."""
    return 2 + len(plan.typed) * (len(MODES) + len(BASELINES)) + (REJECTED in plan.typed)


def methods_for(model: CausalModel, prefixes: Sequence[str]) -> list[str]:
    """The ways that can complete all prefixes: exact within its budget, baselines for a model that is not told the length."""
    goals = [Goal(model.table, model.latent_states, prefix.encode()) for prefix in prefixes]
    exact = all(count(goal, BUDGET) <= BUDGET for goal in goals)
    return [*MODES[not exact :], *(() if model.length_conditioned else BASELINES)]


# ------------------------------------------------------------------------------------------------------------------ tables


def random_case(rng: np.random.Generator) -> tuple[TableModel, bytes]:
    """A random distribution over strings of at most 7 tokens of the letters a and b, and a prefix of 4 or 5 letters."""

    def letters(size: int) -> bytes:
        return bytes(rng.choice(list(b"ab"), size).tolist())

    pieces = [b"a", b"b", *(letters(size) for size in (2, 2, 3, 3))]
    model = TableModel(TokenTable((*pieces, None), (len(pieces),)), 7, int(rng.integers(2**31)))
    return model, letters(int(rng.integers(4, 6)))


def enumerated(model: TableModel, prefix: bytes) -> dict[History, float]:
    """The exact distribution of the covering history, by going through every string of the table that begins so."""
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
    """Total variation of every way from the enumerated distribution, a figure for each random table."""
    rng = plan.rng(81)
    found: dict[str, list[float]] = {
        name: [] for name in ("exact", *BASELINES, "rejection", "as_many_true_draws")
    }
    for index in range(TABLES):
        model, prefix = random_case(rng)
        truth, goal = enumerated(model, prefix), Goal(model.table, model.latent_states, prefix)
        found["exact"].append(
            total_variation(leaves(condition(model, prefix, "exact"), goal), truth)
        )
        for name, make in BASELINES.items():
            found[name].append(total_variation(leaves(make(model, prefix), goal), truth))
        made = reject(
            model,
            prefix,
            TABLE_DRAWS,
            TABLE_DRAWS,
            torch.Generator().manual_seed(plan.seed + index),
        )
        tokens = [_covering(model, prefix, item.tokens) for item in made.completions]
        found["rejection"].append(total_variation(_frequencies(tokens), truth))
        # What chance alone leaves between as many draws and the truth.
        drawn = rng.multinomial(len(tokens), list(truth.values()))
        true_draws = {
            history: n / max(len(tokens), 1)
            for history, n in zip(truth, drawn.tolist(), strict=True)
        }
        found["as_many_true_draws"].append(total_variation(true_draws, truth))
    return found


def _covering(model: Continuation, prefix: bytes, tokens: History) -> History:
    return next(
        tokens[:size]
        for size in range(len(tokens) + 1)
        if model.table.text(tokens[:size]).startswith(prefix)
    )


def _frequencies(items: Sequence[History]) -> dict[History, float]:
    return {item: n / len(items) for item, n in Counter(items).items()}


# ------------------------------------------------------------------------------------------------------------------- a model


def _measured(
    ledger: Ledger,
    subject: Subject,
    plan: Plan,
    model: CausalModel,
    method: str,
    texts: Sequence[str],
    where: Settings,
) -> None:
    """All rows of one way at one number of characters typed."""
    size = int(where["typed"])
    _drawn(ledger, subject, plan, model, method, [text[:size] for text in texts], where)
    if model.length_conditioned:
        return
    scores, hits, distances = [], [], []
    for index, text in enumerate(texts[:SCORED]):
        prefix, read = text[:size].encode(), Reading(model)
        goal = Goal(model.table, model.latent_states, prefix)
        conditioned = condition(model, prefix, method) if method in MODES else None
        proposal = (
            BASELINES[method](model, prefix)
            if conditioned is None
            else ConditionedBaseline(conditioned)
        )
        rows = ahead(proposal, goal, read)
        scores.append(text_log_prob(rows, goal, text.encode()))
        hits.append(
            next_token(rows, goal, model.latent_states.limits[0])
            == true_next(model, text.encode(), len(prefix))
        )
        if index < COMPARED and method != "exact" and count(goal, FEW) <= FEW:
            truth = leaves(condition(model, prefix, "exact"), goal)
            distances.append(total_variation(leaves(proposal, goal), truth))
    possible = [score for score in scores if score > -math.inf]
    ledger.add(method, where, "log_likelihood", metrics.mean(possible, plan.rng(82)))
    ledger.add(
        method, where, "likelihood_impossible", metrics.rate(score == -math.inf for score in scores)
    )
    ledger.add(method, where, "next_token_exact", metrics.rate(hits))
    if distances:
        ledger.add(
            method, where, "total_variation", metrics.mean(distances, plan.rng(83)), ceiling=0.0
        )


def _drawn(
    ledger: Ledger,
    subject: Subject,
    plan: Plan,
    model: CausalModel,
    method: str,
    prefixes: Sequence[str],
    where: Settings,
) -> None:
    """Rows about one completion of each prefix."""
    made = [
        draw(model, "exact" if method == "free" else method, p.encode(), plan.seed + i)
        for i, p in enumerate(prefixes)
    ]
    texts = [item.data.decode(errors="replace") for item in made]
    if subject.language.validity:
        ledger.add(
            method,
            where,
            "parses",
            metrics.rate(metrics.parses(texts, subject.language)),
            ceiling=1.0,
        )
    ledger.add(
        method,
        where,
        "starts_as_typed",
        metrics.rate(t.startswith(p) for t, p in zip(texts, prefixes, strict=True)),
        ceiling=1.0,
    )
    ledger.add(
        method,
        where,
        "prefix_calls",
        metrics.mean([item.prefix_calls for item in made], plan.rng(84)),
    )
    ledger.add(method, where, "calls", metrics.mean([item.calls for item in made], plan.rng(85)))
    ledger.add(
        method,
        where,
        "milliseconds",
        metrics.mean([1000 * item.seconds for item in made], plan.rng(86)),
    )
    if method in MODES:
        for metric, estimate in _conditioning(made, plan):
            ledger.add(method, where, metric, estimate)


def _conditioning(made: Sequence[Drawn], plan: Plan) -> Iterator[tuple[str, Estimate]]:
    """What the modes say of themselves."""
    summaries = [item.conditioned.summary for item in made if item.conditioned is not None]
    for name in ("histories", "log_z"):
        yield name, metrics.mean([getattr(summary, name) for summary in summaries], plan.rng(87))
    dropped = np.array([summary.dropped for summary in summaries])
    yield (
        "dropped_median",
        metrics.bootstrap(dropped, lambda index: float(np.median(dropped[index])), plan.rng(88)),
    )
    yield "dropped_worst", Estimate(float(dropped.max()), math.nan, math.nan, len(dropped))


def _rejected(
    ledger: Ledger, plan: Plan, model: CausalModel, texts: Sequence[str], where: Settings
) -> None:
    """Milliseconds a completion of rejection sampling, and how many times those of exact mode that is.

    Rejection needs 1 / p(prefix) draws on average, each of which costs what `MOST` of them are timed at. The exact mode is
    timed beside it on the same prefixes.
    """
    size, expected, ratios = int(where["typed"]), [], []
    for index, text in enumerate(texts):
        prefix = text[:size].encode()
        mine = min(
            (draw(model, "exact", prefix, plan.seed + i) for i in range(3)),
            key=lambda item: item.seconds,
        )
        assert mine.conditioned is not None
        start = time.perf_counter()
        made: Rejection = reject(
            model, prefix, MOST, MOST, torch.Generator().manual_seed(plan.seed + index)
        )
        each = 1000 * (time.perf_counter() - start) / made.draws
        expected.append(each / math.exp(mine.conditioned.summary.log_z))
        ratios.append(expected[-1] / (1000 * mine.seconds))
    for metric, values in (
        ("milliseconds_median", np.array(expected)),
        ("times_exact_median", np.array(ratios)),
    ):

        def median(index: np.ndarray, of: np.ndarray = values) -> float:
            return float(np.median(of[index]))

        estimate = metrics.bootstrap(values, median, plan.rng(89))
        ledger.add("rejection", where, metric, estimate)
