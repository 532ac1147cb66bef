"""The causal mode in parallel: fixed-point iteration on its sample (2002.09928, 2305.10427).

With the Gumbel noise of every (position, symbol) fixed, the autoregressive sample is a function of
the logits, and the only fixed point of "redraw every token given the tokens before it". With new
noise there is no fixed point.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from maskdiff.constraints.grammar import next_symbols
from maskdiff.drawing.logits import allowed_symbols, is_blank, log_distribution
from maskdiff.drawing.random import span_noise, token_noise
from maskdiff.drawing.settings import Draw
from maskdiff.models.denoiser import Denoiser
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.stage import Stage, evaluations_left, first_true


@dataclass(frozen=True)
class Predictive(Stage):
    """Redraws all tentative and blank tokens given the tokens before them until nothing changes.

    Each evaluation makes at least one more token final: everything up to the first token that
    changed, itself included. Tokens on the canvas are the draft; where they agree with the draws of
    the causal mode they cost nothing. Run to convergence the result equals `Autoregressive` token
    for token (same keys, settings, and no token hidden between).

    Out of budget, `keep="all"` leaves the last iterate, whose tail is tentative and unverified;
    `keep="final"` blanks what is not final, for a parallel stage to fill.
    """

    steps: int = 0  # evaluations of the string in all; 0: no limit
    stage_steps: int = 0  # evaluations of this stage alone; 0: no limit
    draw: Draw = field(default_factory=Draw)
    keep: Literal["all", "final"] = "all"

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers out of range, and for a draw with another alphabet."""
        super().__post_init__()
        self.draw.refuse("Predictive", "symbols")

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """Iterate on every string that is not final."""
        if self.draw.constraint is not None:
            self.draw.constraint.check(canvas.tokens, ~canvas.known, canvas.length)
        end = canvas.spent + evaluations_left(canvas.spent, self.steps, self.stage_steps)
        final = self._skip_known(canvas, torch.zeros_like(canvas.length))
        while True:
            active = (final < canvas.length) & (canvas.spent < end)
            rows = active.nonzero()[:, 0]
            if not len(rows):
                break
            part = canvas[rows].trim()
            tokens = self._redraw(denoiser, part, final[rows], end[rows] - part.spent <= 1)
            changed = tokens != part.tokens
            part = replace(part, tokens=tokens, spent=part.spent + 1)
            final[rows] = self._skip_known(part, first_true(changed, part.length - 1) + 1)
            canvas = canvas.put(rows, part).recorded()
        if self.keep == "final":
            blank = ~canvas.known & (_positions(canvas) >= final[:, None])
            canvas = replace(
                canvas, tokens=torch.where(blank, denoiser.vocabulary.mask, canvas.tokens)
            ).recorded()
        return Sample(canvas)

    def _redraw(self, denoiser: Denoiser, part: Canvas, final: Tensor, last: Tensor) -> Tensor:
        """(batch, width) tokens; those neither known nor final are drawn given the tokens before.

        Under a constraint the tail that is not final after the `last` (batch,) evaluation is drawn
        jointly.
        """
        # What may stand where.
        positions, vocabulary = _positions(part), denoiser.vocabulary
        logits = denoiser(part.tokens, part.length, torch.zeros_like(part.suspect), True, None)
        allowed, fitting = allowed_symbols(part.tokens, vocabulary), None
        open_ = ~part.known & (positions >= final[:, None])
        if self.draw.constraint is not None:
            fitting = allowed & next_symbols(
                self.draw.constraint.mask(part.tokens, ~part.known, part.length), part.tokens
            )
            # After a misfit nothing fits.
            fitting = torch.where(fitting.any(-1, keepdim=True), fitting, allowed)
        fitting = allowed if fitting is None else fitting

        # Draw every token.
        noise = token_noise(part.keys, part.visits, 0, positions, len(vocabulary))
        if self.draw.penalties.penalise:
            visible = ~is_blank(part.tokens, vocabulary)
            soft = self.draw.constraint is not None  # the joint draw may need a banned token
            logits = self.draw.penalties.shape_canvas(
                logits, part, visible, fitting, causal=True, soft=soft
            )
        log_probs = log_distribution(logits, fitting)
        tokens = torch.where(open_, self.draw.tokens(log_probs, noise), part.tokens)

        # The tail that no evaluation will verify.
        tail = (
            open_
            & last[:, None]
            & (positions > first_true(tokens != part.tokens, part.length)[:, None])
        )
        rows = tail.any(1).nonzero()[:, 0]
        if self.draw.constraint is None or self.keep == "final" or not len(rows):
            return tokens
        spans = (
            span_noise(part.keys, part.spent + 1, tokens.shape[1])[rows]
            if self.draw.temperature
            else None
        )
        plain = log_distribution(logits, allowed)
        drawn = self.draw.constraint.condition(
            plain[rows], tokens[rows], tail[rows], part.length[rows], spans, self.draw
        )[1]
        return tokens.index_copy(0, rows, drawn)

    @staticmethod
    def _skip_known(canvas: Canvas, start: Tensor) -> Tensor:
        """(batch,) first position from `start` on that is not known, else the length."""
        open_ = ~canvas.known & (_positions(canvas) >= start[:, None])
        return first_true(open_, canvas.length)


def _positions(canvas: Canvas) -> Tensor:
    return torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
