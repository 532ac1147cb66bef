"""Experiment 5: what do the top k tokens leave out, and does the teacher want to take something back late in an answer?

For: `Tokens`. Not for: other curves. Easy to get wrong: the student, too, takes things back more where answers go wrong, and a
prompt that announces feedback may raise such tokens whatever it says; so the teacher's rise counts above the student's, and
above that of a teacher who was told nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskdiff.config import DistillationConfig
from maskdiff.distillation.compare import Pair, mass, measure, nats
from maskdiff.distillation.experiments.protocol import Conclusion, Part, Progress, by_decile, curve, listed, pooled
from maskdiff.distillation.positions import DECILES, decile_means, late_minus_early, mean_of
from maskdiff.distillation.study import Study
from maskdiff.distillation.trainer import divergence_of
from maskdiff.distillation.verdicts import Claim

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
            },
        )  # fmt: skip
        progress("untold")
        silent = [policy.prompt(study.problems[problem], None, "") for problem in answers.owner.tolist()]
        pairs = [Pair.same(*row) for row in zip(answers.prompts, answers.ids, silent, strict=True)]
        told["untold"] = measure(policy, policy, pairs, {"untold": mass(back, "teacher")})["untold"]
        curves = {name: np.stack([decile_means(row) for row in rows]) for name, rows in told.items()}
        wrong = np.where(answers.rewards < 1.0, 1.0, np.nan)[:, None]
        failed = {f"{name}_failed": curves[name] * wrong for name in ("student", "teacher", "untold")}
        made = {name: listed(answers.by_problem(values)) for name, values in {**curves, **failed}.items()}
        return {"problems": len(study.problems), "curves": made}

    def conclude(self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator) -> Conclusion:
        """See `Experiment`."""
        curves = {name: pooled(parts, "curves", name) for name in parts[0]["curves"]}
        student, teacher, untold = (curves[name] for name in ("student", "teacher", "untold"))
        late = {name: mean_of(values.T[LATE]) for name, values in curves.items()}
        claims = [
            Claim(
                "backtracking, teacher: late - early", "the teacher takes back more late than early",
                late_minus_early(teacher), PROBABILITY,
            ),
            Claim(
                "backtracking: rise of the teacher - rise of the student", "its rise is more than the student's",
                late_minus_early(teacher) - late_minus_early(student), PROBABILITY, control=True,
            ),
            Claim(
                "backtracking, late: teacher - student", "late, it takes back more than the student",
                late["teacher"] - late["student"], PROBABILITY,
            ),
            Claim(
                "backtracking, late: told - untold", "it is what was said that makes it",
                late["teacher"] - late["untold"], PROBABILITY, control=True,
            ),
            Claim(
                "backtracking, late, failed answers: teacher - student", "it does on answers that failed",
                late["teacher_failed"] - late["student_failed"], PROBABILITY, control=True,
            ),
            Claim(
                "nats: whole vocabulary - top k", "the top k make divergences smaller",
                mean_of(curves["full"].T) - mean_of(curves["top"].T), NATS,
            ),
            Claim("nats, top k: late - early", "under the top k they still grow", late_minus_early(curves["top"]), NATS),
            Claim(
                "nats, whole vocabulary: late - early", "divergences grow at all", late_minus_early(curves["full"]), NATS,
                control=True,
            ),
        ]  # fmt: skip
        k = f"top {config.top_k}" if config.top_k else "whole vocabulary, as configured"
        kinds = {f"{k}, {'with tail' if config.tail else 'renormalised'}": curves["top"], f"{k}, with tail": curves["tail"]}
        kinds["whole vocabulary"] = curves["full"]
        masses = {"student": student, "teacher, told": teacher, "teacher, untold": untold}
        masses |= {f"{name}, failed answers": curves[f"{name}_failed"] for name in ("student", "teacher", "untold")}
        tables = [
            by_decile("Nats a token by decile", kinds, config, rng),
            by_decile("Probability of tokens that take something back", masses, config, rng),
        ]
        series = [curve("nats", label, values) for label, values in kinds.items()]
        series += [curve("backtracking", label, values, "--" if "failed" in label else "-") for label, values in masses.items()]
        axes = {"nats": ("place in the answer", "nats a token"), "backtracking": ("place in the answer", "probability")}
        return Conclusion(claims, tables, series, axes)


__all__ = ["Tokens"]
