"""The causal mode: one token after another with a cache, and the probability of whole strings.

For: left-to-right sampling that honours known tokens anywhere, warm starts for parallel samplers, and scores.  Not for:
conditioning on what stands to the right of a position; the causal mode never sees it, known tokens there are simply kept.
Easy to get wrong: the count.  A token that is drawn counts as one evaluation; visible tokens are read together with the
token that follows them, so a forced run costs nothing of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskdiff.constraints.grammar import Constraint
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import allowed_symbols, draw, is_blank, log_distribution, pick
from maskdiff.drawing.penalties import PLAIN, Penalties
from maskdiff.drawing.random import token_noise
from maskdiff.models.denoiser import Denoiser, causal_stream
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.stage import Stage

CHUNK = 256  # strings decoded together, sorted by length so that few wait for longer ones


@dataclass(frozen=True)
class Autoregressive(Stage):
    """Draw the blanks from left to right; visible tokens are forced.

    With ``count`` it stops after that many positions (symbols from the left, forced ones included): a warm start whose
    remaining blanks stay blank.
    """

    count: int = 0  # 0: to the end
    temperature: float = 1.0
    top_p: float = 1.0
    constraint: Constraint | None = None
    controls: Penalties = PLAIN  # penalties see the tokens before a position

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """Run the causal mode over the canvas."""
        if self.constraint is not None:
            self.constraint.check(
                canvas.tokens, is_blank(canvas.tokens, denoiser.vocabulary), canvas.length
            )
        if canvas.trace is not None or len(canvas) <= CHUNK:
            return Sample(self._decode(denoiser, canvas))
        for rows in torch.split(canvas.length.argsort(stable=True), CHUNK):
            canvas = canvas.put(rows, self._decode(denoiser, canvas[rows].trim()))
        return Sample(canvas)

    def _decode(self, denoiser: Denoiser, canvas: Canvas) -> Canvas:
        """All strings of one chunk, position by position."""
        vocabulary = denoiser.vocabulary
        last = canvas.length - 2  # position of the last symbol
        stop = torch.minimum(last, torch.full_like(last, self.count)) if self.count else last
        positions = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
        drawn = ~canvas.known & is_blank(canvas.tokens, vocabulary) & (positions <= stop[:, None])
        needed = drawn.any(0).nonzero()[:, 0]
        if not len(needed):
            return canvas
        stream = causal_stream(denoiser, canvas.length)
        blank = is_blank(canvas.tokens, vocabulary)
        mask = (
            None
            if self.constraint is None
            else self.constraint.mask(canvas.tokens, blank, canvas.length)
        )
        nothing, countable = torch.zeros_like(blank), self.controls.countable(canvas)
        said = (
            TokenHistory(canvas.tokens, nothing, nothing, len(vocabulary))
            if self.controls.penalise
            else None
        )
        if said is not None:
            said.write(canvas.tokens[:, 0], nothing[:, 0], nothing[:, 0])
        for position in range(1, int(needed[-1]) + 1):
            logits = stream.step(canvas.tokens[:, position - 1])  # (batch, vocab)
            here, now = drawn[:, position], canvas.tokens[:, position]
            allowed = allowed_symbols(now, vocabulary)
            allowed = allowed if mask is None else allowed & mask.allowed()
            log_probs = log_distribution(
                logits if said is None else self.controls.shape(logits, said, allowed), allowed
            )
            visits = canvas.visits[:, position : position + 1]
            noise = token_noise(
                canvas.keys, visits, 0, positions[position : position + 1], len(vocabulary)
            )[:, 0]
            token = torch.where(
                here, draw(log_probs, noise, self.temperature, self.top_p, *self.controls.cut), now
            )
            tokens = torch.cat(
                (canvas.tokens[:, :position], token[:, None], canvas.tokens[:, position + 1 :]),
                dim=1,
            )
            if mask is not None:
                mask.write(token)
            if said is not None:
                said.write(
                    token,
                    countable[:, position] & (token != vocabulary.mask),
                    ~canvas.known[:, position],
                )
            canvas = replace(canvas, tokens=tokens, spent=canvas.spent + here)
            canvas.recorded()
        return canvas


@torch.no_grad()
def causal_log_prob(denoiser: Denoiser, tokens: Tensor, length: Tensor) -> Tensor:
    """(batch,) log p(string | its length) in nats under the causal mode: the sum over the inner symbols, in one evaluation.

    tokens (batch, width), length (batch,).  Divide by ``length - 2`` for nats per symbol.  Symbols that are never
    sampled (MASK among them) have no probability: minus infinity.
    """
    logits = denoiser(tokens, length, torch.zeros(len(length), device=length.device), True, None)
    log_probs = log_distribution(logits, allowed_symbols(tokens, denoiser.vocabulary))
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    inside = (positions > 0) & (positions < length[:, None] - 1)
    return torch.where(inside, pick(log_probs, tokens), 0.0).sum(1)
