"""Experiment 4: which part of an answer should be trained on: the whole, its first half, or its last?

For: `Windows`. Not for: curves. Easy to get wrong: every arm starts from the same weights and sees the same random numbers, so
that arms are compared problem by problem; and the last half may move weights less simply because its gradient is shorter, which
is why every arm also runs with all gradients scaled to one length. (AdamW divides by the gradient's own size, so that a length
that stays the same from step to step makes no difference to it; only changes between steps do.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Part,
    Progress,
    Table,
    array,
    bars,
    level,
    listed,
    named,
    pooled,
    seeds_of,
)
from maskdiff.experiments.distillation.study import Answers, Study
from maskdiff.experiments.distillation.trainer import WINDOWS, Trainer, Window
from maskdiff.experiments.distillation.verdicts import Claim, estimated
from maskdiff.experiments.distillation.weights import restored

MARGIN = 0.02  # of a reward between 0 and 1
NOTE = (
    "AdamW divides by the size of gradients: an arm whose gradients all have another length makes the same steps. The "
    "equalised arms differ from the others by what changes from step to step alone."
)
NORM = 1.0  # of every gradient of the arms that are equalised


class Windows:
    """Implements `Experiment`."""

    name = "windows"
    title = "What training on a part of the answers gains"
    predicts = "training on the whole or on the first half gains alike, on the last half notably less, or does harm"

    def measure(self, study: Study, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        before = study.draw("sampled")
        gains, norms = {}, {}
        for window in WINDOWS:
            for scaled in (False, True):
                name = f"{window}, equalised" if scaled else window
                progress(name)
                gains[name], norms[name] = self._arm(
                    study, before, "standard", window, NORM if scaled else None
                )
        progress("regeneration")
        gains["regeneration"], norms["regeneration"] = self._arm(
            study, before, "regeneration", "full", None
        )
        return {
            **named(study),
            "before": listed(before.by_problem(before.rewards)),
            "gains": {name: listed(values) for name, values in gains.items()},
            "norms": {name: listed(array(values)) for name, values in norms.items()},
        }

    def _arm(
        self, study: Study, before: Answers, trainer_name: str, window: Window, norm: float | None
    ) -> tuple[NDArray[np.float64], list[float]]:
        """(problems,) reward gained by some steps of training, and the norms of their gradients."""
        config = study.config
        norms = []
        with restored(study.policy):
            trainer = Trainer(study.policy, config)
            for step in range(config.window_steps):
                answers = study.draw("training", step)
                if trainer_name == "regeneration":
                    others = study.anew(
                        answers,
                        "regenerated",
                        config.temperature,
                        step=step + 1,
                        writer=trainer.teacher,
                    )
                    pairs = study.pairs_with(answers, others)
                else:
                    pairs = study.standard_pairs(answers)
                norms.append(trainer.step(pairs, window, norm).norm)
            after = study.draw("sampled")  # by the numbers of the answers before
        return after.by_problem(after.rewards) - before.by_problem(before.rewards), norms

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        seeds, names = seeds_of(parts), list(parts[0]["gains"])
        gains = {name: pooled(parts, "gains", name) for name in names}

        seen = (
            max(abs(level(values)) for values in gains.values()) >= MARGIN
        )  # training does something

        def claim(
            name: str, text: str, values: NDArray[np.float64], control: bool = False
        ) -> Claim:
            return Claim(name, text, values, MARGIN, seeds, control, seen)

        claims = [
            claim("first half - last half", "the first half teaches more", gains["first"] - gains["last"]),
            claim(
                "first half - last half, equalised", "it does with gradients of one length",
                gains["first, equalised"] - gains["last, equalised"], True,
            ),
            claim("whole - last half", "the whole teaches more than the last half", gains["full"] - gains["last"]),
            claim("loss by the last half", "training on the last half does harm", -gains["last"]),
            claim("whole - first half", "the last half adds something to the first", gains["full"] - gains["first"]),
            claim("regeneration - standard", "regenerations teach more", gains["regeneration"] - gains["full"], True),
        ]  # fmt: skip
        rows: list[tuple[Any, ...]] = []
        for name in names:
            norm = array([np.mean(array(part["norms"][name])) for part in parts])
            length = estimated(norm, rng, config.resamples)
            rows.append((name, estimated(gains[name], rng, config.resamples, seeds), length))
        reward = estimated(pooled(parts, "before"), rng, config.resamples, seeds)
        tables = [
            Table(
                f"Reward gained in {config.window_steps} steps",
                ("trained on", "gain", "gradient's norm"),
                rows,
            ),
            Table("Reward before", ("",), [(reward,)]),
        ]
        drawn = [estimated(gains[name], rng, config.resamples, seeds) for name in names]
        series = [bars("gain", "", [float(i) for i in range(len(names))], drawn, names)]
        return Conclusion(claims, tables, series, {"gain": ("", "reward gained")}, [NOTE])


__all__ = ["Windows"]
