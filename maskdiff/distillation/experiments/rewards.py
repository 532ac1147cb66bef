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
from maskdiff.distillation.experiments.protocol import Conclusion, Part, Progress, Series, Table, listed, mean_and_error, pooled
from maskdiff.distillation.study import Answers, Study
from maskdiff.distillation.verdicts import Claim, estimated

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
        return {"problems": len(study.problems), "all": means, "failed": failed, "right": kept}

    def conclude(self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator) -> Conclusion:
        """See `Experiment`."""
        ways = [way for way in WAYS if all(way in part["all"] for part in parts)]

        def mean(way: str, which: str = "all") -> NDArray[np.float64]:
            return pooled(parts, which, way)

        claims = [
            Claim("regenerated - sampled", "regeneration with feedback pays", mean("regenerated") - mean("sampled"), MARGIN),
            Claim(
                "of failed answers: regenerated - resampled", "it corrects, beyond the luck of another try",
                mean("regenerated", "failed") - mean("resampled", "failed"), MARGIN, control=True,
            ),
            Claim(
                "regenerated - resampled", "it pays, beyond another try",
                mean("regenerated") - mean("resampled"), MARGIN, control=True,
            ),
            Claim(
                "likeliest s' - likeliest s", "it pays for likeliest answers, too",
                mean("greedy_from_greedy") - mean("greedy"), MARGIN, control=True,
            ),
            Claim("regenerated - shown", "it is the feedback", mean("regenerated") - mean("shown"), MARGIN, control=True),
        ]  # fmt: skip
        mismatch = mean("regenerated_greedy") - mean("sampled") - (mean("greedy_from_greedy") - mean("greedy"))
        notes = [
            ("what comparing likeliest s' with sampled s would add to the gain", estimated(mismatch, rng, config.resamples))
        ]
        rows: list[tuple[Any, ...]] = []
        for way in ways:
            cells = [estimated(mean(way), rng, config.resamples)]
            for which in ("failed", "right"):
                known = all(way in part[which] for part in parts)
                cells.append(estimated(mean(way, which), rng, config.resamples) if known else "")  # type: ignore[arg-type]
            rows.append((WAYS[way], *cells))
        tables = [
            Table("Reward", ("answers", "all", "where s failed", "where s was right"), rows),
            Table("The mismatch", ("", "reward"), list(notes)),
        ]
        return Conclusion(claims, tables, self._bars(parts, ways), {"rewards": ("", "reward")})

    def _bars(self, parts: Sequence[Part], ways: Sequence[str]) -> list[Series]:
        made = []
        for which, label in (("all", "all answers"), ("failed", "where s failed")):
            shown = [(i, way) for i, way in enumerate(ways) if all(way in part[which] for part in parts)]
            figures = [mean_and_error(pooled(parts, which, way)) for _, way in shown]
            values, errors = [float(m) for m, _ in figures], [1.96 * float(e) for _, e in figures]
            made.append(Series("rewards", label, [float(i) for i, _ in shown], values, errors, "bars:" + "|".join(ways)))
        return made


__all__ = ["Rewards"]
