"""The causal mode: one token after another with a cache, and the probability of whole strings.

A token that is drawn counts as one evaluation. Visible tokens are read together with the token that
follows them, so a forced run costs nothing of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.decoding.loop import Batch, decode, keyed_noise
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import allowed_symbols, is_blank, log_distribution, pick
from maskdiff.drawing.settings import Draw
from maskdiff.models.denoiser import Denoiser, causal_stream
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.stage import Stage

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

CHUNK = 256  # strings decoded together, sorted by length so that few wait for longer ones


@dataclass(frozen=True)
class Autoregressive(Stage):
    """Draw the blanks from left to right; visible tokens are forced.

    Tokens to the right of a position are kept, but the causal mode never sees them. With `count` it
    stops after that many positions (symbols from the left, forced ones included): a warm start
    whose remaining blanks stay blank.
    """

    count: int = 0  # 0: to the end
    draw: Draw = field(default_factory=Draw)  # penalties see the tokens before a position

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers out of range, and for a draw with another alphabet."""
        super().__post_init__()
        self.draw.refuse("Autoregressive", "symbols")

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """Run the causal mode over the canvas."""
        if self.draw.constraint is not None:
            self.draw.constraint.check(
                canvas.tokens, is_blank(canvas.tokens, denoiser.vocabulary), canvas.length
            )
        if canvas.trace is not None or len(canvas) <= CHUNK:
            return Sample(self._decode(denoiser, canvas))
        for rows in torch.split(canvas.length.argsort(stable=True), CHUNK):
            canvas = canvas.put(rows, self._decode(denoiser, canvas[rows].trim()))
        return Sample(canvas)

    def _decode(self, denoiser: Denoiser, canvas: Canvas) -> Canvas:
        """All strings of one chunk."""
        vocabulary = denoiser.vocabulary
        last = canvas.length - 2  # position of the last symbol
        stop = torch.minimum(last, torch.full_like(last, self.count)) if self.count else last
        positions = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
        blank = is_blank(canvas.tokens, vocabulary)
        drawn = ~canvas.known & blank & (positions <= stop[:, None])
        needed = drawn.any(0).nonzero()[:, 0]
        if not len(needed):
            return canvas
        constraint, stream = self.draw.constraint, causal_stream(denoiser, canvas.length)
        batch = Batch(
            keyed_noise(
                canvas.keys, torch.ones_like(canvas.keys), len(vocabulary), canvas.visits[:, 1:]
            ),
            allowed=allowed_symbols(canvas.tokens[0, 0], vocabulary),
            mask=None
            if constraint is None
            else constraint.mask(canvas.tokens, blank, canvas.length),
            forced=torch.where(drawn, -1, canvas.tokens)[:, 1:],
        )
        strings = _CanvasStrings(canvas, drawn, int(needed[-1]), self.draw, vocabulary)
        for _ in decode(stream, stream.step(canvas.tokens[:, 0]), strings, batch, self.draw):
            pass
        return strings.canvas


class _CanvasStrings:
    """Strings of a canvas that are written up to position `last`; see `GrowingStrings`."""

    free = None

    def __init__(
        self, canvas: Canvas, drawn: Tensor, last: int, draw: Draw, vocabulary: Vocabulary
    ) -> None:
        self.canvas = replace(canvas, tokens=canvas.tokens.clone(), spent=canvas.spent.clone())
        self.drawn, self.last, self.mask = drawn, last, vocabulary.mask
        self.position = 1
        self.history: TokenHistory | None = None
        if draw.penalties.penalise:
            nothing = torch.zeros_like(drawn)
            self.counted = draw.penalties.countable(canvas)
            self.history = TokenHistory(canvas.tokens, nothing, nothing, len(vocabulary))
            self.history.write(canvas.tokens[:, 0], nothing[:, 0], nothing[:, 0])

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        """See `GrowingStrings.write`; all strings go on, up to the last position."""
        at, canvas = self.position, self.canvas
        canvas.tokens[:, at] = tokens
        canvas.spent.add_(self.drawn[:, at])
        canvas.recorded()
        if self.history is not None:
            counted = self.counted[:, at] & (tokens != self.mask)
            self.history.write(tokens, counted, ~canvas.known[:, at])
        self.position += 1
        return torch.full((len(rows),), at < self.last)


@torch.no_grad()
def causal_log_prob(
    denoiser: Denoiser, tokens: Tensor, length: Tensor, ends: bool = False
) -> Tensor:
    """Return log-probabilities of strings under the causal mode, (batch,), in nats.

    One evaluation of the model. Symbols that are never sampled (MASK among them) have no
    probability: minus infinity.

    Args:
        denoiser: The model.
        tokens: (batch, width) the strings, from BOS to EOS.
        length: (batch,) tokens of each, BOS and EOS counted; `length - 2` are symbols.
        ends: False: log p(string | its length), the sum over the symbols. True, for a model that
            draws the end of its strings: log p(string), the sum over the symbols and EOS, which is
            possible at every position.
    """
    logits = denoiser(tokens, length, torch.zeros(len(length), device=length.device), True, None)
    allowed = allowed_symbols(tokens, denoiser.vocabulary, "open" if ends else "plain")
    log_probs = log_distribution(logits, allowed)
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    inside = (positions > 0) & (positions < length[:, None] - (0 if ends else 1))
    return torch.where(inside, pick(log_probs, tokens), 0.0).sum(1)
