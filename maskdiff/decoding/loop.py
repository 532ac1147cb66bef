"""`decode`, the loop that writes strings from left to right; every caller draws its tokens here.

A caller provides the distributions (a `CausalStream`), what restricts and drives the draws
(`Batch`), and what becomes of the tokens (`GrowingStrings`: where they are kept, and when a string
ends).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import log_distribution
from maskdiff.drawing.random import next_token_noise
from maskdiff.drawing.settings import Draw, NextSymbol
from maskdiff.models.continuation import CausalStream

Noise = Callable[[Tensor, int], Tensor]  # rows (n,) and the step, from 0 -> (n, vocab) Gumbel noise


class GrowingStrings(Protocol):
    """The strings of a batch while they are written.

    Attributes:
        history: Tokens of the strings under way, for penalties; `decode` narrows it to the strings
            that go on, `write` extends it. None without penalties.
        free: (rows,) bool: strings under way whose distribution is the model's own, to which
            penalties apply. None if they apply to all.
    """

    history: TokenHistory | None

    @property
    def free(self) -> Tensor | None: ...

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """Append a token to each string under way.

        Args:
            rows: (n,) numbers of the strings under way.
            tokens: (n,) their tokens.
            scores: (n, vocab) what the stream returned before they were drawn.

        Returns:
            (n,) bool: the strings that go on.
        """
        ...


@dataclass(frozen=True)
class Batch:
    """What the draws of a batch depend on beside the model.

    Attributes:
        noise: Gumbel noise of the draws; see `keyed_noise`.
        allowed: (vocab,) bool: tokens that may be drawn; None for all.
        mask: Symbols that a constraint allows next.
        forced: (rows, steps) tokens that are written without a draw; -1 where one is drawn.
    """

    noise: Noise
    allowed: Tensor | None = None
    mask: NextSymbol | None = None
    forced: Tensor | None = None


def keyed_noise(
    keys: Tensor, first: Tensor, vocab_size: int, visits: Tensor | None = None
) -> Noise:
    """Noise that depends on the key (rows,) of a string and on the position of the token alone.

    Args:
        keys: (rows,) int64.
        first: (rows,) positions of the first token that is drawn.
        vocab_size: Tokens of the vocabulary.
        visits: (rows, steps) how often a position was hidden again; 0 if not given.
    """

    def noise(rows: Tensor, step: int) -> Tensor:
        hidden = None if visits is None else visits[rows, step]
        return next_token_noise(keys[rows], first[rows] + step, vocab_size, hidden)

    return noise


@torch.no_grad()
def decode(
    stream: CausalStream, scores: Tensor, strings: GrowingStrings, batch: Batch, draw: Draw
) -> Iterator[Tensor]:
    """Draw tokens from left to right until no string goes on.

    Args:
        stream: The model, which has given `scores`. It reads a token of each
            string that goes on, after the string has taken it.
        scores: (rows, vocab) log-probabilities or logits of the first token.
        strings: The strings to write.
        batch: What restricts the draws, and their random numbers.
        draw: Temperature, truncation and penalties. (Its constraint is `batch.mask`.)

    Yields:
        (n,) numbers of the strings that have got a token, after each step.
    """
    rows, mask, step = torch.arange(len(scores), device=scores.device), batch.mask, 0
    while len(rows):
        # What may follow: the model's distribution, penalised and restricted.
        allowed = batch.allowed
        if mask is not None:
            allowed = mask.allowed() if allowed is None else allowed & mask.allowed()
        log_probs = scores
        if strings.history is not None and draw.penalties.penalise:
            log_probs = draw.penalties.shape(scores, strings.history, allowed)
            if strings.free is not None:
                log_probs = torch.where(strings.free[:, None], log_probs, scores)
        if allowed is not None:
            log_probs = log_distribution(log_probs, allowed)

        # The draw; forced tokens win.
        tokens = draw.tokens(log_probs, batch.noise(rows, step) if draw.temperature else None)
        if batch.forced is not None:
            forced = batch.forced[rows, step]
            tokens = torch.where(forced < 0, tokens, forced)

        # Write, and go on with the strings that have not ended.
        if mask is not None:
            mask.write(tokens)
        going = strings.write(rows, tokens, scores)
        yield rows
        if not bool(going.all()):
            index = going.nonzero()[:, 0]
            if not len(index):
                return
            rows, tokens, stream = rows[index], tokens[index], stream.select(index)
            mask = None if mask is None else mask.select(index)
            if strings.history is not None:
                strings.history = strings.history.select(index)
        scores = stream.step(tokens)
        step += 1
