"""The material of one seed: problems, the student's answers, and what was written anew in view of them; drawn once, when
needed.

    sampled       s    of the student, at the configured temperature
    greedy             of the student, one a problem, its likeliest tokens
    regenerated   s'   of the teacher, who saw s and what was said of it; sampled as s was
    regenerated_greedy s' by its likeliest tokens, though s was drawn (not matched: the reference experiment's way)
    greedy_from_greedy s' by its likeliest tokens, from greedy answers (matched)
    resampled     s''  of the student again: without feedback, so nothing is corrected
    shown              of the teacher who saw s, of which nothing was said
    revised            s with the tokens that the bidirectional mode doubts written anew

For: `Study`. Not for: what is made of it (`experiments/`). Easy to get wrong: the random numbers of an answer belong to (seed,
what it is drawn for, problem, number), and to nothing else, so that experiments alone and together give the same figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.drawing.random import bits
from maskdiff.experiments.distillation.bidirectional import BidirectionalTeacher
from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.compare import Pair
from maskdiff.experiments.distillation.environment import Environment, Outcome, Problem, attempts
from maskdiff.experiments.distillation.policy import Ids, Policy
from maskdiff.experiments.distillation.positions import Align, mean_of, ordinal

PURPOSES = (
    "sampled",
    "greedy",
    "regenerated",
    "resampled",
    "shown",
    "revised",
    "training",
    "noise",
)
OWN_TOKENS, LARGE_TOKENS = 96, 512


@dataclass(frozen=True)
class Answers:
    """Answers to the problems of a seed. owner: number of the problem of each. keys: of their random numbers."""

    prompts: list[Ids]
    ids: list[Ids]
    outcomes: list[Outcome]
    owner: NDArray[np.int64]
    keys: list[int]

    @property
    def rewards(self) -> NDArray[np.float64]:
        """(answers,)."""
        return np.array([outcome.reward for outcome in self.outcomes])

    def by_problem(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(answers, ...) -> (problems, ...): means over the answers of each problem, NaN left out."""
        return np.stack(
            [mean_of(values[self.owner == problem]) for problem in range(int(self.owner.max()) + 1)]
        )


class Study:
    """One seed of the experiments; a policy's weights are those that it has when something is first asked for."""

    def __init__(
        self, policy: Policy, environment: Environment, config: DistillationConfig, seed: int
    ) -> None:
        self.policy, self.environment, self.config, self.seed = policy, environment, config, seed
        self.limit = config.max_tokens or (LARGE_TOKENS if policy.large else OWN_TOKENS)

    @cached_property
    def problems(self) -> list[Problem]:
        """The problems of this seed."""
        return self.environment.problems(self.config.problems, self.seed)

    def keys(self, purpose: str, owner: Sequence[int], step: int = 0) -> list[int]:
        """Keys of answers to some problems, which may repeat."""
        seen: dict[int, int] = {}
        numbers = [seen.setdefault(problem, 0) for problem in owner]
        for i, problem in enumerate(owner):
            numbers[i], seen[problem] = seen[problem], seen[problem] + 1
        made = bits(
            torch.tensor(self.seed),
            PURPOSES.index(purpose),
            step,
            torch.tensor(owner),
            torch.tensor(numbers),
        )
        return [int(key) for key in made]

    def answered(
        self,
        prompts: list[Ids],
        owner: Sequence[int],
        keys: list[int],
        temperature: float,
        writer: Policy | None = None,
    ) -> Answers:
        """Draw answers behind prompts, of the policy or of another writer, and have them judged."""
        drawn = (writer or self.policy).sample(prompts, keys, temperature, self.limit)
        return self.judged(prompts, drawn, owner, keys)

    def judged(
        self, prompts: list[Ids], ids: list[Ids], owner: Sequence[int], keys: list[int]
    ) -> Answers:
        """Have answers judged."""
        texts = [self.policy.text(answer) for answer in ids]
        outcomes = attempts(self.environment, [self.problems[problem] for problem in owner], texts)
        return Answers(prompts, ids, outcomes, np.array(owner), keys)

    def draw(self, purpose: str, step: int = 0) -> Answers:
        """The student's answers to all problems, by the numbers of a purpose and a step."""
        owner = [
            problem for problem in range(len(self.problems)) for _ in range(self.config.rollouts)
        ]
        prompts = [self.policy.prompt(self.problems[problem]) for problem in owner]
        return self.answered(
            prompts, owner, self.keys(purpose, owner, step), self.config.temperature
        )

    def told(self, answers: Answers) -> list[Ids]:
        """The prompts of a teacher who knows what was said of each answer, and not the answer."""
        given = zip(answers.owner.tolist(), answers.outcomes, strict=True)
        return [
            self.policy.prompt(self.problems[problem], None, outcome.feedback)
            for problem, outcome in given
        ]

    def shown_and_told(self, answers: Answers, said: bool = True) -> list[Ids]:
        """The prompts of a teacher who also sees each answer; without `said`, nothing is said of it."""
        given = zip(answers.owner.tolist(), answers.ids, answers.outcomes, strict=True)
        return [
            self.policy.prompt(self.problems[problem], answer, outcome.feedback if said else None)
            for problem, answer, outcome in given
        ]

    def anew(
        self,
        answers: Answers,
        purpose: str,
        temperature: float,
        said: bool = True,
        step: int = 0,
        writer: Policy | None = None,
    ) -> Answers:
        """What a teacher (`writer`, or the policy) writes who sees each answer, and mostly what was said of it."""
        owner, prompts = answers.owner.tolist(), self.shown_and_told(answers, said)
        return self.answered(prompts, owner, self.keys(purpose, owner, step), temperature, writer)

    # ------------------------------------------------------------------------------------------------------- what is drawn

    @cached_property
    def sampled(self) -> Answers:
        """See the module."""
        return self.draw("sampled")

    @cached_property
    def greedy(self) -> Answers:
        """See the module."""
        owner = list(range(len(self.problems)))
        return self.answered(
            [self.policy.prompt(problem) for problem in self.problems],
            owner,
            self.keys("greedy", owner),
            0.0,
        )

    @cached_property
    def regenerated(self) -> Answers:
        """See the module."""
        return self.anew(self.sampled, "regenerated", self.config.temperature)

    @cached_property
    def regenerated_greedy(self) -> Answers:
        """See the module."""
        return self.anew(self.sampled, "regenerated", 0.0)

    @cached_property
    def greedy_from_greedy(self) -> Answers:
        """See the module."""
        return self.anew(self.greedy, "regenerated", 0.0)

    @cached_property
    def resampled(self) -> Answers:
        """See the module."""
        return self.draw("resampled")

    @cached_property
    def shown(self) -> Answers:
        """See the module."""
        return self.anew(self.sampled, "shown", self.config.temperature, said=False)

    @cached_property
    def revised(self) -> Answers | None:
        """See the module; None of a policy without a bidirectional mode."""
        if not isinstance(self.policy, OwnPolicy):
            return None
        owner, prompts = self.sampled.owner.tolist(), self.shown_and_told(self.sampled)
        keys = self.keys("revised", owner)
        made = BidirectionalTeacher(self.policy).revise(
            prompts, self.sampled.ids, keys, self.config.temperature
        )
        return self.judged(prompts, made, owner, keys)

    # ------------------------------------------------------------------------------------------------------- what is paired

    def standard_pairs(self, answers: Answers) -> list[Pair]:
        """The student's answers, judged by a teacher who was told what was said of them, and perhaps sees them, too."""
        prompts = self.shown_and_told(answers) if self.config.show_attempt else self.told(answers)
        return self.pairs_behind(answers, prompts)

    def pairs_behind(self, answers: Answers, prompts: Sequence[Ids]) -> list[Pair]:
        """The student's answers, judged by a teacher behind other prompts."""
        return [Pair.same(*row) for row in zip(answers.prompts, answers.ids, prompts, strict=True)]

    def untold(self, answers: Answers) -> list[Ids]:
        """The prompts of a teacher who is asked as if he was told, and told nothing."""
        return [
            self.policy.prompt(self.problems[problem], None, "")
            for problem in answers.owner.tolist()
        ]

    def pairs_with(self, answers: Answers, others: Answers, align: Align = ordinal) -> list[Pair]:
        """The student's answers beside others, which a teacher judges behind the prompts that they were drawn behind."""
        rows = zip(answers.prompts, answers.ids, others.prompts, others.ids, strict=True)
        return [Pair(*row, tuple(align(row[1], row[3]))) for row in rows]


__all__ = ["PURPOSES", "Answers", "Study"]
