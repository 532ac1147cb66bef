"""Experiment 3: how do the divergences by position change while the student is trained?

The difference of two divergences may fall because one of them rises, so the trained one is also
judged alone, and relative to its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.hypotheses import Hypothesis
from maskdiff.experiments.distillation.positions import DECILES, Array, late_minus_early, nan_mean
from maskdiff.experiments.distillation.rollouts import Rollouts
from maskdiff.experiments.distillation.studies import protocol
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Part,
    Progress,
    ResultTable,
    Row,
    Series,
    pool,
    to_json,
)
from maskdiff.experiments.distillation.trainer import DistillationTrainer, preserved_weights

MARGIN = 0.02  # nats a token, over all steps
SHARE = 0.1  # of what a divergence began with
HEADER = ("decile", "regeneration less standard, nats", "standard, nats", "standard, share")


class Training:
    """Implements `Experiment`."""

    name = "training"
    title = "Divergence by decile while the student is trained"
    predicts = "early positions reduce their gap faster than late ones"

    def measure(self, rollouts: Rollouts, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        config, policy = rollouts.config, rollouts.policy
        standard, delta, rewards = (list[Array]() for _ in range(3))
        losses, norms = list[float](), list[float]()
        with preserved_weights(policy):
            trainer = DistillationTrainer(policy, config)
            for step in range(config.steps + 1):
                progress(f"step {step}/{config.steps}")
                answers = rollouts.student_answers("training", step)
                pairs = {
                    "standard": rollouts.standard_pairs(answers),
                    "regeneration": rollouts.regeneration_pairs(answers, step, trainer.teacher),
                }
                nats = {
                    name: rollouts.divergences(compared, trainer.teacher)
                    for name, compared in pairs.items()
                }
                rows = zip(nats["regeneration"], nats["standard"])
                standard.append(answers.decile_curves(nats["standard"]))
                delta.append(answers.decile_curves([theirs - own for theirs, own in rows]))
                rewards.append(answers.by_problem(answers.rewards))
                if step < config.steps:
                    result = trainer.step(pairs[config.trainer])
                    losses.append(result.loss)
                    norms.append(result.norm)
        return {
            **rollouts.describe(),
            "standard": to_json(np.stack(standard, 1)),  # (problems, steps + 1, 10)
            "delta": to_json(np.stack(delta, 1)),
            "reward": to_json(np.stack(rewards, 1)),  # (problems, steps + 1)
            "loss": to_json(np.array(losses)),
            "norm": to_json(np.array(norms)),
        }

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        standard, delta, reward = (pool(parts, name) for name in ("standard", "delta", "reward"))
        problems, seeds = protocol.seed_clusters(parts), np.arange(len(parts))
        means = [nan_mean(standard[problems == seed]) for seed in seeds]  # (steps + 1, 10) each
        share = np.stack([_relative_fall(curves, 1) for curves in means])  # (seeds, 10)
        # Tables.
        estimate = protocol.estimator(config, rng, problems)
        by_seed = protocol.estimator(config, rng, seeds)
        rows: list[Row] = [
            (
                f"{d + 1}",
                *[estimate(_fall(values)[:, d]) for values in (delta, standard)],
                by_seed(share[:, d]),
            )
            for d in range(DECILES)
        ]
        gain = estimate(reward[:, -1] - reward[:, 0])
        first, last = (estimate(reward[:, step]) for step in (0, -1))
        title = f"How far the divergences fall over {config.steps} steps (least squares)"
        rewards = "Reward of the answers that are trained on"
        header = ("first step", "last step", "gained")
        tables = [
            ResultTable(title, HEADER, rows),
            ResultTable(rewards, header, [(first, last, gain)]),
        ]
        # Lines.
        panels = {"difference": delta, "standard": standard}
        series = [line for panel, values in panels.items() for line in _lines(panel, values)]
        axes = dict.fromkeys(panels, ("step", "nats a token"))
        hypotheses = self._hypotheses(standard, delta, means, problems)
        return Conclusion(hypotheses, tables, series, axes)

    def _hypotheses(
        self, standard: Array, delta: Array, means: Sequence[Array], problems: NDArray[np.int64]
    ) -> list[Hypothesis]:
        halves = np.stack([_relative_fall(curves, DECILES // 2) for curves in means])  # (seeds, 2)
        # Whether there is a divergence that could fall.
        large = protocol.mean_or_zero(standard[:, 0]) >= MARGIN
        return [
            Hypothesis(
                "early - late of how far regeneration less standard falls",
                "early positions close their gap faster",
                -late_minus_early(_fall(delta)), MARGIN, problems,
            ),
            Hypothesis(
                "early - late of how far standard falls, relative to its beginning",
                "early positions learn faster",
                halves[:, 0] - halves[:, 1], SHARE, np.arange(len(means)), control=True,
            ),
            Hypothesis(
                "early - late of how far standard falls",
                "early positions come nearer to the teacher by more",
                -late_minus_early(_fall(standard)), MARGIN, problems, True, large,
            ),
            Hypothesis(
                "how far standard falls", "it falls at all",
                nan_mean(_fall(standard).T), MARGIN, problems, measurable=large,
            ),
        ]  # fmt: skip


def _line(values: Array) -> tuple[Array, Array]:
    """Fit a line through the steps: (..., steps + 1, 10) -> (..., 10) twice, its start and fall.

    NaN where fewer than two steps are known.
    """
    steps = np.arange(values.shape[-2], dtype=np.float64)[:, None]
    known = np.isfinite(values)
    count = np.maximum(known.sum(-2), 1)
    mean_x = (known * steps).sum(-2) / count
    filled = np.where(known, values, 0.0)
    mean_y = filled.sum(-2) / count
    x = np.where(known, steps - mean_x[..., None, :], 0.0)
    spread = (x * x).sum(-2)
    slope = (x * (filled - mean_y[..., None, :])).sum(-2) / np.where(spread > 0, spread, np.nan)
    return mean_y - slope * mean_x, -slope * (values.shape[-2] - 1)


def _fall(values: Array) -> Array:
    """Return how far a line through the steps falls: (..., steps + 1, 10) -> (..., 10)."""
    return _line(values)[1]


def _relative_fall(curves: Array, group: int) -> Array:
    """Return the fall of groups of deciles relative to their start: (steps + 1, 10) ->
    (10 / group,)."""
    start, fall = (np.nansum(part.reshape(-1, group), 1) for part in _line(curves))
    return np.where(start > 0, fall / np.where(start > 0, start, 1.0), np.nan)


def _lines(panel: str, values: Array) -> list[Series]:
    """Return a line for each decile over the steps of (problems, steps + 1, 10)."""
    means, errors = (part.T.tolist() for part in protocol.mean_and_error(values))
    steps = [float(step) for step in range(values.shape[1])]
    return [
        Series(panel, f"decile {d + 1}", steps, means[d], errors[d], f"decile:{d}")
        for d in range(DECILES)
    ]


__all__ = ["Training"]
