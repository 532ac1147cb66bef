"""Open canvases: their end, their blanks and weights; and mixtures with some of them.

The b tokens that are noised show in the weights: k hidden tokens of weight b/k. Statistical
assertions allow 4.5 standard errors, as in helpers/noise.py, and state what is caught.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from maskdiff.config import NoiseConfig
from maskdiff.data import pack
from maskdiff.errors import ConfigError
from maskdiff.noise import IGNORE, MODES, Canvases, Strings, open_noise, pad
from maskdiff.noise.modes import split_counts
from maskdiff.noise.open_ended import RUN_ON
from tests.helpers.noise import (
    CAUSAL,
    FULL,
    MASKED,
    OPEN,
    VOCABULARY,
    assert_share,
    generator,
    mixed,
    same,
    sample,
)

INDEPENDENT = replace(FULL, low_discrepancy=False)


def blocks(canvas: Canvases) -> Tensor:
    """b of every canvas of ELBO weights."""
    return canvas.weights.sum(1).round().long()


def equal(one: Canvases, two: Canvases) -> bool:
    return all(getattr(one, f.name).equal(getattr(two, f.name)) for f in fields(Canvases))


def filled(canvas: Canvases) -> Tensor:
    """The tokens with the hidden ones in their places."""
    return torch.where(canvas.targets != IGNORE, canvas.targets, canvas.tokens)


@pytest.mark.parametrize("max_len", [0, 64, 80])
@pytest.mark.parametrize("config", [FULL, NoiseConfig(), replace(INDEPENDENT, sigma_min=0.7)])
def test_hidden_tokens_are_within_the_last_b_and_nothing_else_is_a_target(
    config: NoiseConfig, max_len: int
) -> None:
    strings = sample(500)
    canvas = open_noise(strings, config, VOCABULARY, generator(), max_len=max_len)
    b, hidden = blocks(canvas), canvas.tokens == VOCABULARY.mask
    at = torch.arange(canvas.tokens.shape[1])
    assert ((b >= 1) & (b <= canvas.length - 1)).all()
    within = (at >= (canvas.length - b)[:, None]) & (at < canvas.length[:, None])
    assert not (hidden & ~within).any()
    assert not hidden[:, 0].any()
    assert hidden.equal(canvas.targets != IGNORE)
    assert hidden.equal(canvas.weights > 0)
    assert hidden.any(1).all()
    k = hidden.sum(1)
    assert torch.allclose(
        canvas.weights[hidden], (b / k)[:, None].expand_as(hidden)[hidden].float()
    )
    assert canvas.open_end.all()
    assert not canvas.causal.any()
    assert (canvas.sigma == 0).all()
    assert (canvas.tokens[at >= canvas.length[:, None]] == VOCABULARY.pad).all()


def test_a_canvas_is_the_string_cut_or_run_on_as_eos() -> None:
    """EOS follows the EOS of the string, up to RUN_ON times; some canvases are cut."""
    strings = sample(800)
    canvas = open_noise(strings, FULL, VOCABULARY, generator())
    known, width = filled(canvas), strings.tokens.shape[1]
    assert known.shape[1] == width + RUN_ON
    own = torch.nn.functional.pad(
        strings.tokens.masked_fill(~strings.valid(), VOCABULARY.eos),
        (0, RUN_ON),
        value=VOCABULARY.eos,
    )
    shown = torch.arange(width + RUN_ON) < canvas.length[:, None]
    assert known.equal(own.masked_fill(~shown, VOCABULARY.pad))
    beyond = canvas.length - strings.length
    assert beyond.max() == RUN_ON
    assert (beyond < 0).sum() > 100
    assert (beyond > 0).sum() > 100
    ends = (known == VOCABULARY.eos).sum(1)
    assert ends.equal((beyond + 1).clamp(min=0))


def test_the_clean_strings_do_not_change() -> None:
    strings = sample(100)
    before = strings.tokens.clone(), strings.length.clone()
    open_noise(strings, FULL, VOCABULARY, generator())
    mixed(strings, generator(), 0.2, 0.2, 0.2, 0.3)
    assert (strings.tokens.equal(before[0]), strings.length.equal(before[1])) == (True, True)


@pytest.mark.parametrize("extra", [0, 1, 5, RUN_ON, 30])
def test_no_canvas_is_longer_than_the_longest(extra: int) -> None:
    strings = same("(+(*75)10)=45", 2000)
    most = strings.tokens.shape[1] + extra
    canvas = open_noise(strings, FULL, VOCABULARY, generator(), max_len=most)
    assert canvas.tokens.shape[1] == strings.tokens.shape[1] + min(extra, RUN_ON)
    assert int(canvas.length.max()) == canvas.tokens.shape[1] <= most
    assert int(canvas.length.min()) == 2
    assert (
        open_noise(strings, FULL, VOCABULARY, generator(), max_len=5).tokens.shape
        == strings.tokens.shape
    )  # it cuts nothing


def test_how_far_a_string_runs_on_does_not_depend_on_the_batch() -> None:
    """Beside a string of maximal length, and alone."""
    short, long = "(+75)=12", "(+(+(+(+75)5)5)5)=27"
    both = pad([VOCABULARY.encode(text) for text in [short, long] * 3000], VOCABULARY)
    most = len(long) + 2
    mixed = open_noise(both, INDEPENDENT, VOCABULARY, generator(), max_len=most)
    assert mixed.tokens.shape[1] == most
    assert int(mixed.length[1::2].max()) == most
    alone = open_noise(same(short, 3000), INDEPENDENT, VOCABULARY, generator(1), max_len=most)
    for canvas in (mixed[slice(0, None, 2)], alone):  # a share of 1/17 off by 0.035 is caught
        ends = (canvas.length - 1).bincount(minlength=len(short) + 2 + RUN_ON)
        assert len(ends) == len(short) + 2 + RUN_ON
        for count in ends[1:].tolist():
            assert_share(count, 3000, 1 / (len(short) + 1 + RUN_ON))


def test_shortest_strings() -> None:
    canvas = open_noise(
        Strings(torch.tensor([[VOCABULARY.bos, VOCABULARY.eos]]), torch.tensor([2])),
        FULL,
        VOCABULARY,
        generator(),
        max_len=2,
    )
    assert canvas.tokens.tolist() == [[VOCABULARY.bos, VOCABULARY.mask]]
    assert canvas.targets.tolist() == [[IGNORE, VOCABULARY.eos]]
    assert canvas.weights.tolist() == [[0.0, 1.0]]


def test_places_blocks_and_counts_have_the_promised_distributions() -> None:
    """A share of 1/16 off by 0.008, or of 1/2 off by 0.016, is caught."""
    n = 60_000
    canvas = open_noise(same("(+75)=12", n), INDEPENDENT, VOCABULARY, generator())
    longest = len("(+75)=12") + 1 + RUN_ON
    end, b, k = canvas.length - 1, blocks(canvas), (canvas.targets != IGNORE).sum(1)
    for count in end.bincount(minlength=longest + 1)[
        1:
    ].tolist():  # the place of the last token is uniform
        assert_share(count, n, 1 / longest)
    for most in (1, 2, 7, longest):  # P(b >= j) is 1 - log j / log(most + 1)
        here = b[end == most]
        for j in range(1, most + 2):
            assert_share(int((here >= j).sum()), len(here), 1 - math.log(j) / math.log(most + 1))
    for size in (1, 2, 3, 5):  # k is uniform on 1..b
        for count in k[b == size].bincount(minlength=size + 1)[1:].tolist():
            assert_share(count, int((b == size).sum()), 1 / size)


@pytest.mark.slow
def test_weights_make_the_expected_sum_that_of_the_elbo() -> None:
    """Given the block, each of its tokens has the expected weight 1, and the sum is b on average.

    A weight off by 0.13 is caught. With weights of 1 the sum is (b + 1) / 2: the control.
    """
    n = 120_000
    strings = same("(+75)=12", n)
    canvas = open_noise(strings, INDEPENDENT, VOCABULARY, generator())
    uniform = open_noise(strings, INDEPENDENT, VOCABULARY, generator(), "uniform")
    assert uniform.tokens.equal(canvas.tokens)
    assert uniform.weights.equal((uniform.targets != IGNORE).float())
    b = blocks(canvas)
    assert torch.allclose(canvas.weights.sum(1), b.float())  # of each canvas, k times b / k
    rows = b == 4
    last = (canvas.length[rows] - 4)[:, None] + torch.arange(4)
    weights = canvas.weights[rows].gather(1, last).double()  # (rows, 4)
    assert len(weights) > 4000
    errors = (weights.mean(0) - 1).abs() / (weights.std(0) / math.sqrt(len(weights)))
    assert (errors < 4.5).all()
    assert abs(float(uniform.weights[rows].sum(1).mean()) - 2.5) < 0.1
    cost = torch.tensor(
        [0.1, 1.0, 3.0, 0.5], dtype=torch.float64
    )  # of a model that does not look at its input
    sums = (weights * cost).sum(1)
    assert abs(float(sums.mean() - cost.sum())) < 4.5 * float(sums.std()) / math.sqrt(len(sums))


@pytest.mark.slow
def test_all_subsets_of_a_block_are_equally_likely() -> None:
    canvas = open_noise(same("(+75)=12", 120_000), INDEPENDENT, VOCABULARY, generator())
    b, hidden = blocks(canvas), canvas.targets != IGNORE
    rows = (b == 3) & (hidden.sum(1) == 2)
    shown = (
        hidden[rows].gather(1, (canvas.length[rows] - 3)[:, None] + torch.arange(3))
        * torch.tensor([4, 2, 1])
    ).sum(1)
    counts = shown.bincount(minlength=8)
    assert counts.nonzero()[:, 0].tolist() == [3, 5, 6]
    for count in counts[[3, 5, 6]].tolist():  # a share off by 0.08 of 0.33 is caught
        assert_share(count, int(counts.sum()), 1 / 3)


def test_open_noise_is_a_function_of_its_generator() -> None:
    strings = sample(200)
    state = torch.get_rng_state()
    one, two, other = (
        open_noise(strings, NoiseConfig(), VOCABULARY, generator(seed)) for seed in (5, 5, 6)
    )
    assert equal(one, two)
    assert not one.length.equal(other.length)
    assert torch.get_rng_state().equal(state)  # the global generator is not touched
    with_level = open_noise(
        strings, replace(NoiseConfig(), sigma_input="level"), VOCABULARY, generator(5)
    )
    assert with_level.tokens.equal(one.tokens)
    assert with_level.sigma.max() > 0.5
    uniform = open_noise(strings, NoiseConfig(), VOCABULARY, generator(5), "uniform")
    assert (uniform.tokens.equal(one.tokens), uniform.length.equal(one.length)) == (True, True)


# ----------------------------------------------------------------------------------------- mixtures


@pytest.mark.parametrize(
    "shares", [(0.3, 0.15, 0.05), (0.0, 0.0, 0.0), (0.5, 0.25, 0.25), (1 / 3, 1 / 3, 0.0)]
)
def test_a_mode_without_share_changes_nothing(
    shares: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = replace(FULL, ar_prefix_ratio=0.2)
    drawn = []
    for seed in range(12):
        strings = sample(1 + 5 * seed, seed)
        canvas = mixed(strings, generator(seed), *shares, 0.0, noise=noise, cut_rows=0.1)
        assert canvas.tokens.shape[1] == strings.tokens.shape[1]
        drawn.append((strings, canvas))
    monkeypatch.delitem(MODES, "open")
    for seed, (strings, canvas) in enumerate(drawn):
        four = mixed(strings, generator(seed), *shares, noise=noise, cut_rows=0.1)
        assert equal(four, canvas)


@pytest.mark.slow
def test_shares_with_open_strings_are_exact_on_average_and_within_one_always() -> None:
    """400 batches of 10; a mean that is off by 0.2 of a string is caught."""
    strings, shares = sample(10), (0.2, 0.15, 0.05, 0.33)
    config = replace(FULL, corruption_mode="mask_only")
    drawings = [mixed(strings, generator(seed), *shares, noise=config) for seed in range(400)]
    counts = torch.stack([canvas.mode.bincount(minlength=5) for canvas in drawings]).double()
    drawn = torch.tensor(
        [split_counts(10, shares, generator(seed)) for seed in range(400)]
    ).double()
    assert counts.equal(drawn[:, [4, 0, 1, 2, 3]])  # masked first, as in MODES
    expected = torch.tensor([2.7, 2.0, 1.5, 0.5, 3.3], dtype=torch.float64)
    assert counts.sum(1).eq(10).all()
    assert ((counts - expected).abs() < 1 + 1e-9).all()
    assert ((counts.mean(0) - expected).abs() <= 4.5 * 0.5 / math.sqrt(400) + 1e-9).all()


@pytest.mark.parametrize("max_len", [64, 200])
def test_a_mixture_with_open_strings_holds_every_string_once_at_one_width(max_len: int) -> None:
    strings = sample(101)
    canvas = mixed(strings, generator(), 0.3, open=0.4, max_len=max_len)
    assert canvas.tokens.shape == canvas.targets.shape == canvas.weights.shape
    assert (
        strings.tokens.shape[1]
        <= canvas.tokens.shape[1]
        <= min(max_len, strings.tokens.shape[1] + RUN_ON)
    )
    assert canvas.mode.equal(canvas.mode.sort().values)  # in the order of MODES
    assert canvas.causal.equal(canvas.mode == CAUSAL)
    whole, cut = canvas[canvas.mode != OPEN], canvas[canvas.mode == OPEN]
    assert len(cut) in (40, 41)
    clean = [VOCABULARY.decode(row, "drop") for row in strings.tokens.tolist()]
    texts = [VOCABULARY.decode(row, "drop") for row in filled(whole).tolist()]
    for row, length in zip(filled(cut).tolist(), cut.length.tolist()):
        begun = VOCABULARY.decode(row[1:length]).replace("<EOS>", "")
        texts.append(next(text for text in clean if text.startswith(begun)))
    assert len(texts) == 101
    assert not set(texts[: len(whole)]) - set(clean)
    assert int(cut.length.max()) <= max_len


@pytest.mark.parametrize("size", [1, 2, 9])
def test_a_mixture_of_open_strings_alone(size: int) -> None:
    canvas = mixed(sample(size), generator(), open=1.0)
    assert (canvas.mode == OPEN).all()
    assert len(canvas) == size


def test_shares_with_open_strings_above_one_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"add up to 1\.1: they may add up to at most 1"):
        mixed(sample(4), None, 0.5, 0.2, 0.1, 0.3)


def test_widened_canvases_are_the_same_and_padding() -> None:
    strings = sample(60)
    canvas = mixed(strings, generator(), 0.3, 0.2, 0.1)
    width = canvas.tokens.shape[1]
    wide = canvas.widened(width + 7, VOCABULARY.pad)
    for name, empty in (("tokens", VOCABULARY.pad), ("targets", IGNORE), ("weights", 0.0)):
        before, after = getattr(canvas, name), getattr(wide, name)
        assert after[:, :width].equal(before)
        assert after.dtype == before.dtype
        assert after.shape == (60, width + 7)
        assert (after[:, width:] == empty).all()
    for name in ("sigma", "causal", "length", "open_end", "mode"):
        assert getattr(wide, name).equal(getattr(canvas, name))
    assert equal(canvas.widened(width, VOCABULARY.pad), canvas)
    one, two = pack(canvas, 64), pack(wide, 64)
    assert all(getattr(one, f.name).equal(getattr(two, f.name)) for f in fields(one))
    assert canvas.tokens.shape[1] == width


@pytest.mark.parametrize("width", [64, 100])
def test_packed_rows_hold_open_canvases_whole(width: int) -> None:
    canvas = mixed(sample(80), generator(), 0.2, 0.2, 0.1, 0.4, max_len=width)
    packed = pack(canvas, width)
    assert packed.tokens.shape[1] == width
    here = packed.segment >= 0
    assert int(here.sum()) == int(canvas.length.sum())
    opens = packed.mode == OPEN
    assert int(opens.sum()) == int(canvas.length[canvas.mode == OPEN].sum())
    assert int((opens & (packed.position == 0)).sum()) == int((canvas.mode == OPEN).sum())
    starts = opens & (packed.position == 0)
    assert (
        (packed.from_end[starts] + 1)
        .sort()
        .values.equal(canvas.length[canvas.mode == OPEN].sort().values)
    )
    assert (packed.tokens[starts] == VOCABULARY.bos).all()
    for name in ("weights", "targets"):
        empty = {"weights": 0.0, "targets": IGNORE}[name]
        before, after = getattr(canvas, name), getattr(packed, name)
        assert before[before != empty].double().sum() == after[after != empty].double().sum()
        assert int((before != empty).sum()) == int((after != empty).sum())
    assert int((packed.mode == MASKED).sum()) == int(canvas.length[canvas.mode == MASKED].sum())
