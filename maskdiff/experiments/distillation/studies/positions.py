"""Experiment 2: how does the divergence of student and teacher depend on the position?

The divergence from a teacher that writes another text grows with position because the texts part;
that is no sign of a better signal. The controls are texts that part as well and correct nothing: by
an author that reads s without feedback, and the student's own next try. With equal contexts (edit
alignment), and where places stay aligned (the bidirectional teacher), the difference is one of
signals. Differences are taken place by place, never of means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.compare import (
    Pair,
    advantage,
    divergence_measure,
    entropy,
    measure_pairs,
)
from maskdiff.experiments.distillation.hypotheses import Hypothesis
from maskdiff.experiments.distillation.onset import find_onset
from maskdiff.experiments.distillation.planted import Disturbed
from maskdiff.experiments.distillation.positions import Array, edit_aligned, late_minus_early
from maskdiff.experiments.distillation.rollouts import Answers, Rollouts, make_divergence
from maskdiff.experiments.distillation.studies import protocol
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Part,
    Progress,
    decile_series,
    decile_table,
    to_json,
)
from maskdiff.experiments.distillation.studies.signals import (
    area_hypotheses,
    area_tables,
    measure_areas,
)

MARGIN = 0.05  # nats a token
ONSETS = (3, 4, 5, 6, 7)  # deciles at which the planted fault may begin, by seed
CURVES = {
    "standard": "standard: teacher on (p, f; s)",
    "standard_shown": "the same, s also shown: (p, s, f; s)",
    "untold": "the same, told nothing: (p, -; s)",
    "untold_shown": "the same, s shown, told nothing: (p, s, -; s)",
    "regenerated": "regeneration, sampled: (p, s, f; s')",
    "regenerated_greedy": "regeneration, likeliest s'",
    "shown": "control: s shown, told nothing, (p, s; s*)",
    "resampled": "control: resampled without feedback, (p; s'')",
    "revised": "bidirectional teacher's revision, (p, s, f; s')",
}
MORE_CURVES = {  # of the table alone
    "likes_less": "standard: share of tokens the teacher likes less",
    "entropy": "entropy of the student",
    "gap": "regeneration less standard",
    "gap_shown": "regeneration less shown",
}
MATCHED = {
    "edit_regenerated": "regeneration",
    "edit_standard": "standard",
    "edit_resampled": "resampled",
}
SELF = ("standard", "standard_shown", "untold", "untold_shown")  # teachers that score s itself
OTHERS = ("regenerated", "regenerated_greedy", "shown", "resampled", "revised")
DIFFERENCES = {  # of which curves, place by place
    "gap": ("regenerated", "standard"),
    "gap_shown": ("regenerated", "shown"),
    "gap_resampled": ("regenerated", "resampled"),
    "gap_same_view": ("regenerated", "standard_shown"),
    "gap_revised": ("revised", "standard"),
    "gap_edit": ("edit_regenerated", "standard"),
}
PICTURE = (  # panel, label, curve and style of further lines
    ("difference", "regeneration less standard", "gap", "-"),
    ("difference", "regeneration less shown (told nothing)", "gap_shown", "-"),
    ("difference", "regeneration less resampled", "gap_resampled", "-"),
    ("difference", "regeneration less standard, behind the same tokens", "gap_edit", "--"),
    ("controls", "planted fault (each seed from another decile)", "planted", "-"),
    ("controls", "as faulty everywhere", "even", "-"),
)
HYPOTHESES = (  # curve, name, text, whether it is a control
    ("gap", "regeneration less standard", "the gap grows", False),
    (
        "gap_shown", "regeneration less shown",
        "it grows more than that of a text whose author was told nothing", True,
    ),
    (
        "gap_resampled", "regeneration less resampling",
        "it grows more than that of another try", True,
    ),
    (
        "gap_edit", "regeneration less standard, behind the same tokens",
        "it grows where the texts agree", True,
    ),
    (
        "gap_same_view", "regeneration less standard, s shown to both",
        "it grows when both teachers know as much", True,
    ),
    ("standard", "standard", "the standard divergence itself grows", False),
    (
        "gap_revised", "the revision less standard",
        "it grows for a teacher whose places stay aligned", True,
    ),
)  # fmt: skip


class Positions:
    """Implements `Experiment`."""

    name = "positions"
    title = "Divergence from the teacher by decile of the answer"
    predicts = (
        "the gap between the teacher's signal on its own regeneration and on the student's answer "
        "grows with position"
    )

    def measure(self, rollouts: Rollouts, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        answers, policy = rollouts.sampled, rollouts.policy
        measures = {"nats": divergence_measure(make_divergence(rollouts.config))}
        more = {**measures, "advantage": advantage, "entropy": entropy}
        curves: dict[str, Array] = {}
        nats: dict[str, list[Array]] = {}
        areas: dict[str, Any] = {}
        # Divergences place by place.
        for name, pairs in self._pairs(rollouts).items():
            progress(name)
            made = measure_pairs(policy, policy, pairs, more if name in SELF else measures)
            nats[name] = made["nats"]
            if name in SELF:
                areas[name] = measure_areas(rollouts, made["advantage"])
            if name == "standard":
                less = [np.where(row < 0, 1.0, 0.0) for row in made["advantage"]]
                curves["entropy"] = answers.decile_curves(made["entropy"])
                curves["likes_less"] = answers.decile_curves(less)
        same = zip(nats["edit_regenerated"], nats["standard"], strict=True)
        nats["edit_standard"] = [np.where(np.isfinite(edit), plain, np.nan) for edit, plain in same]
        for name, (first, second) in DIFFERENCES.items():
            if first in nats:
                rows = zip(nats[first], nats[second], strict=True)
                nats[name] = [one - other for one, other in rows]
        # Curves by decile.
        curves |= {name: answers.decile_curves(rows) for name, rows in nats.items()}
        progress("controls")
        controls, found = self._controls(rollouts)
        curves |= controls
        return {
            **rollouts.describe(),
            "curves": {name: to_json(values) for name, values in curves.items()},
            "compared": float(np.mean([np.isfinite(row).mean() for row in nats["regenerated"]])),
            "areas": areas,
            **found,
        }

    def _pairs(self, rollouts: Rollouts) -> dict[str, list[Pair]]:
        """Return the compared pairs by name."""
        answers = rollouts.sampled
        empty = rollouts.feedback_prompts(answers, empty=True)
        shown = rollouts.attempt_prompts(answers)
        only_shown = rollouts.attempt_prompts(answers, with_feedback=False)
        pairs = {
            "standard": rollouts.standard_pairs(answers),
            "standard_shown": rollouts.self_pairs(answers, shown),
            "untold": rollouts.self_pairs(answers, empty),
            "untold_shown": rollouts.self_pairs(answers, only_shown),
            "edit_regenerated": rollouts.cross_pairs(answers, rollouts.regenerated, edit_aligned),
            "edit_resampled": rollouts.cross_pairs(answers, rollouts.resampled, edit_aligned),
        }
        for way in OTHERS:
            others: Answers | None = getattr(rollouts, way)
            if others is not None:
                pairs[way] = rollouts.cross_pairs(answers, others)
        return pairs

    def _controls(self, rollouts: Rollouts) -> tuple[dict[str, Array], dict[str, Any]]:
        """Compare the student with itself and with teachers of known faults.

        One is faulty from a planted onset on, the other equally everywhere.
        """
        answers, policy, seed = rollouts.sampled, rollouts.policy, rollouts.seed
        pairs = rollouts.self_pairs(answers, answers.prompts)
        null = rollouts.divergences(pairs)
        onset = ONSETS[seed % len(ONSETS)]
        curves, found = {}, {}
        for i, (name, decile) in enumerate((("planted", onset), ("even", None))):
            teacher = Disturbed(policy, decile, seed)
            curves[name] = answers.decile_curves(rollouts.divergences(pairs, teacher))
            found[name] = find_onset(curves[name], np.random.default_rng((seed, i))).decile
        return curves, {
            "null": max(float(np.abs(values).max()) for values in null),
            "onset": onset,
            "onset_found": found["planted"],
            "even_found": found["even"],
        }

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        known = set.intersection(*(set(part["curves"]) for part in parts))
        curves = {name: protocol.pool(parts, "curves", name) for name in sorted(known)}
        clusters = protocol.problem_clusters(parts)
        estimate = protocol.estimator(config, rng, clusters)
        # Tables and lines.
        labels = {**CURVES, **MORE_CURVES}
        shown = {label: curves[name] for name, label in labels.items() if name in curves}
        matched = {label: curves[name] for name, label in MATCHED.items()}
        title = "Nats a token by decile of the student's answer, equal places"
        tables = [
            decile_table(title, shown, estimate),
            decile_table("Behind the same tokens alone (edit alignment)", matched, estimate),
            *area_tables(parts, config, rng),
        ]
        series = [
            decile_series("nats", label, curves[name])
            for name, label in CURVES.items()
            if name in curves
        ]
        series += [
            decile_series(p, label, curves[name], style) for p, label, name, style in PICTURE
        ]
        labels_of_axes = ("place in the answer", "nats a token")
        axes = dict.fromkeys(("nats", "difference", "controls"), labels_of_axes)
        # Hypotheses: late minus early.
        hypotheses = []
        for name, what, text, control in HYPOTHESES:
            if name not in curves:
                continue
            sources = DIFFERENCES.get(name, (name,))
            large = max(protocol.mean_or_zero(curves[source]) for source in sources) >= MARGIN
            values, full = late_minus_early(curves[name]), f"late - early of {what}"
            hypotheses.append(Hypothesis(full, text, values, MARGIN, clusters, control, large))
        hypotheses += area_hypotheses(parts)
        notes = self._notes(parts, curves["standard"], rng)
        return Conclusion(hypotheses, tables, series, axes, notes)

    def _notes(self, parts: Sequence[Part], standard: Array, rng: np.random.Generator) -> list[str]:
        near = sum(
            part["onset_found"] is not None and abs(part["onset_found"] - part["onset"]) <= 1
            for part in parts
        )
        flagged = sum(part["even_found"] is not None for part in parts)
        onset = find_onset(standard, rng)
        where = "no decile" if onset.decile is None else f"decile {onset.decile + 1}"
        null = max(part["null"] for part in parts)
        compared = 100 * protocol.from_json([part["compared"] for part in parts]).mean()
        return [
            f"A teacher with the student's own prompt is {null:g} nats away (it must be 0).",
            f"A planted fault was located within one decile in {near} of {len(parts)} seeds; "
            "a fault that is the same everywhere was taken for one that begins somewhere in "
            f"{flagged}.",
            f"The standard divergence steps up at {where} (p = {onset.p:.3f}).",
            f"{compared:.0f}% of the places of s have a partner in s'.",
        ]


__all__ = ["Positions"]
