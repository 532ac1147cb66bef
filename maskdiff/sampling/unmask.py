"""`Unmask`, the one unmasking loop: propose, reshape, choose, commit, until nothing is blank.

MaskGIT, ancestral sampling, naive refinement, the orders, the adaptive schedules, ReMDM,
self-conditioning and the two halves of coarse-to-fine are its settings. Each string of a batch has
its own number of blanks, evaluations and random numbers, and leaves the batch when it is finished,
so that neither its result nor its count depends on the other strings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from maskdiff.drawing.logits import (
    allowed_symbols,
    as_shown,
    fold_digits,
    is_blank,
    log_distribution,
    pick,
)
from maskdiff.drawing.random import span_noise, token_noise
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.models.denoiser import INPUTS, Denoiser, reads
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.sampling.order import ORDERS, Proposal, first_blanks, rank, tempered_choice
from maskdiff.sampling.remask import Remask
from maskdiff.sampling.schedule import Clock, Cosine, Schedule
from maskdiff.sampling.stage import UNLIMITED, Stage, evaluations_left

# Strings (n,), committed positions (n, width) bool, tokens (n, width), log p (n, width, vocab).
Committed = Callable[[Tensor, Tensor, Tensor, Tensor], None]
Sigma = Literal["suspect", "clock", "naive", "blank"]
Coupled = Literal["off", "able", "on"]


@dataclass(frozen=True)
class Unmask(Stage):
    """Fills the blanks of a canvas.

    Raises:
        ConfigError: For settings that make no sampler.
    """

    order: str = "confidence"  # which blanks first; a name in ORDERS
    schedule: Schedule = field(default_factory=Cosine)  # how many at an evaluation
    # Evaluations of the string, earlier stages included; 0: no limit, so one token each (or what
    # the bound of the schedule allows).
    steps: int = 12
    stage_steps: int = 0  # evaluations of this stage alone; 0: as many as `steps` leaves
    draw: Draw = field(default_factory=Draw)  # penalties see what is committed, on either side
    # Gumbel noise on the score of the order, falling to 0 over the run (MaskGIT's tau).
    choice_temperature: float = 0.0
    # Prefer positions more than this far apart; not when coupled, where neighbours agree.
    spacing: int = 0
    # Commit only among this many first blanks (more where the schedule asks for more); 0: all.
    window: int = 0
    # New token noise at every evaluation (always, under a constraint); else the causal mode's.
    fresh: bool = False
    remask: Remask | None = None  # which tentative tokens to hide again (ReMDM)
    # Replace every tentative token at every evaluation (naive refinement); needs a budget.
    rewrite: bool = False
    self_condition: bool = False  # show the denoiser its previous prediction of the blanks
    # Show the denoiser the noise of the draw, and take the token that it predicts to be drawn.
    coupled: Coupled = "off"
    # Noise level passed to the denoiser: the canvas's, the clock's, or the share of blanks.
    sigma: Sigma = "suspect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ConfigError(f"order {self.order!r} is unknown; give one of {', '.join(ORDERS)}")
        if self.rewrite and not (self.steps or self.stage_steps):
            raise ConfigError(
                "a refinement without a number of evaluations never ends; give steps of at least 1"
            )
        if self.coupled == "on" and (
            self.draw.top_p < 1.0 or self.draw.symbols != "plain" or self.draw.penalties.active
        ):
            raise ConfigError(
                "a coupled draw knows the whole plain distribution: give top_p 1, and no "
                "penalties, top_k or min_p"
            )

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, canvas: Canvas, committed: Committed | None = None
    ) -> Sample:
        """Run the loop on every string that has blanks.

        Args:
            denoiser: The model.
            canvas: The strings.
            committed: Called after every evaluation with what it commits.

        Raises:
            ConfigError: Where the denoiser lacks an input that the settings need.
        """
        self._check(denoiser)
        free = self._free(canvas, denoiser)
        if self.draw.constraint is not None:
            self.draw.constraint.check(canvas.tokens, free, canvas.length)
        initial = free.sum(1)
        total = evaluations_left(canvas.spent, self.steps, self.stage_steps).clamp(min=1)
        unlimited = total > UNLIMITED // 2
        total = torch.where(unlimited, initial.clamp(min=1), total)
        begin, elapsed = canvas.spent, 0
        memory = _Memory.of(canvas, len(denoiser.vocabulary), self.self_condition, committed)
        while True:
            left = total - elapsed
            active = free.any(1) & (left > 0)
            if not bool(active.any()):
                return Sample(canvas)
            clock = Clock(
                initial,
                free.sum(1),
                total,
                left.clamp(min=1),
                ~unlimited,
                canvas.keys,
                begin + elapsed,
            )
            quota = torch.where(unlimited, 1, self.schedule.quota(clock, free))
            quota = torch.where(left <= 1, clock.blanks, quota).where(active, 0)
            rows = quota.nonzero()[:, 0]  # a string without a quota waits, and is not evaluated
            if len(rows):
                canvas = self._evaluate(denoiser, canvas, rows, clock, quota, memory).recorded()
                free = self._free(canvas, denoiser)
            elapsed += 1

    def _free(self, canvas: Canvas, denoiser: Denoiser) -> Tensor:
        """(batch, width) bool: positions that may be written now."""
        blank = is_blank(canvas.tokens, denoiser.vocabulary, self.draw.symbols)
        return ~canvas.known & (blank | self.rewrite)

    def _evaluate(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        rows: Tensor,
        clock: Clock,
        quota: Tensor,
        memory: _Memory,
    ) -> Canvas:
        """The canvas after one evaluation of strings `rows`."""
        part, clock, quota = canvas[rows].trim(), _at(clock, rows), quota[rows]
        width = part.tokens.shape[1]
        free, chosen_at = self._free(part, denoiser), memory.log_prob[rows, :width]
        log_probs, candidate = self._candidates(denoiser, part, clock, rows, memory)

        # Choose the positions to hide and to commit.
        hide = torch.zeros_like(free)
        if self.remask is not None:
            hide = self.remask(clock, ~part.known & ~free, chosen_at)
        quota, eligible = quota + hide.sum(1), free
        if self.window:
            eligible = first_blanks(free, quota.clamp(min=self.window))
        proposal = Proposal(log_probs, candidate, eligible, part.keys, clock.step)
        score = ORDERS[self.order](proposal)
        if self.choice_temperature:
            score = tempered_choice(score, proposal, self.choice_temperature * (1 - clock.done))
        place = rank(score, eligible, 0 if self._couples(denoiser) else self.spacing)
        count = torch.maximum(quota, self.schedule.extra(clock, proposal, place))
        commit = eligible & (place < count[:, None])
        if memory.committed is not None:
            memory.committed(rows, commit, candidate, log_probs)

        # Write.
        tokens = torch.where(commit, candidate, part.tokens)
        tokens = torch.where(hide, denoiser.vocabulary.mask, tokens)
        chosen = pick(log_probs, candidate).to(chosen_at)
        memory.log_prob[rows, :width] = torch.where(commit, chosen, chosen_at)
        visits, spent = part.visits + hide, part.spent + 1
        return canvas.put(rows, replace(part, tokens=tokens, visits=visits, spent=spent))

    def _candidates(
        self, denoiser: Denoiser, part: Canvas, clock: Clock, rows: Tensor, memory: _Memory
    ) -> tuple[Tensor, Tensor]:
        """The distributions (batch, width, vocab), and a token drawn for each position."""
        when, symbols = clock.step + 1 if self.fresh else 0, len(denoiser.vocabulary)
        noise = token_noise(part.keys, part.visits, when, _range(part), symbols)
        coupled, constraint = self._couples(denoiser), self.draw.constraint
        log_probs = self._propose(denoiser, part, clock, rows, memory, noise if coupled else None)
        if constraint is None:
            return log_probs, self.draw.tokens(log_probs, None if coupled else noise)
        # Always new numbers: those of an earlier evaluation shaped what was committed then.
        spans = None
        if self.draw.temperature and not coupled:
            spans = span_noise(part.keys, clock.step + 1, part.tokens.shape[1])
        free = self._free(part, denoiser)
        return constraint.condition(log_probs, part.tokens, free, part.length, spans, self.draw)

    @property
    def needs(self) -> frozenset[str]:
        """The optional inputs that the denoiser must read."""
        wanted = {"previous": self.self_condition, "noise": self.coupled == "on"}
        return frozenset(name for name, used in wanted.items() if used)

    def _check(self, denoiser: Denoiser) -> None:
        for name in sorted(self.needs):
            if not reads(denoiser, name):
                raise ConfigError(
                    f"this sampler needs a model trained with {INPUTS[name]}; "
                    "choose another sampler or model"
                )
        if self.draw.symbols in ("skeleton", "fill") and denoiser.vocabulary.digit is None:
            raise ConfigError("skeletons need a language with <DIGIT>; choose another sampler")

    def _couples(self, denoiser: Denoiser) -> bool:
        """Whether draws are coupled, for which the model was trained on plain distributions."""
        usual = (
            self.draw.top_p == 1.0
            and self.draw.temperature > 0
            and self.draw.symbols == "plain"
            and not self.draw.penalties.active
        )
        return self.coupled != "off" and usual and reads(denoiser, "noise")

    def _propose(
        self,
        denoiser: Denoiser,
        part: Canvas,
        clock: Clock,
        rows: Tensor,
        memory: _Memory,
        noise: Tensor | None,
    ) -> Tensor:
        """(batch, width, vocab) log-probabilities of the symbols, from one call of the denoiser.

        With the noise of the draw they are of argmax(log p + temperature * noise), the token that
        will be drawn.
        """
        vocabulary, width = denoiser.vocabulary, part.tokens.shape[1]
        shown = as_shown(part.tokens, vocabulary, self.draw.symbols)
        previous = None if memory.previous is None else memory.previous[rows, :width]
        if previous is not None:
            previous = previous * (shown == vocabulary.mask)[..., None]
        allowed = allowed_symbols(part.tokens, vocabulary, self.draw.symbols)
        level = self._level(part, clock)
        if noise is None:
            logits = denoiser(shown, part.length, level, False, previous)
        else:
            drawn = allowed & (shown == vocabulary.mask)[..., None]
            logits = denoiser(
                shown,
                part.length,
                level,
                False,
                previous,
                (noise * self.draw.temperature * drawn).float(),
            )
        if self.draw.symbols == "skeleton":
            logits = fold_digits(logits, vocabulary)
        if self.draw.penalties.penalise:
            visible = ~is_blank(part.tokens, vocabulary, self.draw.symbols)
            soft = self.draw.constraint is not None
            logits = self.draw.penalties.shape_canvas(logits, part, visible, allowed, soft=soft)
        log_probs = log_distribution(logits, allowed)
        if memory.previous is not None:
            memory.previous[rows, :width] = log_probs.exp().to(memory.previous.dtype)
        return log_probs

    def _level(self, part: Canvas, clock: Clock) -> Tensor:
        """(batch,) noise level passed to the denoiser."""
        before = (clock.total - clock.left) / clock.total  # share of the run that is over
        levels = {
            "suspect": part.suspect,
            "clock": 1 - before,
            "naive": 1 - 0.8 * before,
            "blank": clock.blanks / (part.length - 2),
        }
        return levels[self.sigma].float()


@dataclass
class _Memory:
    """Results of earlier evaluations, and a listener."""

    # (batch, width) log p of each tentative token when it was committed; 0 in another stage
    log_prob: Tensor
    # (batch, width, vocab) probabilities of the last evaluation, with self-conditioning
    previous: Tensor | None
    committed: Committed | None  # called after every evaluation

    @classmethod
    def of(
        cls, canvas: Canvas, vocab_size: int, self_condition: bool, committed: Committed | None
    ) -> _Memory:
        shape = canvas.tokens.shape
        empty = (
            torch.zeros(*shape, vocab_size, device=canvas.tokens.device) if self_condition else None
        )
        dtype = torch.float32 if canvas.tokens.device.type == "mps" else torch.float64
        return cls(torch.zeros(shape, dtype=dtype, device=canvas.tokens.device), empty, committed)


def _range(part: Canvas) -> Tensor:
    return torch.arange(part.tokens.shape[1], device=part.tokens.device)


def _at(clock: Clock, rows: Tensor) -> Clock:
    return Clock(
        *(
            getattr(clock, name)[rows]
            for name in ("initial", "blanks", "total", "left", "limited", "keys", "step")
        )
    )
