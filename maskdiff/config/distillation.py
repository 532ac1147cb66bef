"""Options of the experiments on self-distillation."""

from __future__ import annotations

from dataclasses import dataclass

from maskdiff.config.limits import MAX_RATE
from maskdiff.config.options import Section, fraction, option


@dataclass(frozen=True)
class DistillationConfig(Section):
    """What the experiments on self-distillation measure and train; see docs/distillation.md."""

    environment: str = option("arithmetic", "what judges answers", choices=("arithmetic", "python"))
    feedback: str = option(
        "first_wrong_step",
        "arithmetic: the feedback on an attempt; leak gives the result, as an upper bound",
        choices=("none", "scalar", "first_wrong_step", "leak"),
    )  # fmt: skip
    records: str = option(
        "", "python: problems in the format of LiveCodeBench (.jsonl); empty: ten in the package"
    )
    isolation: str = option(
        "required",
        "python: run programs isolated, or without isolation",
        choices=("required", "none"),
    )
    packages: str = option(
        "", "python: installed packages that programs may import, separated by commas"
    )
    problems: int = option(10, "problems of a seed", low=1, high=10_000)
    rollouts: int = option(8, "answers to a problem", low=1, high=1024)
    seeds: int = option(
        10, "seeds, each with its own problems where there are enough", low=1, high=10_000
    )
    first_seed: int = option(0, "the first seed; the others follow it", low=0, high=2**62)
    temperature: float = option(
        1.0,
        "of the answers of the student, and of what is compared with them",
        low=0.01,
        high=100.0,
    )
    max_tokens: int = option(
        0,
        "tokens of an answer at most; 0: 96 for our models, 512 for large ones",
        low=0,
        high=65_536,
    )
    divergence: str = option(
        "reverse",
        "KL(student || teacher), KL(teacher || student), or both to their mixture",
        choices=("reverse", "forward", "jensen-shannon"),
    )  # fmt: skip
    top_k: int = option(
        20, "of the likeliest tokens of the student; 0: the whole vocabulary", low=0, high=10**6
    )
    tail: bool = option(
        False,
        "all other tokens are one more outcome (as published), without renormalising over top_k",
    )
    show_attempt: bool = option(
        False, "standard: the teacher also sees the answer that it judges, as in the reference"
    )
    teacher: str = option(
        "self",
        "weights that judge: the student's at every step, its initial ones, or their average",
        choices=("self", "initial", "ema"),
    )  # fmt: skip
    teacher_rate: float = fraction(
        0.05, "ema: share of the student in the update of the teacher at a step"
    )
    trainer: str = option(
        "standard",
        "train on the view of the teacher of the answer, or of its own regeneration",
        choices=("standard", "regeneration"),
    )  # fmt: skip
    steps: int = option(8, "steps of training that are measured", low=1, high=100_000)
    window_steps: int = option(3, "steps of training for each window", low=1, high=100_000)
    lr: float = option(
        0.0,
        "learning rate of AdamW; 0: 1e-4 for our models, 1e-6 for large ones",
        low=0.0,
        high=10.0,
    )
    weight_decay: float = option(0.01, "decoupled weight decay", low=0.0, high=MAX_RATE)
    grad_clip: float = option(1.0, "largest norm of a gradient; 0 is off", low=0.0, high=1e6)
    resamples: int = option(2000, "draws of the bootstrap", low=100, high=1_000_000)
