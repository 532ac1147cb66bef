"""Experiment 5: what do the top k tokens omit, and does the teacher backtrack late in an answer?

The student too backtracks more where answers go wrong, and a prompt that announces feedback may
raise backtracking tokens whatever it says. So the teacher's rise counts above the student's, and
above that of a teacher with empty feedback.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.compare import (
    divergence_measure,
    mass_outside,
    measure_pairs,
    token_mass,
)
from maskdiff.experiments.distillation.hypotheses import Hypothesis
from maskdiff.experiments.distillation.positions import DECILES, Array, late_minus_early, nan_mean
from maskdiff.experiments.distillation.rollouts import Rollouts, make_divergence
from maskdiff.experiments.distillation.studies import protocol
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Part,
    Progress,
    decile_series,
    decile_table,
    pool,
    to_json,
)

NATS, PROBABILITY = 0.01, 0.005  # margins
LATE = slice(DECILES // 2, None)


class Tokens:
    """Implements `Experiment`."""

    name = "tokens"
    title = "Top k against the whole vocabulary, and tokens that take something back"
    predicts = (
        "the top k make divergences smaller but their course no flatter; late, the teacher gives "
        "more to backtracking tokens than early, and than the student"
    )

    def measure(self, rollouts: Rollouts, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        policy, answers, config = rollouts.policy, rollouts.sampled, rollouts.config
        back = policy.backtracking
        measures = {
            "top": divergence_measure(make_divergence(config)),
            "tail": divergence_measure(make_divergence(config, tail=True)),
            "full": divergence_measure(make_divergence(config, top_k=0)),
            "student": token_mass(back, "student"),
            "teacher": token_mass(back, "teacher"),
            "outside_student": mass_outside(config.top_k, "student"),
            "outside_teacher": mass_outside(config.top_k, "teacher"),
        }
        progress("told")
        made = measure_pairs(policy, policy, rollouts.standard_pairs(answers), measures)
        progress("untold")
        pairs = rollouts.self_pairs(answers, rollouts.feedback_prompts(answers, empty=True))
        made |= measure_pairs(policy, policy, pairs, {"untold": token_mass(back, "teacher")})
        curves = {name: answers.decile_curves(rows) for name, rows in made.items()}
        wrong = np.where(answers.rewards < 1.0, 1.0, np.nan)
        for name in ("student", "teacher", "untold"):
            failed = [row * failing for row, failing in zip(made[name], wrong, strict=True)]
            curves[f"{name}_failed"] = answers.decile_curves(failed)
        return {
            **rollouts.describe(),
            "curves": {name: to_json(values) for name, values in curves.items()},
        }

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        curves = {name: pool(parts, "curves", name) for name in parts[0]["curves"]}
        estimate = protocol.estimator(config, rng, protocol.problem_clusters(parts))
        # Labelled curves.
        top = f"top {config.top_k}" if config.top_k else "whole vocabulary, as configured"
        kinds = {
            f"{top}, {'with tail' if config.tail else 'renormalised'}": curves["top"],
            f"{top}, with tail": curves["tail"],
        }
        kinds["whole vocabulary"] = curves["full"]
        names = ("student", "teacher", "untold")
        labels = ("student", "teacher, told", "teacher, untold")
        masses = {label: curves[name] for label, name in zip(labels, names)}
        masses |= {f"{name}, failed answers": curves[f"{name}_failed"] for name in names}
        outside = {f"{who}'s probability outside": curves[f"outside_{who}"] for who in names[:2]}
        # Tables and lines.
        backtracking = "Probability of tokens that take something back"
        tables = [
            decile_table("Nats a token by decile", kinds, estimate),
            decile_table("Outside the student's top k", outside, estimate),
            decile_table(backtracking, masses, estimate),
        ]
        series = [decile_series("nats", label, values) for label, values in kinds.items()]
        series += [
            decile_series("backtracking", label, values, "--" if "failed" in label else "-")
            for label, values in masses.items()
        ]
        place = "place in the answer"
        axes = {"nats": (place, "nats a token"), "backtracking": (place, "probability")}
        return Conclusion(self._hypotheses(parts, curves), tables, series, axes)

    def _hypotheses(self, parts: Sequence[Part], curves: dict[str, Array]) -> list[Hypothesis]:
        late = {name: nan_mean(values.T[LATE]) for name, values in curves.items()}
        rise = {name: late_minus_early(values) for name, values in curves.items()}
        failed = late["teacher_failed"] - late["student_failed"]
        smaller = nan_mean(curves["full"].T) - nan_mean(curves["top"].T)
        clusters = protocol.problem_clusters(parts)
        probable = protocol.mean_or_zero(curves["teacher"]) >= PROBABILITY
        apart = protocol.mean_or_zero(curves["full"]) >= NATS
        mass = partial(Hypothesis, margin=PROBABILITY, clusters=clusters, measurable=probable)
        nats = partial(Hypothesis, margin=NATS, clusters=clusters, measurable=apart)
        return [
            mass(
                "backtracking, teacher: late - early",
                "the teacher takes back more late than early", rise["teacher"],
            ),
            mass(
                "backtracking: rise of the teacher - rise of the student",
                "its rise is more than the student's",
                rise["teacher"] - rise["student"], control=True,
            ),
            mass(
                "backtracking, late: teacher - student",
                "late, it takes back more than the student", late["teacher"] - late["student"],
            ),
            mass(
                "backtracking, late: told - untold", "it is what was said that makes it",
                late["teacher"] - late["untold"], control=True,
            ),
            mass(
                "backtracking, late, failed answers: teacher - student",
                "it does on answers that failed", failed, control=True,
            ),
            nats(
                "nats: whole vocabulary - top k", "the top k make divergences smaller", smaller
            ),
            nats(
                "nats, rise: top k - whole, plus margin", "the top k flatten nothing",
                rise["top"] - rise["full"] + NATS,
            ),
            nats(
                "nats, whole vocabulary: late - early", "divergences grow at all", rise["full"],
                control=True,
            ),
        ]  # fmt: skip


__all__ = ["Tokens"]
