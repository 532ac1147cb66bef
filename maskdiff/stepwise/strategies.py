"""How one problem is solved: strategies as coroutines, which ask for candidates and scores and are sent the answers.

For: `stepwise` (greedy, sample, every-step, adaptive, random: one loop, which differs in its trigger) and `whole` (best-of-n).
Not for: asking a model (`solver.py` gathers what all problems ask for, so that they share a batch). Easy to get wrong: the
first candidate of a step stays among its candidates when more are drawn, so `always` is best-of-n at every step, `never` is
the first candidates alone, and nothing is paid for twice; MUR's own code draws all N anew.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from maskdiff.config import StepConfig
from maskdiff.stepwise.probe import RestartGuard
from maskdiff.stepwise.protocol import Candidate, Reply, Request, Spent, Stop
from maskdiff.stepwise.scorers import Judgement, mean_log_prob
from maskdiff.stepwise.triggers import Always, Momentum, Never, Random, Trigger
from maskdiff.utils.deadline import TimedOut

Ask = Request | Judgement
Told = Reply | tuple[list[float], Spent]
Run = Generator[Ask, Told, "Answer"]

STEPWISE = ("greedy", "sample", "every-step", "always", "adaptive", "random", "never")
WHOLE = ("best-of-n",)
STRATEGIES = (*STEPWISE, *WHOLE)


@dataclass(frozen=True)
class ChosenStep:
    """One step of an answer.

    uncertainty: mean -log p of its tokens, nats, None where a backend tells none; level: the momentum uncertainty before it,
    None without; scaled: whether there were more candidates; chosen: the number of the one taken; proposals, scores: of all
    candidates, empty where there was one.
    """

    text: str
    finish: str
    uncertainty: float | None = None
    level: float | None = None
    scaled: bool = False
    chosen: int = 0
    proposals: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came of a problem: its steps, why it ended (`end`, `max_steps`, `step_length`,
    `restarted`, `timeout`), its cost.

    tokens: drawn tokens of the answer itself. restarts: steps that repeated an earlier one.
    """

    steps: tuple[ChosenStep, ...]
    finish_reason: str
    spent: Spent
    tokens: int
    restarts: int = 0
    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] | None = None

    @property
    def text(self) -> str:
        """All steps; what the last token said beyond the last of them is left out."""
        return "".join(step.text for step in self.steps)


@dataclass
class _Run:
    """What the loop keeps of an answer under way."""

    partial: list[Candidate] = field(default_factory=list)
    taken: list[ChosenStep] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)

    def answer(self, reason: str, restarts: int = 0) -> Answer:
        known = all(candidate.log_probs is not None for candidate in self.partial)
        return Answer(
            steps=tuple(self.taken), finish_reason=reason, spent=self.spent,
            tokens=sum(candidate.tokens for candidate in self.partial), restarts=restarts,
            ids=tuple(token for candidate in self.partial for token in candidate.ids),
            log_probs=tuple(p for candidate in self.partial for p in candidate.log_probs or ()) if known else None,
        )  # fmt: skip


def make_trigger(config: StepConfig, seed: int) -> Trigger:
    """The trigger of a stepwise strategy."""
    if config.strategy in ("every-step", "always"):
        return Always()
    if config.strategy == "adaptive":
        return Momentum(config.momentum, config.scaling, config.bias_corrected)
    return Random(config.rate, seed) if config.strategy == "random" else Never()


def uncertainty_of(candidate: Candidate) -> float:
    """Mean -log p of a candidate's tokens, nats. Raises BackendError where no log-probabilities are known."""
    return -mean_log_prob(candidate)


def step_stop(config: StepConfig, separator: str) -> Stop:
    """Where steps end: at the strings of the configuration, else where the language's do."""
    return Stop(config.step_stop or (separator,), config.max_step_tokens, config.min_step_tokens)


def stepwise(prompt: str, problem: str, config: StepConfig, stop: Stop, seed: int) -> Run:
    """Write an answer step by step, with more candidates where the trigger says so.

    TimedOut, thrown into it, ends the answer after its last whole step.
    """
    run, guard = _Run(), RestartGuard()
    try:
        return (yield from _steps(run, guard, prompt, problem, config, stop, seed))
    except TimedOut:
        if not run.partial:
            raise
        return run.answer("timeout", guard.restarts)


def _steps(
    run: _Run,
    guard: RestartGuard,
    prompt: str,
    problem: str,
    config: StepConfig,
    stop: Stop,
    seed: int,
) -> Run:
    trigger = make_trigger(config, seed)
    cold = config.strategy == "greedy" or (config.strategy != "sample" and config.draft == "greedy")
    for number in range(config.max_steps):
        first = 0.0 if cold else config.temperature
        request = Request(
            prompt, tuple(run.partial), 1, first, stop, _mixed(seed, number), session=seed
        )
        candidates = yield from _candidates(run, request)
        known = candidates[0].log_probs is not None
        needed = isinstance(trigger, Momentum)
        uncertainty = uncertainty_of(candidates[0]) if known or needed else 0.0
        level = trigger.level if isinstance(trigger, Momentum) else None
        scaled = trigger.scale(number, uncertainty) and config.candidates > 1
        scores: list[float] = []
        if scaled:
            more = replace(
                request, num=config.candidates - 1, first=1, temperature=config.temperature
            )
            candidates += yield from _candidates(run, more)
            scores = yield from _scores(run, Judgement(request, candidates, problem))
        best = _first_best(scores)
        chosen = candidates[best]
        final = uncertainty_of(chosen) if known or needed else None
        trigger.update(final or 0.0)
        run.partial.append(chosen)
        proposals = tuple(candidate.step for candidate in candidates) if scaled else ()
        run.taken.append(
            ChosenStep(
                chosen.step, chosen.finish, final, level, scaled, best, proposals, tuple(scores)
            )
        )
        stops = guard.restarted(chosen.step)
        if chosen.finish != "stop":
            return run.answer("end" if chosen.finish == "end" else "step_length", guard.restarts)
        if stops and config.guard:
            return run.answer("restarted", guard.restarts)
    return run.answer("max_steps", guard.restarts)


def whole_answers(prompt: str, problem: str, config: StepConfig, stop: Stop, seed: int) -> Run:
    """Draw N whole answers and take the best: no partial answer is ever continued, so any backend will do."""
    run = _Run()
    most = stop.max_tokens * config.max_steps
    first = 0.0 if config.draft == "greedy" else config.temperature
    request = Request(prompt, (), 1, first, Stop((), most), _mixed(seed, 0), session=seed)
    if config.draft == "greedy":
        candidates = yield from _candidates(run, request)
        if config.candidates > 1:
            rest = replace(
                request, num=config.candidates - 1, first=1, temperature=config.temperature
            )
            candidates += yield from _candidates(run, rest)
    else:
        candidates = yield from _candidates(run, replace(request, num=config.candidates))
    scores = (
        (yield from _scores(run, Judgement(request, candidates, problem)))
        if len(candidates) > 1
        else []
    )
    best = _first_best(scores)
    chosen = candidates[best]
    uncertainty = None if chosen.log_probs is None else uncertainty_of(chosen)
    run.partial.append(chosen)
    proposals = tuple(candidate.step for candidate in candidates) if scores else ()
    last = ChosenStep(
        "", chosen.finish, uncertainty, None, len(candidates) > 1, best, proposals, tuple(scores)
    )
    run.taken = _cut(chosen.step, stop, last)
    return run.answer("end" if chosen.finish == "end" else "step_length")


def _candidates(run: _Run, request: Request) -> Generator[Ask, Told, tuple[Candidate, ...]]:
    reply = yield request
    assert isinstance(reply, Reply)
    run.spent += reply.spent
    return reply.candidates


def _scores(run: _Run, judgement: Judgement) -> Generator[Ask, Told, list[float]]:
    told = yield judgement
    assert isinstance(told, tuple)
    scores, spent = told
    run.spent += spent
    return scores


def _first_best(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__) if scores else 0  # the first of equals


def _mixed(seed: int, step: int) -> int:
    """A seed of its own for every step: a server knows nothing of positions."""
    return (seed * 1_000_003 + step * 7_919 + 1) % (1 << 62)


def _cut(rest: str, stop: Stop, last: ChosenStep) -> list[ChosenStep]:
    """The steps of a whole answer, told apart afterwards; `last` is what is known of all of it, kept with the last one."""
    steps = []
    while (end := stop.find(rest)) is not None:
        steps.append(ChosenStep(rest[:end], "stop"))
        rest = rest[end:]
    return [*steps, replace(last, text=rest)]


RUNS: dict[str, Callable[[str, str, StepConfig, Stop, int], Run]] = {
    **dict.fromkeys(STEPWISE, stepwise), **dict.fromkeys(WHOLE, whole_answers)
}  # fmt: skip

__all__ = [
    "RUNS",
    "STEPWISE",
    "STRATEGIES",
    "WHOLE",
    "Answer",
    "Ask",
    "ChosenStep",
    "Run",
    "Told",
    "make_trigger",
    "step_stop",
    "stepwise",
    "uncertainty_of",
    "whole_answers",
]  # fmt: skip
