"""`Policy`, a model as student and as teacher of the experiments, and how it draws answers.

An answer is the ids that were drawn, with its end if it has one. It is put after a prompt as ids,
and never made of text again, which might be tokenised otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from maskdiff.decoding.loop import Batch, decode, keyed_noise
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.settings import Draw
from maskdiff.models.continuation import CausalStream

if TYPE_CHECKING:
    from torch import Tensor, nn

    from maskdiff.experiments.distillation.environment import Problem

Ids = tuple[int, ...]


class AnswerScorer(Protocol):
    """Scores given answers."""

    def logits(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """(batch, longest answer, size) float32 logits: row t scores token t of an answer.

        Rows after an answer have no meaning. With gradients where they are enabled.
        """
        ...


class Policy(AnswerScorer, Protocol):
    """A causal language model that answers problems; training changes its weights in place.

    Student and teacher are the same policy after different prompts.

    Attributes:
        name: Of the model.
        size: Ids of its vocabulary.
        backtracking: Ids of tokens that take something back, or begin to.
        large: Whether the defaults of large models apply.
    """

    name: str
    size: int
    backtracking: frozenset[int]
    large: bool

    @property
    def module(self) -> nn.Module:
        """The weights."""
        ...

    def prompt(
        self, problem: Problem, attempt: Ids | None = None, feedback: str | None = None
    ) -> Ids:
        """The ids before an answer: the problem, with an earlier attempt, feedback on it, or both.

        Without feedback but with an attempt, the attempt is shown without a comment.

        Raises:
            UserError: For a prompt that is too long.
        """
        ...

    def text(self, answer: Ids) -> str:
        """The text of an answer, without its end."""
        ...

    def sample(
        self, prompts: Sequence[Ids], keys: Sequence[int], temperature: float, limit: int
    ) -> list[Ids]:
        """An answer to every prompt, of at most `limit` tokens.

        Token t is argmax(log p / temperature + Gumbel noise of (its key, t, symbol)), the likeliest
        at temperature 0, so that it depends on nothing else of the batch, and prompts that share a
        key share their noise.
        """
        ...

    def twin(self) -> Policy:
        """The same model with weights of its own."""
        ...


class AnswerStrings:
    """Answers of a policy, as `GrowingStrings`.

    They end with a token of `ends`, or at their limit.
    """

    history: TokenHistory | None = None
    free = None

    def __init__(self, limits: Sequence[int], ends: Collection[int]) -> None:
        self.limits, self.ends = limits, ends
        self.answers: list[list[int]] = [[] for _ in limits]

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `GrowingStrings.write`."""
        going = []
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            self.answers[row].append(token)
            going.append(token not in self.ends and len(self.answers[row]) < self.limits[row])
        return torch.tensor(going)


def draw_answers(
    stream: CausalStream,
    scores: Tensor,
    keys: Tensor,
    temperature: float,
    strings: AnswerStrings,
    allowed: Tensor | None = None,
) -> list[Ids]:
    """The answers that a stream continues with.

    Args:
        stream: The model after the prompts.
        scores: (rows, size) float64 logits of the first token.
        keys: (rows,) of the random numbers.
        temperature: Of the draws.
        strings: The answers, still empty.
        allowed: (size,) bool: ids that may be drawn.
    """
    if not any(strings.limits):
        return [()] * len(strings.limits)
    keys = keys.to(scores.device)
    noise = keyed_noise(keys, torch.zeros_like(keys), scores.shape[1])
    for _ in decode(stream, scores, strings, Batch(noise, allowed), Draw(temperature)):
        pass
    return [tuple(answer) for answer in strings.answers]


def groups(sizes: Sequence[int], most: int, rows: int) -> list[list[int]]:
    """Indices of strings in batches of at most `rows`, and at most `most` tokens with padding.

    A string of more tokens has a batch of its own.
    """
    left, made = sorted(range(len(sizes)), key=lambda i: sizes[i]), []
    while left:
        fitting = max(1, sum((n + 1) * sizes[i] <= most for n, i in enumerate(left[:rows])))
        made.append(left[:fitting])
        left = left[fitting:]
    return made


def lengths(answers: Sequence[Ids]) -> Tensor:
    """(batch,) tokens of each answer."""
    return torch.tensor([len(answer) for answer in answers])


__all__ = ["AnswerScorer", "AnswerStrings", "Ids", "Policy", "draw_answers", "groups", "lengths"]
