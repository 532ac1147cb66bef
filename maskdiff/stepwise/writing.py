"""The next step of an answer while a backend writes it: its tokens, their figures, and its end.

Random numbers are a function of the seed of the request, the number of the candidate, the position
in the answer and the symbol, so that a step that is written token by token, or in another batch, is
the same step. Log-probabilities are those of the model, before temperature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import token_figures
from maskdiff.drawing.random import bits
from maskdiff.stepwise.protocol import Candidate, Finish, Reply, Request, Spent, split_step

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary


def candidate_keys(request: Request, numbers: Tensor | None = None) -> Tensor:
    """(n,) keys of the random numbers of candidates, by default of those that are asked for."""
    if numbers is None:
        numbers = torch.arange(request.first, request.first + request.num)
    seed = (request.seed + (1 << 63)) % (1 << 64) - (1 << 63)  # as an int64
    return bits(torch.tensor([seed]), numbers)


@dataclass
class Step:
    """A candidate while it is written.

    Attributes:
        request: What asks for it.
        limit: Tokens that it has at most; by default those of the request.
        finish: Why it has ended; None while it is written.
    """

    request: Request
    limit: int = 0
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
    _since: int = (
        0  # characters, carried ones included, up to which no stop string ends that counts
    )
    _cut: tuple[str, str] | None = None  # the step and what goes beyond it

    def __post_init__(self) -> None:
        self.limit = self.limit or self.request.stop.max_tokens
        if self.request.stop.min_tokens == 1:  # what was carried over may be a whole step already
            self._look()

    def add(self, token: int, figures: Sequence[float], text: str, ends: bool) -> None:
        """Append a token with its log-probability, entropy and gap; `ends`: it ends the answer."""
        self.ids.append(token)
        for values, value in zip((self.log_probs, self.entropies, self.gaps), figures, strict=True):
            values.append(value)
        self.text += text
        if ends:
            self.finish = "end"
            return
        if len(self.ids) >= self.request.stop.min_tokens:
            self._look()
        self._since = len(self.request.overshoot) + len(self.text)
        if self.finish is None and len(self.ids) >= self.limit:
            self.finish = "length"

    def _look(self) -> None:
        """End the step at its first stop string."""
        self._cut = split_step(self.text, self._since, self.request.stop, self.request.overshoot)
        if self._cut is not None:
            self.finish = "stop"

    def candidate(self) -> Candidate:
        """The finished step."""
        assert self.finish is not None
        step, overshoot = self._cut or (self.request.overshoot + self.text, "")
        return Candidate(
            step=step, text=self.text, finish=self.finish, tokens=len(self.ids),
            overshoot=overshoot, ids=tuple(self.ids), log_probs=tuple(self.log_probs),
            entropies=tuple(self.entropies), gaps=tuple(self.gaps),
        )  # fmt: skip


def replies(
    steps: Sequence[Sequence[Step]], spent: Sequence[Counter[str]], seconds: float
) -> list[Reply]:
    """The finished steps of each request and its cost; requests share the time."""
    share = seconds / max(1, len(steps))
    return [
        Reply(
            tuple(step.candidate() for step in own),
            Spent(cost["tokens"], cost["calls"], len(own), share),
        )
        for own, cost in zip(steps, spent, strict=True)
    ]


Piece = Callable[[Step, int], tuple[str, bool]]  # the text that a token adds, and whether it ends


class StepStrings:
    """Steps as the `GrowingStrings` of `decode`; the scores of the stream are normalised."""

    history: TokenHistory | None = None
    free = None

    def __init__(self, steps: Sequence[Step], piece: Piece) -> None:
        self.steps, self.piece = steps, piece

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `GrowingStrings.write`."""
        steps = [self.steps[row] for row in rows.tolist()]
        own = token_figures(scores, tokens)
        figures = torch.stack((own.log_probs, own.entropies, own.gaps), 1).tolist()
        for step, token, values in zip(steps, tokens.tolist(), figures, strict=True):
            step.add(token, values, *self.piece(step, token))
        return torch.tensor([step.finish is None for step in steps])


def symbol(vocabulary: Vocabulary) -> Piece:
    """The texts of our own tokens."""

    def piece(_: Step, token: int) -> tuple[str, bool]:
        ends = token == vocabulary.eos
        return "" if ends else vocabulary.symbols[token], ends

    return piece


def ids_of(candidate: Candidate, vocabulary: Vocabulary) -> list[int]:
    """The ids of a candidate if they spell its text, else the tokens of its text.

    A candidate of another backend has no ids, or those of another vocabulary.

    Raises:
        ParseError: For foreign symbols.
    """
    inner, symbols = (
        [token for token in candidate.ids if token != vocabulary.eos],
        vocabulary.symbols,
    )
    ours = len(candidate.ids) > 0 and all(0 <= token < len(symbols) for token in inner)
    if ours and "".join([symbols[token] for token in inner]) == candidate.text:
        return list(candidate.ids)
    return vocabulary.encode(candidate.text)


def answer_ids(request: Request, vocabulary: Vocabulary) -> list[int]:
    """The ids of the answer so far; a step of another backend is tokenised once."""
    return [token for candidate in request.partial for token in ids_of(candidate, vocabulary)]


__all__ = [
    "Piece",
    "Step",
    "StepStrings",
    "answer_ids",
    "candidate_keys",
    "ids_of",
    "replies",
    "symbol",
]  # fmt: skip
