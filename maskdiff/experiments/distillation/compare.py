"""Measures of student and teacher at every place of an answer, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from maskdiff.experiments.distillation.divergence import Divergence
from maskdiff.experiments.distillation.policy import AnswerScorer, Ids, Policy
from maskdiff.experiments.distillation.positions import NO_PARTNER, Array

ELEMENTS = 2**25  # logits of one side that are held at once
# student and teacher logits (batch, places, vocab), answer (batch, places) -> (batch, places)
Measure = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """A student's answer after its prompt, and a teacher's after another prompt.

    Attributes:
        partners: For each place of the student's answer the place of the teacher's that it is
            compared with, or NO_PARTNER.
    """

    prompt: Ids
    answer: Ids
    teacher_prompt: Ids
    teacher_answer: Ids
    partners: tuple[int, ...]

    @classmethod
    def same(cls, prompt: Ids, answer: Ids, teacher_prompt: Ids) -> Pair:
        """Return the pair of a teacher that scores the student's own answer."""
        return cls(prompt, answer, teacher_prompt, answer, tuple(range(len(answer))))

    @property
    def compared(self) -> list[bool]:
        """Whether each place of the answer has a partner."""
        return [partner != NO_PARTNER for partner in self.partners]


def pair_batches(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    """Yield pairs in order, in batches of at most `ELEMENTS` logits (or one pair).

    Args:
        pairs: The pairs.
        size: Size of the vocabulary.
    """
    start = 0
    while start < len(pairs):
        end, longest = start, 0
        while end < len(pairs):
            longest = max(longest, len(pairs[end].answer), len(pairs[end].teacher_answer))
            if end > start and (end + 1 - start) * longest * size > ELEMENTS:
                break
            end += 1
        yield pairs[start:end]
        start = end


def student_logits(policy: AnswerScorer, pairs: Sequence[Pair]) -> Tensor:
    """Return the student's logits: (batch, longest answer, vocab)."""
    return policy.logits([pair.prompt for pair in pairs], [pair.answer for pair in pairs])


@torch.no_grad()
def teacher_logits(policy: AnswerScorer, pairs: Sequence[Pair]) -> Tensor:
    """Return the teacher's logits at the partners: (batch, longest student answer, vocab).

    Rows without a partner are meaningless.
    """
    prompts, answers = zip(*((pair.teacher_prompt, pair.teacher_answer) for pair in pairs))
    scores = policy.logits(prompts, answers)
    width = max(len(pair.answer) for pair in pairs)
    places = torch.tensor(
        [[max(p, 0) for p in pair.partners] + [0] * (width - len(pair.partners)) for pair in pairs]
    )
    return scores.gather(1, places.to(scores.device)[..., None].expand(-1, -1, scores.shape[-1]))


@torch.no_grad()
def measure_pairs(
    student: Policy, teacher: AnswerScorer, pairs: Sequence[Pair], measures: Mapping[str, Measure]
) -> dict[str, list[Array]]:
    """Return each measure at every place of every pair: (places,), NaN without a partner."""
    made: dict[str, list[Array]] = {name: [] for name in measures}
    for batch in pair_batches(pairs, student.size):
        width = max(len(pair.answer) for pair in batch)
        answer = torch.tensor([[*pair.answer, *[0] * (width - len(pair.answer))] for pair in batch])
        ours, theirs = student_logits(student, batch), teacher_logits(teacher, batch)
        for name, measure in measures.items():
            values = measure(ours, theirs, answer.to(ours.device)).double().cpu().numpy()
            for row, pair in zip(values, batch, strict=True):
                made[name].append(np.where(pair.compared, row[: len(pair.answer)], np.nan))
    return made


def divergence_measure(divergence: Divergence) -> Measure:
    """Return the measure of a divergence, in nats."""
    return lambda student, teacher, answer: divergence(student, teacher)


def token_mass(tokens: frozenset[int], whose: Literal["student", "teacher"]) -> Measure:
    """Return the measure of the probability that the student or the teacher gives to `tokens`."""
    index = torch.tensor(sorted(tokens), dtype=torch.int64)

    def measure(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
        logits = (student if whose == "student" else teacher).float()
        return logits.softmax(-1)[..., index.to(logits.device)].sum(-1)

    return measure


def mass_outside(top_k: int, whose: Literal["student", "teacher"]) -> Measure:
    """Return the measure of the probability outside the student's top k tokens."""

    def measure(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
        if not 0 < top_k < student.shape[-1]:
            return torch.zeros(student.shape[:-1], device=student.device)
        p = (student if whose == "student" else teacher).float().softmax(-1)
        return p.scatter(-1, student.topk(top_k, dim=-1).indices, 0.0).sum(-1)

    return measure


def advantage(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
    """Return log p(teacher) - log p(student) of the student's tokens, in nats."""
    ours, theirs = (
        x.float().log_softmax(-1).gather(-1, answer[..., None])[..., 0] for x in (student, teacher)
    )
    return theirs - ours


def entropy(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
    """Return the student's entropy, in nats."""
    return torch.special.entr(student.float().softmax(-1)).sum(-1)


__all__ = [
    "Measure", "Pair", "advantage", "divergence_measure", "entropy", "mass_outside",
    "measure_pairs", "pair_batches", "student_logits", "teacher_logits", "token_mass",
]  # fmt: skip
