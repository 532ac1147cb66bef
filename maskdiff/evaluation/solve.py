"""Solving step by step: accuracy against its cost, for every strategy and scorer, and over HTTP.

Two strategies are compared on the *same* problems, so their difference has an interval of its own,
narrower than theirs. `forward_tokens` includes what a scorer spends. The scorer `checker` knows the
answer, so its rows are an upper bound, not a method for users.
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
from maskdiff.evaluation.rows import Plan, RowGroup, Settings, Subject, SuiteRun
from maskdiff.languages import Stepwise
from maskdiff.metrics import Estimate, Unit
from maskdiff.stepwise.backends import make_backend
from maskdiff.stepwise.scorers import SCORERS
from maskdiff.stepwise.solver import Solution, Solver

SPLITS = ("test", "deeper")  # held-out problems; problems one level deeper than those of training
CLOSER = ("denoiser", "checker")  # scorers with more settings, and a random choice of steps
EAGER = {"scaling": 0.99}  # adaptive with about twice as many scaled steps in this language
WIDE = {"candidates": 16, "temperature": 1.0}  # more, and more varied, candidates
BARREN = 20  # draws of problems without a new one, after which there are no more
CLOSED_PROBLEMS, CLOSED_STEPS = 16, 40  # of the measurement over HTTP


@dataclass(frozen=True)
class StrategySetting:
    """One way of solving; `more` holds the options that differ from the defaults."""

    strategy: str
    scorer: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> StepConfig:
        return StepConfig(strategy=self.strategy, scorer=self.scorer or "vote", **self.more)

    @property
    def settings(self) -> Settings:
        """The settings of its rows."""
        return ({"scorer": self.scorer} if self.scorer else {}) | self.more

    @property
    def key(self) -> str:
        """A name that no other setting has."""
        return f"{self.strategy} {self.settings}"


def strategy_sweep(scorers: Sequence[str] = SCORERS) -> list[StrategySetting]:
    """Return all settings but `random`, whose rate is that of adaptive."""
    made = [StrategySetting("greedy"), StrategySetting("sample")]
    for strategy in ("every-step", "adaptive", "best-of-n"):
        made += [StrategySetting(strategy, scorer) for scorer in scorers]
    for scorer in (name for name in CLOSER if name in scorers):
        made.append(StrategySetting("adaptive", scorer, {"bias_corrected": True}))
        made.append(StrategySetting("adaptive", scorer, EAGER))
        made.append(StrategySetting("every-step", scorer, WIDE))
        made.append(StrategySetting("adaptive", scorer, {**WIDE, **EAGER}))
    return made


def count_solve(plan: Plan) -> int:
    """Return the number of measurements of `solve_suite`."""
    return len(plan.problems) * (len(strategy_sweep()) + 2 * len(CLOSER)) + 1


def held_out_problems(subject: Subject, split: str, count: int, seed: int) -> list[str]:
    """Return different held-out problems.

    Raises:
        ConfigError: The language has no steps.
        DataError: The language has fewer problems.
    """
    language = subject.language
    if not isinstance(language, Stepwise):
        raise ConfigError(
            f"{language.name} has no problems to solve step by step; "
            "the suite solve is for arithmetic-steps"
        )
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    found: dict[str, None] = {}
    barren = 0
    while len(found) < count:
        before = len(found)
        if split == "test":
            texts = draw_texts(language, count, rng, "test")
            drawn = [text.split(language.separator)[0] for text in texts]
        else:
            drawn = language.problems(count, rng, 1)
        found |= dict.fromkeys(drawn)
        barren = barren + 1 if len(found) == before else 0
        if barren == BARREN:
            raise DataError(
                f"{language.name} has no {count} different {split} problems, but {len(found)}: "
                "lower --num_samples"
            )
    return list(found)[:count]


# -------------------------------------------------------------------------------------------- suite


def solve_suite(run: SuiteRun) -> None:
    """Add every setting on every split, comparisons on the same problems, and the servers."""
    with run.progress("solve, over HTTP"):  # first: a failure here must not lose the rest
        _add_servers(run)
    for split in run.plan.problems:
        problems = held_out_problems(run.subject, split, run.plan.num_samples, run.plan.seed)
        measured = _Split(run, split, problems)
        for setting in strategy_sweep():
            measured.solve(setting)
        for scorer in CLOSER:
            for more in ({}, EAGER):
                adaptive = StrategySetting("adaptive", scorer, more)
                rate = scaled_rate(measured.made[adaptive.key])
                at_random = StrategySetting("random", scorer, {"rate": rate})
                measured.solve(at_random)
                measured.compare(adaptive, at_random)
                measured.compare(adaptive, StrategySetting("every-step", scorer))


def scaled_rate(solutions: Sequence[Solution]) -> float:
    """Return the share of scaled steps, without the first of each answer."""
    steps = [step for s in solutions if s.answer for step in s.answer.steps[1:]]
    return round(sum(step.scaled for step in steps) / max(1, len(steps)), 4)


@dataclass
class _Split:
    """The problems of one split, and the solutions of each setting so far, by its key."""

    run: SuiteRun
    split: str
    problems: Sequence[str]
    made: dict[str, list[Solution]] = field(default_factory=dict)

    def solve(self, setting: StrategySetting) -> None:
        """Solve the problems once, and add the rows of the setting."""
        if setting.key in self.made:
            return
        run, loaded = self.run, self.run.subject.loaded
        assert isinstance(run.language, Stepwise)
        with run.progress(f"solve, {self.split}, {setting.key}"):
            backend = make_backend(BackendConfig(), loaded)
            solver = Solver(backend, setting.config, run.language, loaded)
            solutions = list(solver.solving(self.problems, run.plan.seed))
        self.made[setting.key] = solutions
        greedy = self.made.get(StrategySetting("greedy").key, solutions)
        self._add(setting, solutions, greedy)

    def _group(self, sampler: str, setting: StrategySetting) -> RowGroup:
        where = self.run.subject.settings(split=self.split, **setting.settings)
        return self.run.group(sampler, where)

    def _add(
        self, setting: StrategySetting, solutions: Sequence[Solution], greedy: Sequence[Solution]
    ) -> None:
        """Accuracy beside that of greedy, and the cost."""
        plan, rows = self.run.plan, self._group(setting.strategy, setting)
        right, base = ([bool(s.correct) for s in made] for made in (solutions, greedy))
        rows.add("accuracy", metrics.rate(right), sum(base) / len(base), 1.0)
        pairs = zip(right, solutions, strict=True)
        whole = metrics.rate(ok and s.first_wrong is None for ok, s in pairs)
        rows.add("all_steps_right", whole)
        if greedy is not solutions:
            rows.add("errors_removed", errors_removed(right, base, plan.rng(81)))
        answers = [s.answer for s in solutions if s.answer is not None]
        for name, salt in (("forward_tokens", 82), ("candidates", 83)):
            spent = [getattr(answer.spent, name) for answer in answers]
            rows.add(name, metrics.mean(spent, plan.rng(salt)))
        if setting.strategy in ("adaptive", "random"):
            steps = [step for answer in answers for step in answer.steps]
            rows.add("scaled_steps", metrics.rate(step.scaled for step in steps))

    def compare(self, one: StrategySetting, other: StrategySetting) -> None:
        """Add the difference in accuracy and the ratio of forward tokens, problem by problem."""
        pairs = list(zip(self.made[one.key], self.made[other.key], strict=True))
        gain = [float(bool(a.correct)) - float(bool(b.correct)) for a, b in pairs]
        answered = [(a.answer, b.answer) for a, b in pairs if a.answer and b.answer]
        mine, theirs = ([pair[i].spent.forward_tokens for pair in answered] for i in (0, 1))
        rows, plan = self._group(f"{one.strategy} against {other.strategy}", one), self.run.plan
        rows.add("accuracy_gain", metrics.mean(gain, plan.rng(84), Unit.SHARE))
        ratio = metrics.ratio(mine, theirs, plan.rng(85), Unit.SHARE)
        rows.add("forward_tokens_ratio", ratio)


def errors_removed(
    right: Sequence[bool], base: Sequence[bool], rng: np.random.Generator
) -> Estimate:
    """Return 1 - errors / errors of `base` on the same problems; negative for more errors."""
    errors, base_errors = (1.0 - np.array(flags, dtype=float) for flags in (right, base))
    kept = metrics.ratio(errors, base_errors, rng)
    return Estimate(1.0 - kept.value, 1.0 - kept.high, 1.0 - kept.low, kept.count, Unit.SHARE)


# ---------------------------------------------------------------------------------------- over HTTP


def _add_servers(run: SuiteRun) -> None:
    """Add a server that continues a partial answer, and one that closes the turn.

    Nothing is measured where the extras are not installed.
    """
    try:
        import openai  # noqa: F401

        from maskdiff.serving.app import create_app
        from maskdiff.serving.server import run_in_thread
    except ImportError:
        return
    from maskdiff.serving.model import ServedModel

    language, plan, subject = run.language, run.plan, run.subject
    assert isinstance(language, Stepwise)
    count = min(CLOSED_PROBLEMS, plan.num_samples)
    problems = held_out_problems(subject, "test", count, plan.seed)
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
            chat_config = BackendConfig(backend="chat", model="steps", base_url=url)
            chat = make_backend(chat_config, language=language)
            solutions = list(Solver(chat, own, language).solving(problems, plan.seed))
        answers = [s.answer for s in solutions if s.answer is not None]
        rows = run.group("sample", subject.settings(server=name))
        rows.add("accuracy", metrics.rate(bool(s.correct) for s in solutions))
        rows.add("steps", metrics.mean([len(a.steps) for a in answers], plan.rng(86)))
        restarts = [a.restarts for a in answers]
        chances = [max(0, len(a.steps) - 1) for a in answers]
        restart_rate = metrics.ratio(restarts, chances, plan.rng(87), Unit.SHARE)
        rows.add("restart_rate", restart_rate)
        spent = [a.spent.forward_tokens for a in answers]
        rows.add("forward_tokens", metrics.mean(spent, plan.rng(88)))
