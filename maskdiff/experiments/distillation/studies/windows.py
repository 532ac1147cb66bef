"""Experiment 4: which part of an answer should be trained on: the whole, or one half?

Every arm starts from the same weights with the same random numbers, so arms are compared problem by
problem. The last half may move weights less only because its gradient is shorter, so every arm also
runs with all gradients scaled to one norm. (AdamW divides by the size of gradients, so that only
changes of the norm between steps make a difference.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.hypotheses import Hypothesis
from maskdiff.experiments.distillation.positions import Array
from maskdiff.experiments.distillation.rollouts import Answers, Rollouts
from maskdiff.experiments.distillation.studies import protocol
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Part,
    Progress,
    ResultTable,
    Row,
    pool,
    to_json,
)
from maskdiff.experiments.distillation.trainer import (
    WINDOWS,
    DistillationTrainer,
    Window,
    preserved_weights,
)

MARGIN = 0.02  # of a reward between 0 and 1
NOTE = (
    "AdamW divides by the size of gradients: an arm whose gradients all have another length makes "
    "the same steps. The equalised arms differ from the others by what changes from step to step "
    "alone."
)
NORM = 1.0  # of every gradient of the equalised arms


class Windows:
    """Implements `Experiment`."""

    name = "windows"
    title = "What training on a part of the answers gains"
    predicts = (
        "training on the whole or on the first half gains alike, on the last half notably less, or "
        "does harm"
    )

    def measure(self, rollouts: Rollouts, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        before = rollouts.student_answers("sampled")
        arms: dict[str, tuple[Window, float | None]] = {}
        for window in WINDOWS:
            arms[window] = window, None
            arms[f"{window}, equalised"] = window, NORM
        arms["regeneration"] = "full", None
        gains, norms = {}, {}
        for name, (window, norm) in arms.items():
            progress(name)
            gains[name], norms[name] = self._train(
                rollouts, before, name == "regeneration", window, norm
            )
        return {
            **rollouts.describe(),
            "before": to_json(before.by_problem(before.rewards)),
            "gains": {name: to_json(values) for name, values in gains.items()},
            "norms": {name: to_json(np.array(values)) for name, values in norms.items()},
        }

    def _train(
        self, rollouts: Rollouts, before: Answers, regenerate: bool, window: Window,
        norm: float | None,
    ) -> tuple[Array, list[float]]:  # fmt: skip
        """Return the reward gained by an arm of training (problems,) and its gradient norms."""
        policy, config, norms = rollouts.policy, rollouts.config, []
        with preserved_weights(policy):
            trainer = DistillationTrainer(policy, config)
            for step in range(config.window_steps):
                answers = rollouts.student_answers("training", step)
                if regenerate:
                    pairs = rollouts.regeneration_pairs(answers, step, trainer.teacher)
                else:
                    pairs = rollouts.standard_pairs(answers)
                norms.append(trainer.step(pairs, window, norm).norm)
            after = rollouts.student_answers("sampled")  # with the keys of `before`
        return after.by_problem(after.rewards) - before.by_problem(before.rewards), norms

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        seeds, names = protocol.seed_clusters(parts), list(parts[0]["gains"])
        gains = {name: pool(parts, "gains", name) for name in names}
        full, first, last = (gains[window] for window in WINDOWS)
        equalised = gains["first, equalised"] - gains["last, equalised"]
        regeneration = gains["regeneration"] - full
        # Hypotheses.
        large = max(abs(protocol.mean_or_zero(values)) for values in gains.values()) >= MARGIN
        claim = partial(Hypothesis, margin=MARGIN, clusters=seeds, measurable=large)
        control = partial(claim, control=True)
        same, whole = (
            "it does with gradients of one length",
            "the whole teaches more than the last half",
        )
        hypotheses = [
            claim("first half - last half", "the first half teaches more", first - last),
            control("first half - last half, equalised", same, equalised),
            claim("whole - last half", whole, full - last),
            claim("loss by the last half", "training on the last half does harm", -last),
            claim("whole - first half", "the last half adds something to the first", full - first),
            control("regeneration - standard", "regenerations teach more", regeneration),
        ]
        # Tables and bars.
        estimate = protocol.estimator(config, rng, seeds)
        by_seed = protocol.estimator(config, rng)
        rows: list[Row] = []
        for name in names:
            norms = [np.mean(protocol.from_json(part["norms"][name])) for part in parts]
            norm = by_seed(np.array(norms))
            rows.append((name, estimate(gains[name]), norm))
        reward = estimate(pool(parts, "before"))
        title = f"Reward gained in {config.window_steps} steps"
        tables = [
            ResultTable(title, ("trained on", "gain", "gradient's norm"), rows),
            ResultTable("Reward before", ("",), [(reward,)]),
        ]
        drawn = [estimate(gains[name]) for name in names]
        at = [float(i) for i in range(len(names))]
        series = [protocol.bar_series("gain", "", at, drawn, names)]
        return Conclusion(hypotheses, tables, series, {"gain": ("", "reward gained")}, [NOTE])


__all__ = ["Windows"]
