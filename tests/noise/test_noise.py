"""Noise: exact counts, stated distributions, unbiased ELBO weights, skeletons and mixtures."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.config import NoiseConfig
from maskdiff.errors import ConfigError, DataError
from maskdiff.languages import Vocabulary
from maskdiff.noise import (
    IGNORE,
    Canvases,
    causal_canvas,
    draw_sigma,
    mask_exactly,
    mask_noise,
    pad,
    reference_noise,
    skeleton_noise,
)
from maskdiff.noise.masking import draw_prefix, mask_count
from maskdiff.noise.modes import split_counts
from tests.helpers.noise import (
    CAUSAL,
    FULL,
    MASKED,
    REPAIR,
    SKELETON,
    VOCABULARY,
    assert_share,
    assert_uniform,
    generator,
    mixed,
    same,
    sample,
)

# ------------------------------------------------------------------------------------------ strings


@given(
    st.lists(st.lists(st.integers(4, 18), min_size=0, max_size=20), min_size=1, max_size=8),
    st.integers(0, 30),
)
@settings(max_examples=50, deadline=None)
def test_padding_frames_every_row_and_loses_nothing(rows: list[list[int]], width: int) -> None:
    strings = pad(rows, VOCABULARY, width)
    assert strings.tokens.shape[1] == max(width, max(map(len, rows)) + 2)
    for row, tokens, length in zip(
        rows, strings.tokens.tolist(), strings.length.tolist(), strict=True
    ):
        assert tokens == [VOCABULARY.bos, *row, VOCABULARY.eos] + [VOCABULARY.pad] * (
            len(tokens) - len(row) - 2
        )
        assert length == len(row) + 2
    assert strings.inner().sum(1).tolist() == [len(row) for row in rows]


def test_no_strings_is_an_error() -> None:
    with pytest.raises(DataError):
        pad([], VOCABULARY)


# ---------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("low_discrepancy", [True, False])
def test_each_noise_level_is_uniform_at_every_place_in_the_batch(low_discrepancy: bool) -> None:
    config = NoiseConfig(sigma_min=0.1, sigma_max=0.9, low_discrepancy=low_discrepancy)
    draws = torch.stack([draw_sigma(7, config, generator(seed)) for seed in range(4000)])
    for place in (0, 3, 6):  # a distribution function off by 0.08 anywhere is caught
        assert_uniform(draws[:, place], 0.1, 0.9)


def test_low_discrepancy_draws_are_evenly_spaced_and_shuffled() -> None:
    draws = [draw_sigma(16, FULL, generator(seed)) for seed in range(200)]
    for sigma in draws:
        gaps = sigma.sort().values.diff()
        assert torch.allclose(gaps, torch.full((15,), 1 / 16), atol=1e-5)
    order = torch.stack([sigma.argsort().argsort().float() for sigma in draws]) - 7.5
    trend = (order * (torch.arange(16) - 7.5)).mean(0).sum() / (
        16 * 21.25
    )  # correlation of level with place
    assert abs(trend) < 4.5 / math.sqrt(200 * 15)
    spread = [
        draw_sigma(16, replace(FULL, low_discrepancy=False), generator(s))
        .sort()
        .values.diff()
        .std()
        for s in range(20)
    ]
    assert min(spread) > 0.01  # negative control: independent draws are not evenly spaced


@pytest.mark.slow
@pytest.mark.parametrize("low_discrepancy", [True, False])
def test_high_noise_bias_moves_its_share_of_the_mass(low_discrepancy: bool) -> None:
    config = NoiseConfig(
        sigma_min=0.1, sigma_max=1.0, high_noise_bias=0.3, low_discrepancy=low_discrepancy
    )
    sigma = torch.cat([draw_sigma(5, config, generator(seed)) for seed in range(4000)])
    expected = 0.3 + 0.7 * 0.2 / 0.9  # a share off by 0.03 is caught
    assert_share(float((sigma >= 0.8).sum()), len(sigma), expected)
    assert_uniform(sigma[sigma >= 0.8], 0.8, 1.0)
    assert_uniform(sigma[sigma < 0.8], 0.1, 0.8)


# ------------------------------------------------------------------------------------------ masking


def test_masking_hides_exactly_the_asked_number_of_inner_positions() -> None:
    strings = sample(200)
    count = (strings.length - 2) * torch.arange(200) // 199
    hidden = mask_exactly(strings, count, generator())
    assert hidden.sum(1).equal(count)
    assert not (hidden & ~strings.inner()).any()


def test_all_subsets_of_positions_are_equally_likely() -> None:
    n = 20_000  # a subset's share off by 0.017 of 0.1 is caught
    hidden = mask_exactly(same("(+1", n), torch.full((n,), 2), generator())
    subsets = Counter(map(tuple, hidden[:, 1:4].int().tolist()))
    assert len(subsets) == 3
    for count in subsets.values():
        assert_share(count, n, 1 / 3)


def test_the_number_of_masks_is_uniform_when_sigma_is() -> None:
    n = 35_000
    sigma = draw_sigma(n, replace(FULL, low_discrepancy=False), generator())
    counts = mask_count(sigma, torch.full((n,), 7)).bincount(minlength=8)
    assert counts[0] == 0
    for count in counts[1:].tolist():  # a share off by 0.015 of 0.143 is caught
        assert_share(count, n, 1 / 7)


def test_float_error_in_sigma_does_not_move_the_number_of_masks() -> None:
    for inner in range(1, 62):
        sigma = torch.arange(inner + 1).double().div(inner).float()
        assert mask_count(sigma, torch.full((inner + 1,), inner)).tolist() == [
            1,
            *range(1, inner + 1),
        ]


def any_order_cost(table: dict[tuple[int, ...], list[float]], n: int) -> float:
    """Mean cost over all orders of revealing symbols one by one: another form of the ELBO."""
    total = 0.0
    for order in itertools.permutations(range(n)):
        hidden = [1] * n
        for place in order:
            total += table[tuple(hidden)][place]
            hidden[place] = 0
    return total / math.factorial(n)


@pytest.mark.slow
def test_elbo_weights_are_unbiased_by_brute_force() -> None:
    n, draws = 4, 40_000
    rng = np.random.default_rng(1)
    table = {
        hidden: rng.exponential(1.0, n).tolist() for hidden in itertools.product((0, 1), repeat=n)
    }
    truth = any_order_cost(table, n)

    # Exactly: every number and every subset of masks, at the weight that mask_noise gives it.
    exact = 0.0
    for k in range(1, n + 1):
        canvas = mask_noise(
            same("(+12", 1), FULL, VOCABULARY, generator(), sigma=torch.tensor([k / n])
        )
        weight = float(canvas.weights.max())
        assert weight == pytest.approx(n / k)
        subsets = [s for s in table if sum(s) == k]
        exact += (
            sum(weight * table[s][i] for s in subsets for i in range(n) if s[i]) / len(subsets) / n
        )
    assert exact == pytest.approx(truth, rel=1e-5)

    # The same for the noise that the function draws.
    for name in ("elbo", "uniform"):
        canvas = mask_noise(same("(+12", draws), FULL, VOCABULARY, generator(), name)
        hidden, weights = canvas.tokens[:, 1:5] == VOCABULARY.mask, canvas.weights[:, 1:5].double()
        cost = torch.tensor(
            [table[tuple(row)] for row in hidden.int().tolist()], dtype=torch.float64
        )
        per_string = (weights * cost).sum(1)
        error = abs(float(per_string.mean()) - truth) / (float(per_string.std()) / math.sqrt(draws))
        assert (
            error < 4.5 if name == "elbo" else error > 20
        )  # uniform weights are the negative control


def test_mask_noise_targets_are_the_hidden_tokens_and_nothing_else() -> None:
    strings = sample(128)
    canvas = mask_noise(strings, FULL, VOCABULARY, generator())
    hidden = canvas.tokens == VOCABULARY.mask
    assert hidden.equal(canvas.targets != IGNORE)
    assert hidden.equal(canvas.weights > 0)
    assert torch.where(hidden, canvas.targets, canvas.tokens).equal(strings.tokens)
    assert not canvas.causal.any()
    assert torch.allclose(canvas.weights.sum(1), (strings.length - 2).float())  # k * n/k
    assert (canvas.sigma == 0).all()
    with_level = mask_noise(strings, replace(FULL, sigma_input="level"), VOCABULARY, generator())
    assert with_level.tokens.equal(canvas.tokens)
    assert with_level.sigma.max() > 0.9


@pytest.mark.parametrize("prefix_len", [0, 3])
def test_clean_prefixes_show_the_beginning_and_hide_all_the_rest_at_weight_one(
    prefix_len: int,
) -> None:
    strings = sample(300)
    config = replace(FULL, ar_prefix_ratio=1.0, ar_prefix_len=prefix_len)
    canvas = mask_noise(strings, config, VOCABULARY, generator())
    hidden, inner = canvas.tokens == VOCABULARY.mask, strings.length - 2
    shown = inner - hidden.sum(1)
    if prefix_len:
        assert shown.equal(torch.minimum(inner - 1, torch.tensor(prefix_len)))
    assert (shown < inner).all()
    assert hidden.equal(strings.inner() & (torch.arange(hidden.shape[1]) > shown[:, None]))
    assert canvas.weights.equal(hidden.float())


def test_a_prefix_length_of_zero_is_uniform_over_the_string() -> None:
    n = 30_000
    prefix = draw_prefix(
        torch.full((n,), 6), replace(FULL, ar_prefix_ratio=0.5, ar_prefix_len=0), generator()
    )
    counts = (prefix + 1).bincount(minlength=7)
    assert_share(int(counts[0]), n, 0.5)
    for count in counts[1:].tolist():  # a share off by 0.013 of 0.083 is caught
        assert_share(count, n, 0.5 / 6)


def test_prefixes_leave_the_other_strings_as_they_were() -> None:
    strings = sample(400)
    canvas = mask_noise(
        strings, replace(FULL, ar_prefix_ratio=0.5, ar_prefix_len=0), VOCABULARY, generator()
    )
    plain = mask_noise(strings, FULL, VOCABULARY, generator())
    unchanged = (canvas.tokens == plain.tokens).all(1) & (canvas.weights == plain.weights).all(1)
    assert 150 < int(unchanged.sum()) < 260


def test_next_token_canvases_show_all_and_score_all_but_bos() -> None:
    strings = sample(32)
    canvas = causal_canvas(strings)
    assert canvas.tokens.equal(strings.tokens)
    assert canvas.causal.all()
    scored = canvas.targets != IGNORE
    assert scored.sum(1).equal(strings.length - 1)
    assert not scored[:, 0].any()
    assert canvas.targets[scored].equal(strings.tokens[scored])
    assert canvas.weights.equal(scored.float())


def test_rows_that_are_cut_teach_all_but_their_end() -> None:
    strings = sample(4000)
    whole, cut = causal_canvas(strings), causal_canvas(strings, 1.0, generator())
    ends = torch.arange(strings.tokens.shape[1]) == strings.length[:, None] - 1
    assert cut.tokens.equal(strings.tokens)
    assert (cut.targets != IGNORE).equal((whole.targets != IGNORE) & ~ends)
    some = (causal_canvas(strings, 0.25, generator()).targets != IGNORE).sum(1) < strings.length - 1
    assert_share(int(some.sum()), 4000, 0.25)
    half = mixed(strings, generator(), 0.5, cut_rows=1.0)
    ends = half.targets[half.causal].gather(1, half.length[half.causal][:, None] - 1)
    assert (ends == IGNORE).all()


# --------------------------------------------------------------------------- skeletons and mixtures


@pytest.mark.parametrize("loss_weight", ["elbo", "uniform"])
def test_half_the_skeleton_canvases_ask_for_structure_and_half_for_digits(loss_weight: str) -> None:
    strings = sample(600)
    canvas = skeleton_noise(strings, FULL, VOCABULARY, generator(), loss_weight)
    digit_id = VOCABULARY.digit
    assert digit_id is not None
    digits = torch.isin(strings.tokens, torch.tensor(VOCABULARY.digit_ids))
    scored = canvas.targets != IGNORE
    known = torch.where(scored, canvas.targets, canvas.tokens)  # canvas with its holes filled
    fills = known.eq(strings.tokens).all(1)  # filled with the string itself, else with its skeleton
    assert int(fills.sum()) == 300
    assert known[~fills].equal(strings.tokens.masked_fill(digits, digit_id)[~fills])
    assert (canvas.tokens[~fills][scored[~fills]] == VOCABULARY.mask).all()
    assert scored.equal(canvas.weights > 0)
    asked = canvas.tokens.eq(digit_id) & fills[:, None]
    assert (asked <= (digits & scored)).all()
    assert asked[fills].any(1).all()
    loose = scored & fills[:, None] & ~digits
    assert (canvas.tokens[loose] == VOCABULARY.mask).all()
    assert canvas.weights[loose].eq(1).all()
    assert loose.any()
    expected = digits.sum(1) / asked.sum(1) if loss_weight == "elbo" else torch.ones(600)
    assert torch.allclose(canvas.weights[asked], expected[:, None].expand_as(asked)[asked].float())


def test_a_vocabulary_without_digit_has_no_skeletons() -> None:
    vocabulary = Vocabulary.of("ab", digit=False)
    strings = pad([vocabulary.encode("abba")], vocabulary)
    with pytest.raises(ConfigError, match="skeleton_share"):
        skeleton_noise(strings, FULL, vocabulary, None)
    assert (mixed(strings, None, skeleton=1.0, vocabulary=vocabulary).mode == MASKED).all()


def test_shares_are_exact_on_average_and_within_one_always() -> None:
    shares, n = (0.3, 0.15, 0.05), 10
    counts = torch.tensor(
        [split_counts(n, shares, generator(seed)) for seed in range(3000)]
    ).double()
    assert counts.sum(1).eq(n).all()
    expected = torch.tensor([3.0, 1.5, 0.5, 5.0], dtype=torch.float64)
    assert ((counts - expected).abs() <= 1).all()
    assert ((counts.mean(0) - expected).abs() <= 4.5 * 0.5 / math.sqrt(3000) + 1e-9).all()


def test_a_mixture_holds_every_string_once() -> None:
    strings = sample(101)
    noise = replace(FULL, ar_prefix_ratio=0.2)
    canvas = mixed(strings, generator(), 0.3, 0.2, 0.1, noise=noise)
    assert canvas.tokens.shape == strings.tokens.shape
    assert sorted(canvas.length.tolist()) == sorted(strings.length.tolist())
    assert canvas.causal.equal(canvas.mode == CAUSAL)
    assert int(canvas.inner().sum()) == int(strings.inner().sum())
    known = torch.where(canvas.targets != IGNORE, canvas.targets, canvas.tokens)[
        canvas.mode != SKELETON
    ].tolist()
    clean = Counter(map(tuple, strings.tokens.tolist()))
    assert not Counter(map(tuple, known)) - clean
    assert len(known) == int((canvas.mode != SKELETON).sum()) >= 90


@pytest.mark.parametrize("shares", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.25, 0.25)])
def test_mixtures_of_one_mode_and_of_none_masked(shares: tuple[float, float, float]) -> None:
    for size in (1, 2, 9):
        canvas = mixed(sample(size), generator(), *shares)
        assert len(canvas) == size
        if 1 in shares:
            assert (canvas.mode == (CAUSAL, REPAIR, SKELETON)[shares.index(1)]).all()
        if sum(shares) == 1:
            assert not (canvas.mode == MASKED).any()


def test_shares_above_one_are_an_error() -> None:
    with pytest.raises(ConfigError, match="at most 1"):
        mixed(sample(4), None, 0.6, 0.3, 0.2)


def test_mode_does_not_follow_the_order_of_the_batch() -> None:
    strings = sample(400)
    ordered = strings[strings.length.argsort()]
    canvas = mixed(ordered, generator(), 0.5)
    difference = (
        canvas.length[canvas.causal].double().mean() - canvas.length[~canvas.causal].double().mean()
    )
    assert (
        abs(difference) < 4.5 * strings.length.double().std() / 10
    )  # sorted halves would differ by about 16 errors


def test_noise_is_a_function_of_its_generator() -> None:
    strings = sample(64)

    def make(seed: int) -> Canvases:
        noise = replace(FULL, ar_prefix_ratio=0.3)
        return mixed(strings, generator(seed), 0.3, 0.2, 0.1, noise=noise)

    one, two, other = make(5), make(5), make(6)
    assert all(
        getattr(one, name).equal(getattr(two, name)) for name in Canvases.__dataclass_fields__
    )
    assert not one.tokens.equal(other.tokens)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    make(7)
    assert torch.get_rng_state().equal(state)  # the global generator is not touched


def test_reference_noise_reproduces_its_quirks() -> None:
    strings = sample(400)
    config = NoiseConfig(ar_prefix_ratio=0.3)
    canvas = reference_noise(strings, config, VOCABULARY, generator())
    assert canvas.tokens.shape == (400, 64)
    assert (canvas.length == 64).all()
    assert not canvas.causal.any()
    width = strings.tokens.shape[1]
    real = torch.nn.functional.pad(strings.valid(), (0, 64 - width))
    assert real.equal(canvas.targets != IGNORE)
    assert canvas.weights.equal(real.float())
    assert canvas.targets[real].equal(strings.tokens[strings.valid()])
    ends = (canvas.tokens == VOCABULARY.eos).int()
    assert ends.sum(1).eq(1).all()
    assert (ends.argmax(1) <= strings.length - 1).all()
    kept = canvas.mode == MASKED
    assert_share(int(kept.sum()), 400, 0.3)
    shown = canvas.tokens[kept, :4]
    assert shown.equal(strings.tokens[kept, :4])
    assert (canvas.tokens[kept] == VOCABULARY.mask).any(1).sum() > 0.8 * kept.sum()
    assert torch.allclose(canvas.sigma[kept], 1 - 4 / strings.length[kept].float(), atol=1e-5)
