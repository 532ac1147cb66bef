"""Solving step by step: accuracy against what it costs, for every strategy and scorer, and what a closed turn does.

For: the rows of `--suite solve`. Not for: solving (`maskdiff.stepwise`). Easy to get wrong: two strategies are compared on the
*same* problems, so their difference has an interval of its own, narrower than theirs; `forward_tokens` counts what a scorer
spends as well; and a checker knows the answer, so its rows are an upper bound, not a method that a user has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from maskdiff import metrics
from maskdiff.config import BackendConfig, StepConfig
from maskdiff.data import draw_texts
from maskdiff.errors import ConfigError, DataError
from maskdiff.evaluation.rows import Ledger, Plan, Row, Settings, Subject, Watch, unwatched
from maskdiff.languages import Stepwise
from maskdiff.metrics import Estimate
from maskdiff.stepwise.backends import make_backend
from maskdiff.stepwise.scorers import SCORERS
from maskdiff.stepwise.solver import Solution, Solver

SPLITS = (
    "test",
    "deeper",
)  # held-out problems like those of the training; such of one level more than any of them
CLOSER = (
    "denoiser",
    "checker",
)  # scorers that are looked at more closely, and that lots are drawn with
EAGER = {"scaling": 0.99}  # adaptive, which then scales about twice as many steps of this language
WIDE = {"candidates": 16, "temperature": 1.0}  # more, and more varied, candidates
BARREN = 20  # draws of problems without a new one
CLOSED_PROBLEMS, CLOSED_STEPS = 16, 40  # of the demonstration over HTTP


@dataclass(frozen=True)
class Setting:
    """One way of solving; `more` has the options that are not the usual ones."""

    strategy: str
    scorer: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> StepConfig:
        return StepConfig(strategy=self.strategy, scorer=self.scorer or "vote", **self.more)

    @property
    def told(self) -> Settings:
        """What stands in a row."""
        return ({"scorer": self.scorer} if self.scorer else {}) | self.more


def sweep(scorers: Sequence[str] = SCORERS) -> list[Setting]:
    """All settings but the lots, whose rate is that of adaptive."""
    made = [Setting("greedy"), Setting("sample")]
    for strategy in ("every-step", "adaptive", "best-of-n"):
        made += [Setting(strategy, scorer) for scorer in scorers]
    for scorer in (name for name in CLOSER if name in scorers):
        made.append(Setting("adaptive", scorer, {"bias_corrected": True}))
        made.append(Setting("adaptive", scorer, EAGER))
        made.append(Setting("every-step", scorer, WIDE))
        made.append(Setting("adaptive", scorer, {**WIDE, **EAGER}))
    return made


def planned(plan: Plan) -> int:
    """Measurements that the suite shows."""
    return len(plan.problems) * (len(sweep()) + 2 * len(CLOSER)) + 1


def problems_of(subject: Subject, split: str, count: int, seed: int) -> list[str]:
    """Held-out problems, each once. Raises ConfigError for a language without steps."""
    language = subject.language
    if not isinstance(language, Stepwise):
        raise ConfigError(
            f"{language.name} has no problems to solve step by step; the suite solve is for arithmetic-steps"
        )
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    found: dict[str, None] = {}
    barren = 0
    while len(found) < count:
        before = len(found)
        if split == "test":
            drawn = [
                text.split(language.separator)[0]
                for text in draw_texts(language, count, rng, "test")
            ]
        else:
            drawn = language.problems(count, rng, 1)
        found |= dict.fromkeys(drawn)
        barren = barren + 1 if len(found) == before else 0
        if barren == BARREN:
            raise DataError(
                f"{language.name} has no {count} different {split} problems, but {len(found)}: lower --num_samples"
            )
    return list(found)[:count]


def solve(subject: Subject, plan: Plan, watch: Watch = unwatched) -> list[Row]:
    """Rows of the suite."""
    ledger = Ledger("solve")
    with watch("solve, over HTTP"):  # first: what can fail here must not lose the rest
        _over_http(ledger, subject, plan)
    for split in plan.problems:
        problems = problems_of(subject, split, plan.num_samples, plan.seed)
        made: dict[str, list[Solution]] = {}
        for setting in sweep():
            made[_key(setting)] = _measure(
                ledger, subject, plan, watch, split, problems, setting, made
            )
        for setting in (
            Setting("adaptive", scorer, more) for scorer in CLOSER for more in ({}, EAGER)
        ):
            lots = Setting("random", setting.scorer, {"rate": realised_rate(made[_key(setting)])})
            if _key(lots) not in made:
                made[_key(lots)] = _measure(
                    ledger, subject, plan, watch, split, problems, lots, made
                )
            _compare(ledger, subject, plan, split, made, setting, lots)
            _compare(
                ledger, subject, plan, split, made, setting, Setting("every-step", setting.scorer)
            )
    return ledger.rows


def realised_rate(solutions: Sequence[Solution]) -> float:
    """The share of steps, without the first of each answer, that got more candidates."""
    steps = [step for s in solutions if s.answer for step in s.answer.steps[1:]]
    return round(sum(step.scaled for step in steps) / max(1, len(steps)), 4)


def _key(setting: Setting) -> str:
    return f"{setting.strategy} {setting.told}"


def _measure(
    ledger: Ledger,
    subject: Subject,
    plan: Plan,
    watch: Watch,
    split: str,
    problems: Sequence[str],
    setting: Setting,
    made: dict[str, list[Solution]],
) -> list[Solution]:
    """Solve, and add the rows of one setting."""
    language = subject.language
    assert isinstance(language, Stepwise)
    with watch(f"solve, {split}, {_key(setting)}"):
        generator = make_backend(BackendConfig(), subject.loaded)
        solver = Solver(generator, setting.config, language, subject.loaded)
        solutions = list(solver.solving(problems, plan.seed))
    where = subject.settings(split=split, **setting.told)
    answers = [s.answer for s in solutions if s.answer is not None]
    right = [bool(s.correct) for s in solutions]
    greedy = made.get(_key(Setting("greedy")), solutions)
    base = [bool(s.correct) for s in greedy]
    ledger.add(
        setting.strategy,
        where,
        "accuracy",
        metrics.rate(right),
        baseline=sum(base) / len(base),
        ceiling=1.0,
    )
    ledger.add(setting.strategy, where, "all_steps_right",
               metrics.rate(ok and s.first_wrong is None for ok, s in zip(right, solutions, strict=True)))  # fmt: skip
    if greedy is not solutions:
        ledger.add(
            setting.strategy, where, "errors_removed", errors_removed(right, base, plan.rng(81))
        )
    spent = [a.spent for a in answers]
    ledger.add(
        setting.strategy,
        where,
        "forward_tokens",
        metrics.mean([s.forward_tokens for s in spent], plan.rng(82)),
    )
    ledger.add(
        setting.strategy,
        where,
        "candidates",
        metrics.mean([s.candidates for s in spent], plan.rng(83)),
    )
    if setting.strategy in ("adaptive", "random"):
        steps = [step for a in answers for step in a.steps]
        ledger.add(
            setting.strategy, where, "scaled_steps", metrics.rate(step.scaled for step in steps)
        )
    return solutions


def errors_removed(
    right: Sequence[bool], base: Sequence[bool], rng: np.random.Generator
) -> Estimate:
    """1 - errors / errors of the baseline on the same problems; negative where there are more."""
    a, b = 1.0 - np.array(right, dtype=float), 1.0 - np.array(base, dtype=float)
    kept = metrics.ratio(a, b, rng)
    return Estimate(1.0 - kept.value, 1.0 - kept.high, 1.0 - kept.low, kept.count)


def _compare(
    ledger: Ledger,
    subject: Subject,
    plan: Plan,
    split: str,
    made: dict[str, list[Solution]],
    one: Setting,
    other: Setting,
) -> None:
    """Accuracy of the one minus that of the other, and forward tokens of the one by those of the other, problem by problem."""
    first, second = made[_key(one)], made[_key(other)]
    where = subject.settings(split=split, **one.told)
    gain = [
        float(bool(a.correct)) - float(bool(b.correct)) for a, b in zip(first, second, strict=True)
    ]
    answered = [
        (a.answer, b.answer) for a, b in zip(first, second, strict=True) if a.answer and b.answer
    ]
    cost = [[pair[side].spent.forward_tokens for pair in answered] for side in (0, 1)]
    name = f"{one.strategy} against {other.strategy}"
    ledger.add(name, where, "accuracy_gain", metrics.mean(gain, plan.rng(84)))
    ledger.add(name, where, "forward_tokens_ratio", metrics.ratio(cost[0], cost[1], plan.rng(85)))


# ------------------------------------------------------------------------------------------------------- a closed turn


def _over_http(ledger: Ledger, subject: Subject, plan: Plan) -> None:
    """The same model behind a server that goes on from a partial answer, and behind one that closes the turn.

    Nothing is measured where the extras are not installed.
    """
    try:
        import openai  # noqa: F401

        from maskdiff.serving.app import create_app
        from maskdiff.serving.server import run_in_thread
    except ImportError:
        return
    language = subject.language
    assert isinstance(language, Stepwise)
    from maskdiff.serving.model import ServedModel

    count = min(CLOSED_PROBLEMS, plan.num_samples)
    problems = problems_of(subject, "test", count, plan.seed)
    backend = make_backend(BackendConfig(), subject.loaded)
    served = ServedModel(backend, "steps", language.prompt, 4096)
    config = StepConfig(strategy="sample", scorer="vote", max_steps=CLOSED_STEPS)
    unasked = replace(config, require_continuation=False)
    for name, prefill, own in (
        ("goes on", "continue", config),
        ("closes the turn, guarded", "restart", unasked),
        ("closes the turn, unguarded", "restart", replace(unasked, guard=False)),
    ):
        with run_in_thread(create_app(served, prefill=prefill)) as url:  # type: ignore[arg-type]
            chat = make_backend(
                BackendConfig(backend="chat", model="steps", base_url=url), language=language
            )
            solutions = list(Solver(chat, own, language).solving(problems, plan.seed))
        answers = [s.answer for s in solutions if s.answer is not None]
        where = subject.settings(server=name)
        ledger.add("sample", where, "accuracy", metrics.rate(bool(s.correct) for s in solutions))
        ledger.add(
            "sample", where, "steps", metrics.mean([len(a.steps) for a in answers], plan.rng(86))
        )
        restarts = metrics.ratio(
            [a.restarts for a in answers], [max(0, len(a.steps) - 1) for a in answers], plan.rng(87)
        )
        ledger.add("sample", where, "restart_rate", restarts)
        ledger.add(
            "sample",
            where,
            "forward_tokens",
            metrics.mean([a.spent.forward_tokens for a in answers], plan.rng(88)),
        )


__all__ = ["Setting", "errors_removed", "planned", "problems_of", "solve", "sweep"]
