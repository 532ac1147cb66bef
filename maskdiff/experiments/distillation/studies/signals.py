"""Part of experiment 2: how well a teacher's signal tells right from wrong, by position, above one who was told nothing.

For: `measure_areas`, `area_claims`, `area_table`. Not for: divergences (`positions.py`). Easy to get wrong: an area of one half
is not what a teacher without knowledge has: first mistakes and what follows from them differ in how likely the student found
them, so that the same teacher, told nothing, is the baseline. And feedback that names the first mistake can say nothing of
later ones, so halves of an answer are compared up to its first mistake alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.positions import DECILES, decile
from maskdiff.experiments.distillation.reliability import Locating, area, token_labels
from maskdiff.experiments.distillation.studies.protocol import Part, Table, array, listed
from maskdiff.experiments.distillation.study import Study
from maskdiff.experiments.distillation.verdicts import Claim, estimated

TEACHERS = {
    "standard": "told, (p, f; s)",
    "standard_shown": "told, s shown, (p, s, f; s)",
    "untold": "told nothing, (p, -; s)",
    "untold_shown": "told nothing, s shown, (p, s, -; s)",
}
BASELINES = {"standard": "untold", "standard_shown": "untold_shown"}
WHERE = (
    "early",
    "late",
    "spoilt",
)  # halves of an answer up to its first wrong token, and what is behind that
MARGIN = 0.05  # of an area


def measure_areas(study: Study, advantages: Sequence[NDArray[np.float64]]) -> dict[str, Any] | None:
    """The area in each part of the answers of a seed; None in an environment that does not know where answers go wrong."""
    environment, answers = study.environment, study.sampled
    if not isinstance(environment, Locating):
        return None
    signals: dict[str, list[NDArray[np.float64]]] = {where: [] for where in WHERE}
    truths: dict[str, list[NDArray[np.float64]]] = {where: [] for where in WHERE}
    for signal, answer, owner in zip(advantages, answers.ids, answers.owner.tolist(), strict=True):
        labels = environment.located(study.problems[owner], study.policy.text(answer))
        right = token_labels(study.policy, labels, answer)
        spoilt = np.concatenate(([False], np.cumsum(right == 0.0)[:-1] > 0))
        early = decile(len(answer)) < DECILES // 2
        for where, kept in zip(WHERE, (early & ~spoilt, ~early & ~spoilt, spoilt), strict=True):
            signals[where].append(signal[kept])
            truths[where].append(right[kept])
    joined = {
        where: (np.concatenate(signals[where]), np.concatenate(truths[where])) for where in WHERE
    }
    return {where: listed(np.array(area(*pair))) for where, pair in joined.items()}


def area_claims(parts: Sequence[Part]) -> list[Claim]:
    """That what a teacher gains by being told is less late than early: the thesis, asked directly. One value a seed."""
    if not all(part["areas"]["untold"] for part in parts):
        return []
    claims = []
    for name, baseline in BASELINES.items():
        gain = {
            where: _areas(parts, name, where) - _areas(parts, baseline, where) for where in WHERE
        }
        values, seeds, teacher = gain["early"] - gain["late"], np.arange(len(parts)), TEACHERS[name]
        text = "what it was told helps it less to tell right from wrong late"
        claims.append(
            Claim(
                f"area gained, early - late: {teacher}", text, values, MARGIN, seeds, control=True
            )
        )
        text = "what it was told helps it to tell right from first wrong tokens at all"
        whole = (gain["early"] + gain["late"]) / 2
        claims.append(Claim(f"area gained: {teacher}", text, whole, MARGIN, seeds, control=True))
    return claims


def area_table(
    parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
) -> list[Table]:
    """The areas themselves."""
    if not all(part["areas"]["untold"] for part in parts):
        return []
    rows: list[tuple[Any, ...]] = []
    for name, label in TEACHERS.items():
        values = (_areas(parts, name, where) for where in WHERE)
        rows.append(
            (
                label,
                *[
                    estimated(value, rng, config.resamples, np.arange(len(parts)))
                    for value in values
                ],
            )
        )
    title = "Probability that a right token has more of the teacher's signal than a wrong one (compare with the untold)"
    return [
        Table(
            title,
            ("teacher", "early, first mistakes", "late, first mistakes", "behind a mistake"),
            rows,
        )
    ]


def _areas(parts: Sequence[Part], name: str, where: str) -> NDArray[np.float64]:
    return array([part["areas"][name][where] for part in parts])


__all__ = ["TEACHERS", "area_claims", "area_table", "measure_areas"]
