"""Toy environments, small settings and whole runs for tests of self-distillation with
`PlantedPolicy`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskdiff.config import DistillationConfig
from maskdiff.errors import UserError
from maskdiff.experiments.distillation import report, runner
from maskdiff.experiments.distillation.environment import Environment, Outcome, Problem
from maskdiff.experiments.distillation.planted import END, PlantedPolicy
from maskdiff.experiments.distillation.runner import RunSettings, weights_fingerprint
from maskdiff.experiments.distillation.studies import EXPERIMENTS

NAMES = list(EXPERIMENTS)
NAN = float("nan")
ProgressCallback = Callable[[str, int, str], None]

SMALL = DistillationConfig(
    problems=3, rollouts=2, seeds=2, steps=2, window_steps=2, resamples=100, max_tokens=12, lr=0.01
)  # fmt: skip


def planted(
    seed: int = 0, onset: int | None = 5, null: bool = False, end: float = 1.0
) -> PlantedPolicy:
    """A policy whose answers often end of themselves; with an `end` of -3, as it is made, hardly
    any do."""
    policy = PlantedPolicy(seed, onset=onset, null=null)
    with torch.no_grad():
        policy.module[0][:, END] = end
    return policy


class Letters:
    """Implements `Environment`: an answer is worth the share of its letters before `m`, and is
    right from 0.6 on."""

    name = "letters"
    reveals = False

    def problems(self, count: int, seed: int) -> list[Problem]:
        return [Problem(f"{seed}-{i}", f"problem {seed} {i}") for i in range(count)]

    def evaluate(self, problem: Problem, answer: str) -> Outcome:
        share = sum(letter < "m" for letter in answer) / max(len(answer), 1)
        return Outcome(1.0 if share > 0.6 else share, f"{share:.1f}")


class Located(Letters):
    """The same, and a letter from `m` on is where an answer goes wrong."""

    def label_characters(self, problem: Problem, answer: str) -> list[bool | None]:
        return [letter < "m" for letter in answer]


def setting_of(policy: PlantedPolicy, config: DistillationConfig = SMALL) -> RunSettings:
    return RunSettings(config, policy.name, weights_fingerprint(policy), 1)


def ignore_progress(name: str, seed: int, what: str) -> None:
    """Ignores the progress of a run."""


def run(
    folder: Path, names: list[str] = NAMES, setting: RunSettings | None = None,
    policy: PlantedPolicy | None = None, progress: ProgressCallback = ignore_progress,
    environment: Environment | None = None,
) -> bytes:  # fmt: skip
    """The bytes of results.json."""
    policy = policy or planted()
    setting = setting or setting_of(policy)
    results = runner.run_experiments(
        policy, environment or Located(), setting, names, folder, progress
    )
    runner.write_json(folder / "results.json", report.results_json(results, setting))
    return (folder / "results.json").read_bytes()


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def parts_of(folder: Path) -> dict[str, bytes]:
    """Returns the measured parts in the folder of a run."""
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}


def one_line(call: Callable[[], object]) -> str:
    """Returns the one-line message of a UserError."""
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def known(values: Sequence[float]) -> list[float]:
    return [value for value in values if value == value]


def mean(values: Sequence[float]) -> float:
    """Returns the mean of the known values."""
    left = known(values)
    return sum(left) / len(left) if left else NAN


def same(found: object, expected: object) -> None:
    np.testing.assert_allclose(
        np.asarray(found, dtype=float), np.asarray(expected, dtype=float), rtol=1e-9, atol=1e-9
    )
