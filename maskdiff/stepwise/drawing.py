"""What our own backends share: drawing tokens with numbers that belong to a candidate, and watching a step end.

For: `draw`, and `Step`, a step while it is being written. Not for: evaluating a model. Easy to get wrong: the random numbers of
a token are a function of (seed of the request, number of the candidate, position in the answer, symbol), so a step that is
asked for token by token, or in another batch, is the same step; log-probabilities are those of the model, not of the
distribution that temperature made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.drawing.random import Purpose, bits, gumbel
from maskdiff.stepwise.protocol import Candidate, Finish, Request, bounded

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary


@dataclass(frozen=True)
class Drawn:
    """One token for each row: ids (n,), and its log-probability, entropy and gap (n,), in nats at temperature 1."""

    ids: list[int]
    log_probs: list[float]
    entropies: list[float]
    gaps: list[float]


def key_of(request: Request, number: int) -> int:
    """The key of the random numbers of a request's candidate `number`, from 0."""
    return int(bits(torch.tensor(request.seed), request.first + number))


def draw(log_p: Tensor, keys: list[int], places: list[int], temperatures: list[float]) -> Drawn:
    """Draw a token from every row of normalised float64 `log_p` (n, vocab); keys, places and temperatures are those of rows.

    By argmax(log p / T + Gumbel), at temperature 0 by argmax log p.
    """
    p = log_p.exp()
    entropy = -(p * log_p.nan_to_num(neginf=0.0)).sum(-1)
    two = p.topk(2, dim=-1).values
    temperature = torch.tensor(temperatures, dtype=log_p.dtype)[:, None]
    symbols = torch.arange(log_p.shape[1])
    noise = gumbel(
        torch.tensor(keys)[:, None],
        int(Purpose.TOKEN),
        0,
        0,
        torch.tensor(places)[:, None],
        symbols,
    )
    warm = log_p / temperature.clamp(min=1e-6) + noise.to(log_p)
    ids = torch.where(temperature[:, 0] > 0, warm.argmax(-1), log_p.argmax(-1))
    chosen = log_p.gather(1, ids[:, None])[:, 0]
    return Drawn(ids.tolist(), chosen.tolist(), entropy.tolist(), (two[:, 0] - two[:, 1]).tolist())


@dataclass
class Step:
    """A candidate that is being written. `finish` and the texts are set once it has ended."""

    request: Request
    key: int
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    said: str = ""
    finish: Finish | None = None
    _since: int = 0  # characters, carried ones included, in which no stop string may end any more
    _cut: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.request.stop.min_tokens == 1:  # what was carried over may be a whole step already
            self._look()

    def add(self, token: int, drawn: Drawn, row: int, vocabulary: Vocabulary) -> None:
        """Take the token that was drawn in `row`; what comes after the end of the step is not for it."""
        self.ids.append(token)
        for kept, values in (
            (self.log_probs, drawn.log_probs),
            (self.entropies, drawn.entropies),
            (self.gaps, drawn.gaps),
        ):
            kept.append(values[row])
        if token == vocabulary.eos:
            self.finish = "end"
            return
        self.said += vocabulary.symbols[token]
        stop = self.request.stop
        if len(self.ids) < stop.min_tokens:
            self._since = len(self.request.over) + len(self.said)
        else:
            self._look()
        if self.finish is None and len(self.ids) >= stop.max_tokens:
            self.finish = "length"

    def _look(self) -> None:
        self._cut = bounded(self.said, self._since, self.request.stop, self.request.over)
        if self._cut is not None:
            self.finish = "stop"

    def candidate(self) -> Candidate:
        """The finished step."""
        assert self.finish is not None
        step, over = self._cut or (self.request.over + self.said, "")
        return Candidate(
            step=step, said=self.said, finish=self.finish, tokens=len(self.ids), over=over, ids=tuple(self.ids),
            log_probs=tuple(self.log_probs), entropies=tuple(self.entropies), gaps=tuple(self.gaps),
        )  # fmt: skip


def ids_of(candidate: Candidate, vocabulary: Vocabulary) -> list[int]:
    """The ids of a candidate: those that were drawn, if they spell in `vocabulary` what was said, else how it cuts that.

    A candidate of another backend has no ids, or those of another vocabulary. Raises ParseError for foreign symbols.
    """
    inner, symbols = (
        [token for token in candidate.ids if token != vocabulary.eos],
        vocabulary.symbols,
    )
    ours = len(candidate.ids) > 0 and all(0 <= token < len(symbols) for token in inner)
    if ours and "".join([symbols[token] for token in inner]) == candidate.said:
        return list(candidate.ids)
    return vocabulary.encode(candidate.said)


def answered(request: Request, vocabulary: Vocabulary) -> list[int]:
    """The ids of the answer so far; a step of another backend is tokenised once."""
    return [token for candidate in request.partial for token in ids_of(candidate, vocabulary)]


__all__ = ["Drawn", "Step", "answered", "draw", "ids_of", "key_of"]
