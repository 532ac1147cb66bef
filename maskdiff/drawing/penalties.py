"""`Penalties`: penalties of repetition, no-repeat n-grams and DRY, as every sampler applies them.

They act on the model's logits, before anything is normalised; top-k and min-p act on the tempered
distribution, like top-p. A ban that would leave nothing to draw is lifted: a canvas has to be
filled.
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

BAN = 50.0  # nats of a soft ban: a banned token is drawn only if nothing else is allowed
LONGEST = 50  # tokens of a match that DRY counts; more would overflow
MOST = 1e30  # that DRY subtracts from a logit, which stays finite: what must be drawn is drawn


@dataclass(frozen=True)
class Penalties:
    """A `ControlConfig` in terms of token ids; no DRY match extends over one of `breakers`."""

    config: ControlConfig = field(default_factory=ControlConfig)
    breakers: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: ControlConfig, vocabulary: Vocabulary) -> Penalties:
        """The penalties of a model; tokens that contain one of `dry_breakers` are breakers."""
        breaks = [
            i for i in vocabulary.inner_ids if set(vocabulary.symbols[i]) & set(config.dry_breakers)
        ]
        return cls(config, tuple(breaks))

    @property
    def penalise(self) -> bool:
        """Whether the logits depend on the history."""
        c = self.config
        counted = (c.repetition_penalty != 1.0, c.presence_penalty, c.frequency_penalty)
        return any(counted) or c.no_repeat_ngram > 0 or c.dry_multiplier > 0

    @property
    def truncation(self) -> tuple[int, float]:
        """`top_k` and `min_p`."""
        return self.config.top_k, self.config.min_p

    @property
    def active(self) -> bool:
        """Whether anything differs from a plain draw."""
        return self.penalise or self.truncation != (0, 0.0)

    def shape(
        self,
        logits: Tensor,
        history: TokenHistory,
        allowed: Tensor | None = None,
        soft: bool = False,
    ) -> Tensor:
        """Penalise the logits of the token at the pointer of a history.

        Args:
            logits: (batch, vocab).
            history: The texts before the token.
            allowed: Bool, broadcast to (batch, vocab): tokens that may be drawn; None for all.
            soft: A ban costs `BAN` nats, so that a grammar that needs the token still writes it.

        Returns:
            (batch, vocab) logits.
        """
        c = self.config
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if c.repetition_penalty != 1.0:
            logits = penalise_repetition(logits, history.counts > 0, c.repetition_penalty)
        if c.presence_penalty or c.frequency_penalty:
            logits = penalise_counts(logits, history.drawn, c.presence_penalty, c.frequency_penalty)
        if c.no_repeat_ngram:
            banned = self.ngrams(history)
            possible = logits > -torch.inf if allowed is None else allowed & (logits > -torch.inf)
            banned = banned & (possible & ~banned).any(-1, keepdim=True)
            logits = logits - BAN * banned if soft else logits.masked_fill(banned, -torch.inf)
        return logits - self.dry(history, logits.dtype) if c.dry_multiplier else logits

    def ngrams(self, history: TokenHistory) -> Tensor:
        """(batch, vocab) bool: tokens that would repeat `no_repeat_ngram` tokens."""
        size = self.config.no_repeat_ngram
        if size == 1:
            return history.counts > 0
        token, _ = history.followers(size - 1)
        banned = torch.zeros(
            len(token), history.vocab_size + 1, dtype=torch.bool, device=token.device
        )
        return banned.scatter_(1, torch.where(token == VOID, history.vocab_size, token), True)[
            :, :-1
        ]

    def dry(self, history: TokenHistory, dtype: torch.dtype = torch.float32) -> Tensor:
        """(batch, vocab) what DRY subtracts: multiplier * base^(n - allowed), n the longest match.

        As its author defined it (text-generation-webui, pull request 5677).
        """
        c = self.config
        token, length = history.followers(c.dry_allowed_length)
        length = length.clamp(max=LONGEST)
        place = torch.arange(length.shape[1], device=length.device)
        if c.dry_range:
            length = torch.minimum(length, place - (history.position - 1 - c.dry_range)).clamp(
                min=0
            )
        if self.breakers:
            breakers = torch.tensor(self.breakers, device=token.device)
            length = torch.minimum(length, self._since_break(history, breakers)[:, None])
            token = token.masked_fill(torch.isin(token, breakers), VOID)
        ok = (token != VOID) & (length >= c.dry_allowed_length)
        longest = torch.zeros(
            len(token), history.vocab_size + 1, dtype=torch.int64, device=token.device
        )
        if bool(ok.any()):  # mostly nothing matches
            longest.scatter_reduce_(
                1, torch.where(ok, token, history.vocab_size), length * ok, "amax"
            )
        longest = longest[:, :-1]
        taken = c.dry_multiplier * c.dry_base ** (longest - c.dry_allowed_length).to(dtype)
        return torch.where(longest >= c.dry_allowed_length, taken.clamp(max=MOST), 0.0)

    @staticmethod
    def _since_break(history: TokenHistory, breakers: Tensor) -> Tensor:
        """(batch,) tokens since the last breaker."""
        broken = torch.isin(history.tokens[:, : history.position], breakers)
        last = torch.where(broken, torch.arange(1, history.position + 1, device=broken.device), 0)
        return history.position - torch.nn.functional.pad(last, (1, 0)).amax(1)

    def shape_canvas(
        self,
        logits: Tensor,
        canvas: Canvas,
        visible: Tensor,
        allowed: Tensor,
        causal: bool = False,
        soft: bool = False,
    ) -> Tensor:
        """Penalise the logits (batch, width, vocab) of every position of a canvas.

        The match of a position is with the tokens to its left without a gap; counts, and the places
        that it is matched with, are those of the whole canvas but for the position itself.

        Args:
            logits: (batch, width, vocab).
            canvas: The strings.
            visible: (batch, width) bool: tokens that are known, committed or drafted.
            allowed: (batch, width, vocab) bool: tokens that may be drawn.
            causal: Leave out what stands to the right of a position, as `Autoregressive` does.
            soft: As in `shape`.
        """
        counted, drawn = visible & self.countable(canvas), ~canvas.known
        first = torch.zeros_like(counted) if causal else counted
        history, rows = TokenHistory(canvas.tokens, first, drawn, logits.shape[-1]), []
        for position in range(logits.shape[1]):
            here = canvas.tokens[:, position], counted[:, position], drawn[:, position]
            so_far = history if causal else history.without(*here)
            rows.append(self.shape(logits[:, position], so_far, allowed[:, position], soft))
            history.write(*here)
        return torch.stack(rows, 1)

    def countable(self, canvas: Canvas) -> Tensor:
        """(batch, width) bool: positions that count: symbols; known ones unless they are exempt."""
        position = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
        inside = (position > 0) & (position < canvas.length[:, None] - 1)
        return inside & ~(canvas.known & self.config.exempt_prompt)


NO_PENALTIES = Penalties()
