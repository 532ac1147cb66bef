"""Experiment 5: what do the top k tokens leave out, and does the teacher want to take something back late in an answer?

For: `Tokens`. Not for: other curves. Easy to get wrong: the student, too, takes things back more where answers go wrong, and a
prompt that announces feedback may raise such tokens whatever it says; so the teacher's rise counts above the student's, and
above that of a teacher who was told nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.compare import mass, measure, nats, outside
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
    by_decile,
    curve,
    level,
    listed,
    named,
    pooled,
    problems_of,
)
from maskdiff.experiments.distillation.study import Study
from maskdiff.experiments.distillation.trainer import divergence_of
from maskdiff.experiments.distillation.verdicts import Claim

NATS, PROBABILITY = 0.01, 0.005  # margins
LATE = slice(DECILES // 2, None)


class Tokens:
    """Implements `Experiment`."""

    name = "tokens"
    title = "Top k against the whole vocabulary, and tokens that take something back"
    predicts = (
        "the top k make divergences smaller but their course no flatter; late, the teacher gives more to backtracking tokens "
        "than early, and than the student"
    )

    def measure(self, study: Study, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        policy, answers, config = study.policy, study.sampled, study.config
        back = policy.backtracking
        progress("told")
        told = measure(
            policy, policy, study.standard_pairs(answers),
            {
                "top": nats(divergence_of(config)),
                "tail": nats(divergence_of(config, tail=True)),
                "full": nats(divergence_of(config, top_k=0)),
                "student": mass(back, "student"),
                "teacher": mass(back, "teacher"),
                "outside_student": outside(config.top_k, "student"),
                "outside_teacher": outside(config.top_k, "teacher"),
            },
        )  # fmt: skip
        progress("untold")
        pairs = study.pairs_behind(answers, study.untold(answers))
        told["untold"] = measure(policy, policy, pairs, {"untold": mass(back, "teacher")})["untold"]
        curves = {
            name: np.stack([decile_means(row) for row in rows]) for name, rows in told.items()
        }
        wrong = np.where(answers.rewards < 1.0, 1.0, np.nan)[:, None]
        failed = {
            f"{name}_failed": curves[name] * wrong for name in ("student", "teacher", "untold")
        }
        made = {
            name: listed(answers.by_problem(values))
            for name, values in {**curves, **failed}.items()
        }
        return {**named(study), "curves": made}

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        curves = {name: pooled(parts, "curves", name) for name in parts[0]["curves"]}
        student, teacher, untold = (curves[name] for name in ("student", "teacher", "untold"))
        late = {name: mean_of(values.T[LATE]) for name, values in curves.items()}
        clusters = problems_of(parts)
        taken = level(teacher) >= PROBABILITY
        apart = level(curves["full"]) >= NATS

        def claim(
            name: str, text: str, values: NDArray[np.float64], control: bool, nats: bool = False
        ) -> Claim:
            margin, seen = (NATS, apart) if nats else (PROBABILITY, taken)
            return Claim(name, text, values, margin, clusters, control, seen)

        rise = {name: late_minus_early(values) for name, values in curves.items()}
        failed = late["teacher_failed"] - late["student_failed"]
        smaller = mean_of(curves["full"].T) - mean_of(curves["top"].T)
        flatter = rise["top"] - rise["full"] + NATS
        claims = [
            claim("backtracking, teacher: late - early", "the teacher takes back more late than early", rise["teacher"], False),
            claim(
                "backtracking: rise of the teacher - rise of the student", "its rise is more than the student's",
                rise["teacher"] - rise["student"], True,
            ),
            claim(
                "backtracking, late: teacher - student", "late, it takes back more than the student",
                late["teacher"] - late["student"], False,
            ),
            claim(
                "backtracking, late: told - untold", "it is what was said that makes it",
                late["teacher"] - late["untold"], True,
            ),
            claim("backtracking, late, failed answers: teacher - student", "it does on answers that failed", failed, True),
            claim("nats: whole vocabulary - top k", "the top k make divergences smaller", smaller, False, True),
            claim("nats, rise: top k - whole, plus margin", "the top k flatten nothing", flatter, False, True),
            claim("nats, whole vocabulary: late - early", "divergences grow at all", rise["full"], True, True),
        ]  # fmt: skip
        k = f"top {config.top_k}" if config.top_k else "whole vocabulary, as configured"
        kinds = {
            f"{k}, {'with tail' if config.tail else 'renormalised'}": curves["top"],
            f"{k}, with tail": curves["tail"],
        }
        kinds["whole vocabulary"] = curves["full"]
        masses = {"student": student, "teacher, told": teacher, "teacher, untold": untold}
        masses |= {
            f"{name}, failed answers": curves[f"{name}_failed"]
            for name in ("student", "teacher", "untold")
        }
        beyond = {
            f"{who}'s probability outside": curves[f"outside_{who}"]
            for who in ("student", "teacher")
        }
        tables = [
            by_decile("Nats a token by decile", kinds, config, rng, clusters),
            by_decile("Outside the student's top k", beyond, config, rng, clusters),
            by_decile(
                "Probability of tokens that take something back", masses, config, rng, clusters
            ),
        ]
        series = [curve("nats", label, values) for label, values in kinds.items()]
        series += [
            curve("backtracking", label, values, "--" if "failed" in label else "-")
            for label, values in masses.items()
        ]
        axes = {
            "nats": ("place in the answer", "nats a token"),
            "backtracking": ("place in the answer", "probability"),
        }
        return Conclusion(claims, tables, series, axes)


__all__ = ["Tokens"]
