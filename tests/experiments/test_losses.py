"""The divergences of self-distillation against definitions by enumeration, and the weights that
steps of 1e-6 must move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskdiff.experiments.distillation.compare import Pair, student_logits, teacher_logits
from maskdiff.experiments.distillation.divergence import KINDS, Divergence, Kind
from maskdiff.experiments.distillation.planted import PlantedPolicy
from maskdiff.experiments.distillation.trainer import (
    LARGE_LR,
    OWN_LR,
    DistillationTrainer,
    MasterWeights,
    is_low_precision,
    make_divergence,
)
from tests.helpers.distillation import SMALL

CUTS = [(0, False), (3, False), (3, True)]  # top_k, tail
every_kind = pytest.mark.parametrize("kind", KINDS)
every_cut = pytest.mark.parametrize("top_k, tail", CUTS)


def spread(*top: float, further: int = 200) -> list[float]:
    """Log-probabilities whose rest is split evenly over further tokens."""
    return [math.log(p) for p in top] + [math.log((1 - sum(top)) / further)] * further


def drawn(
    *shape: int, seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Logits of a student and a teacher."""
    generator = torch.Generator().manual_seed(seed)
    both = scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return both[0].to(dtype), both[1].to(dtype)


def by_definition(
    kind: Kind, student: Sequence[float], teacher: Sequence[float], top_k: int, tail: bool
) -> float:
    """Logits of one place -> nats, outcome by outcome."""
    p, q = (
        [math.exp(x) / sum(map(math.exp, logits)) for x in logits] for logits in (student, teacher)
    )
    if 0 < top_k < len(p):
        best = sorted(range(len(p)), key=lambda token: -p[token])[:top_k]
        p, q = ([law[token] for token in best] for law in (p, q))
        p, q = ([*law, 1 - sum(law)] if tail else [x / sum(law) for x in law] for law in (p, q))

    def kl(first: Sequence[float], second: Sequence[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True) if a > 0)

    if kind == "jensen-shannon":
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return (kl(p, middle) + kl(q, middle)) / 2
    return kl(p, q) if kind == "reverse" else kl(q, p)


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("tail, expected", [(True, 0.0438895), (False, 0.0575390)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_positions_worked_by_hand(tail: bool, expected: float, dtype: torch.dtype) -> None:
    student = torch.tensor([spread(0.45, 0.25, 0.10), spread(0.35, 0.20, 0.15)], dtype=dtype)
    teacher = torch.tensor([spread(0.30, 0.35, 0.15), spread(0.25, 0.25, 0.20)], dtype=dtype)
    nats = Divergence("reverse", 3, tail)(student, teacher)
    assert nats.shape == (2,)
    assert float(nats.mean()) == pytest.approx(expected, abs=1e-7)


@every_kind
@every_cut
def test_values_are_those_of_the_definition(kind: Kind, top_k: int, tail: bool) -> None:
    student, teacher = drawn(4, 5, 9)
    nats = Divergence(kind, top_k, tail)(student, teacher)
    assert nats.shape == (4, 5)
    for i in range(4):
        for t in range(5):
            expected = by_definition(
                kind, student[i, t].tolist(), teacher[i, t].tolist(), top_k, tail
            )
            assert float(nats[i, t]) == pytest.approx(expected, rel=1e-10, abs=1e-13)


def test_the_kinds_differ_and_their_order_is_that_of_their_names() -> None:
    """Enough of a disagreement that a mistaken direction shows: the student's sure, the teacher is
    not, and the other way."""
    sure, unsure = torch.tensor([[4.0, 0.0, 0.0]]), torch.zeros(1, 3)
    reverse, forward = Divergence("reverse", 0), Divergence("forward", 0)
    assert float(reverse(sure, unsure)) == pytest.approx(float(forward(unsure, sure)))
    assert float(reverse(sure, unsure)) == pytest.approx(
        math.log(3) - 0.1773, abs=1e-4
    )  # less the sure one's entropy
    assert float(forward(sure, unsure)) > 1.5 * float(reverse(sure, unsure))


@every_kind
@every_cut
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_logits_are_exactly_0_apart(
    kind: Kind, top_k: int, tail: bool, dtype: torch.dtype
) -> None:
    """Bit by bit: the divergence of a null teacher must not depend on rounding."""
    logits, _ = drawn(500, 30, scale=3.0, dtype=dtype)
    assert torch.equal(
        Divergence(kind, top_k, tail)(logits, logits.clone()).abs(),
        torch.zeros(500, dtype=wide(dtype)),
    )


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@every_kind
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("top_k", [9, 10, 1000])
def test_top_k_of_all_tokens_equals_the_whole_vocabulary(
    kind: Kind, tail: bool, top_k: int
) -> None:
    student, teacher = drawn(6, 9)
    assert torch.equal(
        Divergence(kind, top_k, tail)(student, teacher), Divergence(kind, 0)(student, teacher)
    )


@every_kind
def test_all_but_one_token_and_its_tail_are_the_whole_vocabulary(kind: Kind) -> None:
    student, teacher = drawn(50, 9)
    torch.testing.assert_close(
        Divergence(kind, 8, True)(student, teacher), Divergence(kind, 0)(student, teacher)
    )


@given(st.integers(0, 10_000), st.floats(0.1, 20.0))
@settings(max_examples=60, deadline=None)
def test_jensen_shannon_is_at_most_ln_2_and_symmetric(seed: int, scale: float) -> None:
    student, teacher = drawn(20, 7, seed=seed, scale=scale)
    for top_k, tail in CUTS:
        nats = Divergence("jensen-shannon", top_k, tail)(student, teacher)
        assert float(nats.max()) <= math.log(2) + 1e-12
        assert float(nats.min()) >= -1e-12
    whole = Divergence("jensen-shannon", 0)
    torch.testing.assert_close(whole(student, teacher), whole(teacher, student))


def test_jensen_shannon_reaches_ln_2_and_is_small_like_an_eighth_of_chi_square() -> None:
    apart = torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]])
    assert float(Divergence("jensen-shannon", 0)(*apart)) == pytest.approx(math.log(2))
    student, noise = drawn(20, 7)
    near = [Divergence(kind, 0)(student, student + 1e-4 * noise) for kind in KINDS]
    torch.testing.assert_close(near[0], near[1], rtol=1e-2, atol=0.0)
    torch.testing.assert_close(
        4 * near[2], near[0], rtol=1e-2, atol=0.0
    )  # each is half a quarter of chi square


# ----------------------------------------------------------------------- outcomes outside the top k


@every_kind
def test_merging_outcomes_never_increases_a_divergence(kind: Kind) -> None:
    """The data processing inequality, along the chain of ever coarser tails."""
    student, teacher = drawn(2000, 12)
    chain = torch.stack([Divergence(kind, k, True)(student, teacher) for k in range(1, 12)])
    assert bool(
        (chain[:-1] <= chain[1:] + 1e-9).all()
    )  # a small tail is a difference from 1, and rounded as such
    assert bool((chain[-1] <= Divergence(kind, 0)(student, teacher) + 1e-9).all())
    assert float((chain[1:] - chain[:-1]).mean()) > 0.01


def test_renormalising_can_increase_and_decrease_a_divergence() -> None:
    student, teacher = drawn(2000, 12)
    whole, cut = (Divergence("reverse", k)(student, teacher) for k in (0, 3))
    assert 0.02 < float((cut > whole).float().mean()) < 0.98


@every_kind
def test_without_the_tail_a_teacher_of_other_tokens_seems_to_agree(kind: Kind) -> None:
    student = torch.tensor([spread(0.5, 0.3, 0.1, further=7)])
    teacher = student.clone()
    teacher[0, 5] += (
        8.0  # nearly all of the teacher's mass is on a token outside the student's three
    )
    assert float(teacher.softmax(-1)[0, 5]) > 0.9
    assert abs(float(Divergence(kind, 3)(student, teacher))) < 1e-6
    for seen in (Divergence(kind, 3, True), Divergence(kind, 0)):
        assert float(seen(student, teacher)) > 0.3


def test_the_tokens_are_the_students_likeliest() -> None:
    student = torch.tensor([[3.0, 2.0, 1.0, 0.0, 0.0]])
    teacher = torch.tensor([[1.0, 1.0, 1.0, 9.0, 9.0]])
    log_s, log_t = Divergence("reverse", 3).outcomes(student, teacher)
    torch.testing.assert_close(log_s, torch.tensor([[3.0, 2.0, 1.0]]).log_softmax(-1))
    torch.testing.assert_close(log_t, torch.zeros(1, 3).log_softmax(-1))


@every_cut
def test_outcomes_sum_to_one(top_k: int, tail: bool) -> None:
    for logits in Divergence("reverse", top_k, tail).outcomes(*drawn(50, 9, dtype=torch.float32)):
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(50))
        assert logits.shape[-1] == {(0, False): 9, (3, False): 3, (3, True): 4}[top_k, tail]


# ---------------------------------------------------------------------------------------- gradients


@every_kind
@every_cut
def test_gradients_are_central_differences_and_none_reaches_the_teacher(
    kind: Kind, top_k: int, tail: bool
) -> None:
    student, teacher = drawn(6, 9, seed=1)
    weights = torch.linspace(
        0.5, 2.0, 6, dtype=torch.float64
    )  # so that places cannot be taken for each other

    def loss(logits: Tensor) -> Tensor:
        return (weights * Divergence(kind, top_k, tail)(logits, teacher)).sum()

    student.requires_grad_()
    teacher.requires_grad_()
    loss(student).backward()
    assert teacher.grad is None
    h, found = 1e-6, torch.zeros(6, 9, dtype=torch.float64)
    with torch.no_grad():
        for i in range(6):
            for token in range(9):
                step = torch.zeros(6, 9, dtype=torch.float64)
                step[i, token] = h
                found[i, token] = (loss(student + step) - loss(student - step)) / (2 * h)
    torch.testing.assert_close(student.grad, found, rtol=1e-6, atol=1e-8)
    assert float(found.abs().max()) > 0.01
    torch.testing.assert_close(
        student.grad.sum(-1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0
    )


@every_kind
def test_without_a_tail_the_other_tokens_have_no_gradient(kind: Kind) -> None:
    student, teacher = drawn(20, 9)
    student.requires_grad_()
    Divergence(kind, 3)(student, teacher).sum().backward()
    others = torch.ones(20, 9, dtype=torch.bool).scatter(1, student.topk(3).indices, False)
    assert float(student.grad[others].abs().max()) < 1e-15
    student.grad = None
    Divergence(kind, 3, True)(student, teacher).sum().backward()
    assert float(student.grad[others].abs().min()) > 0


# ---------------------------------------------------------------------------------------- precision


@every_kind
@every_cut
def test_half_precision_is_computed_in_float32(kind: Kind, top_k: int, tail: bool) -> None:
    student, teacher = drawn(200, 40, dtype=torch.bfloat16)
    nats = Divergence(kind, top_k, tail)(student, teacher)
    assert nats.dtype == torch.float32
    assert torch.equal(nats, Divergence(kind, top_k, tail)(student.float(), teacher.float()))
    double = Divergence(kind, top_k, tail)(student.double(), teacher.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(nats.double(), double, rtol=1e-4, atol=1e-6)
    coarse = (
        student.log_softmax(-1).exp() * (student.log_softmax(-1) - teacher.log_softmax(-1))
    ).sum(-1)
    if (kind, top_k) == ("reverse", 0):  # what computing in bfloat16 would have given
        assert float((coarse.double() - double).abs().max()) > 1e-2


@every_kind
@pytest.mark.parametrize("sure", [8.0, 14.0, 20.0])
def test_a_small_tail_is_not_lost_to_rounding(kind: Kind, sure: float) -> None:
    """The student has hardly anything outside its three, the teacher a lot: float32 must know how
    little."""
    student, teacher = drawn(30, 9)
    student[:, :3] += sure
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        given = student.to(dtype).requires_grad_()
        nats = Divergence(kind, 3, True)(given, teacher.to(dtype))
        nats.sum().backward()
        values.append(nats.detach().double())
        gradients.append(given.grad.double())
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-5)
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-3


@every_kind
@every_cut
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_logits_have_finite_values_and_gradients(
    kind: Kind, top_k: int, tail: bool, size: float
) -> None:
    student, teacher = drawn(100, 9, scale=size, dtype=torch.float32)
    student.requires_grad_()
    nats = Divergence(kind, top_k, tail)(student, teacher)
    nats.sum().backward()
    assert bool(nats.isfinite().all())
    assert bool(student.grad.isfinite().all())
    assert float(nats.detach().min()) >= -1e-6


@every_kind
@pytest.mark.parametrize(
    "top_k, tail", [*CUTS, (7, False), (7, True)]
)  # 7 of the 9 include impossible tokens
def test_tokens_impossible_for_both_cost_nothing(kind: Kind, top_k: int, tail: bool) -> None:
    student, teacher = drawn(20, 9)
    barred = torch.arange(9) % 3 == 1
    kept = Divergence(kind, top_k if top_k < 6 else 0, tail)(
        student[:, ~barred], teacher[:, ~barred]
    )
    student, teacher = (x.masked_fill(barred, -math.inf) for x in (student, teacher))
    student.requires_grad_()
    nats = Divergence(kind, top_k, tail)(student, teacher)
    torch.testing.assert_close(nats, kept, rtol=1e-9, atol=1e-9)
    nats.sum().backward()
    assert bool(student.grad.isfinite().all())


def test_tokens_only_the_teacher_excludes_are_infinite_only_in_reverse_kl() -> None:
    student, teacher = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, -math.inf]])
    assert [math.isinf(float(Divergence(kind, 0)(student, teacher))) for kind in KINDS] == [
        True,
        False,
        False,
    ]
    assert [math.isinf(float(Divergence(kind, 0)(teacher, student))) for kind in KINDS] == [
        False,
        True,
        False,
    ]


# ------------------------------------------------------------------------------------------ masters

STEPS = 300  # of 1e-6 each: weights from 0.07 to 0.12 round to multiples of 0.0005 in bfloat16


def halved(seed: int = 0) -> tuple[PlantedPolicy, list[Pair]]:
    """A policy of bfloat16 weights, and answers in which every token is followed by another."""
    policy = PlantedPolicy(seed, size=8, onset=5)
    generator = torch.Generator().manual_seed(seed)
    signs, sizes = torch.rand(2, 8, 8, generator=generator)
    policy.module[0].data = torch.where(signs < 0.5, -1.0, 1.0) * (0.07 + 0.05 * sizes)
    policy.module.to(torch.bfloat16)
    teacher_prompt, student_prompt = (1, 5), (2, 5)
    return policy, [
        Pair.same(student_prompt, (1, 2, 3, 4, 5, 6, 7, 1, 3, 5, 7, 2, 4, 6, 0), teacher_prompt)
    ]


def test_small_steps_do_not_move_weights_of_half_precision_without_masters() -> None:
    """The negative control: AdamW on the weights themselves, by the same gradient."""
    policy, pairs = halved()
    weight = policy.module[0]
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=1e-6)
    student, teacher = student_logits(policy, pairs), teacher_logits(policy, pairs)
    make_divergence(SMALL)(student, teacher).sum().backward()
    assert float(weight.grad.abs().max()) > 0
    for _ in range(STEPS):
        optimizer.step()
    assert torch.equal(weight, before)


@pytest.mark.slow
def test_master_weights_move_half_precision_after_enough_steps() -> None:
    policy, pairs = halved()
    weight = policy.module[0]
    before = weight.detach().clone()
    trainer = DistillationTrainer(policy, replace(SMALL, lr=1e-6, teacher="initial"))
    (copy,) = trainer.masters.copies
    assert copy.dtype == torch.float32
    trainer.step(pairs)
    assert torch.equal(weight, before)  # the first step is too short for bfloat16
    assert 0.5e-6 < float((copy.detach() - before.float()).abs().max()) < 2e-6  # and is not lost
    for _ in range(STEPS - 1):
        trainer.step(pairs)
    moved = weight != before
    assert float(moved.float().mean()) > 0.2
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, copy.detach().bfloat16())


def test_masters_copy_only_weights_below_float32() -> None:
    for dtype, copied in (
        (torch.float32, False),
        (torch.float64, False),
        (torch.bfloat16, True),
        (torch.float16, True),
    ):
        weight = torch.ones(3, dtype=dtype, requires_grad=True)
        assert is_low_precision(weight) is copied
        masters = MasterWeights([weight])
        assert (masters.copies[0] is not weight) is copied
        weight.grad = torch.full((3,), 0.5, dtype=dtype)
        masters.copy_gradients()
        assert masters.copies[0].grad is not None
        assert masters.copies[0].grad.dtype == (torch.float32 if copied else dtype)
        weight.grad = None  # of a weight that took no part, the copy takes none either
        masters.copy_gradients()
        assert masters.copies[0].grad is None


def test_learning_rates_by_size() -> None:
    policy = PlantedPolicy()
    assert DistillationTrainer(policy, replace(SMALL, lr=0.0)).lr == OWN_LR == 1e-4
    policy.large = True
    assert DistillationTrainer(policy, replace(SMALL, lr=0.0)).lr == LARGE_LR == 1e-6
    assert (
        DistillationTrainer(policy, replace(SMALL, lr=0.5)).optimizer.param_groups[0]["lr"] == 0.5
    )
