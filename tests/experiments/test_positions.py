"""What experiments make of answers and teachers: differences place by place, areas, authors, what
is too little to see."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from maskdiff.experiments.distillation.compare import (
    Pair,
    advantage,
    divergence_measure,
    measure_pairs,
)
from maskdiff.experiments.distillation.divergence import Divergence
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.hypotheses import Hypothesis
from maskdiff.experiments.distillation.policy import Policy
from maskdiff.experiments.distillation.positions import edit_aligned
from maskdiff.experiments.distillation.rollouts import Answers, Rollouts
from maskdiff.experiments.distillation.studies.positions import MARGIN, Positions
from maskdiff.experiments.distillation.studies.protocol import from_json
from maskdiff.experiments.distillation.studies.signals import area_hypotheses, measure_areas
from maskdiff.experiments.distillation.studies.tokens import NATS, PROBABILITY, Tokens
from maskdiff.experiments.distillation.studies.training import Training
from maskdiff.experiments.distillation.studies.windows import Windows
from maskdiff.experiments.distillation.trainer import DistillationTrainer
from tests.helpers.distillation import NAN, SMALL, Letters, Located, known, mean, planted, same

CONFIG = replace(SMALL, problems=4, rollouts=3)
Curves = list[list[float]]


def rollouts_of(seed: int = 0, **changes: Any) -> Rollouts:
    return Rollouts(planted(), Located(), replace(CONFIG, **changes), seed)


def ignore_progress(what: str) -> None:
    """Ignores the progress message."""


def as_json(part: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(part, allow_nan=False))


def apart(rollouts: Rollouts, pairs: Sequence[Pair]) -> list[list[float]]:
    """Nats at every place, one pair at a time."""
    figure = {"nats": divergence_measure(Divergence("reverse", 20))}
    return [
        measure_pairs(rollouts.policy, rollouts.policy, [pair], figure)["nats"][0].tolist()
        for pair in pairs
    ]


def minus(first: Curves, second: Curves) -> Curves:
    return [
        [a - b for a, b in zip(one, other, strict=True)]
        for one, other in zip(first, second, strict=True)
    ]


def by_decile(rows: Curves, rollouts: Rollouts) -> Curves:
    """(problems, 10): means over answers of means over the places of a decile, by plain sums."""
    each = [
        [mean([v for t, v in enumerate(row) if 10 * t // len(row) == d]) for d in range(10)]
        for row in rows
    ]
    count = rollouts.config.rollouts
    return [
        [mean(column) for column in zip(*each[i : i + count])] for i in range(0, len(each), count)
    ]


def close(found: object, expected: object) -> None:
    np.testing.assert_allclose(
        np.asarray(found, dtype=float), np.asarray(expected, dtype=float), rtol=1e-6, atol=1e-6
    )


# ------------------------------------------------------------------------------ prompts and authors


def test_empty_feedback_prompts_are_paired_like_standard_prompts() -> None:
    rollouts = rollouts_of()
    answers, policy = rollouts.sampled, rollouts.policy
    prompts = [policy.prompt(rollouts.problems[i // 3], None, "") for i in range(12)]
    assert rollouts.feedback_prompts(answers, empty=True) == prompts
    assert rollouts.self_pairs(answers, prompts) == [
        Pair(prompt, ids, other, ids, tuple(range(len(ids))))
        for prompt, ids, other in zip(answers.prompts, answers.ids, prompts, strict=True)
    ]
    assert rollouts.standard_pairs(answers) == rollouts.self_pairs(
        answers, rollouts.feedback_prompts(answers)
    )
    with pytest.raises(ValueError):
        rollouts.self_pairs(answers, prompts[1:])


def test_the_standard_teacher_sees_the_attempt_if_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollouts, shown = rollouts_of(), rollouts_of(show_attempt=True)
    seen = list[tuple[object, ...]]()
    plain = type(rollouts.policy).prompt

    def prompt(self: Policy, *given: Any) -> tuple[int, ...]:
        seen.append(given[1:])
        return plain(self, *given)

    assert rollouts.sampled.ids == shown.sampled.ids
    monkeypatch.setattr(type(rollouts.policy), "prompt", prompt)
    feedback = [outcome.feedback for outcome in rollouts.sampled.outcomes]
    rollouts.standard_pairs(rollouts.sampled)
    assert seen == [(None, words) for words in feedback]
    seen.clear()
    shown.standard_pairs(shown.sampled)
    assert seen == list(zip(shown.sampled.ids, feedback, strict=True))


def test_regeneration_uses_the_weights_of_its_author() -> None:
    """With the same prompts and keys; without an author, the policy regenerates."""
    rollouts, other = rollouts_of(), planted(9)
    answers = rollouts.sampled
    mine, theirs = (
        rollouts.regenerate(answers, "regenerated", 1.0, step=2, author=writer)
        for writer in (None, other)
    )
    keys = rollouts.keys("regenerated", answers.problem_index.tolist(), 2)
    for policy, made in ((rollouts.policy, mine), (other, theirs)):
        assert made.ids == policy.sample(
            rollouts.attempt_prompts(answers), keys, 1.0, rollouts.limit
        )
        assert (made.prompts, made.keys) == (rollouts.attempt_prompts(answers), keys)
    assert mine.ids != theirs.ids
    assert (
        mine.ids
        == rollouts.regenerate(answers, "regenerated", 1.0, step=2, author=rollouts.policy).ids
    )
    assert mine.ids != rollouts.regenerated.ids  # of another step


@pytest.mark.parametrize("experiment", [Training(), Windows()])
@pytest.mark.parametrize("teacher, rate", [("self", 0.0), ("initial", 0.0), ("ema", 0.5)])
def test_in_training_regenerations_are_the_teachers(
    monkeypatch: pytest.MonkeyPatch, experiment: Training | Windows, teacher: str, rate: float
) -> None:
    """The model that scores a regeneration wrote it, with its weights at that step."""
    rollouts = rollouts_of(teacher=teacher, teacher_rate=rate, trainer="regeneration")
    policy, authors, trainers = (
        rollouts.policy,
        list[tuple[bool, torch.Tensor, torch.Tensor]](),
        list[DistillationTrainer](),
    )
    plain, made = Rollouts.regenerate, DistillationTrainer.__init__

    def regenerate(self: Rollouts, *given: Any, author: Policy, **named: Any) -> Answers:
        assert author is trainers[-1].teacher
        authors.append(
            (author is policy, author.module[0].detach().clone(), policy.module[0].detach().clone())
        )
        return plain(self, *given, author=author, **named)

    monkeypatch.setattr(Rollouts, "regenerate", regenerate)
    monkeypatch.setattr(
        DistillationTrainer,
        "__init__",
        lambda self, *given: trainers.append(self) or made(self, *given),
    )
    experiment.measure(rollouts, ignore_progress)
    assert len(authors) == (3 if experiment.name == "training" else 2)
    first = authors[0][2]
    expected = first
    for mine, theirs, ours in authors:
        assert mine == (teacher == "self")
        expected = {"self": ours, "initial": first, "ema": (1 - rate) * expected + rate * ours}[
            teacher
        ]
        close(theirs, expected)
    assert not torch.equal(authors[-1][2], first)


# ----------------------------------------------------------------------------------- place by place


def test_differences_are_taken_place_by_place() -> None:
    """By plain sums, and with numbers that the difference of the curves would not give."""
    rollouts = rollouts_of(1)
    part = as_json(Positions().measure(rollouts, ignore_progress))
    answers = rollouts.sampled
    ways = ("regenerated", "shown", "resampled")
    raw = {
        way: apart(rollouts, rollouts.cross_pairs(answers, getattr(rollouts, way))) for way in ways
    }
    raw["standard"] = apart(rollouts, rollouts.standard_pairs(answers))
    raw["standard_shown"] = apart(
        rollouts, rollouts.self_pairs(answers, rollouts.attempt_prompts(answers))
    )
    raw["untold"] = apart(
        rollouts, rollouts.self_pairs(answers, rollouts.feedback_prompts(answers, empty=True))
    )
    for name in ("regenerated", "resampled"):
        raw[f"edit_{name}"] = apart(
            rollouts, rollouts.cross_pairs(answers, getattr(rollouts, name), edit_aligned)
        )
    edit = zip(raw["standard"], raw["edit_regenerated"])
    raw["edit_standard"] = [
        [b if a == a else NAN for a, b in zip(other, own)] for own, other in edit
    ]
    gaps = {
        "gap": ("regenerated", "standard"),
        "gap_shown": ("regenerated", "shown"),
        "gap_resampled": ("regenerated", "resampled"),
        "gap_same_view": ("regenerated", "standard_shown"),
        "gap_edit": ("edit_regenerated", "standard"),
    }
    raw |= {name: minus(raw[first], raw[second]) for name, (first, second) in gaps.items()}
    for name, rows in raw.items():
        close(from_json(part["curves"][name]), by_decile(rows, rollouts))
    for name, (first, second) in gaps.items():
        plain = from_json(part["curves"][first]) - from_json(part["curves"][second])
        assert np.nanmax(np.abs(from_json(part["curves"][name]) - plain)) > 0.01, name
    assert "gap_revised" not in part["curves"]  # of a policy without a bidirectional mode
    assert part["compared"] == pytest.approx(
        mean([mean([float(v == v) for v in row]) for row in raw["regenerated"]])
    )
    assert (part["problems"], part["names"]) == (4, ["1-0", "1-1", "1-2", "1-3"])


def test_differences_are_taken_place_by_place_in_training() -> None:
    rollouts, fresh = rollouts_of(2), rollouts_of(2)
    part = as_json(Training().measure(rollouts, ignore_progress))
    answers = fresh.student_answers("training", 0)
    others = fresh.regenerate(answers, "regenerated", 1.0, step=1)
    standard, regenerate = (
        apart(fresh, fresh.standard_pairs(answers)),
        apart(fresh, fresh.cross_pairs(answers, others)),
    )
    close(from_json(part["standard"])[:, 0], by_decile(standard, fresh))
    close(from_json(part["delta"])[:, 0], by_decile(minus(regenerate, standard), fresh))
    plain = np.array(by_decile(regenerate, fresh)) - np.array(by_decile(standard, fresh))
    assert np.nanmax(np.abs(from_json(part["delta"])[:, 0] - plain)) > 0.01
    assert part["names"] == ["2-0", "2-1", "2-2", "2-3"]


def test_relative_differences_are_shares_of_both_halves() -> None:
    """The losses fall along lines by known amounts: a decile that starts near 0 does not outweigh
    the others."""
    rng = np.random.default_rng(0)
    start, fall = rng.uniform(0.01, 1.0, (4, 10)), rng.uniform(-0.2, 0.5, (4, 10))
    start[3, 5:], fall[3, 5:] = 0.0, 0.0  # a seed without late values
    steps = np.array([0.0, 0.5, 1.0])[None, :, None]
    parts = []
    for seed in range(4):
        lines = np.repeat(start[seed, None, None] - steps * fall[seed, None, None], 2, 0)
        each = {"standard": lines.tolist(), "delta": lines.tolist(), "reward": [[0.0] * 3] * 2}
        parts.append({"problems": 2, "names": [f"{seed}-0", f"{seed}-1"], **each})
    claims = Training().conclude(parts, SMALL, rng).hypotheses
    (claim,) = [claim for claim in claims if "relative to its beginning" in claim.name]
    halves = [
        [sum(fall[seed, h]) / sum(start[seed, h]) for h in (slice(5), slice(5, 10))]
        for seed in range(3)
    ]
    same(claim.values, [*[early - late for early, late in halves], NAN])
    assert claim.control
    assert claim.clusters is not None
    assert claim.clusters.tolist() == [0, 1, 2, 3]
    shares = [
        mean((fall[seed] / start[seed])[:5]) - mean((fall[seed] / start[seed])[5:])
        for seed in range(3)
    ]
    assert np.abs(claim.values[:3] - shares).max() > 0.1


# -------------------------------------------------------------------------------------------- areas


def area_by_pairs(values: list[tuple[float, float]]) -> float:
    good, bad = ([signal for signal, right in values if right == which] for which in (1.0, 0.0))
    return mean([1.0 if g > b else 0.5 if g == b else 0.0 for g, b in product(good, bad)])


def test_areas_cover_halves_up_to_the_first_mistake_and_the_rest() -> None:
    class Seldom(Letters):
        def label_characters(self, problem: Problem, answer: str) -> list[bool | None]:
            return [letter < "w" for letter in answer]

    rollouts = Rollouts(planted(), Seldom(), replace(CONFIG, rollouts=12), 3)
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=len(answer)).round(1) for answer in rollouts.sampled.ids]
    where: dict[str, list[tuple[float, float]]] = {"early": [], "late": [], "spoilt": []}
    for signal, answer in zip(signals, rollouts.sampled.ids, strict=True):
        spoilt = False
        for t, token in enumerate(answer):
            letter = rollouts.policy.text((token,))  # none of the end
            right = NAN if not letter else float(letter < "w")
            half = "early" if 10 * t // len(answer) < 5 else "late"
            where["spoilt" if spoilt else half].append((float(signal[t]), right))
            spoilt |= right == 0.0
    made = measure_areas(rollouts, signals)
    assert made is not None
    expected = {name: area_by_pairs(values) for name, values in where.items()}
    assert made == {name: pytest.approx(value, abs=1e-8) for name, value in expected.items()}
    assert len({*known([*expected.values()])}) == 3
    assert measure_areas(Rollouts(rollouts.policy, Letters(), CONFIG, 3), signals) is None


def test_the_areas_of_a_part_are_those_of_its_teachers() -> None:
    rollouts = rollouts_of(4)
    part = as_json(Positions().measure(rollouts, ignore_progress))
    prompts = {
        "standard": rollouts.feedback_prompts(rollouts.sampled),
        "standard_shown": rollouts.attempt_prompts(rollouts.sampled),
        "untold": rollouts.feedback_prompts(rollouts.sampled, empty=True),
        "untold_shown": rollouts.attempt_prompts(rollouts.sampled, with_feedback=False),
    }
    assert set(part["areas"]) == set(prompts)
    for name, behind in prompts.items():
        likes = measure_pairs(
            rollouts.policy,
            rollouts.policy,
            rollouts.self_pairs(rollouts.sampled, behind),
            {"likes": advantage},
        )["likes"]
        assert part["areas"][name] == as_json({"x": measure_areas(rollouts, likes)})["x"]


def test_areas_are_relative_to_the_untold_teachers() -> None:
    """Values by hand: one a seed, unknown where one of the four is."""
    areas = [
        {
            "untold": {"early": 0.6, "late": 0.5, "spoilt": 0.9},
            "standard": {"early": 0.9, "late": 0.6, "spoilt": 0.1},
            "untold_shown": {"early": 0.4, "late": 0.3, "spoilt": 0.9},
            "standard_shown": {"early": 0.7, "late": 0.9, "spoilt": 0.1},
        },
        {
            "untold": {"early": 0.5, "late": 0.5, "spoilt": 0.5},
            "standard": {"early": 0.8, "late": None, "spoilt": 0.5},
            "untold_shown": {"early": 0.5, "late": 0.3, "spoilt": 0.5},
            "standard_shown": {"early": 0.5, "late": 0.4, "spoilt": 0.5},
        },
    ]
    parts: list[dict[str, Any]] = [{"areas": area} for area in areas]
    claims = {claim.name: claim for claim in area_hypotheses(parts)}
    feedback_only, shown = "told, (p, f; s)", "told, s shown, (p, s, f; s)"
    same(claims[f"area gained, early - late: {feedback_only}"].values, [0.3 - 0.1, NAN])
    same(claims[f"area gained: {feedback_only}"].values, [(0.3 + 0.1) / 2, NAN])
    same(claims[f"area gained, early - late: {shown}"].values, [0.3 - 0.6, 0.0 - 0.1])
    same(claims[f"area gained: {shown}"].values, [(0.3 + 0.6) / 2, 0.05])
    assert len(claims) == 4
    for claim in claims.values():
        assert (claim.control, claim.measurable, claim.margin) == (True, True, 0.05)
        assert claim.clusters is not None
        assert claim.clusters.tolist() == [0, 1]
    assert area_hypotheses([parts[0], {"areas": {**areas[1], "untold": None}}]) == []


# -------------------------------------------------------------------------------- too little to see


def seen_of(claims: Sequence[Hypothesis]) -> dict[str, bool]:
    return {claim.name: claim.measurable for claim in claims}


def filled(part: dict[str, Any], change: Callable[[str], float | None]) -> dict[str, Any]:
    """The part with its curves at one level each."""
    return {
        **part,
        "curves": {name: [[change(name)] * 10] * part["problems"] for name in part["curves"]},
    }


@pytest.mark.slow
def test_curve_differences_below_the_margin_are_not_measurable() -> None:
    part = as_json(Positions().measure(rollouts_of(), ignore_progress))
    sources = {
        "regeneration less standard": {"regenerated", "standard"},
        "regeneration less shown": {"regenerated", "shown"},
        "regeneration less resampling": {"regenerated", "resampled"},
        "regeneration less standard, behind the same tokens": {"edit_regenerated", "standard"},
        "regeneration less standard, s shown to both": {"regenerated", "standard_shown"},
        "standard": {"standard"},
    }
    for large in (
        set(),
        {"standard"},
        {"regenerated"},
        {"shown"},
        {"resampled", "edit_regenerated"},
        set(part["curves"]),
    ):
        level = {name: (1.01 if name in large else 0.99) * MARGIN for name in part["curves"]}
        claims = (
            Positions()
            .conclude([filled(part, level.get)] * 3, SMALL, np.random.default_rng(0))
            .hypotheses
        )
        seen = {claim.name: claim.measurable for claim in claims if "area" not in claim.name}
        assert seen == {f"late - early of {name}": bool(large & of) for name, of in sources.items()}
    nothing = (
        Positions()
        .conclude([filled(part, lambda name: None)] * 3, SMALL, np.random.default_rng(0))
        .hypotheses
    )
    assert not any(claim.measurable for claim in nothing if "area" not in claim.name)


def test_mistakes_that_the_teacher_never_corrects_are_not_measurable() -> None:
    part = as_json(Tokens().measure(rollouts_of(), ignore_progress))
    for taken, far in product((False, True), repeat=2):
        level = dict.fromkeys(part["curves"], 0.0)
        level["teacher"] = (1.01 if taken else 0.99) * PROBABILITY
        level["full"] = (1.01 if far else 0.99) * NATS
        claims = (
            Tokens()
            .conclude([filled(part, level.get)] * 3, SMALL, np.random.default_rng(0))
            .hypotheses
        )
        assert seen_of(claims) == {
            claim.name: far if "nats" in claim.name else taken for claim in claims
        }
        assert sum("nats" in claim.name for claim in claims) == 3


@pytest.mark.slow
def test_losses_that_training_cannot_lower_or_does_not_change_are_not_measurable() -> None:
    rng = np.random.default_rng(0)
    names = {"problems": 2, "names": ["a", "b"]}
    for start, seen in ((0.0202, True), (0.0198, False)):
        standard = [[[start] * 10, [5.0] * 10]] * 2  # the value before the first step counts
        part = {
            **names,
            "standard": standard,
            "delta": [[[0.0] * 10] * 2] * 2,
            "reward": [[0.0] * 2] * 2,
        }
        claims = Training().conclude([part] * 3, replace(SMALL, steps=1), rng).hypotheses
        assert seen_of(claims) == {
            "early - late of how far regeneration less standard falls": True,
            "early - late of how far standard falls, relative to its beginning": True,
            "early - late of how far standard falls": seen,
            "how far standard falls": seen,
        }
    arms = [
        f"{window}{scaled}"
        for window in ("full", "first", "last")
        for scaled in ("", ", equalised")
    ] + ["regeneration"]
    for arm, gain in product(arms, (0.0202, 0.0198, -0.0202, -0.0198)):
        gains = {name: [gain if name == arm else 0.0] * 2 for name in arms}
        part = {
            **names,
            "before": [0.5] * 2,
            "gains": gains,
            "norms": {name: [1.0] for name in arms},
        }
        claims = Windows().conclude([part] * 3, SMALL, rng).hypotheses
        assert {claim.measurable for claim in claims} == {abs(gain) > 0.02}


def test_names_distinguish_problems() -> None:
    """Every experiment clusters its values by these names."""
    for experiment in (Training(), Windows(), Tokens()):
        part = as_json(experiment.measure(rollouts_of(5, steps=1, window_steps=1), ignore_progress))
        assert (part["problems"], part["names"]) == (4, ["5-0", "5-1", "5-2", "5-3"])
