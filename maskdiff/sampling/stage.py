"""What a sampler is, how samplers follow each other, and how evaluations are budgeted.

`steps` is a total: it counts the evaluations of a string since its canvas was made, earlier stages
included. After a warm start of 3 tokens a stage with `steps=12` has 9. `stage_steps` counts the
evaluations of one stage.
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
    """Raise ConfigError unless `given` is a sampler (no name, no settings, no class)."""
    if not callable(given) or isinstance(given, type):
        raise refuse(
            "stage", given, "a sampler, such as Unmask(), or make_sampler(SamplerConfig(NAME))"
        )


# Ranges of the numbers that stages have.
NUMBERS: dict[str, ArgumentReader] = {
    **dict.fromkeys(
        ("steps", "stage_steps", "count", "spacing", "window", "radius", "reserve"),
        integer(0, UNLIMITED),
    ),
    "choice_temperature": real(0.0, 100.0),
    **dict.fromkeys(("share", "threshold"), real(0.0, 1.0)),
}


class Stage:
    """A sampler that can be followed by another."""

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers that are not finite or out of range."""
        for name, read in NUMBERS.items():
            if hasattr(self, name):
                read(name, getattr(self, name))

    def __call__(self, denoiser: Denoiser, canvas: Canvas) -> Sample:
        """The canvas after this stage; known tokens stay."""
        raise NotImplementedError

    def then(self, other: Sampler) -> Chain:
        """This sampler, then `other`, for which its tokens are tentative and its blanks blank."""
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


def evaluations_left(spent: Tensor, steps: int, stage_steps: int) -> Tensor:
    """(batch,) evaluations left to a stage after `spent` (batch,); `UNLIMITED` for no limit."""
    left = torch.full_like(spent, stage_steps or UNLIMITED)
    return torch.minimum(left, steps - spent) if steps else left


def first_true(mask: Tensor, otherwise: Tensor) -> Tensor:
    """(batch,) index of the first True of each row of (batch, width), else `otherwise` (batch,)."""
    return torch.where(mask.any(1), mask.int().argmax(1), otherwise)
