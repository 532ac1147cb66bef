"""Steps of self-distillation on a policy that is a table: what moves, by how much, and what must
not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskdiff.errors import DataError
from maskdiff.experiments.distillation import compare
from maskdiff.experiments.distillation.compare import Pair, pair_batches
from maskdiff.experiments.distillation.divergence import KINDS
from maskdiff.experiments.distillation.planted import PlantedPolicy
from maskdiff.experiments.distillation.positions import DECILES, NO_PARTNER, decile
from maskdiff.experiments.distillation.rollouts import Rollouts
from maskdiff.experiments.distillation.studies.training import Training
from maskdiff.experiments.distillation.trainer import (
    WINDOWS,
    DistillationTrainer,
    StepResult,
    Window,
    in_window,
    preserved_weights,
)
from tests.helpers.distillation import SMALL, Letters, planted

FIXED = replace(SMALL, teacher="initial", grad_clip=0.0)  # a teacher who stays where it is
TEACHER_PROMPT, STUDENT_PROMPT = (1, 20), (2, 20)


def material(policy: PlantedPolicy, regenerated: bool = False, seed: int = 0) -> list[Pair]:
    """The pairs of one step."""
    rollouts = Rollouts(policy, Letters(), replace(SMALL, problems=4, rollouts=4), seed)
    answers = rollouts.student_answers("training")
    if regenerated:
        return rollouts.cross_pairs(answers, rollouts.regenerate(answers, "regenerated", 1.0))
    return rollouts.standard_pairs(answers)


def table(policy: PlantedPolicy) -> Tensor:
    """A copy of the weights."""
    weight: Tensor = policy.module[0]
    return weight.detach().clone()


def gradient(policy: PlantedPolicy) -> Tensor:
    """A copy of the gradient as the optimiser saw it."""
    weight: Tensor = policy.module[0]
    assert weight.grad is not None
    return weight.grad.clone()


def moved_rows(policy: PlantedPolicy) -> set[int]:
    """Rows of the table that have a gradient: tokens behind which something was compared."""
    return set(gradient(policy).abs().sum(1).nonzero()[:, 0].tolist())


# ------------------------------------------------------------------------------------------- a step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regenerated", [False, True])
def test_steps_lower_the_loss(kind: str, regenerated: bool) -> None:
    policy = planted()
    pairs = material(policy, regenerated)
    trainer = DistillationTrainer(policy, replace(FIXED, divergence=kind))
    losses = [trainer.step(pairs).loss for _ in range(12)]
    assert losses == sorted(losses, reverse=True)
    assert 0 < losses[-1] < (0.97 if regenerated else 0.85) * losses[0]


def test_the_loss_is_the_mean_over_all_compared_places() -> None:
    """Not the mean of the answers' means: places of long answers count as much as those of short
    ones."""
    policy = planted()
    pairs = material(policy)
    assert len({len(pair.answer) for pair in pairs}) > 1
    figure = {"nats": compare.divergence_measure(DistillationTrainer(policy, FIXED).divergence)}
    values = compare.measure_pairs(policy, policy, pairs, figure)["nats"]
    stepped = DistillationTrainer(policy, FIXED).step(pairs)
    assert stepped.places == sum(len(pair.answer) for pair in pairs) == sum(map(len, values))
    assert stepped.loss == pytest.approx(sum(map(sum, values)) / stepped.places, rel=1e-5)


@pytest.mark.parametrize("elements", [1, 500, 1500])
def test_a_step_in_chunks_equals_the_whole_step(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    whole, parted = planted(), planted()
    pairs = material(whole)
    expected = DistillationTrainer(whole, FIXED).step(pairs)
    monkeypatch.setattr(compare, "ELEMENTS", elements)
    assert len(list(pair_batches(pairs, parted.size))) > 2
    found = DistillationTrainer(parted, FIXED).step(pairs)
    assert (found.loss, found.norm) == pytest.approx((expected.loss, expected.norm), rel=1e-5)
    assert found.places == expected.places
    torch.testing.assert_close(gradient(parted), gradient(whole), rtol=1e-4, atol=1e-7)
    figure = {"nats": compare.divergence_measure(DistillationTrainer(parted, FIXED).divergence)}
    again = compare.measure_pairs(parted, parted, pairs, figure)["nats"]
    monkeypatch.undo()
    for one, other in zip(
        again, compare.measure_pairs(parted, parted, pairs, figure)["nats"], strict=True
    ):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12),
    st.integers(1, 9),
    st.integers(1, 200),
)
@settings(max_examples=200, deadline=None)
def test_chunks_keep_order_and_bounds(
    sizes: Sequence[tuple[int, int]], size: int, elements: int
) -> None:
    pairs = [Pair((1,), (5,) * ours, (2,), (5,) * theirs, (0,) * ours) for ours, theirs in sizes]
    kept, compare.ELEMENTS = compare.ELEMENTS, elements
    try:
        groups = [list(group) for group in pair_batches(pairs, size)]
    finally:
        compare.ELEMENTS = kept
    assert [pair for group in groups for pair in group] == pairs
    need = [
        max(max(len(p.answer), len(p.teacher_answer)) for p in group) * len(group) * size
        for group in groups
    ]
    assert all(elements >= n or len(group) == 1 for n, group in zip(need, groups, strict=True))
    for group, after in zip(groups, groups[1:]):  # none could have taken one more
        longer = [*group, after[0]]
        assert (
            max(max(len(p.answer), len(p.teacher_answer)) for p in longer) * len(longer) * size
            > elements
        )


def test_gradients_are_cleared_between_steps() -> None:
    policy, fresh = planted(), planted()
    pairs = material(policy)
    trainer = DistillationTrainer(
        policy, replace(FIXED, lr=1e-12)
    )  # so that the weights stay, and only gradients could add up
    first = trainer.step(pairs)
    assert trainer.step(pairs).norm == pytest.approx(first.norm, rel=1e-5)
    assert DistillationTrainer(fresh, FIXED).step(pairs).norm == first.norm


# ------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("length", range(1, 51))
def test_windows_divide_an_answer(length: int) -> None:
    first, last, full = (in_window(length, window) for window in ("first", "last", "full"))
    assert all(full)
    assert len(first) == len(last) == len(full) == length
    assert all(a != b for a, b in zip(first, last, strict=True))
    assert first == sorted(first, reverse=True)
    assert abs(sum(first) - sum(last)) == length % 2
    assert (
        first == (decile(length) < DECILES // 2).tolist()
    )  # the same boundary as between early and late deciles


def test_places_outside_a_window_have_no_gradient() -> None:
    """The rows of 3 to 6 are used in the first half alone, those of 7 to 10 in the last; that of
    the problem comes first."""
    answer = (3, 4, 5, 6, 7, 8, 9, 10)
    expected: dict[Window, set[int]] = {
        "first": {20, 3, 4, 5},
        "last": {6, 7, 8, 9},
        "full": {20, *range(3, 10)},
    }
    grads = {}
    for window in WINDOWS:
        policy = planted()
        stepped = DistillationTrainer(policy, FIXED).step(
            [Pair.same(STUDENT_PROMPT, answer, TEACHER_PROMPT)], window
        )
        assert moved_rows(policy) == expected[window]
        assert stepped.places == len(expected[window])
        grads[window] = gradient(policy) * stepped.places
    torch.testing.assert_close(grads["first"] + grads["last"], grads["full"])


def test_places_without_a_partner_have_no_gradient() -> None:
    """Ordinal pairs end with the shorter answer, and the teacher is asked at the partners alone."""
    policy = planted()
    answer, other = (3, 4, 5, 6, 7, 8), (9, 3, 4)
    stepped = DistillationTrainer(policy, FIXED).step(
        [
            Pair(
                STUDENT_PROMPT,
                answer,
                TEACHER_PROMPT,
                other,
                (0, 1, 2, NO_PARTNER, NO_PARTNER, NO_PARTNER),
            )
        ]
    )
    assert stepped.places == 3
    assert moved_rows(policy) == {20, 3, 4}
    crossed = planted()
    assert (
        DistillationTrainer(crossed, FIXED)
        .step(
            [
                Pair(
                    STUDENT_PROMPT,
                    answer,
                    TEACHER_PROMPT,
                    other,
                    (NO_PARTNER, 2, NO_PARTNER, NO_PARTNER, 0, NO_PARTNER),
                )
            ]
        )
        .places
        == 2
    )
    assert moved_rows(crossed) == {3, 6}
    late = planted()
    assert (
        DistillationTrainer(late, FIXED)
        .step(
            [
                Pair(
                    STUDENT_PROMPT,
                    answer,
                    TEACHER_PROMPT,
                    other,
                    (NO_PARTNER, 2, NO_PARTNER, NO_PARTNER, 0, NO_PARTNER),
                )
            ],
            "last",
        )
        .places
        == 1
    )
    assert moved_rows(late) == {6}


def test_regeneration_compares_with_its_own_text_by_equal_places() -> None:
    policy = planted()
    pairs = material(policy, regenerated=True)
    assert {len(pair.answer) - len(pair.teacher_answer) > 0 for pair in pairs} == {True, False}
    for pair in pairs:
        assert pair.partners == tuple(
            t if t < len(pair.teacher_answer) else NO_PARTNER for t in range(len(pair.answer))
        )
        assert (pair.prompt[0], pair.teacher_prompt[0]) == (2, 1)
    expected = sum(min(len(pair.answer), len(pair.teacher_answer)) for pair in pairs)
    assert DistillationTrainer(policy, FIXED).step(pairs).places == expected


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_no_compared_place_means_no_step(weight_decay: float) -> None:
    policy = planted()
    before = table(policy)
    trainer = DistillationTrainer(
        policy, replace(FIXED, weight_decay=weight_decay, teacher="ema", teacher_rate=1.0)
    )
    nothing = Pair(STUDENT_PROMPT, (3, 4), TEACHER_PROMPT, (5,), (NO_PARTNER, NO_PARTNER))
    assert trainer.step([nothing]) == StepResult(0.0, 0.0, 0)
    assert trainer.step([Pair.same(STUDENT_PROMPT, (3,), TEACHER_PROMPT)], "last") == StepResult(
        0.0, 0.0, 0
    )
    assert trainer.step([]) == StepResult(0.0, 0.0, 0)
    assert torch.equal(table(policy), before)
    assert not trainer.optimizer.state
    assert trainer.step([nothing, Pair.same(STUDENT_PROMPT, (3, 4), TEACHER_PROMPT)]).places == 2
    assert not torch.equal(table(policy), before)


# ----------------------------------------------------------------------------- lengths of gradients


def test_norm_scales_exactly_and_clipping_only_shortens() -> None:
    def stepped(norm: float | None = None, clip: float = 0.0) -> tuple[Tensor, StepResult]:
        policy = planted()
        done = DistillationTrainer(policy, replace(FIXED, grad_clip=clip)).step(
            material(policy), norm=norm
        )
        return gradient(policy), done

    plain, done = stepped()
    length = float(plain.norm())
    assert done.norm == pytest.approx(length, rel=1e-6)
    for norm in (length / 7, 1.0, 50.0):  # shorter and longer, whatever the clip
        for clip in (0.0, length / 100):
            scaled, after = stepped(norm, clip)
            assert float(scaled.norm()) == pytest.approx(norm, rel=1e-5)
            torch.testing.assert_close(scaled / norm, plain / length, rtol=1e-5, atol=1e-8)
            assert after == done  # the reported norm is the one before scaling
    clipped, after = stepped(clip=length / 2)
    torch.testing.assert_close(clipped, plain / 2, rtol=1e-5, atol=1e-9)
    assert after == done
    assert torch.equal(stepped(clip=2 * length)[0], plain)
    assert torch.equal(stepped(clip=0.0)[0], plain)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("norm", [None, 1.0])
def test_a_nan_gradient_raises_and_takes_no_step(
    broken: float, half: bool, norm: float | None
) -> None:
    """The student's own weights hold NaN or infinity: AdamW would carry it to all of them, and
    scaling would not remove it."""
    policy = planted()
    pairs = [Pair.same(STUDENT_PROMPT, (3, 4, 5, 6), TEACHER_PROMPT)]
    policy.module.to(torch.bfloat16 if half else torch.float32)
    trainer = DistillationTrainer(policy, replace(FIXED, teacher="ema", teacher_rate=1.0))
    with torch.no_grad():
        policy.module[0][4, 7] = broken
    before, taught = table(policy), trainer.teacher.module[0].detach().clone()
    with pytest.raises(
        DataError,
        match=r"^a gradient is no number; lower --lr, or load the model with --dtype float32$",
    ):
        trainer.step(pairs, norm=norm)
    assert torch.equal(table(policy).nan_to_num(7.0), before.nan_to_num(7.0))
    assert torch.equal(trainer.teacher.module[0], taught)
    assert not trainer.optimizer.state
    assert (
        trainer.step([Pair.same(STUDENT_PROMPT, (3, 5, 6), TEACHER_PROMPT)], norm=norm).places == 3
    )  # its row is not asked for


def test_nan_weights_in_training_raise_and_are_restored() -> None:
    policy = planted()
    before, progress = table(policy), list[str]()

    def lose(what: str) -> None:
        progress.append(what)
        if what == "step 1/2":
            with torch.no_grad():
                policy.module[0].fill_(float("nan"))

    with pytest.raises(DataError, match="a gradient is no number"):
        Training().measure(Rollouts(policy, Letters(), SMALL, 0), lose)
    assert progress == ["step 0/2", "step 1/2"]
    assert torch.equal(table(policy), before)


def test_equal_lengths_make_equal_steps_of_the_halves() -> None:
    """Adam divides by the gradient's own size: in one step, scaling changes only what is near its
    epsilon."""
    plain, scaled = planted(), planted()
    pairs = material(plain)
    DistillationTrainer(plain, FIXED).step(pairs, "last")
    large = gradient(plain).abs() > 1e-5
    DistillationTrainer(scaled, FIXED).step(pairs, "last", norm=1.0)
    assert int(large.sum()) > 50
    torch.testing.assert_close(
        table(plain)[large], table(scaled)[large], atol=2e-5, rtol=0
    )  # of steps of 0.01


# ----------------------------------------------------------------------------------------- teachers


def test_the_current_teacher_follows_every_step() -> None:
    policy = planted()
    trainer = DistillationTrainer(policy, replace(FIXED, teacher="self"))
    trainer.step(material(policy))
    assert trainer.teacher is policy


def test_the_initial_teacher_keeps_its_weights() -> None:
    policy = planted()
    before = table(policy)
    trainer = DistillationTrainer(policy, FIXED)
    for _ in range(3):
        trainer.step(material(policy))
    assert torch.equal(trainer.teacher.module[0], before)
    assert not torch.equal(table(policy), before)
    assert trainer.teacher.module[0].grad is None


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_the_averaged_teacher_moves_by_its_share_after_every_step(rate: float) -> None:
    policy = planted()
    trainer = DistillationTrainer(policy, replace(FIXED, teacher="ema", teacher_rate=rate))
    expected = table(policy)
    for _ in range(4):
        trainer.step(material(policy))
        expected = (1 - rate) * expected + rate * table(policy)
        torch.testing.assert_close(
            trainer.teacher.module[0].detach(), expected, rtol=1e-6, atol=1e-7
        )
    if rate == 1.0:
        assert torch.equal(trainer.teacher.module[0], policy.module[0])


@pytest.mark.slow
def test_the_averaged_teacher_converges_in_half_precision() -> None:
    """The student moved by one step of rounding and stays there: after 400 steps at a rate of 0.05
    the teacher is there."""
    policy = planted()
    policy.module.to(torch.bfloat16)
    trainer = DistillationTrainer(
        policy, replace(FIXED, teacher="ema", teacher_rate=0.05, lr=1e-12, weight_decay=0.0)
    )
    with torch.no_grad():
        policy.module[0].mul_(1 + 2**-7)
        trainer.masters.copies[0].copy_(policy.module[0])
    before = trainer.teacher.module[0].detach().clone()
    assert not torch.equal(before, policy.module[0])
    pairs = [Pair.same(STUDENT_PROMPT, (3, 4), TEACHER_PROMPT)]
    for _ in range(400):
        trainer.step(pairs)
    assert torch.equal(trainer.teacher.module[0], policy.module[0])


# --------------------------------------------------------------------------------- the null teacher


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k, tail", [(0, False), (5, False), (5, True)])
def test_the_null_teacher_gives_loss_0_and_a_gradient_of_rounding(
    kind: str, top_k: int, tail: bool
) -> None:
    """The loss is exactly 0; the gradient is that of rounding: 2^-24 times a handful of terms."""
    policy = planted(null=True)
    config = replace(
        FIXED, divergence=kind, top_k=top_k, tail=tail, teacher="self", weight_decay=0.0
    )
    stepped = DistillationTrainer(policy, config).step(material(policy))
    assert stepped.loss == 0.0
    assert stepped.places > 50
    assert stepped.norm < 1e-7
    faulty = planted()
    assert (
        DistillationTrainer(faulty, config).step(material(faulty)).norm > 1e-4
    )  # the norm with an informative teacher


# ----------------------------------------------------------------------------------------- put back


def test_weights_are_restored_with_and_without_an_error() -> None:
    policy = planted()
    before, weight = table(policy), policy.module[0]
    with preserved_weights(policy):
        DistillationTrainer(policy, FIXED).step(material(policy))
        assert not torch.equal(table(policy), before)
    assert torch.equal(table(policy), before)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), preserved_weights(policy):
            DistillationTrainer(policy, FIXED).step(material(policy))
            assert not torch.equal(table(policy), before)
            raise error
        assert torch.equal(table(policy), before)
    assert policy.module[0] is weight  # in place, so that every reference sees the change
    half = planted()
    half.module.to(torch.bfloat16)
    kept = table(half)
    with preserved_weights(half):
        DistillationTrainer(half, replace(FIXED, lr=0.1)).step(material(half))
        assert not torch.equal(table(half), kept)
    assert torch.equal(table(half), kept)


def test_a_twin_has_its_own_weights() -> None:
    policy = planted()
    twin = policy.twin()
    pairs = material(policy)
    prompts, answers = (
        [pair.teacher_prompt for pair in pairs],
        [pair.teacher_answer for pair in pairs],
    )
    assert torch.equal(twin.logits(prompts, answers), policy.logits(prompts, answers))
    before = table(twin)
    DistillationTrainer(policy, FIXED).step(pairs)
    assert torch.equal(table(twin), before)
    assert not torch.equal(table(policy), before)
