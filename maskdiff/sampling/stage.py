"""What a sampler is, how two of them follow each other, and how evaluations are budgeted.

For: the type that everything else takes and returns.  Not for: any algorithm.  Easy to get wrong: ``steps`` is a total.  It
counts the evaluations that a string has needed since its canvas was made, earlier stages included, so that in a chain
of a 3-token warm start and a stage with ``steps=12`` the second stage has 9; ``own`` counts a stage's own evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskdiff.models.denoiser import Denoiser
from maskdiff.sampling.canvas import Canvas, Sample
from maskdiff.utils.arguments import ArgumentReader, integer, real, refuse

Sampler = Callable[[Denoiser, Canvas], Sample]
UNLIMITED = 1 << 30


def check_sampler(given: object) -> None:
    """Raises ``ConfigError`` unless it is a sampler: no name, no settings, no class of samplers."""
    if not callable(given) or isinstance(given, type):
        raise refuse(
            "stage", given, "a sampler, such as Unmask(), or make_sampler(SamplerConfig(NAME))"
        )


# Ranges of the numbers that stages have.
NUMBERS: dict[str, ArgumentReader] = {
    **dict.fromkeys(
        ("steps", "own", "count", "spacing", "window", "radius", "reserve"), integer(0, UNLIMITED)
    ),
    **dict.fromkeys(("temperature", "choice_temperature"), real(0.0, 100.0)),
    **dict.fromkeys(("top_p", "share", "threshold"), real(0.0, 1.0)),
}


class Stage:
    """A sampler that can be followed by another."""

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for numbers that are not finite or out of range."""
        for name, read in NUMBERS.items():
            if hasattr(self, name):
                read(name, getattr(self, name))

    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """Fill what this stage fills; known tokens stay."""
        raise NotImplementedError

    def then(self, other: Sampler) -> Chain:
        """This sampler, and after it ``other`` on what it made: its tokens are tentative, its blanks stay blank."""
        return Chain((self, other))


@dataclass(frozen=True)
class Chain(Stage):
    """Samplers one after another."""

    stages: tuple[Sampler, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for stage in self.stages:
            check_sampler(stage)

    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """Run the stages in order."""
        for stage in self.stages:
            canvas = stage(denoiser, canvas).canvas
        return Sample(canvas)

    def then(self, other: Sampler) -> Chain:
        """A longer chain."""
        return Chain((*self.stages, other))


def evaluations_left(spent: Tensor, steps: int, own: int) -> Tensor:
    """(batch,) evaluations that a stage may still use after ``spent`` (batch,); ``UNLIMITED`` where 0 means no limit."""
    left = torch.full_like(spent, own or UNLIMITED)
    return torch.minimum(left, steps - spent) if steps else left


def first_true(mask: Tensor, otherwise: Tensor) -> Tensor:
    """(batch,) index of the first True of each row of (batch, width), or ``otherwise`` (batch,)."""
    return torch.where(mask.any(1), mask.int().argmax(1), otherwise)
