"""Part of experiment 2: how well a teacher's signal separates right tokens from wrong ones.

First mistakes and what follows from them differ in their probability under the student, so a
teacher without knowledge does not have an area of one half: the baseline is the same teacher with
empty feedback. Feedback that names the first mistake says nothing of later ones, so halves of an
answer are compared up to its first mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.hypotheses import Hypothesis
from maskdiff.experiments.distillation.positions import DECILES, Array, decile
from maskdiff.experiments.distillation.reliability import LabelsErrors, roc_area, token_labels
from maskdiff.experiments.distillation.rollouts import Rollouts
from maskdiff.experiments.distillation.studies.protocol import (
    Part,
    ResultTable,
    Row,
    estimator,
    from_json,
    to_json,
)

TEACHERS = {
    "standard": "told, (p, f; s)",
    "standard_shown": "told, s shown, (p, s, f; s)",
    "untold": "told nothing, (p, -; s)",
    "untold_shown": "told nothing, s shown, (p, s, -; s)",
}
BASELINES = {"standard": "untold", "standard_shown": "untold_shown"}
# Both halves of an answer up to its first wrong token, and what follows that.
WHERE = ("early", "late", "spoilt")
MARGIN = 0.05  # of an area


def measure_areas(rollouts: Rollouts, advantages: Sequence[Array]) -> dict[str, Any] | None:
    """Return the area in each part of the answers; None without an environment's labels."""
    environment, answers = rollouts.environment, rollouts.sampled
    if not isinstance(environment, LabelsErrors):
        return None
    signals: dict[str, list[Array]] = {where: [] for where in WHERE}
    labels: dict[str, list[Array]] = {where: [] for where in WHERE}
    index = answers.problem_index.tolist()
    for signal, answer, problem in zip(advantages, answers.ids, index, strict=True):
        text = rollouts.policy.text(answer)
        characters = environment.label_characters(rollouts.problems[problem], text)
        right = token_labels(rollouts.policy, characters, answer)
        spoilt = np.concatenate(([False], np.cumsum(right == 0.0)[:-1] > 0))
        early = decile(len(answer)) < DECILES // 2
        for where, kept in zip(WHERE, (early & ~spoilt, ~early & ~spoilt, spoilt), strict=True):
            signals[where].append(signal[kept])
            labels[where].append(right[kept])
    return {
        where: to_json(
            np.array(roc_area(np.concatenate(signals[where]), np.concatenate(labels[where])))
        )
        for where in WHERE
    }


def area_hypotheses(parts: Sequence[Part]) -> list[Hypothesis]:
    """Return the hypotheses that feedback raises the area less late than early, and at all.

    Each has one value for each seed.
    """
    if not _has_areas(parts):
        return []
    made = []
    control = partial(Hypothesis, margin=MARGIN, clusters=np.arange(len(parts)), control=True)
    for name, baseline in BASELINES.items():
        early, late = (
            _areas(parts, name, where) - _areas(parts, baseline, where) for where in WHERE[:2]
        )
        teacher = TEACHERS[name]
        text = "what it was told helps it less to tell right from wrong late"
        made.append(control(f"area gained, early - late: {teacher}", text, early - late))
        text = "what it was told helps it to tell right from first wrong tokens at all"
        made.append(control(f"area gained: {teacher}", text, (early + late) / 2))
    return made


def area_tables(
    parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
) -> list[ResultTable]:
    """Return the table of all areas; none without labels."""
    if not _has_areas(parts):
        return []
    estimate = estimator(config, rng, np.arange(len(parts)))
    rows: list[Row] = [
        (label, *[estimate(_areas(parts, name, where)) for where in WHERE])
        for name, label in TEACHERS.items()
    ]
    title = (
        "Probability that a right token has more of the teacher's signal than a wrong one "
        "(compare with the untold)"
    )
    header = ("teacher", "early, first mistakes", "late, first mistakes", "behind a mistake")
    return [ResultTable(title, header, rows)]


def _has_areas(parts: Sequence[Part]) -> bool:
    return all(part["areas"]["untold"] for part in parts)


def _areas(parts: Sequence[Part], name: str, where: str) -> Array:
    return from_json([part["areas"][name][where] for part in parts])


__all__ = ["TEACHERS", "area_hypotheses", "area_tables", "measure_areas"]
