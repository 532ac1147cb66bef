"""Counter-based random numbers: uniform, independent over every counter, equal to themselves."""

from __future__ import annotations

import math

import pytest
import torch

from maskdiff.drawing.random import (
    Purpose,
    bits,
    gumbel,
    mix,
    new_keys,
    position_noise,
    token_noise,
    uniform,
)

N = 20000


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return new_keys(n, torch.Generator().manual_seed(seed))


def test_mix_is_splitmix64():
    """First outputs of splitmix64 from seed 0 (state advances by the golden ratio, output is the
    finaliser)."""
    golden = 0x9E3779B97F4A7C15
    states = [(golden * k) % 2**64 for k in (1, 2, 3)]
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in states])
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [x % 2**64 for x in mix(signed).tolist()] == expected


@pytest.mark.parametrize("axis", ["keys", "step", "position", "symbol"])
def test_uniform_along_every_counter(axis: str):
    """Mean, variance, 64-cell chi-square and lag-1 correlation, all within 4.5 standard errors.

    Consecutive counters.
    """
    one, run = torch.tensor([12345]), torch.arange(N)
    u = {
        "keys": lambda: uniform(run, 1, 2, 3),
        "step": lambda: uniform(one, 1, run, 3),
        "position": lambda: uniform(one, 1, 2, run),
        "symbol": lambda: uniform(one, 1, 2, 3, run),
    }[axis]()
    assert u.min() > 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4.5 * math.sqrt(1 / 12 / N)
    assert abs(u.var() - 1 / 12) < 4.5 * math.sqrt(1 / 180 / N)
    cells = torch.bincount((u * 64).long(), minlength=64).double()
    statistic = ((cells - N / 64) ** 2 / (N / 64)).sum()
    assert abs(statistic - 63) < 4.5 * math.sqrt(2 * 63)
    assert abs(torch.corrcoef(torch.stack((u[1:], u[:-1])))[0, 1]) < 4.5 / math.sqrt(N)


def test_negative_control_a_bad_hash_fails_the_same_statistics():
    """A plain multiplicative counter is caught by the correlation."""
    u = (torch.arange(N).double() * 0.01) % 1
    assert abs(torch.corrcoef(torch.stack((u[1:], u[:-1])))[0, 1]) > 4.5 / math.sqrt(N)


def test_every_bit_flips_half_of_the_output():
    """Avalanche: flipping one bit of key or counter flips 32 of 64 output bits on average."""
    base = bits(keys(500), 7, 9)
    for flipped in (
        bits(keys(500) ^ 1, 7, 9),
        bits(keys(500) ^ (1 << 40), 7, 9),
        bits(keys(500), 6, 9),
        bits(keys(500), 7, 8),
    ):
        ones = sum(((base ^ flipped) >> b & 1).double() for b in range(64))
        assert abs(ones.mean() - 32) < 1.0


def test_python_and_tensor_counters_agree_and_purposes_differ():
    k = keys(10)
    assert torch.equal(uniform(k, 3, 5), uniform(k, 3, torch.tensor(5)))
    numbers = torch.stack([uniform(k, int(p), 5) for p in Purpose])
    assert len(numbers.unique()) == numbers.numel()


def test_gumbel_max_draws_the_distribution():
    """Chi-square of 20,000 argmax draws: z < 4."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    draws = (p.log() + gumbel(keys(N)[:, None], 1, torch.arange(4))).argmax(1)
    counts = torch.bincount(draws, minlength=4).double()
    statistic = float(((counts - N * p) ** 2 / (N * p)).sum())
    assert statistic < 3 + 4 * math.sqrt(6)


def test_noise_ignores_batch_width_and_order():
    k, visits = keys(5), torch.zeros(5, 9, dtype=torch.int64)
    full = token_noise(k, visits, 0, torch.arange(9), 7)
    assert torch.equal(
        full[2:3, 4:5], token_noise(k[2:3], visits[2:3, 4:5], 0, torch.tensor([4]), 7)
    )
    wide, narrow = (position_noise(k, Purpose.ORDER, torch.ones_like(k), w) for w in (20, 6))
    assert torch.equal(wide[:, :6], narrow)


def test_keys_do_not_depend_on_how_many_are_drawn():
    assert torch.equal(keys(3), keys(10)[:3])
    assert len(keys(1000).unique()) == 1000
