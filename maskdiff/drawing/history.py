"""`TokenHistory`: counts of the tokens so far, and matches of the end of a text with its past.

Penalties, n-grams, DRY and loops read the same two tables. Pads, BOS, EOS and blanks never count,
so nothing depends on the batch. In a parallel sampler the history is what is committed, on either
side of a position.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

VOID = -1  # in place of a token that does not count: it matches nothing, not even itself


class TokenHistory:
    """The texts of a batch, read from left to right by a pointer.

    `match[b, j]` is the number of tokens on which the text before the pointer and the text up to
    position j agree, counted backwards. One vector operation updates it. It gives the tokens that
    followed this context before (n-grams, DRY) and whether the text ends in a loop: a text has
    period p over its last m + p tokens if it matches m tokens of itself p back.

    Args:
        tokens: (batch, width) token ids.
        counted: (batch, width) bool: tokens that are written and count.
        drawn: (batch, width) bool: tokens that were drawn.
        vocab_size: Tokens of the vocabulary; 0 counts nothing, which is enough for loops.
    """

    def __init__(self, tokens: Tensor, counted: Tensor, drawn: Tensor, vocab_size: int) -> None:
        self.tokens = torch.where(counted, tokens, VOID)
        self.vocab_size = vocab_size
        self._counts, self._drawn = self._tally(counted), self._tally(counted & drawn)
        self.match = torch.zeros_like(self.tokens)
        self.position = 0  # the pointer: positions that have been read
        places = counted.any(0).nonzero()[:, 0]
        self.reach = int(places[-1]) + 1 if len(places) else 0  # no token stands from here on

    @classmethod
    def nothing(
        cls, batch: int, vocab_size: int, device: torch.device | str = "cpu"
    ) -> TokenHistory:
        """Empty texts, which grow."""
        tokens = torch.zeros(batch, 64, dtype=torch.int64, device=device)
        nothing = torch.zeros_like(tokens, dtype=torch.bool)
        return cls(tokens, nothing, nothing, vocab_size)

    def select(self, rows: Tensor) -> TokenHistory:
        """Some of the texts, in the order of `rows`."""
        part = copy(self)
        for name in ("tokens", "_counts", "_drawn", "match"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    @property
    def counts(self) -> Tensor:
        """(batch, vocab) how often each token was written."""
        return self._counts[:, :-1]

    @property
    def drawn(self) -> Tensor:
        """(batch, vocab) how often each was drawn."""
        return self._drawn[:, :-1]

    def _tally(self, counted: Tensor) -> Tensor:
        """(batch, vocab + 1); tokens that do not count are in the last column."""
        counts = torch.zeros(
            len(counted), self.vocab_size + 1, dtype=torch.int64, device=counted.device
        )
        return counts.scatter_add_(
            1, self._place(self.tokens, counted), torch.ones_like(self.tokens)
        )

    def _place(self, token: Tensor, counted: Tensor) -> Tensor:
        return torch.where(counted & (token < self.vocab_size), token, self.vocab_size)

    def without(self, token: Tensor, counted: Tensor, drawn: Tensor) -> TokenHistory:
        """The history without the counts of the token at the pointer; arguments as of `write`."""
        part, less = copy(self), -torch.ones_like(token)[:, None]
        part._counts = self._counts.scatter_add(1, self._place(token, counted)[:, None], less)
        part._drawn = self._drawn.scatter_add(1, self._place(token, counted & drawn)[:, None], less)
        return part

    def write(self, token: Tensor, counted: Tensor, drawn: Tensor) -> None:
        """Read the token (batch,) of the next position; `counted` and `drawn` are (batch,) bool.

        A token that the position holds already is the same; without one, there is none to its
        right.
        """
        at = self.position
        if at == self.tokens.shape[1]:
            self.tokens = torch.nn.functional.pad(self.tokens, (0, at), value=VOID)
            self.match = torch.nn.functional.pad(self.match, (0, at))
        new = counted & (self.tokens[:, at] == VOID)
        one = torch.ones_like(token)[:, None]
        self._counts.scatter_add_(1, self._place(token, new)[:, None], one)
        self._drawn.scatter_add_(1, self._place(token, new & drawn)[:, None], one)
        self.tokens[:, at] = torch.where(counted, token, VOID)
        self.position, self.reach = at + 1, max(self.reach, at + 1)
        text, longer = self.tokens[:, : self.reach], torch.zeros_like(self.match[:, : self.reach])
        longer[:, 1:] = self.match[:, : self.reach - 1]
        same = (text == self.tokens[:, at, None]) & (text != VOID)
        self.match[:, : self.reach] = torch.where(same, longer + 1, 0)
        self.match[:, at] = 0  # a text does not match itself

    def followers(self, least: int) -> tuple[Tensor, Tensor]:
        """(batch, n) tokens after matches of `least` tokens or more, else VOID; their lengths."""
        length = self.match[:, : max(self.reach - 1, 0)]
        token = self.tokens[:, 1 : max(self.reach, 1)]
        return torch.where(length >= least, token, VOID), length

    def looping(self, max_period: int, repeats: int, own: Tensor) -> Tensor:
        """(batch,) whether the text ends in a loop that lies in its last `own` (batch,) tokens.

        A loop is at least `repeats` copies of at most `max_period` tokens.
        """
        most = min(max_period, self.position // repeats)
        period = torch.arange(1, most + 1, device=own.device)
        match = self.match[:, self.position - 1 - period] if most else self.match[:, :0]
        return ((match >= (repeats - 1) * period) & (repeats * period <= own[:, None])).any(1)
