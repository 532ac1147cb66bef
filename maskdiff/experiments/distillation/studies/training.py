"""Experiment 3: how do the divergences by position change while the student is trained?

For: `Training`. Not for: what part of an answer should be trained on (`windows.py`). Easy to get wrong: the difference of the
two divergences may fall because one of them rises; so the trained one is judged alone, too, and relative to where it began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.compare import measure, nats
from maskdiff.experiments.distillation.positions import (
    DECILES,
    decile_means,
    late_minus_early,
    mean_of,
)
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Part,
    Progress,
    Series,
    Table,
    array,
    level,
    listed,
    mean_and_error,
    named,
    pooled,
    seeds_of,
)
from maskdiff.experiments.distillation.study import Study
from maskdiff.experiments.distillation.trainer import Trainer, divergence_of
from maskdiff.experiments.distillation.verdicts import Claim, estimated
from maskdiff.experiments.distillation.weights import restored

MARGIN = 0.02  # nats a token, over all steps
SHARE = 0.1  # of what a divergence began with


class Training:
    """Implements `Experiment`."""

    name = "training"
    title = "Divergence by decile while the student is trained"
    predicts = "early positions reduce their gap faster than late ones"

    def measure(self, study: Study, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        config = study.config
        figure = {"nats": nats(divergence_of(config))}
        standard, delta, rewards = (list[NDArray[np.float64]]() for _ in range(3))
        losses, norms = list[float](), list[float]()
        with restored(study.policy):
            trainer = Trainer(study.policy, config)
            for step in range(config.steps + 1):
                progress(f"step {step}/{config.steps}")
                answers = study.draw("training", step)
                others = study.anew(
                    answers,
                    "regenerated",
                    config.temperature,
                    step=step + 1,
                    writer=trainer.teacher,
                )
                pairs = {
                    "standard": study.standard_pairs(answers),
                    "regeneration": study.pairs_with(answers, others),
                }
                made = {
                    name: measure(study.policy, trainer.teacher, compared, figure)["nats"]
                    for name, compared in pairs.items()
                }
                gap = [
                    anew - own for anew, own in zip(made["regeneration"], made["standard"])
                ]  # place by place
                for kept, rows in ((standard, made["standard"]), (delta, gap)):
                    kept.append(answers.by_problem(np.stack([decile_means(row) for row in rows])))
                rewards.append(answers.by_problem(answers.rewards))
                if step < config.steps:
                    stepped = trainer.step(pairs[config.trainer])
                    losses.append(stepped.loss)
                    norms.append(stepped.norm)
        return {
            **named(study),
            "standard": listed(np.stack(standard, 1)),  # (problems, steps + 1, 10)
            "delta": listed(np.stack(delta, 1)),
            "reward": listed(np.stack(rewards, 1)),  # (problems, steps + 1)
            "loss": listed(array(losses)),
            "norm": listed(array(norms)),
        }

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        standard, delta, reward = (pooled(parts, name) for name in ("standard", "delta", "reward"))
        seeds = seeds_of(parts)
        whole = [
            mean_of(standard[seeds == seed]) for seed in range(len(parts))
        ]  # (steps + 1, 10) each
        share = np.stack([_share(curves, 1) for curves in whole])  # (seeds, 10)
        halves = np.stack([_share(curves, DECILES // 2) for curves in whole])  # (seeds, 2)
        seen = level(standard[:, 0]) >= MARGIN  # there is something that could fall
        claims = [
            Claim(
                "early - late of how far regeneration less standard falls", "early positions close their gap faster",
                -late_minus_early(_fall(delta)), MARGIN, seeds,
            ),
            Claim(
                "early - late of how far standard falls, relative to its beginning", "early positions learn faster",
                halves[:, 0] - halves[:, 1], SHARE, np.arange(len(parts)), control=True,
            ),
            Claim(
                "early - late of how far standard falls", "early positions come nearer to the teacher by more",
                -late_minus_early(_fall(standard)), MARGIN, seeds, control=True, seen=seen,
            ),
            Claim("how far standard falls", "it falls at all", mean_of(_fall(standard).T), MARGIN, seeds, seen=seen),
        ]  # fmt: skip
        rows: list[tuple[Any, ...]] = []
        for d in range(DECILES):
            falls = [
                estimated(_fall(values)[:, d], rng, config.resamples, seeds)
                for values in (delta, standard)
            ]
            rows.append(
                (
                    f"{d + 1}",
                    *falls,
                    estimated(share[:, d], rng, config.resamples, np.arange(len(parts))),
                )
            )
        gain = estimated(reward[:, -1] - reward[:, 0], rng, config.resamples, seeds)
        first, last = (estimated(reward[:, step], rng, config.resamples, seeds) for step in (0, -1))
        title = f"How far the divergences fall over {config.steps} steps (least squares)"
        tables = [
            Table(
                title,
                ("decile", "regeneration less standard, nats", "standard, nats", "standard, share"),
                rows,
            ),
            Table(
                "Reward of the answers that are trained on",
                ("first step", "last step", "gained"),
                [(first, last, gain)],
            ),
        ]
        series = [
            line
            for name, values in (("difference", delta), ("standard", standard))
            for line in _lines(name, values)
        ]
        axes = dict.fromkeys(("difference", "standard"), ("step", "nats a token"))
        return Conclusion(claims, tables, series, axes)


def _line(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(..., steps + 1, 10) -> (..., 10) twice: where a straight line through the steps begins, and how far it falls.

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


def _fall(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., steps + 1, 10) -> (..., 10): how far a line through the steps falls."""
    return _line(values)[1]


def _share(curves: NDArray[np.float64], together: int) -> NDArray[np.float64]:
    """(steps + 1, 10) -> (10 / together,): how far the lines of some deciles together fall, as a share of where they begin."""
    start, fall = (np.nansum(part.reshape(-1, together), 1) for part in _line(curves))
    return np.where(start > 0, fall / np.where(start > 0, start, 1.0), np.nan)


def _lines(panel: str, values: NDArray[np.float64]) -> list[Series]:
    """A line for each decile over the steps of (problems, steps + 1, 10)."""
    means, errors = mean_and_error(values)
    steps = [float(step) for step in range(values.shape[1])]
    return [
        Series(
            panel,
            f"decile {d + 1}",
            steps,
            means[:, d].tolist(),
            errors[:, d].tolist(),
            f"decile:{d}",
        )
        for d in range(DECILES)
    ]


__all__ = ["Training"]
