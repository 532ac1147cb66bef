"""Teachers with a known fault, and a small policy of tables, to test the experiments on.

`corrupted` is a control of the second experiment, `PlantedPolicy` a whole model for tests. Every
place is disturbed by a random amount, and from the onset on by more: looking for the first
difference would find a fault that only begins somewhere.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskdiff.drawing.random import bits, uniform
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import (
    AnswerScorer,
    AnswerStrings,
    Ids,
    draw_answers,
    lengths,
)
from maskdiff.experiments.distillation.positions import DECILES

FAINT, STRONG = 0.02, 0.1  # typical shares of noise before and after the onset
SPREAD = 1.0  # of their logarithm
END = 0


def corrupted(
    logits: Tensor, lengths: Tensor, keys: Tensor, onset: int | None, strong: float = STRONG
) -> Tensor:
    """Logits of a teacher who agrees but for noise: with probability q a token is any token.

    q is log-normal about 0.02 at every place, and about `strong` from the onset on, so that the
    divergence at a place depends little on the certainty of the student.

    Args:
        logits: (batch, places, vocab) of the student.
        lengths: (batch,) of the answers.
        keys: (batch,) of the noise.
        onset: Decile of each answer, 1 to 9; None for nowhere.
        strong: Typical q from there on.
    """
    places = torch.arange(logits.shape[1], device=logits.device)
    draws = uniform(keys[:, None].to(logits.device), 0xFA, places)  # (batch, places)
    normal = math.sqrt(2) * torch.erfinv(2 * draws - 1)
    late = DECILES * places // lengths.to(logits.device)[:, None].clamp(min=1) >= (
        DECILES if onset is None else onset
    )
    share = torch.where(late, strong, FAINT) * torch.exp(SPREAD * normal)
    share = share.clamp(max=0.9)[..., None].to(logits.dtype)
    return torch.logaddexp(
        logits.log_softmax(-1) + torch.log1p(-share), share.log() - math.log(logits.shape[-1])
    )


class Disturbed:
    """A teacher who agrees with a policy but for noise, stronger from decile `onset` on."""

    def __init__(self, policy: AnswerScorer, onset: int | None, seed: int) -> None:
        self.policy, self.onset, self.seed = policy, onset, seed

    def logits(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """See `Policy`."""
        return corrupted(
            self.policy.logits(prompts, answers),
            lengths(answers),
            _keys(answers, self.seed),
            self.onset,
        )


def _keys(answers: Sequence[Ids], seed: int) -> Tensor:
    """A key for the noise of each answer, which depends on nothing else."""
    return bits(
        torch.tensor([hash(answer) % (1 << 62) for answer in answers]), seed
    )  # hashes of whole numbers are fixed


class _TableStream:
    """A table of logits, by the last token, as a `CausalStream`."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`."""
        return self.table[token].double()

    def select(self, rows: Tensor) -> _TableStream:
        """See `CausalStream.select`."""
        return self


class PlantedPolicy:
    """Implements `Policy` by a table of what follows each token; the teacher is `corrupted`.

    Problems are any text. With `null` feedback changes nothing. Answers end with token 0; the last
    token of the vocabulary takes something back.
    """

    large = False
    name = "planted"

    def __init__(
        self, seed: int = 0, size: int = 24, onset: int | None = None, null: bool = False
    ) -> None:
        self.size, self.onset, self.null, self.seed = size, onset, null, seed
        rows = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) * 1.5
        rows[:, END] = -3.0
        self.module = nn.ParameterList([nn.Parameter(rows)])
        self.backtracking = frozenset({size - 1})

    def prompt(
        self, problem: Problem, attempt: Ids | None = None, feedback: str | None = None
    ) -> Ids:
        """See `Policy`: a token for the presence of feedback, and one for the problem."""
        informed = feedback is not None and not self.null
        return (1 if informed else 2, 3 + sum(map(ord, problem.text)) % (self.size - 3))

    def text(self, answer: Ids) -> str:
        """See `Policy`: a letter a token."""
        return "".join(chr(ord("a") + token) for token in answer if token != END)

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Ids], keys: Sequence[int], temperature: float, limit: int
    ) -> list[Ids]:
        """See `Policy`; the table alone, without its corruption."""
        stream = _TableStream(self.module[0])
        scores = stream.step(torch.tensor([prompt[-1] for prompt in prompts]))
        strings = AnswerStrings([limit] * len(prompts), {END})
        return draw_answers(stream, scores, torch.tensor(keys), temperature, strings)

    def logits(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """See `Policy`."""
        longest = max(map(len, answers))
        before = [
            [prompt[-1], *answer[:-1], *[END] * (longest - len(answer))]
            for prompt, answer in zip(prompts, answers)
        ]
        plain = self.module[0][torch.tensor(before)]  # (batch, longest, size)
        noisy = corrupted(plain, lengths(answers), _keys(answers, self.seed), self.onset)
        informed = torch.tensor([prompt[0] == 1 for prompt in prompts])
        return torch.where(informed[:, None, None], noisy, plain)

    def twin(self) -> PlantedPolicy:
        """See `Policy`."""
        return copy.deepcopy(self)


__all__ = ["FAINT", "STRONG", "Disturbed", "PlantedPolicy", "corrupted"]
