"""What has been said so far: how often each token, and how the end of a text matches what stands before it.

For: penalties, n-grams, DRY and loops, all of which ask the same two tables.  Not for: deciding what to do about it
(``controls.py``).  Easy to get wrong: what counts.  Pads, BOS, EOS and blanks never do, so that nothing depends on the batch;
in a parallel sampler "so far" means what is committed, on either side of the position.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

VOID = (
    -1
)  # stands where there is no token, or one that does not count: matches nothing, not even itself


class TokenHistory:
    """The texts of a batch, read from left to right by a pointer.

    ``match[b, j]`` is the number of tokens on which the text before the pointer and the text up to position j agree, counted
    backwards.  One vector operation keeps it up to date; it answers which tokens went on from here before (n-grams, DRY) and
    whether the text ends in a loop: it has period p over its last m + p tokens if it matches m tokens of itself p back.
    """

    def __init__(self, tokens: Tensor, counted: Tensor, drawn: Tensor, vocab_size: int) -> None:
        """tokens (batch, width), which of them have been said and count, and which of those were drawn, both bool alike.

        With a ``vocab_size`` of 0 nothing is counted: loops need no counts, and the tables of a large vocabulary are large.
        """
        self.tokens = torch.where(counted, tokens, VOID)
        self.vocab_size = vocab_size
        self._counts, self._drawn = self._tally(counted), self._tally(counted & drawn)
        self.match = torch.zeros_like(self.tokens)
        self.position = 0  # the pointer: how many positions have been read
        places = counted.any(0).nonzero()[:, 0]
        self.reach = int(places[-1]) + 1 if len(places) else 0  # no token stands from here on

    @classmethod
    def nothing(
        cls, batch: int, vocab_size: int, device: torch.device | str = "cpu"
    ) -> TokenHistory:
        """Texts of which nothing has been said; they grow."""
        tokens = torch.zeros(batch, 64, dtype=torch.int64, device=device)
        nothing = torch.zeros_like(tokens, dtype=torch.bool)
        return cls(tokens, nothing, nothing, vocab_size)

    def select(self, rows: Tensor) -> TokenHistory:
        """Some of the texts, in the order of ``rows``."""
        part = copy(self)
        for name in ("tokens", "_counts", "_drawn", "match"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    @property
    def counts(self) -> Tensor:
        """(batch, vocab) how often each token was said."""
        return self._counts[:, :-1]

    @property
    def drawn(self) -> Tensor:
        """(batch, vocab) how often each was drawn."""
        return self._drawn[:, :-1]

    def _tally(self, counted: Tensor) -> Tensor:
        """(batch, vocab + 1); what does not count is in the last column."""
        counts = torch.zeros(
            len(counted), self.vocab_size + 1, dtype=torch.int64, device=counted.device
        )
        return counts.scatter_add_(
            1, self._place(self.tokens, counted), torch.ones_like(self.tokens)
        )

    def _place(self, token: Tensor, counted: Tensor) -> Tensor:
        return torch.where(counted & (token < self.vocab_size), token, self.vocab_size)

    def without(self, token: Tensor, counted: Tensor, drawn: Tensor) -> TokenHistory:
        """The same, less the counts of the token that stands at the pointer, as for ``write``: none speaks against itself."""
        part, less = copy(self), -torch.ones_like(token)[:, None]
        part._counts = self._counts.scatter_add(1, self._place(token, counted)[:, None], less)
        part._drawn = self._drawn.scatter_add(1, self._place(token, counted & drawn)[:, None], less)
        return part

    def write(self, token: Tensor, counted: Tensor, drawn: Tensor) -> None:
        """Read the token (batch,) of the next position; whether it counts and was drawn, (batch,) bool, as in the constructor.

        Where the position held a token already, it is the same one; where it did not, none stands to its right.
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
        self.match[:, at] = 0  # a text is no match for itself

    def followers(self, least: int) -> tuple[Tensor, Tensor]:
        """(batch, n) tokens that went on from a match of ``least`` or more, VOID elsewhere, and (batch, n) how long it was."""
        length = self.match[:, : max(self.reach - 1, 0)]
        token = self.tokens[:, 1 : max(self.reach, 1)]
        return torch.where(length >= least, token, VOID), length

    def looping(self, max_period: int, repeats: int, own: Tensor) -> Tensor:
        """(batch,) whether the text ends in at least ``repeats`` copies of at most ``max_period`` tokens, all of them among the
        last ``own`` (batch,).
        """
        most = min(max_period, self.position // repeats)
        period = torch.arange(1, most + 1, device=own.device)
        match = self.match[:, self.position - 1 - period] if most else self.match[:, :0]
        return ((match >= (repeats - 1) * period) & (repeats * period <= own[:, None])).any(1)
