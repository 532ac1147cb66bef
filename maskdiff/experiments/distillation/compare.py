"""What a student and its teacher say at every place of an answer, side by side, in passes of bounded memory.

For: `Pair`, `measure`. Not for: what is made of the figures. Easy to get wrong: the teacher may judge another answer than the
student's own; `partners` says at which of its places each place of the student's answer is compared, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff.experiments.distillation.divergence import Divergence
from maskdiff.experiments.distillation.policy import AnswerScorer, Ids, Policy
from maskdiff.experiments.distillation.positions import NONE

ELEMENTS = 2**25  # logits of one side that are held at once
Measure = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # student, teacher (batch, places, vocab), answer (batch, places) -> the same


@dataclass(frozen=True)
class Pair:
    """A student's answer behind its prompt, and what a teacher sees: an answer behind a prompt of its own.

    partners: for each place of the student's answer that of the teacher's, or NONE.
    """

    prompt: Ids
    answer: Ids
    teacher_prompt: Ids
    teacher_answer: Ids
    partners: tuple[int, ...]

    @classmethod
    def same(cls, prompt: Ids, answer: Ids, teacher_prompt: Ids) -> Pair:
        """The teacher judges the student's own answer."""
        return cls(prompt, answer, teacher_prompt, answer, tuple(range(len(answer))))

    @property
    def compared(self) -> list[bool]:
        """Which places of the answer have a partner."""
        return [partner != NONE for partner in self.partners]


def chunks(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    """Pairs in order, so many at a time as have `ELEMENTS` logits over a vocabulary of `size`, or one."""
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
    """(batch, longest answer, vocab)."""
    return policy.logits([pair.prompt for pair in pairs], [pair.answer for pair in pairs])


@torch.no_grad()
def teacher_logits(policy: AnswerScorer, pairs: Sequence[Pair]) -> Tensor:
    """(batch, longest answer of a student, vocab): row t is the teacher's at the partner of place t; others mean nothing."""
    scores = policy.logits(
        [pair.teacher_prompt for pair in pairs], [pair.teacher_answer for pair in pairs]
    )
    width = max(len(pair.answer) for pair in pairs)
    places = torch.tensor(
        [[max(p, 0) for p in pair.partners] + [0] * (width - len(pair.partners)) for pair in pairs]
    )
    return scores.gather(1, places.to(scores.device)[..., None].expand(-1, -1, scores.shape[-1]))


@torch.no_grad()
def measure(
    student: Policy, teacher: AnswerScorer, pairs: Sequence[Pair], measures: Mapping[str, Measure]
) -> dict[str, list[NDArray[np.float64]]]:
    """Each measure at every place of every pair's answer, (places,), NaN where there is no partner."""
    made: dict[str, list[NDArray[np.float64]]] = {name: [] for name in measures}
    for group in chunks(pairs, student.size):
        width = max(len(pair.answer) for pair in group)
        answer = torch.tensor([[*pair.answer, *[0] * (width - len(pair.answer))] for pair in group])
        ours, theirs = student_logits(student, group), teacher_logits(teacher, group)
        for name, figure in measures.items():
            values = figure(ours, theirs, answer.to(ours.device)).double().cpu().numpy()
            for row, pair in zip(values, group, strict=True):
                made[name].append(np.where(pair.compared, row[: len(pair.answer)], np.nan))
    return made


def nats(divergence: Divergence) -> Measure:
    """The divergence of the teacher from the student."""
    return lambda student, teacher, answer: divergence(student, teacher)


def mass(tokens: frozenset[int], whose: Literal["student", "teacher"]) -> Measure:
    """The probability that the student, or the teacher, gives to some tokens together."""
    index = torch.tensor(sorted(tokens), dtype=torch.int64)

    def figure(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
        logits = (student if whose == "student" else teacher).float()
        return logits.softmax(-1)[..., index.to(logits.device)].sum(-1)

    return figure


def outside(top_k: int, whose: Literal["student", "teacher"]) -> Measure:
    """The probability that the student, or the teacher, gives to what is not among the student's likeliest tokens."""

    def figure(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
        if not 0 < top_k < student.shape[-1]:
            return torch.zeros(student.shape[:-1], device=student.device)
        p = (student if whose == "student" else teacher).float().softmax(-1)
        return p.scatter(-1, student.topk(top_k, dim=-1).indices, 0.0).sum(-1)

    return figure


def advantage(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
    """How much likelier the teacher finds the student's token than the student does, in nats."""
    ours, theirs = (
        x.float().log_softmax(-1).gather(-1, answer[..., None])[..., 0] for x in (student, teacher)
    )
    return theirs - ours


def entropy(student: Tensor, teacher: Tensor, answer: Tensor) -> Tensor:
    """The student's entropy, in nats."""
    return torch.special.entr(student.float().softmax(-1)).sum(-1)


__all__ = [
    "Measure", "Pair", "advantage", "chunks", "entropy", "mass", "measure", "nats", "outside", "student_logits",
    "teacher_logits",
]  # fmt: skip
