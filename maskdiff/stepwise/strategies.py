"""How one problem is solved: coroutines that yield requests and judgements and receive the answers.

`stepwise` writes an answer step by step, with more candidates where its trigger says so;
`whole_answers` draws complete answers. The first candidate of a step stays a candidate if more are
drawn, so `always` is best-of-n at every step, `never` takes the first candidates, and no candidate
is drawn twice; the code of MUR draws all N again.
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
Answered = Reply | tuple[list[float], Spent]
Run = Generator[Ask, Answered, "Answer"]

STEPWISE = ("greedy", "sample", "every-step", "always", "adaptive", "random", "never")
WHOLE = ("best-of-n",)
STRATEGIES = (*STEPWISE, *WHOLE)


@dataclass(frozen=True)
class ChosenStep:
    """One step of an answer.

    Attributes:
        uncertainty: Mean -log p of its tokens in nats; None without log-probabilities.
        level: The momentum uncertainty before it; None without a momentum trigger.
        scaled: Whether there were several candidates.
        chosen: Index of the chosen candidate.
        proposals, scores: Of all candidates; empty if there was one.
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
    """The steps of an answer, the reason of its end, and its cost.

    Attributes:
        finish_reason: `end`, `max_steps`, `step_length`, `restarted` or `timeout`.
        tokens: Drawn tokens of the answer itself.
        restarts: Steps that repeated an earlier one.
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
        """All steps, without text of the last token after them."""
        return "".join(step.text for step in self.steps)


@dataclass
class _Run:
    """The state of an answer that is being written."""

    partial: list[Candidate] = field(default_factory=list)
    taken: list[ChosenStep] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)

    def answer(self, reason: str, restarts: int = 0) -> Answer:
        known = all(candidate.log_probs is not None for candidate in self.partial)
        log_probs = (p for candidate in self.partial for p in candidate.log_probs or ())
        return Answer(
            steps=tuple(self.taken),
            finish_reason=reason,
            spent=self.spent,
            tokens=sum(candidate.tokens for candidate in self.partial),
            restarts=restarts,
            ids=tuple(token for candidate in self.partial for token in candidate.ids),
            log_probs=tuple(log_probs) if known else None,
        )


def make_trigger(config: StepConfig, seed: int) -> Trigger:
    """Return the trigger of a stepwise strategy."""
    if config.strategy in ("every-step", "always"):
        return Always()
    if config.strategy == "adaptive":
        return Momentum(config.momentum, config.scaling, config.bias_corrected)
    return Random(config.rate, seed) if config.strategy == "random" else Never()


def uncertainty_of(candidate: Candidate) -> float:
    """Return the mean -log p of the tokens in nats. Raises BackendError if unknown."""
    return -mean_log_prob(candidate)


def step_stop(config: StepConfig, separator: str) -> Stop:
    """Return where steps end: at the strings of the configuration, else at `separator`."""
    return Stop(config.step_stop or (separator,), config.max_step_tokens, config.min_step_tokens)


def stepwise(prompt: str, problem: str, config: StepConfig, stop: Stop, seed: int) -> Run:
    """Write an answer step by step, with more candidates where the trigger says so.

    TimedOut, thrown into the coroutine, ends the answer after its last complete step.
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
        # One candidate.
        first = 0.0 if cold else config.temperature
        request = Request(
            prompt, tuple(run.partial), 1, first, stop, _mixed(seed, number), session=seed
        )
        candidates = yield from _candidates(run, request)
        # More candidates and their scores, if the trigger says so.
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
        # The chosen step, and whether it is the last.
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
    """Draw N complete answers and take the best; this works with any backend."""
    # The candidates: with a greedy draft, the first one at temperature 0.
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
    # The best one, split into steps.
    scores: list[float] = []
    if len(candidates) > 1:
        scores = yield from _scores(run, Judgement(request, candidates, problem))
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


def _candidates(run: _Run, request: Request) -> Generator[Ask, Answered, tuple[Candidate, ...]]:
    reply = yield request
    assert isinstance(reply, Reply)
    run.spent += reply.spent
    return reply.candidates


def _scores(run: _Run, judgement: Judgement) -> Generator[Ask, Answered, list[float]]:
    scored = yield judgement
    assert isinstance(scored, tuple)
    scores, spent = scored
    run.spent += spent
    return scores


def _first_best(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__) if scores else 0  # the first of equals


def _mixed(seed: int, step: int) -> int:
    """The seed of a step, since a server does not know the position."""
    return (seed * 1_000_003 + step * 7_919 + 1) % (1 << 62)


def _cut(rest: str, stop: Stop, last: ChosenStep) -> list[ChosenStep]:
    """The steps of a complete answer; the last one carries the figures of `last`."""
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
    "Answered",
    "Ask",
    "ChosenStep",
    "Run",
    "make_trigger",
    "step_stop",
    "stepwise",
    "uncertainty_of",
    "whole_answers",
]  # fmt: skip
