"""Experiment 1: are answers that a teacher regenerates with feedback better than the student's?

A second try at a failed answer is better by luck alone, so the teacher's gain on failed answers
counts only above the student's gain without feedback. Greedy answers are compared with greedy ones;
a table shows what comparing them with sampled ones would add.
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

    def measure(self, rollouts: Rollouts, progress: Progress) -> dict[str, Any]:
        """See `Experiment`: rewards of all answers, and where s failed and was right."""
        made: dict[str, dict[str, Any]] = {"all": {}, "failed": {}, "right": {}}
        wrong = rollouts.sampled.rewards < 1.0
        for way in WAYS:
            progress(way)
            answers: Answers | None = getattr(rollouts, way)
            if answers is None:
                continue
            rewards = answers.rewards
            made["all"][way] = to_json(answers.by_problem(rewards))
            if len(rewards) == len(wrong) and not way.startswith("greedy"):
                failed, right = np.where(wrong, rewards, np.nan), np.where(wrong, np.nan, rewards)
                made["failed"][way] = to_json(answers.by_problem(failed))
                made["right"][way] = to_json(answers.by_problem(right))
        return {**rollouts.describe(), **made}

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        ways = [way for way in WAYS if all(way in part["all"] for part in parts)]
        clusters = protocol.problem_clusters(parts)
        estimate = protocol.estimator(config, rng, clusters)

        def mean(way: str, which: str = "all") -> Array:
            return pool(parts, which, way)

        # Hypotheses.
        gain = mean("regenerated") - mean("sampled")
        retry = mean("regenerated", "failed") - mean("resampled", "failed")
        greedy = mean("greedy_from_greedy") - mean("greedy")
        above_retry = mean("regenerated") - mean("resampled")
        above_shown = mean("regenerated") - mean("shown")
        claim = partial(Hypothesis, margin=MARGIN, clusters=clusters)
        control = partial(claim, control=True)
        failed = "of failed answers: regenerated - resampled"
        hypotheses = [
            claim("regenerated - sampled", "regeneration with feedback pays", gain),
            control(failed, "it corrects, beyond the luck of another try", retry),
            control("regenerated - resampled", "it pays, beyond another try", above_retry),
            control("likeliest s' - likeliest s", "it pays for likeliest answers, too", greedy),
            control("regenerated - shown", "it is the feedback", above_shown),
        ]
        # Tables and bars.
        rows: list[Row] = []
        figures: dict[str, dict[str, Estimate]] = {"all": {}, "failed": {}, "right": {}}
        for way in ways:
            for which, known in figures.items():
                if all(way in part[which] for part in parts):
                    known[way] = estimate(mean(way, which))
            rows.append((WAYS[way], *[known.get(way, "") for known in figures.values()]))
        added = estimate(mean("regenerated_greedy") - mean("sampled") - greedy)
        text = "what comparing likeliest s' with sampled s would add to the gain"
        header = ("answers", "all", "where s failed", "where s was right")
        tables = [
            ResultTable("Reward", header, rows),
            ResultTable("The mismatch", ("", "reward"), [(text, added)]),
        ]
        series = []
        for which, label in (("all", "all answers"), ("failed", "where s failed")):
            known = figures[which]
            at = [float(i) for i, way in enumerate(ways) if way in known]
            series.append(protocol.bar_series("rewards", label, at, list(known.values()), ways))
        return Conclusion(hypotheses, tables, series, {"rewards": ("", "reward")})


__all__ = ["Rewards"]
