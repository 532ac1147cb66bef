"""The unmasking loop: distributions against an exact denoiser, orders, schedules, and remasking."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from maskdiff.drawing.logits import allowed_symbols, draw_tokens, entropy, log_distribution, temper
from maskdiff.drawing.random import new_keys, token_noise
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.sampling import (
    Ancestral,
    Canvas,
    Cap,
    Confidence,
    Cosine,
    EntropyBound,
    Everything,
    Information,
    Linear,
    Reconsider,
    Rescale,
    Threshold,
    Unmask,
    coarse_to_fine,
    predictor_corrector,
)  # fmt: skip
from maskdiff.sampling.order import ORDERS, rank
from tests.helpers.dummies import TINY, Exact, Scrambled, Table, chi_square

# of each length; a deviation with chi-square divergence 0.03 gives z > 3.5 with probability 0.99
DRAWS = 2000


def blank(lengths, seed: int = 0) -> Canvas:
    return Canvas.blank(lengths, TINY, torch.Generator().manual_seed(seed))


def z_values(sampler, seed: int = 0, draws: int = DRAWS) -> list[float]:
    """Chi-square z of the samples against the truth, for both lengths of the tiny language,
    drawn in one mixed batch."""
    exact = Exact()
    texts = sampler(exact, blank([3, 6] * draws, seed)).texts(TINY)
    return [chi_square(texts[0::2], exact.truth(3)), chi_square(texts[1::2], exact.truth(6))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", ["random", "entropy", "margin", "top", "left_to_right", "dilated"]
)
def test_one_token_an_evaluation_is_exact_in_every_order_that_ignores_the_candidate(order):
    assert max(z_values(Unmask(order=order, schedule=Linear(), steps=0))) < 3.5


@pytest.mark.slow
def test_fresh_noise_is_exact_too():
    assert max(z_values(Unmask(order="random", schedule=Linear(), steps=0, fresh=True))) < 3.5


@pytest.mark.slow
def test_ancestral_errs_as_often_as_coins_fall_together():
    """Two of 6 tokens commit together with chance 1.0, 0.75 and 0.10 at 1, 10 and 150 steps.

    Waiting costs nothing.
    """
    outside = []
    for steps in (1, 10, 150):
        sample = Unmask(order="random", schedule=Ancestral(), steps=steps)(
            exact := Exact(), blank([6] * 1000)
        )
        outside.append(sum(text not in exact.strings for text in sample.texts(TINY)))
        assert int(sample.evaluations.max()) <= min(steps, 6)
    assert outside[0] > 900
    assert outside[0] > outside[1] + 300
    assert 0 < outside[2] < 100


def test_ancestral_commits_a_binomial_number():
    """First of 10 steps over 40 blanks.

    Mean 4, variance 3.6, within 4.5 standard errors of 500 strings.
    """
    canvas = blank([40] * 500).traced()
    frame = Unmask(order="random", schedule=Ancestral(), steps=10)(
        Table(torch.zeros(42, len(TINY))), canvas
    ).trace.frames[1]
    count = (frame != TINY.mask).sum(1).double() - 2
    assert abs(count.mean() - 4) < 4.5 * math.sqrt(3.6 / 500)
    assert abs(count.var() - 3.6) < 4.5 * 3.6 * math.sqrt(2 / 500)


@pytest.mark.slow
def test_negative_controls_are_rejected_by_the_same_test():
    """One shot, an order that looks at the candidate, temperature, and top-p all leave the
    distribution."""
    assert max(z_values(Unmask(order="random", schedule=Everything()), draws=500)) == math.inf
    assert max(z_values(Unmask(order="confidence", schedule=Linear(), steps=0), draws=1000)) > 5
    for draw in (Draw(temperature=0.7), Draw(top_p=0.9)):
        one_by_one = Unmask(order="random", schedule=Linear(), steps=0, draw=draw)
        assert max(z_values(one_by_one, draws=2000)) > 5


def test_conditional_sampling_is_exact():
    """A template: the distribution of the language given the known tokens."""
    exact = Exact()
    canvas = Canvas.template(["(????=", "???"] * DRAWS, TINY, torch.Generator().manual_seed(5))
    texts = Unmask(order="random", schedule=Linear(), steps=0)(exact, canvas).texts(TINY)
    assert chi_square(texts[0::2], {"(1+2)=": 0.75, "(2+1)=": 0.25}) < 3.5
    assert chi_square(texts[1::2], exact.truth(3)) < 3.5


def test_entropy_bound_of_zero_commits_only_determined_tokens_together():
    """gamma 0: exact, and cheaper than a token an evaluation, because determined tokens come
    along."""
    bound = Unmask(order="entropy", schedule=EntropyBound(0.0), steps=0)
    assert max(z_values(bound)) < 3.5
    assert bound(Exact(), blank([6] * 200)).evaluations.float().mean() < 4


def test_entropy_bound_count_is_the_papers():
    """Entropies 0.1 0.2 0.3 ... by hand: the longest prefix with sum - max <= gamma."""
    logits = torch.full((8, len(TINY)), -30.0)
    target = [0.1, 0.2, 0.3, 0.4, 0.5]
    for position, wanted in enumerate(target, start=1):
        low, high = 0.0, 0.5
        for _ in range(60):  # two symbols with the wanted entropy, by bisection
            mid = (low + high) / 2
            value = -(mid * math.log(mid) + (1 - mid) * math.log(1 - mid))
            low, high = (mid, high) if value < wanted else (low, mid)
        logits[position, 4], logits[position, 5] = math.log(1 - low), math.log(low)
    for gamma, expected in ((0.05, 1), (0.1001, 2), (0.3001, 3), (0.59, 3), (0.6001, 4), (1.01, 5)):
        denoiser = Table(logits)
        canvas = Unmask(order="entropy", schedule=EntropyBound(gamma), steps=0)(
            denoiser, blank([5]).traced()
        ).canvas
        assert int((canvas.trace.frames[1][0] != TINY.mask).sum()) - 2 == expected


@pytest.mark.parametrize(
    "schedule", [EntropyBound(0.0), Information(), Threshold(0.999), Linear(), Cosine()]
)
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_the_cap_on_evaluations_holds(schedule, steps):
    lengths = [1, 4, 12, 13, 40]
    sample = Unmask(order="entropy", schedule=schedule, steps=steps)(
        Scrambled(sharpness=0.1), blank(lengths)
    )
    assert (sample.evaluations <= torch.tensor(lengths).clamp(max=steps)).all()
    assert (sample.tokens != TINY.mask).all()
    if steps >= 12:
        assert sample.evaluations[:3].tolist() == lengths[:3]  # enough for one each


def test_cosine_follows_the_published_plan():
    n, steps = 40, 12
    canvas = Unmask(schedule=Cosine(), steps=steps)(Scrambled(), blank([n]).traced()).canvas
    left = [int((frame == TINY.mask).sum()) for frame in canvas.trace.frames]
    assert left == [
        math.floor(n * math.cos(math.pi / 2 * k / steps) + 1e-9) for k in range(steps + 1)
    ]


def test_linear_is_even():
    canvas = Unmask(schedule=Linear(), steps=12)(Scrambled(), blank([30]).traced()).canvas
    left = torch.tensor([int((frame == TINY.mask).sum()) for frame in canvas.trace.frames])
    assert set((left[:-1] - left[1:]).tolist()) <= {2, 3}


def test_information_gives_evaluations_to_uncertain_tokens():
    """20 certain tokens and 6 uniform ones in 6 evaluations.

    The certain ones come at once, the uncertain ones one by one.
    """
    logits = torch.zeros(28, len(TINY))
    logits[7:, 5] = 50.0
    canvas = Unmask(order="entropy", schedule=Information(), steps=7)(
        Table(logits), blank([26]).traced()
    ).canvas
    left = [int((frame == TINY.mask).sum()) for frame in canvas.trace.frames]
    assert left == [26, 5, 4, 3, 2, 1, 0]


def test_orders_rank_as_their_names_say():
    """Hand-made distributions: position 2 certain, 1 a close race, 3 flat, 4 skewed."""
    logits = torch.full((6, len(TINY)), -30.0)
    logits[1, [4, 5]] = torch.tensor([0.50, 0.50]).log()
    logits[2, 4] = 0.0
    logits[3, 4:12] = 0.0
    logits[4, [4, 5, 6, 7]] = torch.tensor([0.61, 0.13, 0.13, 0.13]).log()
    first = {
        "entropy": [2, 1, 4, 3],
        "margin": [2, 4, 1, 3],
        "top": [2, 4, 1, 3],
        "left_to_right": [1, 2, 3, 4],
    }
    for order, expected in first.items():
        sampler = Unmask(order=order, schedule=Linear(), steps=0)
        trace = sampler(Table(logits), blank([4]).traced()).trace
        assert trace.committed(0)[1:].int().argmax(1).tolist() == expected, order


def test_dilated_order_commits_far_apart():
    trace = Unmask(order="dilated", schedule=Linear(), steps=8)(
        Scrambled(), blank([62]).traced()
    ).trace
    for changed in trace.committed(0)[1:4]:
        gaps = changed.nonzero()[:, 0].diff()
        assert (gaps >= 4).all()


def test_spacing_prefers_far_apart_positions():
    score = torch.tensor([[9.0, 8.0, 7.0, 1.0, 5.0, 4.0, 3.0, 2.0]])
    eligible = torch.ones(1, 8, dtype=torch.bool)
    assert rank(score, eligible).argsort(1)[0, :3].tolist() == [0, 1, 2]
    chosen = rank(score, eligible, spacing=1).argsort(1)[0]
    assert chosen[:4].tolist() == [
        0,
        4,
        2,
        6,
    ]  # 0 and 4 first by local maxima, 2 and 6 in the next round
    trace = Unmask(order="entropy", schedule=Linear(), steps=12, spacing=2)(
        Scrambled(), blank([36]).traced()
    ).trace
    for changed in trace.committed(0)[1:8]:
        assert (changed.nonzero()[:, 0].diff() > 2).all()


def test_window_keeps_to_the_first_blanks():
    trace = Unmask(order="entropy", schedule=Linear(), steps=0, window=3)(
        Scrambled(), blank([20]).traced()
    ).trace
    frames, _ = trace.steps(0)
    for before, changed in zip(frames, trace.committed(0)[1:], strict=False):
        assert changed.nonzero()[0, 0] in (before == TINY.mask).nonzero()[:3, 0]


def test_top_p_support_and_its_negative_control():
    """Drawn tokens are in the nucleus, all of it is reached, and without top-p the rest is
    reached too."""
    p = torch.tensor([0.0, 0, 0, 0, 0.4, 0.3, 0.2, 0.06, 0.04])
    keys = new_keys(4000, torch.Generator().manual_seed(0))
    noise = token_noise(keys, torch.zeros(4000, 1, dtype=torch.int64), 0, torch.tensor([1]), 9)[
        :, 0
    ]
    for top_p, support in (
        (0.39, {4}),
        (0.41, {4, 5}),
        (0.85, {4, 5, 6}),
        (0.0, {4}),
        (1.0, {4, 5, 6, 7, 8}),
    ):
        assert set(draw_tokens(p.log().expand(4000, -1), noise, 1.0, top_p).tolist()) == support


def test_temper_is_the_power_law():
    p = torch.tensor([0.7, 0.2, 0.1])
    assert torch.allclose(temper(p.log(), 0.5).exp(), p**2 / (p**2).sum())


def test_forbidden_symbols_have_no_probability_and_hopeless_positions_are_uniform():
    tokens = torch.tensor([[TINY.mask, TINY.digit, 7]])
    for symbols in ("plain", "skeleton", "fill"):
        allowed = allowed_symbols(tokens, TINY, symbols)
        assert not allowed[..., list(TINY.specials)].any()
        assert allowed[0, 0, TINY.digit] == (symbols == "skeleton")
        assert allowed[0, 0, list(TINY.digit_ids)].all() == (symbols != "skeleton")
    fill = allowed_symbols(tokens, TINY, "fill")
    assert set(fill[0, 1].nonzero()[:, 0].tolist()) == set(TINY.digit_ids)
    hopeless = log_distribution(torch.full((1, 3, len(TINY)), -math.inf), fill)
    assert torch.allclose(hopeless.exp().sum(-1), torch.ones(1, 3))
    assert hopeless[0, 1, list(TINY.digit_ids)].exp().allclose(torch.tensor(0.25))
    assert float(entropy(hopeless)[0, 1]) == pytest.approx(math.log(4))


def test_naive_refinement_is_iterated_argmax():
    """Against a hand-written loop."""
    denoiser, canvas = Scrambled(), blank([7, 4])
    sampler = Unmask(
        schedule=Everything(), order="top", rewrite=True, steps=5, draw=Draw(temperature=0.0)
    )
    expected = canvas.tokens
    for _ in range(5):
        logits = denoiser(expected, canvas.length, canvas.suspect, False)
        logits[..., [*TINY.specials, TINY.digit]] = -math.inf
        expected = torch.where(canvas.known, canvas.tokens, logits.argmax(-1))
    sample = sampler(Scrambled(), canvas)
    assert torch.equal(sample.tokens, expected)
    assert sample.evaluations.tolist() == [5, 5]


def test_drafts_are_rewritten_only_by_samplers_that_rewrite():
    draft = Canvas.draft(["(1+2)=", "0?0"], TINY, 0.2)
    kept = Unmask()(Scrambled(), draft).texts(TINY)
    assert kept[0] == "(1+2)="
    assert kept[1][0] == kept[1][2] == "0"
    assert kept[1][1] != "?"
    table = Table(torch.nn.functional.one_hot(torch.full((8,), 4), len(TINY)).float())
    refined = Unmask(schedule=Everything(), rewrite=True, steps=2, draw=Draw(temperature=0.0))(
        table, draft
    )
    assert refined.texts(TINY) == ["000000", "000"]
    assert table.seen[0][1].tolist() == pytest.approx(
        [0.2, 0.2]
    )  # sigma of the draft is passed to the denoiser


def test_noise_levels_passed_to_the_denoiser():
    for sigma, expected in (
        ("clock", [1, 0.75, 0.5, 0.25]),
        ("naive", [1, 0.8, 0.6, 0.4]),
        ("blank", [1, 0.75, 0.5, 0.25]),
    ):
        table = Table(torch.zeros(6, len(TINY)))
        Unmask(schedule=Linear(), steps=4, sigma=sigma)(table, blank([4]))
        assert [float(seen[1]) for seen in table.seen] == pytest.approx(expected)


def test_self_conditioning_shows_the_previous_prediction_of_blanks_only():
    table = Table(torch.randn(6, len(TINY), generator=torch.Generator().manual_seed(0)))
    Unmask(schedule=Linear(), steps=4, self_condition=True)(table, blank([4]))
    (_, _, _, first), (tokens, _, _, second) = table.seen[:2]
    assert first.sum() == 0
    blanks = tokens == TINY.mask
    assert torch.allclose(second.sum(-1), blanks.float())


# Remasking


@pytest.mark.parametrize("remask", [Cap(0.5), Rescale(0.5), Confidence()])
def test_remdm_keeps_its_plan_and_hides_only_tentative_tokens(remask):
    canvas = Canvas.template(
        ["(" + "?" * 30 + ")"] * 8, TINY, torch.Generator().manual_seed(0)
    ).traced()
    sample = Unmask(order="random", schedule=Linear(), steps=15, remask=remask)(Scrambled(), canvas)
    assert (sample.evaluations == 15).all()
    assert (sample.tokens != TINY.mask).all()
    assert (sample.canvas.visits > 0).any()
    assert not sample.canvas.visits[canvas.known].any()
    frames = torch.stack(sample.trace.frames)
    blanks = (frames == TINY.mask).sum(2).double()
    plan = torch.arange(30, -1, -2).double()
    assert (
        blanks - plan[:, None]
    ).abs().max() <= 8  # the plan, but for the last step's hidden ones


def test_remdm_hides_at_the_stated_rate():
    """Cap(eta): eta of the committed tokens at each step.

    400 strings, within 4.5 standard errors.
    """
    eta, canvas = 0.1, blank([40] * 400).traced()
    sample = Unmask(order="random", schedule=Linear(), steps=10, remask=Cap(eta))(
        Scrambled(), canvas
    )
    frames = torch.stack(sample.trace.frames)
    before, after = frames[4], frames[5]
    exposed = (before != TINY.mask).sum() - 2 * 400
    hidden = ((before != TINY.mask) & (after == TINY.mask)).sum()
    assert abs(hidden - eta * exposed) < 4.5 * math.sqrt(exposed * eta * (1 - eta))


def test_remdm_with_eta_zero_is_no_remasking():
    plain = Unmask(order="random", schedule=Linear(), steps=6)
    canvas = blank([20] * 5)
    assert torch.equal(
        replace(plain, remask=Cap(0.0))(Scrambled(), canvas).tokens,
        plain(Scrambled(), canvas).tokens,
    )


def test_remdm_confidence_prefers_uncertain_tokens():
    """Tokens committed at probability 0.99 are hidden less often than those committed at 0.12."""
    logits = torch.zeros(42, len(TINY))
    logits[1:21, 5] = 6.0
    canvas = blank([40] * 200)
    sample = Unmask(order="random", schedule=Linear(), steps=20, remask=Confidence())(
        Table(logits), canvas
    )
    sure, unsure = sample.canvas.visits[:, 1:21].sum(), sample.canvas.visits[:, 21:41].sum()
    assert unsure > 1.5 * sure > 0


def test_remasked_positions_get_new_noise():
    flat = Table(torch.zeros(12, len(TINY)))
    canvas = blank([10] * 50)
    first = Unmask(order="random", schedule=Everything(), steps=1)(flat, canvas).canvas
    hidden = replace(first, tokens=canvas.tokens, visits=first.visits + 1)
    again = Unmask(order="random", schedule=Everything(), steps=2)(flat, hidden)
    same = (again.tokens == first.tokens)[~canvas.known].double().mean()
    assert 0.05 < same < 0.2  # 1 in 9 by chance


@pytest.mark.parametrize("score", ["visible", "causal", "leave_out"])
def test_reconsider_hides_implausible_tokens_and_a_refill_corrects_them(score):
    """A denoiser that knows the right string: the two wrong tokens are hidden, nothing else is."""
    right = TINY.encode("(1+2)=0=(1")
    logits = torch.zeros(12, len(TINY))
    logits[torch.arange(1, 11), torch.tensor(right)] = 6.0
    draft = Canvas.draft(["(1+2)=0=(1", "(1*2)=0((1"], TINY, 0.1)
    corrected = Reconsider(score=score, share=0.5)(Table(logits), draft)
    assert corrected.texts(TINY) == ["(1+2)=0=(1", "(1?2)=0?(1"]
    assert corrected.evaluations.tolist() == [2, 2] if score == "leave_out" else [1, 1]
    fixed = Reconsider(score=score, share=0.5).then(Unmask(draw=Draw(temperature=0.0)))(
        Table(logits), draft
    )
    assert fixed.texts(TINY) == ["(1+2)=0=(1"] * 2
    only_one = Reconsider(score=score, share=0.1)(Table(logits), draft)
    assert only_one.texts(TINY)[1].count("?") == 1
    wider = Reconsider(score=score, share=0.5, radius=1)(Table(logits), draft)
    assert wider.texts(TINY)[1] == "(???)=???1"


def test_reconsider_leaves_known_tokens_blanks_and_spent_budgets_alone():
    logits = torch.zeros(8, len(TINY))
    logits[:, 5] = 9.0
    known = Canvas.template(["000"], TINY)
    assert Reconsider()(Table(logits), known).evaluations.tolist() == [0]
    blanks = Canvas.draft(["0?0"], TINY, 0.1)
    assert Reconsider()(Table(logits), blanks).evaluations.tolist() == [0]
    late = Canvas.draft(["000"], TINY, 0.1)
    assert Reconsider(steps=1)(Table(logits), late).texts(TINY) == ["000"]


def test_predictor_corrector_keeps_its_budget_and_improves_an_exact_draft():
    """One-shot drafts of the tiny language are mostly outside it.

    Corrections bring more of them in.
    """
    exact, canvas = Exact(), blank([6] * 1000)
    fill = Unmask(order="entropy", schedule=Everything(), steps=5)
    inside = [
        sum(text in exact.strings for text in sampler(exact, canvas).texts(TINY))
        for sampler in (
            fill,
            predictor_corrector(fill, Reconsider(score="causal", share=0.5), rounds=2),
        )
    ]
    assert inside[1] > inside[0] + 100
    with pytest.raises(ConfigError, match="at least 5"):
        predictor_corrector(replace(fill, steps=4), Reconsider(), rounds=2)


@pytest.mark.slow
def test_coarse_to_fine_is_exact_and_shows_skeletons():
    loop = Unmask(order="random", schedule=Linear(), steps=0)
    sampler = coarse_to_fine(loop, loop)
    assert max(z_values(sampler)) < 3.5
    trace = sampler(Exact(), blank([3], seed=1).traced()).trace
    middle = [TINY.decode(frame[0, 1:4].tolist()) for frame in trace.frames][3]
    assert not set(middle) & set("0123")


def test_coarse_to_fine_honours_known_digits():
    loop = Unmask(order="random", schedule=Linear(), steps=0)
    canvas = Canvas.template(["(?+1)="] * 50, TINY, torch.Generator().manual_seed(0))
    assert set(coarse_to_fine(loop, loop)(Exact(), canvas).texts(TINY)) == {"(2+1)="}


def test_orders_are_named_in_the_error():
    with pytest.raises(ConfigError, match="entropy"):
        Unmask(order="entropie")
    assert set(ORDERS) >= {"confidence", "entropy", "margin", "random", "left_to_right"}


def test_spacing_holds_among_equals():
    """Ten positions of one score, spacing 2.

    The first to commit are far apart, ties go to the left.
    """
    eligible = torch.ones(1, 10, dtype=torch.bool)
    place = rank(torch.zeros(1, 10), eligible, spacing=2)[0]
    assert place.argsort()[:3].tolist() == [0, 3, 6]
    assert rank(torch.zeros(1, 10), eligible)[0].argsort()[:4].tolist() == [
        0,
        1,
        2,
        3,
    ]  # without spacing
