"""Penalties of repetition: penalties, no-repeat n-grams and DRY, as every sampler applies them.

For: ``Penalties``, which samplers hold and ask.  Not for: when a string ends (``stopping.py``).  Easy to get wrong: the order.
Penalties act on the model's logits, before anything is normalised; top-k and min-p on the tempered distribution, like top-p.
A ban that would leave nothing to draw is lifted: a canvas has to be filled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import ControlConfig
from maskdiff.drawing.history import VOID, TokenHistory
from maskdiff.drawing.logits import penalise_counts, penalise_repetition

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary
    from maskdiff.sampling.canvas import Canvas

BAN = 50.0  # nats that a soft ban costs: never paid where anything else will do
LONGEST = 50  # tokens of a match that DRY counts: more would only overflow
MOST = 1e30  # that DRY takes from a logit: still a number, so that what has to be drawn is


@dataclass(frozen=True)
class Penalties:
    """A ``ControlConfig`` in terms of token ids; ``breakers`` are those over which no DRY match reaches."""

    config: ControlConfig = field(default_factory=ControlConfig)
    breakers: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: ControlConfig, vocabulary: Vocabulary) -> Penalties:
        """The controls of a model: a token that holds one of ``dry_breakers`` breaks."""
        breaks = [
            i for i in vocabulary.inner_ids if set(vocabulary.symbols[i]) & set(config.dry_breakers)
        ]
        return cls(config, tuple(breaks))

    @property
    def penalise(self) -> bool:
        """Whether the logits depend on what was said."""
        c = self.config
        counted = (c.repetition_penalty != 1.0, c.presence_penalty, c.frequency_penalty)
        return any(counted) or c.no_repeat_ngram > 0 or c.dry_multiplier > 0

    @property
    def truncation(self) -> tuple[int, float]:
        """``top_k`` and ``min_p`` of the draw."""
        return self.config.top_k, self.config.min_p

    @property
    def active(self) -> bool:
        """Whether anything differs from a plain draw."""
        return self.penalise or self.truncation != (0, 0.0)

    # ------------------------------------------------------------------------------------------------ one next token

    def shape(
        self, logits: Tensor, said: TokenHistory, allowed: Tensor | None = None, soft: bool = False
    ) -> Tensor:
        """(batch, vocab) logits of the token at the pointer of ``said``; ``allowed`` (batch, vocab) may be drawn, else all.

        A ``soft`` ban costs ``BAN`` nats: a grammar that needs the token may still write it, and what else it writes is
        drawn from the model as ever.
        """
        c = self.config
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if c.repetition_penalty != 1.0:
            logits = penalise_repetition(logits, said.counts > 0, c.repetition_penalty)
        if c.presence_penalty or c.frequency_penalty:
            logits = penalise_counts(logits, said.drawn, c.presence_penalty, c.frequency_penalty)
        if c.no_repeat_ngram:
            banned = self.ngrams(said)
            possible = logits > -torch.inf if allowed is None else allowed & (logits > -torch.inf)
            banned = banned & (possible & ~banned).any(-1, keepdim=True)
            logits = logits - BAN * banned if soft else logits.masked_fill(banned, -torch.inf)
        return logits - self.dry(said, logits.dtype) if c.dry_multiplier else logits

    def ngrams(self, said: TokenHistory) -> Tensor:
        """(batch, vocab) bool: tokens that would say ``no_repeat_ngram`` tokens again."""
        size = self.config.no_repeat_ngram
        if size == 1:
            return said.counts > 0
        token, _ = said.followers(size - 1)
        banned = torch.zeros(len(token), said.vocab_size + 1, dtype=torch.bool, device=token.device)
        return banned.scatter_(1, torch.where(token == VOID, said.vocab_size, token), True)[:, :-1]

    def dry(self, said: TokenHistory, dtype: torch.dtype = torch.float32) -> Tensor:
        """(batch, vocab) what DRY takes: multiplier * base^(n - allowed), n the longest match before the token.

        As its author defined it (text-generation-webui, pull request 5677).
        """
        c = self.config
        token, length = said.followers(c.dry_allowed_length)
        length = length.clamp(max=LONGEST)
        place = torch.arange(length.shape[1], device=length.device)
        if c.dry_range:
            length = torch.minimum(length, place - (said.position - 1 - c.dry_range)).clamp(min=0)
        if self.breakers:
            breakers = torch.tensor(self.breakers, device=token.device)
            length = torch.minimum(length, self._since_break(said, breakers)[:, None])
            token = token.masked_fill(torch.isin(token, breakers), VOID)
        ok = (token != VOID) & (length >= c.dry_allowed_length)
        longest = torch.zeros(
            len(token), said.vocab_size + 1, dtype=torch.int64, device=token.device
        )
        if bool(ok.any()):  # mostly nothing matches, and then there is nothing to look for
            longest.scatter_reduce_(1, torch.where(ok, token, said.vocab_size), length * ok, "amax")
        longest = longest[:, :-1]
        taken = c.dry_multiplier * c.dry_base ** (longest - c.dry_allowed_length).to(dtype)
        return torch.where(longest >= c.dry_allowed_length, taken.clamp(max=MOST), 0.0)

    @staticmethod
    def _since_break(said: TokenHistory, breakers: Tensor) -> Tensor:
        """(batch,) tokens said since the last breaker."""
        broken = torch.isin(said.tokens[:, : said.position], breakers)
        last = torch.where(broken, torch.arange(1, said.position + 1, device=broken.device), 0)
        return said.position - torch.nn.functional.pad(last, (1, 0)).amax(1)

    # ------------------------------------------------------------------------------------------------ whole canvases

    def shape_canvas(
        self,
        logits: Tensor,
        canvas: Canvas,
        visible: Tensor,
        allowed: Tensor,
        causal: bool = False,
        soft: bool = False,
    ) -> Tensor:
        """(batch, width, vocab) logits of every position given what is ``visible`` (batch, width): given, committed or drafted.

        The match of a position is with what stands to its left without a gap; counts, and the places that it is matched with,
        are those of the whole canvas but for the position itself.  ``causal`` leaves out what stands to the right, as
        ``Autoregressive`` does; ``soft`` as in ``shape``.
        """
        counted, drawn = visible & self.countable(canvas), ~canvas.known
        first = torch.zeros_like(counted) if causal else counted
        said, rows = TokenHistory(canvas.tokens, first, drawn, logits.shape[-1]), []
        for position in range(logits.shape[1]):
            here = canvas.tokens[:, position], counted[:, position], drawn[:, position]
            so_far = said if causal else said.without(*here)
            rows.append(self.shape(logits[:, position], so_far, allowed[:, position], soft))
            said.write(*here)
        return torch.stack(rows, 1)

    def countable(self, canvas: Canvas) -> Tensor:
        """(batch, width) positions whose tokens count as said: symbols, and given ones only if they are not exempt."""
        position = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
        inside = (position > 0) & (position < canvas.length[:, None] - 1)
        return inside & ~(canvas.known & self.config.exempt_prompt)


NO_PENALTIES = Penalties()
