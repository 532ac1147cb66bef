"""Experiment 1: are answers that a teacher writes in view of feedback better than the student's?

For: `Rewards`. Not for: positions. Easy to get wrong: of answers that failed, the next is better by luck alone; so what the
teacher gains on them counts only above what the student gains who tries again without feedback. And the likeliest answer of a
teacher is no match for answers that a student drew: like is compared with like, and what the mismatch would have added is in
the table.
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
    Series,
    Table,
    bars,
    listed,
    named,
    pooled,
    problems_of,
)
from maskdiff.experiments.distillation.study import Answers, Study
from maskdiff.experiments.distillation.verdicts import Claim, estimated
from maskdiff.metrics import Estimate

MARGIN = 0.05  # of a reward between 0 and 1
WAYS = {
    "sampled": "the student's answers s, sampled",
    "regenerated": "teacher's s', sampled: sees s and feedback",
    "resampled": "s'', sampled again without feedback",
    "shown": "teacher's, sampled: sees s, no feedback",
    "revised": "s with doubted tokens rewritten (bidirectional)",
    "regenerated_greedy": "teacher's likeliest s', from sampled s (not matched)",
    "greedy": "the student's likeliest answer",
    "greedy_from_greedy": "teacher's likeliest s', from the likeliest s (matched)",
}


class Rewards:
    """Implements `Experiment`."""

    name = "rewards"
    title = "Reward of answers and of what is written anew in view of feedback"
    predicts = "regenerated answers have a higher reward than the rollouts that they are made from"

    def measure(self, study: Study, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        means, failed, kept = {}, {}, {}
        wrong = study.sampled.rewards < 1.0
        for way in WAYS:
            progress(way)
            answers: Answers | None = getattr(study, way)
            if answers is None:
                continue
            means[way] = listed(answers.by_problem(answers.rewards))
            if len(answers.ids) == len(wrong) and not way.startswith("greedy"):
                failed[way] = listed(answers.by_problem(np.where(wrong, answers.rewards, np.nan)))
                kept[way] = listed(answers.by_problem(np.where(wrong, np.nan, answers.rewards)))
        return {**named(study), "all": means, "failed": failed, "right": kept}

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        ways = [way for way in WAYS if all(way in part["all"] for part in parts)]

        def mean(way: str, which: str = "all") -> NDArray[np.float64]:
            return pooled(parts, which, way)

        clusters = problems_of(parts)

        def claim(name: str, text: str, values: NDArray[np.float64], control: bool = True) -> Claim:
            return Claim(name, text, values, MARGIN, clusters, control)

        gain = mean("regenerated") - mean("sampled")
        again = mean("regenerated", "failed") - mean("resampled", "failed")
        likeliest = mean("greedy_from_greedy") - mean("greedy")
        claims = [
            claim("regenerated - sampled", "regeneration with feedback pays", gain, control=False),
            claim(
                "of failed answers: regenerated - resampled",
                "it corrects, beyond the luck of another try",
                again,
            ),
            claim(
                "regenerated - resampled",
                "it pays, beyond another try",
                mean("regenerated") - mean("resampled"),
            ),
            claim("likeliest s' - likeliest s", "it pays for likeliest answers, too", likeliest),
            claim("regenerated - shown", "it is the feedback", mean("regenerated") - mean("shown")),
        ]
        mismatch = mean("regenerated_greedy") - mean("sampled") - likeliest
        rows: list[tuple[Any, ...]] = []
        figures: dict[str, dict[str, Estimate]] = {
            which: {} for which in ("all", "failed", "right")
        }
        for way in ways:
            for which, known in figures.items():
                if all(way in part[which] for part in parts):
                    known[way] = estimated(mean(way, which), rng, config.resamples, clusters)
            rows.append((WAYS[way], *[known.get(way, "") for known in figures.values()]))
        added = estimated(mismatch, rng, config.resamples, clusters)
        tables = [
            Table("Reward", ("answers", "all", "where s failed", "where s was right"), rows),
            Table(
                "The mismatch",
                ("", "reward"),
                [("what comparing likeliest s' with sampled s would add to the gain", added)],
            ),
        ]
        return Conclusion(claims, tables, self._bars(figures, ways), {"rewards": ("", "reward")})

    def _bars(self, figures: dict[str, dict[str, Estimate]], ways: Sequence[str]) -> list[Series]:
        made = []
        for which, label in (("all", "all answers"), ("failed", "where s failed")):
            known = figures[which]
            at = [float(i) for i, way in enumerate(ways) if way in known]
            made.append(bars("rewards", label, at, list(known.values()), ways))
        return made


__all__ = ["Rewards"]
