"""Noise: exact counts, stated distributions, the mixed corruption against a plain one-edit-at-a-time oracle, unbiased ELBO.

Statistical assertions allow 4.5 standard errors (a false alarm in 150,000); a quantity that is truly off by 8 standard errors
is caught in 99.97% of runs.  Each test states what that is in its own units.
"""

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

from maskdiff.config import LanguageConfig, NoiseConfig
from maskdiff.errors import ConfigError, DataError
from maskdiff.languages import Vocabulary, make_language
from maskdiff.noise import (
    CAUSAL,
    IGNORE,
    MASKED,
    REPAIR,
    SKELETON,
    Canvases,
    Strings,
    causal_canvas,
    draw_sigma,
    mask_exactly,
    mask_noise,
    mixed_corruption,
    mixture,
    on_canvas,
    pad,
    reference_noise,
    repair_noise,
    skeleton_noise,
)
from maskdiff.noise.edits import DELETE, INSERT, KEEP, MASK, REPLACE, SWAP, apply_edits, draw_edits, forbid_length_breaks
from maskdiff.noise.masking import draw_prefix, mask_count
from maskdiff.noise.mixture import split_counts

LANGUAGE = make_language(LanguageConfig())
VOCABULARY = LANGUAGE.vocabulary
FULL = NoiseConfig(sigma_min=0.0, sigma_max=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(n: int, seed: int = 0) -> Strings:
    texts = LANGUAGE.sample_many(n, np.random.default_rng(seed))
    return pad([VOCABULARY.encode(text) for text in texts], VOCABULARY)


def same(text: str, n: int) -> Strings:
    """The same string n times."""
    return pad([VOCABULARY.encode(text)] * n, VOCABULARY)


def assert_share(count: float, n: int, p: float) -> None:
    assert abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-9, f"{count / n:.5f} is not {p:.5f} (n = {n})"


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    """Kolmogorov-Smirnov at 1 in 100,000."""
    quantile = ((values.double() - low) / (high - low)).sort().values
    n = len(values)
    assert quantile[0] >= -1e-6
    assert quantile[-1] <= 1 + 1e-6
    gap = max((quantile - torch.arange(n) / n).abs().max(), (quantile - torch.arange(1, n + 1) / n).abs().max())
    assert gap < 2.47 / math.sqrt(n)


# ---------------------------------------------------------------------------------------------------------------- strings


@given(st.lists(st.lists(st.integers(4, 18), min_size=0, max_size=20), min_size=1, max_size=8), st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_padding_frames_every_row_and_loses_nothing(rows: list[list[int]], width: int) -> None:
    strings = pad(rows, VOCABULARY, width)
    assert strings.tokens.shape[1] == max(width, max(map(len, rows)) + 2)
    for row, tokens, length in zip(rows, strings.tokens.tolist(), strings.length.tolist(), strict=True):
        assert tokens == [VOCABULARY.bos, *row, VOCABULARY.eos] + [VOCABULARY.pad] * (len(tokens) - len(row) - 2)
        assert length == len(row) + 2
    assert strings.inner().sum(1).tolist() == [len(row) for row in rows]


def test_no_strings_is_an_error() -> None:
    with pytest.raises(DataError):
        pad([], VOCABULARY)


# -------------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("low_discrepancy", [True, False])
def test_each_noise_level_is_uniform_whatever_its_place_in_the_batch(low_discrepancy: bool) -> None:
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
    trend = (order * (torch.arange(16) - 7.5)).mean(0).sum() / (16 * 21.25)  # correlation of level with place
    assert abs(trend) < 4.5 / math.sqrt(200 * 15)
    spread = [draw_sigma(16, replace(FULL, low_discrepancy=False), generator(s)).sort().values.diff().std() for s in range(20)]
    assert min(spread) > 0.01  # negative control: independent draws are not evenly spaced


@pytest.mark.parametrize("low_discrepancy", [True, False])
def test_high_noise_bias_moves_its_share_of_the_mass(low_discrepancy: bool) -> None:
    config = NoiseConfig(sigma_min=0.1, sigma_max=1.0, high_noise_bias=0.3, low_discrepancy=low_discrepancy)
    sigma = torch.cat([draw_sigma(5, config, generator(seed)) for seed in range(4000)])
    expected = 0.3 + 0.7 * 0.2 / 0.9  # a share off by 0.03 is caught
    assert_share(float((sigma >= 0.8).sum()), len(sigma), expected)
    assert_uniform(sigma[sigma >= 0.8], 0.8, 1.0)
    assert_uniform(sigma[sigma < 0.8], 0.1, 0.8)


# ---------------------------------------------------------------------------------------------------------------- masking


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
        assert mask_count(sigma, torch.full((inner + 1,), inner)).tolist() == [1, *range(1, inner + 1)]


def any_order_cost(table: dict[tuple[int, ...], list[float]], n: int) -> float:
    """Mean over all orders of the cost of revealing symbols one by one: the ELBO's other definition."""
    total = 0.0
    for order in itertools.permutations(range(n)):
        hidden = [1] * n
        for place in order:
            total += table[tuple(hidden)][place]
            hidden[place] = 0
    return total / math.factorial(n)


def test_elbo_weights_are_unbiased_by_brute_force() -> None:
    n, draws = 4, 40_000
    rng = np.random.default_rng(1)
    table = {hidden: rng.exponential(1.0, n).tolist() for hidden in itertools.product((0, 1), repeat=n)}
    truth = any_order_cost(table, n)

    # Exactly: every number and every subset of masks, at the weight that mask_noise gives it.
    exact = 0.0
    for k in range(1, n + 1):
        canvas = mask_noise(same("(+12", 1), FULL, VOCABULARY, generator(), sigma=torch.tensor([k / n]))
        weight = float(canvas.weights.max())
        assert weight == pytest.approx(n / k)
        subsets = [s for s in table if sum(s) == k]
        exact += sum(weight * table[s][i] for s in subsets for i in range(n) if s[i]) / len(subsets) / n
    assert exact == pytest.approx(truth, rel=1e-5)

    # And by what the function draws.
    for name in ("elbo", "uniform"):
        canvas = mask_noise(same("(+12", draws), FULL, VOCABULARY, generator(), name)
        hidden, weights = canvas.tokens[:, 1:5] == VOCABULARY.mask, canvas.weights[:, 1:5].double()
        cost = torch.tensor([table[tuple(row)] for row in hidden.int().tolist()], dtype=torch.float64)
        per_string = (weights * cost).sum(1)
        error = abs(float(per_string.mean()) - truth) / (float(per_string.std()) / math.sqrt(draws))
        assert error < 4.5 if name == "elbo" else error > 20  # uniform weights are the negative control


def test_mask_noise_targets_are_the_hidden_tokens_and_nothing_else() -> None:
    strings = sample(128)
    canvas = mask_noise(strings, FULL, VOCABULARY, generator())
    hidden = canvas.tokens == VOCABULARY.mask
    assert hidden.equal(canvas.targets != IGNORE)
    assert hidden.equal(canvas.weights > 0)
    assert torch.where(hidden, canvas.targets, canvas.tokens).equal(strings.tokens)
    assert (canvas.mode == MASKED).all()
    assert not canvas.causal.any()
    assert torch.allclose(canvas.weights.sum(1), (strings.length - 2).float())  # k * n/k
    assert (canvas.sigma == 0).all()
    told = mask_noise(strings, replace(FULL, sigma_input="level"), VOCABULARY, generator())
    assert told.tokens.equal(canvas.tokens)
    assert told.sigma.max() > 0.9


@pytest.mark.parametrize("prefix_len", [0, 3])
def test_clean_prefixes_show_the_beginning_and_hide_all_the_rest_at_weight_one(prefix_len: int) -> None:
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
    prefix = draw_prefix(torch.full((n,), 6), replace(FULL, ar_prefix_ratio=0.5, ar_prefix_len=0), generator())
    counts = (prefix + 1).bincount(minlength=7)
    assert_share(int(counts[0]), n, 0.5)
    for count in counts[1:].tolist():  # a share off by 0.013 of 0.083 is caught
        assert_share(count, n, 0.5 / 6)


def test_prefixes_leave_the_other_strings_as_they_were() -> None:
    strings = sample(400)
    canvas = mask_noise(strings, replace(FULL, ar_prefix_ratio=0.5, ar_prefix_len=0), VOCABULARY, generator())
    plain = mask_noise(strings, FULL, VOCABULARY, generator())
    unchanged = (canvas.tokens == plain.tokens).all(1) & (canvas.weights == plain.weights).all(1)
    assert 150 < int(unchanged.sum()) < 260


def test_next_token_canvases_show_all_and_score_all_but_bos() -> None:
    strings = sample(32)
    canvas = causal_canvas(strings)
    assert canvas.tokens.equal(strings.tokens)
    assert canvas.causal.all()
    assert (canvas.mode == CAUSAL).all()
    scored = canvas.targets != IGNORE
    assert scored.sum(1).equal(strings.length - 1)
    assert not scored[:, 0].any()
    assert canvas.targets[scored].equal(strings.tokens[scored])
    assert canvas.weights.equal(scored.float())


# ------------------------------------------------------------------------------------------------------- mixed corruption


def one_by_one(tokens: list[int], edits: list[int], fresh: list[int], max_len: int) -> list[int]:
    """The definition of the mixed corruption: edits carried out singly, from the last position to the first."""
    out = list(tokens)
    for place in reversed(range(len(tokens))):
        kind = edits[place]
        if kind == MASK:
            out[place] = VOCABULARY.mask
        elif kind == REPLACE:
            out[place] = fresh[place]
        elif kind == SWAP and out[place + 1] not in VOCABULARY.specials:
            out[place], out[place + 1] = out[place + 1], out[place]
        elif kind == DELETE and len(out) > 5:
            del out[place]
        elif kind == INSERT and len(out) < max_len:
            out.insert(place, fresh[place])
    return out


def edited(strings: Strings, edits: torch.Tensor, fresh: torch.Tensor, max_len: int = 64) -> list[list[int]]:
    allowed = forbid_length_breaks(edits, strings.length, max_len)
    result = apply_edits(strings, allowed, fresh, VOCABULARY)
    for row, n in zip(result.tokens.tolist(), result.length.tolist(), strict=True):
        assert set(row[n:]) <= {VOCABULARY.pad}
    return [row[:n] for row, n in zip(result.tokens.tolist(), result.length.tolist(), strict=True)]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_edits_at_once_equal_edits_one_by_one(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(4, 18), min_size=1, max_size=10), min_size=1, max_size=4))
    strings = pad(rows, VOCABULARY)
    width = strings.tokens.shape[1]
    edits = torch.zeros_like(strings.tokens)
    for r, row in enumerate(rows):
        edits[r, 1 : len(row) + 1] = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=len(row), max_size=len(row))))
    fresh = torch.randint(4, 19, (len(rows), width), generator=generator(data.draw(st.integers(0, 99))))
    max_len = data.draw(st.integers(0, 14))
    expected = [
        one_by_one(strings.tokens[r, :n].tolist(), edits[r].tolist(), fresh[r].tolist(), max_len)
        for r, n in enumerate(strings.length.tolist())
    ]
    assert edited(strings, edits, fresh, max_len) == expected


@pytest.mark.parametrize(
    "kinds", [(SWAP,), (SWAP, DELETE), (SWAP, INSERT), (SWAP, MASK, KEEP), (DELETE, INSERT), tuple(range(6))]
)
def test_edits_at_once_equal_edits_one_by_one_under_dense_edits(kinds: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(kinds))
    for max_len in (0, 9, 14, 64):
        strings = pad([rng.integers(4, 19, rng.integers(1, 12)).tolist() for _ in range(300)], VOCABULARY)
        edits = torch.from_numpy(rng.choice(kinds, strings.tokens.shape)).where(strings.inner(), torch.tensor(KEEP))
        fresh = torch.from_numpy(rng.integers(4, 19, strings.tokens.shape))
        expected = [
            one_by_one(strings.tokens[r, :n].tolist(), edits[r].tolist(), fresh[r].tolist(), max_len)
            for r, n in enumerate(strings.length.tolist())
        ]
        assert edited(strings, edits, fresh, max_len) == expected


@pytest.mark.parametrize(
    ("text", "edits", "max_len", "expected"),
    [
        ("1=1", [0, DELETE, 0], 64, "1=1"),  # 5 tokens with BOS and EOS are the floor
        ("10=10", [DELETE] * 5, 64, "10="),  # the later positions use up the room
        ("10=10", [0, 0, 0, 0, SWAP], 64, "10=10"),  # nothing but EOS to the right of the last symbol
        ("10=10", [0, 0, 0, SWAP, SWAP], 64, "10=01"),  # so the run starts one earlier
        ("10=10", [SWAP, SWAP, SWAP, SWAP, 0], 64, "010=1"),  # a run carries one token to the left
        ("10=10", [0, 0, 0, SWAP, MASK], 64, "10=1?"),  # MASK cannot be swapped
        ("10=10", [0, 0, SWAP, DELETE, 0], 64, "100="),  # the neighbour after the deletion
        ("10=10", [INSERT, 0, 0, 0, INSERT], 64, "910=190"),
        ("10=10", [INSERT, 0, 0, 0, INSERT], 8, "10=190"),  # room for one: the later position
        ("10=10", [INSERT] * 5, 0, "10=10"),  # no insertions at all
        ("10=10", [0, SWAP, INSERT, 0, 0], 64, "190=10"),  # a swap takes the inserted token
    ],
)
def test_edge_cases_of_the_mixed_corruption(text: str, edits: list[int], max_len: int, expected: str) -> None:
    strings = same(text, 1)
    fresh = torch.full_like(strings.tokens, VOCABULARY.encode("9")[0])
    row = edited(strings, torch.tensor([[0, *edits, 0]]), fresh, max_len)[0]
    assert VOCABULARY.decode(row, "drop") == expected


def test_shares_and_number_of_edits_are_as_configured() -> None:
    n, config = 6000, NoiseConfig()
    strings = same("(+(*75)10)=45", n)  # 13 symbols
    sigma = torch.full((n,), 0.4)
    edits, fresh = draw_edits(strings, sigma, config, VOCABULARY, generator())
    assert (edits != KEEP).sum(1).eq(5).all()  # floor(0.4 * 13)
    counts = edits[edits != KEEP].bincount(minlength=6).tolist()
    shares = (config.mask_share, config.replace_share, config.swap_share, config.delete_share, config.insert_share)
    for count, share in zip(counts[1:], shares, strict=True):  # a share off by 0.023 (mask) or 0.012 (delete) is caught
        assert_share(count, 5 * n, share)
    for count in (edits != KEEP).sum(0)[1:14].tolist():  # every position alike
        assert_share(count, n, 5 / 13)
    drawn = fresh.flatten().bincount(minlength=len(VOCABULARY))
    assert set(drawn.nonzero()[:, 0].tolist()) == set(VOCABULARY.inner_ids)
    for token in VOCABULARY.inner_ids:
        assert_share(int(drawn[token]), fresh.numel(), 1 / 15)


def test_at_least_one_edit_and_the_same_count_as_double_arithmetic() -> None:
    for sigma in (0.0, 0.1, 0.2, 0.3, 0.7, 0.9, 1.0):
        strings = sample(60)
        edits, _ = draw_edits(strings, torch.full((60,), sigma), NoiseConfig(), VOCABULARY, generator())
        inner = (strings.length - 2).tolist()
        assert (edits != KEEP).sum(1).tolist() == [max(1, int(sigma * n)) for n in inner]


def exact_corruption(text: str, edits: int, config: NoiseConfig, vocabulary: Vocabulary, max_len: int) -> dict[str, float]:
    """The distribution of the mixed corruption by enumeration of places, kinds and fresh tokens."""
    row = [vocabulary.bos, *vocabulary.encode(text), vocabulary.eos]
    shares = [config.mask_share, config.replace_share, config.swap_share, config.delete_share, config.insert_share]
    places = list(itertools.combinations(range(1, len(row) - 1), edits))
    chances: dict[str, float] = Counter()
    for chosen in places:
        for kinds in itertools.product(range(1, 6), repeat=edits):
            for tokens in itertools.product(vocabulary.inner_ids, repeat=edits):
                kind, fresh = [KEEP] * len(row), [0] * len(row)
                for place, k, token in zip(chosen, kinds, tokens, strict=True):
                    kind[place], fresh[place] = k, token
                p = math.prod(shares[k - 1] for k in kinds) / len(places) / len(vocabulary.inner_ids) ** edits
                chances[vocabulary.decode(one_by_one(row, kind, fresh, max_len), "drop")] += p
    return chances


@pytest.mark.parametrize("max_len", [7, 8])
def test_the_whole_distribution_of_the_mixed_corruption_by_brute_force(max_len: int) -> None:
    vocabulary, config, n = Vocabulary.of("12=", digit=True), NoiseConfig(), 40_000
    exact = exact_corruption("12=21", 3, config, vocabulary, max_len)
    assert sum(exact.values()) == pytest.approx(1.0)
    strings = pad([vocabulary.encode("12=21")] * n, vocabulary)
    result = mixed_corruption(strings, torch.full((n,), 0.6), config, vocabulary, generator(), max_len)
    rows = zip(result.tokens.tolist(), result.length.tolist(), strict=True)
    seen = Counter(vocabulary.decode(row[:length], "drop") for row, length in rows)
    assert set(seen) <= set(exact)
    common = {text: p for text, p in exact.items() if n * p >= 20}
    assert len(common) > 60
    for text, p in common.items():  # a corruption of chance 0.01 that is off by 0.004 is caught
        assert_share(seen[text], n, p)
    rest = sum(exact.values()) - sum(common.values())
    assert_share(sum(seen[t] for t in seen if t not in common), n, rest)


def test_the_untouched_string_scores_what_the_reference_left_unreported() -> None:
    """At sigma 0.2 without insertions: 76.2% of positions right, 22% of lengths changed (that study: 200 strings)."""
    strings = sample(4000)
    result = mixed_corruption(strings, torch.full((4000,), 0.2), NoiseConfig(), VOCABULARY, generator(), max_len=0)
    assert float((result.length != strings.length).double().mean()) == pytest.approx(0.22, abs=0.04)
    width = min(strings.tokens.shape[1], result.tokens.shape[1])
    right = (result.tokens[:, :width] == strings.tokens[:, :width]) & strings.inner()[:, :width]
    accuracy = right.sum(1) / (strings.length - 2)
    assert float(accuracy.mean()) == pytest.approx(0.762, abs=0.03)


def test_shares_that_are_all_zero_are_an_error() -> None:
    config = NoiseConfig(mask_share=0, replace_share=0, swap_share=0, delete_share=0, insert_share=0)
    with pytest.raises(ConfigError, match="mask_share"):
        mixed_corruption(sample(2), torch.ones(2), config, VOCABULARY, None)


def test_a_share_of_zero_never_happens() -> None:
    config = NoiseConfig(mask_share=0.0, insert_share=0.0)
    edits, _ = draw_edits(sample(500), torch.ones(500), config, VOCABULARY, generator())
    assert set(edits.unique().tolist()) == {KEEP, REPLACE, SWAP, DELETE}


def test_corrupted_strings_lie_on_the_clean_length() -> None:
    clean = pad([VOCABULARY.encode(t) for t in ("10=10", "1=1", "(+11)=2")], VOCABULARY)
    corrupted = pad([VOCABULARY.encode(t) for t in ("10=", "1=100", "(+11)=2")], VOCABULARY)
    shown = on_canvas(corrupted, clean, VOCABULARY)
    text = [VOCABULARY.decode(row, "drop") for row in shown.tolist()]
    assert text == ["10=??", "1=1", "(+11)=2"]


@pytest.mark.parametrize("mode", ["mixed", "mask_only"])
def test_repair_canvases_score_every_symbol_and_tell_the_level(mode: str) -> None:
    strings = sample(300)
    canvas = repair_noise(strings, NoiseConfig(corruption_mode=mode), VOCABULARY, generator())
    inner = strings.inner()
    assert canvas.weights.equal(inner.float())
    assert canvas.targets[inner].equal(strings.tokens[inner])
    assert (canvas.targets[~inner] == IGNORE).all()
    assert canvas.tokens[~inner].equal(strings.tokens[~inner])
    assert (canvas.mode == REPAIR).all()
    assert canvas.sigma.min() >= 0.1
    assert canvas.sigma.std() > 0.1
    wrong = inner & (canvas.tokens != strings.tokens) & (canvas.tokens != VOCABULARY.mask)
    assert bool(wrong.any()) == (mode == "mixed")
    assert not torch.isin(canvas.tokens[inner], torch.tensor([0, 2, 3])).any()


def test_given_levels_are_used() -> None:
    strings, sigma = sample(40), torch.full((40,), 0.25)
    assert repair_noise(strings, FULL, VOCABULARY, generator(), sigma=sigma).sigma.equal(sigma)
    canvas = mask_noise(strings, FULL, VOCABULARY, generator(), sigma=sigma)
    assert (canvas.tokens == VOCABULARY.mask).sum(1).equal(((strings.length - 2) * 0.25).ceil().long())


# ------------------------------------------------------------------------------------------------- skeletons and mixtures


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
    assert (canvas.mode == SKELETON).all()
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
    assert len(mixture(strings, FULL, 0.0, 0.0, 0.0, "elbo", vocabulary, None)) == 1


def test_shares_are_exact_on_average_and_within_one_always() -> None:
    shares, n = (0.3, 0.15, 0.05), 10
    counts = torch.tensor([split_counts(n, shares, generator(seed)) for seed in range(3000)]).double()
    assert counts.sum(1).eq(n).all()
    expected = torch.tensor([3.0, 1.5, 0.5, 5.0], dtype=torch.float64)
    assert ((counts - expected).abs() <= 1).all()
    assert ((counts.mean(0) - expected).abs() <= 4.5 * 0.5 / math.sqrt(3000) + 1e-9).all()


def test_a_mixture_holds_every_string_once() -> None:
    strings = sample(101)
    canvas = mixture(strings, replace(FULL, ar_prefix_ratio=0.2), 0.3, 0.2, 0.1, "elbo", VOCABULARY, generator())
    assert canvas.tokens.shape == strings.tokens.shape
    assert sorted(canvas.length.tolist()) == sorted(strings.length.tolist())
    assert canvas.causal.equal(canvas.mode == CAUSAL)
    assert canvas.inner_tokens == int(strings.inner().sum())
    known = torch.where(canvas.targets != IGNORE, canvas.targets, canvas.tokens)[canvas.mode != SKELETON].tolist()
    clean = Counter(map(tuple, strings.tokens.tolist()))
    assert not Counter(map(tuple, known)) - clean
    assert len(known) == int((canvas.mode != SKELETON).sum()) >= 90


@pytest.mark.parametrize("shares", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.25, 0.25)])
def test_mixtures_of_one_mode_and_of_none_masked(shares: tuple[float, float, float]) -> None:
    for size in (1, 2, 9):
        canvas = mixture(sample(size), FULL, *shares, "elbo", VOCABULARY, generator())
        assert len(canvas) == size
        if 1 in shares:
            assert (canvas.mode == (CAUSAL, REPAIR, SKELETON)[shares.index(1)]).all()
        if sum(shares) == 1:
            assert not (canvas.mode == MASKED).any()


def test_shares_above_one_are_an_error() -> None:
    with pytest.raises(ConfigError, match="at most 1"):
        mixture(sample(4), FULL, 0.6, 0.3, 0.2, "elbo", VOCABULARY, None)


def test_mode_does_not_follow_the_order_of_the_batch() -> None:
    strings = sample(400)
    ordered = strings[strings.length.argsort()]
    canvas = mixture(ordered, FULL, 0.5, 0.0, 0.0, "elbo", VOCABULARY, generator())
    difference = canvas.length[canvas.causal].double().mean() - canvas.length[~canvas.causal].double().mean()
    assert abs(difference) < 4.5 * strings.length.double().std() / 10  # sorted halves would differ by about 16 errors


def test_noise_is_a_function_of_its_generator() -> None:
    strings = sample(64)

    def make(seed: int) -> Canvases:
        return mixture(strings, replace(FULL, ar_prefix_ratio=0.3), 0.3, 0.2, 0.1, "elbo", VOCABULARY, generator(seed))

    one, two, other = make(5), make(5), make(6)
    assert all(getattr(one, name).equal(getattr(two, name)) for name in Canvases.__dataclass_fields__)
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
