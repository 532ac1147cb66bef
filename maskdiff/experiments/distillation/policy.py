"""What the experiments ask of a model, as student and as teacher: prompts, draws, and logits of given answers.

For: the protocol `Policy` and plain values around it. Not for: any model (`own.py`,
`hugging_face.py`, `planted.py`), or what is learned. Easy to get wrong: an answer is the ids that
were drawn, its end included if it came to one; it is put behind a prompt as ids, and never made of
text again, which might be cut otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from maskdiff.decoding.loop import Batch, decode, keyed_noise
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.random import next_token_noise
from maskdiff.drawing.settings import Draw
from maskdiff.models.continuation import CausalStream

if TYPE_CHECKING:
    from torch import Tensor, nn

    from maskdiff.experiments.distillation.environment import Problem

Ids = tuple[int, ...]


class AnswerScorer(Protocol):
    """Scores given answers."""

    def logits(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """(batch, longest answer, size) float32: row t scores token t of an answer; rows behind an answer mean nothing.

        With gradients where they are enabled.
        """
        ...


class Policy(AnswerScorer, Protocol):
    """A causal language model that is asked problems. Student and teacher are the same policy behind different prompts.

    name: of the model. size: ids of its vocabulary. backtracking: ids of tokens that take something
    back, or begin to. large: whether the defaults of large models are meant for it. Training
    changes the weights in place.
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
        """What an answer stands behind: the problem, or with an earlier attempt at it, or with what was said of that, or both.

        Without feedback but with an attempt, the attempt is shown and nothing said of it. Raises
        UserError where it is too long.
        """
        ...

    def text(self, answer: Ids) -> str:
        """What an answer says, without its end."""
        ...

    def sample(
        self, prompts: Sequence[Ids], keys: Sequence[int], temperature: float, limit: int
    ) -> list[Ids]:
        """An answer to every prompt, of at most `limit` tokens; at temperature 0 the likeliest token each time.

        Token t of an answer is argmax(log p / T + Gumbel noise of (its key, t, symbol)), so that it
        depends on nothing else of the batch, and prompts that share a key share their luck.
        """
        ...

    def twin(self) -> Policy:
        """The same model with weights of its own."""
        ...


class AnswerStrings:
    """Answers of a policy as the `Strings` of `decode`: they end with a token of `ends`, or full."""

    history: TokenHistory | None = None
    free = None

    def __init__(self, limits: Sequence[int], ends: Collection[int]) -> None:
        self.limits, self.ends = limits, ends
        self.answers: list[list[int]] = [[] for _ in limits]

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `Strings.write`."""
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
        stream: The model behind the prompts.
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


def pick(logits: Tensor, keys: Tensor, place: int, temperature: float) -> Tensor:
    """One token of each row: logits (rows, size), minus infinity where never drawn, keys (rows,) -> (rows,)."""
    where = torch.full_like(keys, place)
    noise = next_token_noise(keys.to(logits.device), where.to(logits.device), logits.shape[-1])
    return Draw(temperature).tokens(logits.double(), noise)


def groups(sizes: Sequence[int], most: int, rows: int) -> list[list[int]]:
    """Indices of strings to be run together: at most `rows`, and rows x the longest at most `most`, if more than one."""
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
