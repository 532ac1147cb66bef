"""A toy environment and small settings for tests of self-distillation with `PlantedPolicy`."""

from __future__ import annotations

from pathlib import Path

import torch

from maskdiff.config import DistillationConfig
from maskdiff.distillation.environment import Outcome, Problem
from maskdiff.distillation.planted import END, PlantedPolicy

SMALL = DistillationConfig(
    problems=3, rollouts=2, seeds=2, steps=2, window_steps=2, resamples=100, max_tokens=12, lr=0.01
)  # fmt: skip


def planted(seed: int = 0, onset: int | None = 5, null: bool = False, end: float = 1.0) -> PlantedPolicy:
    """A policy whose answers often end of themselves; with an `end` of -3, as it is made, hardly any do."""
    policy = PlantedPolicy(seed, onset=onset, null=null)
    with torch.no_grad():
        policy.module[0][:, END] = end
    return policy


class Letters:
    """Implements `Environment`: an answer is worth the share of its letters before `m`, and is right from 0.6 on."""

    name = "letters"
    reveals = False

    def problems(self, count: int, seed: int) -> list[Problem]:
        return [Problem(f"{seed}-{i}", f"problem {seed} {i}") for i in range(count)]

    def attempt(self, problem: Problem, answer: str) -> Outcome:
        share = sum(letter < "m" for letter in answer) / max(len(answer), 1)
        return Outcome(1.0 if share > 0.6 else share, f"{share:.1f}")


def parts_of(folder: Path) -> dict[str, bytes]:
    """What was measured in the folder of a run."""
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}
