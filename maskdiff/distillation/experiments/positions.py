"""Experiment 2: how far is the student from its teacher, by position: on its own answers, and on the teacher's regenerations?

For: `Positions`. Not for: training. Easy to get wrong: the divergence from a teacher who writes another text grows with
position because the texts part; that is no sign of a better signal. The control is a text that parts as much and corrects
nothing: the student's own next try. Where the two answers say the same (edit alignment), and where places stay aligned (the
bidirectional teacher), the difference is one of signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import DistillationConfig
from maskdiff.distillation.compare import Pair, advantage, entropy, measure, nats
from maskdiff.distillation.experiments.protocol import (
    Conclusion,
    Part,
    Progress,
    Table,
    array,
    by_decile,
    curve,
    listed,
    pooled,
)
from maskdiff.distillation.onset import find_onset
from maskdiff.distillation.planted import Disturbed
from maskdiff.distillation.positions import DECILES, decile, decile_means, edit_aligned, late_minus_early
from maskdiff.distillation.reliability import Locating, area, token_labels
from maskdiff.distillation.study import Answers, Study
from maskdiff.distillation.trainer import divergence_of
from maskdiff.distillation.verdicts import Claim, estimated

MARGIN = 0.05  # nats a token
ONSETS = (3, 4, 5, 6, 7)  # deciles at which the planted fault may begin, by seed
CURVES = {
    "standard": "standard: teacher on (p, f; s)",
    "standard_shown": "the same, s also shown: (p, s, f; s)",
    "regenerated": "regeneration, sampled: (p, s, f; s')",
    "regenerated_greedy": "regeneration, likeliest s'",
    "resampled": "control: resampled without feedback, (p; s'')",
    "revised": "bidirectional teacher's revision, (p, s, f; s')",
}
MATCHED = ("edit_regenerated", "edit_standard", "edit_resampled")


OWN_TEXT = ("standard", "standard_shown")  # teachers who judge s itself
PARTS = ("early", "late", "intact", "spoilt")  # halves of an answer; before and behind its first wrong token
AREA = 0.05  # margin of the area under a ROC curve


class Positions:
    """Implements `Experiment`."""

    name = "positions"
    title = "Divergence from the teacher by decile of the answer"
    predicts = "the gap between the teacher's signal on its own regeneration and on the student's answer grows with position"

    def measure(self, study: Study, progress: Progress) -> dict[str, Any]:
        """See `Experiment`."""
        policy, answers = study.policy, study.sampled
        figure = {"nats": nats(divergence_of(study.config))}
        pairs = {
            "standard": study.standard_pairs(answers),
            "standard_shown": [
                Pair.same(*row) for row in zip(answers.prompts, answers.ids, study.shown_and_told(answers), strict=True)
            ],
            "edit_regenerated": study.pairs_with(answers, study.regenerated, edit_aligned),
            "edit_resampled": study.pairs_with(answers, study.resampled, edit_aligned),
        }
        for way in ("regenerated", "regenerated_greedy", "resampled", "revised"):
            others: Answers | None = getattr(study, way)
            if others is not None:
                pairs[way] = study.pairs_with(answers, others)
        curves, raw, reliability = {}, {}, {}
        for name, compared in pairs.items():
            progress(name)
            extra = {"advantage": advantage, "entropy": entropy} if name in OWN_TEXT else {}
            made = measure(policy, policy, compared, {**figure, **extra})
            raw[name] = made["nats"]
            curves[name] = _curves(answers, made["nats"])
            if extra:
                curves["entropy"] = _curves(answers, made["entropy"])
                curves[f"{name}_likes_less"] = _curves(answers, [np.where(row < 0, 1.0, 0.0) for row in made["advantage"]])
                reliability[name] = self._reliability(study, made["advantage"])
        same = [np.where(np.isfinite(edit), plain, np.nan) for edit, plain in zip(raw["edit_regenerated"], raw["standard"])]
        curves["edit_standard"] = _curves(answers, same)
        controls = self._controls(study, progress)
        curves["planted"], curves["even"] = controls.pop("planted"), controls.pop("even")
        lasting = float(np.mean([np.isfinite(row).mean() for row in raw["regenerated"]]))
        return {
            "problems": len(study.problems),
            "curves": {name: listed(values) for name, values in curves.items()},
            "compared": lasting,
            "reliability": reliability,
            **controls,
        }

    def _reliability(self, study: Study, advantages: Sequence[NDArray[np.float64]]) -> dict[str, Any] | None:
        """The area of `reliability.py` in halves of the answers, and before and behind their first wrong tokens.

        None in an environment that does not know where answers go wrong.
        """
        if not isinstance(study.environment, Locating):
            return None
        signals: dict[str, list[NDArray[np.float64]]] = {part: [] for part in PARTS}
        truths: dict[str, list[NDArray[np.float64]]] = {part: [] for part in PARTS}
        for i, signal in enumerate(advantages):
            answer, problem = study.sampled.ids[i], study.problems[int(study.sampled.owner[i])]
            right = token_labels(study.policy, study.environment.located(problem, study.policy.text(answer)), answer)
            early = decile(len(answer)) < DECILES // 2
            spoilt = np.concatenate(([False], np.cumsum(right == 0.0)[:-1] > 0))
            for part, kept in zip(PARTS, (early, ~early, ~spoilt, spoilt), strict=True):
                signals[part].append(signal[kept])
                truths[part].append(right[kept])
        joined = {part: (np.concatenate(signals[part]), np.concatenate(truths[part])) for part in PARTS}
        return {part: listed(np.array(area(*pair))) for part, pair in joined.items()}

    def _controls(self, study: Study, progress: Progress) -> dict[str, Any]:
        """A teacher in the student's own place, one with a planted fault, and one that is as faulty everywhere."""
        answers, figure = study.sampled, {"nats": nats(divergence_of(study.config))}
        own = [Pair.same(prompt, answer, prompt) for prompt, answer in zip(answers.prompts, answers.ids, strict=True)]
        progress("controls")
        null = measure(study.policy, study.policy, own, figure)["nats"]
        onset = ONSETS[study.seed % len(ONSETS)]
        planted = measure(study.policy, Disturbed(study.policy, onset, study.seed), own, figure)["nats"]
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

    def conclude(self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator) -> Conclusion:
        """See `Experiment`."""
        names = [name for name in CURVES if all(name in part["curves"] for part in parts)]
        curves = {name: pooled(parts, "curves", name) for name in [*names, *MATCHED, "standard_likes_less", "entropy"]}
        delta = curves["regenerated"] - curves["standard"]
        claims = [
            Claim("late - early of regeneration less standard", "the gap grows", late_minus_early(delta), MARGIN),
            Claim(
                "late - early of regeneration less resampling", "it grows more than that of a text that corrects nothing",
                late_minus_early(curves["regenerated"] - curves["resampled"]), MARGIN, control=True,
            ),
            Claim(
                "the same where texts agree: regeneration less standard", "it grows where s and s' say the same",
                late_minus_early(curves["edit_regenerated"] - curves["edit_standard"]), MARGIN, control=True,
            ),
            Claim(
                "late - early of regeneration less standard, s shown to both", "it grows when both teachers know as much",
                late_minus_early(curves["regenerated"] - curves["standard_shown"]), MARGIN, control=True,
            ),
            Claim("late - early of standard", "the standard one itself grows", late_minus_early(curves["standard"]), MARGIN),
        ]  # fmt: skip
        claims += self._reliability_claims(parts)
        if "revised" in curves:
            text = "it grows for a teacher whose places stay aligned"
            values = late_minus_early(curves["revised"] - curves["standard"])
            claims.append(Claim("late - early of the revision less standard", text, values, MARGIN, control=True))
        labels = {
            **{name: CURVES[name] for name in names},
            "standard_likes_less": "standard: share of tokens the teacher likes less",
        }
        labels["entropy"] = "entropy of the student"
        shown = {label: curves[name] for name, label in labels.items()} | {"regeneration less standard": delta}
        where = {"regeneration": "edit_regenerated", "standard": "edit_standard", "resampled": "edit_resampled"}
        tables = [
            by_decile("Nats a token by decile of the student's answer, equal places", shown, config, rng),
            by_decile("Only tokens that both answers have", {n: curves[key] for n, key in where.items()}, config, rng),
        ]
        tables += self._reliability_table(parts, config, rng)
        series = [curve("nats", CURVES[name], curves[name]) for name in names]
        series.append(curve("difference", "regeneration less standard", delta))
        series.append(curve("difference", "regeneration less resampled", curves["regenerated"] - curves["resampled"]))
        gap = curves["edit_regenerated"] - curves["edit_standard"]
        series.append(curve("difference", "regeneration less standard, texts equal", gap, "--"))
        series.append(curve("controls", "planted fault (each seed from another decile)", pooled(parts, "curves", "planted")))
        series.append(curve("controls", "as faulty everywhere", pooled(parts, "curves", "even")))
        axes = dict.fromkeys(("nats", "difference", "controls"), ("place in the answer", "nats a token"))
        return Conclusion(claims, tables, series, axes, self._notes(parts, curves["standard"], rng))

    def _reliability_claims(self, parts: Sequence[Part]) -> list[Claim]:
        """That the signal tells right from wrong less well late, and behind a first wrong token: the thesis, asked directly."""
        claims = []
        for name in OWN_TEXT if all(part["reliability"]["standard"] for part in parts) else ():
            areas = {where: array([part["reliability"][name][where] for part in parts]) for where in PARTS}
            teacher = "s not shown" if name == "standard" else "s shown"
            for first, then, where in (("early", "late", "late"), ("intact", "spoilt", "behind a mistake")):
                text = f"the signal tells right from wrong less well {where}"
                values, seeds = areas[first] - areas[then], np.arange(len(parts))
                claims.append(Claim(f"area, {first} - {then}, {teacher}", text, values, AREA, seeds, control=True))
        return claims

    def _reliability_table(self, parts: Sequence[Part], config: DistillationConfig, rng: np.random.Generator) -> list[Table]:
        """How well the signal tells right tokens from wrong ones."""
        if not all(part["reliability"]["standard"] for part in parts):
            return []
        rows: list[tuple[Any, ...]] = []
        for name in OWN_TEXT:
            areas = (array([part["reliability"][name][where] for part in parts]) for where in PARTS)
            rows.append((CURVES[name], *[estimated(values, rng, config.resamples, np.arange(len(parts))) for values in areas]))
        title = "Probability that a right token has more of the teacher's signal than a wrong one (0.5: it knows nothing)"
        header = ("teacher", "early half", "late half", "up to the first wrong token", "behind it")
        return [Table(title, header, rows)]

    def _notes(self, parts: Sequence[Part], standard: NDArray[np.float64], rng: np.random.Generator) -> list[str]:
        near = sum(part["onset_found"] is not None and abs(part["onset_found"] - part["onset"]) <= 1 for part in parts)
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
