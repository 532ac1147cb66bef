"""Solves many problems at once: requests of all strategies share batches of the backend.

A solution does not depend on the problems that share its batch. A batch that fails is repeated
request by request, so that one bad problem does not affect the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from maskdiff.config import MAX_SEED, StepConfig
from maskdiff.drawing.random import new_keys
from maskdiff.errors import ConfigError, DataError, UserError, quote
from maskdiff.stepwise.probe import (
    Nonce,
    ProbeResult,
    ProbeVerdict,
    digits_nonce,
    probe_continuation,
)
from maskdiff.stepwise.protocol import Request, StepBackend
from maskdiff.stepwise.scorers import Judgement, Scorer, make_scorer
from maskdiff.stepwise.strategies import RUNS, STEPWISE, Answer, Answered, Ask, Run, step_stop
from maskdiff.utils.arguments import checked_arguments, integer, iter_texts
from maskdiff.utils.deadline import NEVER, Deadline, TimedOut

if TYPE_CHECKING:
    import numpy as np

    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Stepwise

COHORT = 32  # problems at a time
UNSCORED = ("greedy", "sample", "never")  # strategies of one candidate a step
PARAGRAPH = "\n\n"  # ends a step without a language


@dataclass(frozen=True)
class Solution:
    """The result of one problem.

    Attributes:
        correct: Whether the answer is right; None if unknown.
        first_wrong: Number of the first wrong step, from 1; None if there is none or it is unknown.
        error: The reason for no answer; `timed_out` if that is the time limit.
    """

    problem: str
    answer: Answer | None = None
    result: str = ""
    correct: bool | None = None
    first_wrong: int | None = None
    strategy: str = ""
    error: str | None = None
    timed_out: bool = False

    @property
    def finish_reason(self) -> str:
        """The finish reason of the answer; without one `timeout` or `error`."""
        if self.answer is not None:
            return self.answer.finish_reason
        return "timeout" if self.timed_out else "error"

    @property
    def text(self) -> str:
        """The whole answer."""
        return "" if self.answer is None else self.answer.text


class Solver:
    """Solves problems with one backend, scorer and strategy.

    Args:
        language: Defines prompts, ends of steps and right answers; without one the prompt is the
            problem, and answers are not judged.
        loaded: The checkpoint for scorers that use a model of their own.
        probed: The result of an earlier probe of the backend.

    Raises ConfigError for settings that do not fit, and for a strategy that continues partial
    answers over a backend that does not (unless `config.fallback` names another strategy).
    """

    def __init__(
        self,
        generator: StepBackend,
        config: StepConfig,
        language: Stepwise | None = None,
        loaded: Loaded | None = None,
        probed: ProbeResult | None = None,
    ) -> None:
        self.generator, self.language, self.loaded = generator, language, loaded
        self.deadline = NEVER  # of the present cohort
        self.probed = probed
        self.config = self._allowed(config)
        self.fell_back = self.config.strategy != config.strategy
        self.stop = step_stop(
            self.config, language.separator if language is not None else PARAGRAPH
        )
        alone = self.config.strategy in UNSCORED or config.candidates == 1
        name = "vote" if alone else config.scorer  # with one candidate no scorer is needed
        self.scorer: Scorer = make_scorer(name, loaded, config.scorer_groups, self.stop.strings)
        if (
            name == "checker"
            and language is not None
            and self.stop.strings != (language.separator,)
        ):
            raise ConfigError(
                f"the checker knows steps that end with {quote(language.separator)}; "
                "leave step_stop alone"
            )

    def _allowed(self, config: StepConfig) -> StepConfig:
        """The configuration, or that of the fallback. Raises ConfigError."""
        if config.strategy not in STEPWISE or self.generator.capabilities.continues:
            return config
        if not config.require_continuation:
            return config
        if self.generator.capabilities.continues is None:
            self.probed = self.probed or self.probe()
            if self.probed.verdict is ProbeVerdict.CONTINUE:
                return config
            verdict = self.probed.verdict
            why = (
                f"given a partial answer, it {verdict.value} "
                f"({verdict.name}; {self.probed.seen[0]})"
            )
        else:
            why = "it cannot go on from a partial answer"
        if config.fallback == "best-of-n":
            return replace(config, strategy="best-of-n")
        raise ConfigError(
            f"{config.strategy} continues partial answers, and the backend {self.generator.name} "
            f"does not: {why}; take --strategy best-of-n, which needs no continuation, "
            "or --fallback best-of-n"
        )

    def probe(self) -> ProbeResult:
        """Test whether the backend continues a partial answer."""
        language = self.language
        if language is None:
            return probe_continuation(self.generator, digits_nonce)

        def make(rng: np.random.Generator) -> Nonce:
            problem, reply, given = language.nonce(rng)
            return Nonce(self.prompt(problem), reply, given)

        return probe_continuation(self.generator, make)

    def prompt(self, problem: str) -> str:
        """Return the prompt of a problem."""
        if self.language is None or self.generator.capabilities.chat:
            return problem
        return self.language.prompt(problem)

    @checked_arguments(problems=iter_texts, seed=integer(0, MAX_SEED), cohort=integer(1, 2**16))
    def solving(
        self, problems: Iterable[str | DataError], seed: int = 0, cohort: int = COHORT
    ) -> Iterator[Solution]:
        """Yield solutions in the order of the problems; one that fails has `error`."""
        source = torch.Generator().manual_seed(seed)
        problems = iter(problems)
        while batch := list(itertools.islice(problems, cohort)):
            yield from self.together(batch, source)

    def together(
        self, batch: Sequence[str | DataError], source: torch.Generator, deadline: Deadline = NEVER
    ) -> list[Solution]:
        """Return the solutions of a cohort, with random keys from `source`.

        At the deadline an answer ends after its last complete step (`timeout`).
        """
        keys = [int(key) & ((1 << 62) - 1) for key in new_keys(len(batch), source)]
        self.deadline = deadline
        try:
            return self._cohort(batch, keys)
        finally:
            self.deadline = NEVER
            self.generator.forget()

    def _cohort(self, batch: Sequence[str | DataError], keys: Sequence[int]) -> list[Solution]:
        # One coroutine for each problem that can be read.
        made: dict[int, Solution] = {}
        runs: dict[int, tuple[str, Run]] = {}
        for number, (given, key) in enumerate(zip(batch, keys, strict=True)):
            try:
                if isinstance(given, DataError):
                    raise given
                problem = given if self.language is None else self.language.problem(given)
                runs[number] = problem, RUNS[self.config.strategy](
                    self.prompt(problem), problem, self.config, self.stop, key
                )  # fmt: skip
            except UserError as error:
                text = "" if isinstance(given, DataError) else given
                made[number] = Solution(text, strategy=self.config.strategy, error=str(error))
        # All of them together: what they ask for, and the answers, until each has ended.
        asks: dict[int, Ask] = {number: next(run) for number, (_, run) in runs.items()}
        while asks:
            replies = self._ask(asks)
            asks = {}
            for number, item in replies.items():
                problem, run = runs[number]
                try:
                    if isinstance(item, TimedOut):
                        run.throw(item)
                    elif isinstance(item, UserError):
                        raise item
                    else:
                        asks[number] = run.send(item)
                except StopIteration as ended:
                    made[number] = self._judged(problem, ended.value)
                except UserError as error:
                    late = isinstance(error, TimedOut)
                    made[number] = Solution(
                        problem, strategy=self.config.strategy, error=str(error), timed_out=late
                    )
        return [made[number] for number in range(len(batch))]

    def _ask(self, asks: dict[int, Ask]) -> dict[int, Answered | UserError]:
        """Answer all requests in one call, then all judgements; one by one if a call fails."""
        requests = {number: ask for number, ask in asks.items() if isinstance(ask, Request)}
        judgements = {number: ask for number, ask in asks.items() if isinstance(ask, Judgement)}
        replies: dict[int, Answered | UserError] = {}
        try:
            self.deadline.check()
            replies |= (
                zip(requests, self.generator.next_step(list(requests.values())), strict=True)
                if requests
                else ()
            )
            replies |= (
                zip(judgements, self.scorer.score(list(judgements.values())), strict=True)
                if judgements
                else ()
            )
        except TimedOut as error:
            replies |= {number: error for number in asks if number not in replies}
        except UserError as error:
            if len(asks) == 1:
                return {next(iter(asks)): error}
            for number, ask in asks.items():
                if number not in replies:
                    replies |= self._ask({number: ask})
        return replies

    def _judged(self, problem: str, answer: Answer) -> Solution:
        """The solution, judged by the language."""
        steps = [step.text for step in answer.steps]
        last = steps[-1] if steps else ""
        for stop in self.stop.strings:
            last = last.removesuffix(stop)
        if self.language is None:
            return Solution(problem, answer, last.strip(), strategy=self.config.strategy)
        # The last step may hold several, if `step_stop` ends them elsewhere.
        last = last.rpartition(self.language.separator)[2]
        wrong = self.language.first_wrong(self.language.prompt(problem) + self._whole_steps(answer))
        result = last if answer.finish_reason == "end" and self.language.is_final(last) else ""
        correct = result == self.language.answer(problem)
        return Solution(problem, answer, result, correct, wrong, self.config.strategy)

    def _whole_steps(self, answer: Answer) -> str:
        """The answer without an incomplete last step."""
        assert self.language is not None
        if answer.finish_reason == "end":
            return answer.text
        return answer.text[: answer.text.rfind(self.language.separator) + 1]


__all__ = ["COHORT", "Solution", "Solver"]
