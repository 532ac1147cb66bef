"""Experiment 2: how far is the student from its teacher, by position: on its own answers, and on the teacher's regenerations?

For: `Positions`. Not for: training. Easy to get wrong: the divergence from a teacher who writes another text grows with
position because the texts part; that is no sign of a better signal. The controls are texts that part as well and correct
nothing: that of an author who saw s and was told nothing, and the student's own next try. Behind the same tokens (edit
alignment), and where places stay aligned (the bidirectional teacher), the difference is one of signals. Differences are taken
place by place, never of means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.experiments.distillation.compare import Pair, advantage, entropy, measure, nats
from maskdiff.experiments.distillation.onset import find_onset
from maskdiff.experiments.distillation.planted import Disturbed
from maskdiff.experiments.distillation.positions import decile_means, edit_aligned, late_minus_early
from maskdiff.experiments.distillation.studies.protocol import (
    Conclusion,
    Part,
    Progress,
    array,
    by_decile,
    curve,
    level,
    listed,
    named,
    pooled,
    problems_of,
)
from maskdiff.experiments.distillation.studies.signals import area_claims, area_table, measure_areas
from maskdiff.experiments.distillation.study import Answers, Study
from maskdiff.experiments.distillation.trainer import divergence_of
from maskdiff.experiments.distillation.verdicts import Claim

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
MATCHED = {
    "edit_regenerated": "regeneration",
    "edit_standard": "standard",
    "edit_resampled": "resampled",
}
OWN_TEXT = ("standard", "standard_shown", "untold", "untold_shown")  # teachers who judge s itself
OTHERS = ("regenerated", "regenerated_greedy", "shown", "resampled", "revised")
DIFFERENCES = {  # of which curves, place by place
    "gap": ("regenerated", "standard"),
    "gap_shown": ("regenerated", "shown"),
    "gap_resampled": ("regenerated", "resampled"),
    "gap_same_view": ("regenerated", "standard_shown"),
    "gap_revised": ("revised", "standard"),
    "gap_edit": ("edit_regenerated", "standard"),
}


class Positions:
    """Implements `Experiment`."""

    name = "positions"
    title = "Divergence from the teacher by decile of the answer"
    predicts = "the gap between the teacher's signal on its own regeneration and on the student's answer grows with position"

    def measure(self, study: Study, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        answers, figure = study.sampled, {"nats": nats(divergence_of(study.config))}
        curves: dict[str, NDArray[np.float64]] = {}
        raw: dict[str, list[NDArray[np.float64]]] = {}
        areas: dict[str, Any] = {}
        for name, pairs in self._pairs(study).items():
            progress(name)
            extra = {"advantage": advantage, "entropy": entropy} if name in OWN_TEXT else {}
            made = measure(study.policy, study.policy, pairs, {**figure, **extra})
            raw[name] = made["nats"]
            if extra:
                areas[name] = measure_areas(study, made["advantage"])
            if name == "standard":
                curves["entropy"] = _curves(answers, made["entropy"])
                curves["likes_less"] = _curves(
                    answers, [np.where(row < 0, 1.0, 0.0) for row in made["advantage"]]
                )
        same = zip(raw["edit_regenerated"], raw["standard"], strict=True)
        raw["edit_standard"] = [np.where(np.isfinite(edit), plain, np.nan) for edit, plain in same]
        for name, (first, second) in DIFFERENCES.items():
            if first in raw:
                raw[name] = [
                    one - other for one, other in zip(raw[first], raw[second], strict=True)
                ]
        curves |= {name: _curves(answers, rows) for name, rows in raw.items()}
        controls = self._controls(study, progress)
        curves["planted"], curves["even"] = controls.pop("planted"), controls.pop("even")
        return {
            **named(study),
            "curves": {name: listed(values) for name, values in curves.items()},
            "compared": float(np.mean([np.isfinite(row).mean() for row in raw["regenerated"]])),
            "areas": areas,
            **controls,
        }

    def _pairs(self, study: Study) -> dict[str, list[Pair]]:
        """What is compared, by name."""
        answers = study.sampled
        pairs = {
            "standard": study.standard_pairs(answers),
            "standard_shown": study.pairs_behind(answers, study.shown_and_told(answers)),
            "untold": study.pairs_behind(answers, study.untold(answers)),
            "untold_shown": study.pairs_behind(answers, study.shown_and_told(answers, said=False)),
            "edit_regenerated": study.pairs_with(answers, study.regenerated, edit_aligned),
            "edit_resampled": study.pairs_with(answers, study.resampled, edit_aligned),
        }
        for way in OTHERS:
            others: Answers | None = getattr(study, way)
            if others is not None:
                pairs[way] = study.pairs_with(answers, others)
        return pairs

    def _controls(self, study: Study, progress: Progress) -> dict[str, Any]:
        """A teacher in the student's own place, one with a planted fault, and one that is as faulty everywhere."""
        answers, figure = study.sampled, {"nats": nats(divergence_of(study.config))}
        own = [
            Pair.same(prompt, answer, prompt)
            for prompt, answer in zip(answers.prompts, answers.ids, strict=True)
        ]
        progress("controls")
        null = measure(study.policy, study.policy, own, figure)["nats"]
        onset = ONSETS[study.seed % len(ONSETS)]
        planted = measure(study.policy, Disturbed(study.policy, onset, study.seed), own, figure)[
            "nats"
        ]
        even = measure(study.policy, Disturbed(study.policy, None, study.seed), own, figure)["nats"]
        found = [
            find_onset(_curves(answers, values), np.random.default_rng((study.seed, i)))
            for i, values in enumerate((planted, even))
        ]
        return {
            "null": max(float(np.abs(values).max()) for values in null),
            "onset": onset,
            "onset_found": found[0].decile,
            "even_found": found[1].decile,
            "planted": _curves(answers, planted),
            "even": _curves(answers, even),
        }

    def conclude(
        self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator
    ) -> Conclusion:
        """See `Experiment`."""
        known = set.intersection(*(set(part["curves"]) for part in parts))
        curves = {name: pooled(parts, "curves", name) for name in sorted(known)}
        clusters = problems_of(parts)
        labels = {
            **CURVES,
            "likes_less": "standard: share of tokens the teacher likes less",
            "entropy": "entropy of the student",
        }
        labels |= {"gap": "regeneration less standard", "gap_shown": "regeneration less shown"}
        shown = {label: curves[name] for name, label in labels.items() if name in curves}
        matched = {label: curves[name] for name, label in MATCHED.items()}
        tables = [
            by_decile(
                "Nats a token by decile of the student's answer, equal places",
                shown,
                config,
                rng,
                clusters,
            ),
            by_decile(
                "Behind the same tokens alone (edit alignment)", matched, config, rng, clusters
            ),
            *area_table(parts, config, rng),
        ]
        series = [
            curve("nats", label, curves[name]) for name, label in CURVES.items() if name in curves
        ]
        series.append(curve("difference", "regeneration less standard", curves["gap"]))
        series.append(
            curve("difference", "regeneration less shown (told nothing)", curves["gap_shown"])
        )
        series.append(curve("difference", "regeneration less resampled", curves["gap_resampled"]))
        series.append(
            curve(
                "difference",
                "regeneration less standard, behind the same tokens",
                curves["gap_edit"],
                "--",
            )
        )
        series.append(
            curve("controls", "planted fault (each seed from another decile)", curves["planted"])
        )
        series.append(curve("controls", "as faulty everywhere", curves["even"]))
        axes = dict.fromkeys(
            ("nats", "difference", "controls"), ("place in the answer", "nats a token")
        )
        claims = self._claims(curves, clusters) + area_claims(parts)
        return Conclusion(claims, tables, series, axes, self._notes(parts, curves["standard"], rng))

    def _claims(
        self, curves: dict[str, NDArray[np.float64]], clusters: NDArray[np.int64] | None
    ) -> list[Claim]:
        """Late less early, of curves and differences."""

        def claim(name: str, title: str, text: str, control: bool = True) -> Claim:
            sources = DIFFERENCES.get(name, (name,))
            seen = max(level(curves[source]) for source in sources) >= MARGIN
            values = late_minus_early(curves[name])
            return Claim(f"late - early of {title}", text, values, MARGIN, clusters, control, seen)

        claims = [
            claim("gap", "regeneration less standard", "the gap grows", control=False),
            claim(
                "gap_shown",
                "regeneration less shown",
                "it grows more than that of a text whose author was told nothing",
            ),
            claim(
                "gap_resampled",
                "regeneration less resampling",
                "it grows more than that of another try",
            ),
            claim(
                "gap_edit",
                "regeneration less standard, behind the same tokens",
                "it grows where the texts agree",
            ),
            claim(
                "gap_same_view",
                "regeneration less standard, s shown to both",
                "it grows when both teachers know as much",
            ),
            claim("standard", "standard", "the standard divergence itself grows", control=False),
        ]
        if "gap_revised" in curves:
            text = "it grows for a teacher whose places stay aligned"
            claims.append(claim("gap_revised", "the revision less standard", text))
        return claims

    def _notes(
        self, parts: Sequence[Part], standard: NDArray[np.float64], rng: np.random.Generator
    ) -> list[str]:
        near = sum(
            part["onset_found"] is not None and abs(part["onset_found"] - part["onset"]) <= 1
            for part in parts
        )
        flagged = sum(part["even_found"] is not None for part in parts)
        onset = find_onset(standard, rng)
        where = "no decile" if onset.decile is None else f"decile {onset.decile + 1}"
        return [
            f"A teacher with the student's own prompt is {max(part['null'] for part in parts):g} nats away (it must be 0).",
            f"A planted fault was located within one decile in {near} of {len(parts)} seeds; "
            f"a fault that is the same everywhere was taken for one that begins somewhere in {flagged}.",
            f"The standard divergence steps up at {where} (p = {onset.p:.3f}).",
            f"{100 * array([part['compared'] for part in parts]).mean():.0f}% of the places of s have a partner in s'.",
        ]


def _curves(answers: Answers, values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(problems, 10): decile means of each answer, averaged over the answers of a problem."""
    return answers.by_problem(np.stack([decile_means(row) for row in values]))


__all__ = ["Positions"]
