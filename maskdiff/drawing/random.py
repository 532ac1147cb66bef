"""Counter-based random numbers: a pure function of (key, counters), with no state.

The result of a string depends on its own key alone, never on its batch, its padding or the device.
Two uses of one (key, counters) tuple are the same number, so every use has its own `Purpose`.
(Noise of training comes from a `torch.Generator`.)

The hash is the finaliser of splitmix64 (Steele, Lea and Flood 2014), chained over the counters;
int64 arithmetic wraps.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class Purpose(IntEnum):
    """The uses of random numbers; no two of them share numbers."""

    TOKEN = 1  # Gumbel noise of the token distribution, one per (position, symbol)
    ORDER = 2  # ranking of positions in a random order
    CHOICE = 3  # Gumbel noise on the confidence of a position (MaskGIT)
    COUNT = 4  # how many tokens an ancestral step commits
    REMASK = 5  # which committed tokens are hidden again
    SPAN = 6  # how a span of symbols is derived (joint draws under a grammar)
    TRIGGER = 7  # whether a step of an answer gets more candidates, in the random control
    RETRY = 8  # the key of a string that is drawn again


def _signed(value: int) -> int:
    """The int64 with the bits of the unsigned 64-bit `value`."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's `>>` on int64 copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64, a bijection of int64."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def bits(keys: Tensor, *counters: Tensor | int) -> Tensor:
    """64 random bits for every broadcast element of `keys` and `counters` (all int64)."""
    state = mix(keys + _GOLDEN)
    for counter in counters:
        stride = (counter + 1) * _GOLDEN
        state = mix(state + (stride if isinstance(stride, Tensor) else _signed(stride % (1 << 64))))
    return state


def uniform(keys: Tensor, *counters: Tensor | int) -> Tensor:
    """Numbers in the open interval (0, 1): float64, or float32 on mps, which has no float64."""
    raw = bits(keys, *counters)
    if raw.device.type == "mps":
        return (_shift(raw, 41).float() + 0.5) * 2.0**-23
    # One bit fewer than the mantissa: never rounds to 1.
    return (_shift(raw, 12).double() + 0.5) * 2.0**-52


def gumbel(keys: Tensor, *counters: Tensor | int) -> Tensor:
    """Standard Gumbel numbers; argmax(log p + gumbel) is a draw from p."""
    return gumbel_of(uniform(keys, *counters))


def gumbel_of(uniforms: Tensor) -> Tensor:
    """Standard Gumbel numbers of numbers in (0, 1)."""
    return -torch.log(-torch.log(uniforms))


def token_noise(
    keys: Tensor, visits: Tensor, step: Tensor | int, positions: Tensor, vocab_size: int
) -> Tensor:
    """(batch, n, vocab) Gumbel noise of every string, position and symbol.

    Args:
        keys: (batch,).
        visits: (batch, n) how often each position was hidden again.
        step: (batch,) evaluations; 0 for noise that is the same in all of them.
        positions: (n,) counted from BOS.
        vocab_size: Tokens of the vocabulary.
    """
    symbols = torch.arange(vocab_size, device=keys.device)
    when = step[:, None, None] if isinstance(step, Tensor) else step
    return gumbel(
        keys[:, None, None],
        int(Purpose.TOKEN),
        when,
        visits[:, :, None],
        positions[None, :, None],
        symbols,
    )


def next_token_noise(
    keys: Tensor, positions: Tensor, vocab_size: int, visits: Tensor | None = None
) -> Tensor:
    """(rows, vocab) the same noise of one position (rows,) of each string."""
    when = 0 if visits is None else visits[:, None]
    symbols = torch.arange(vocab_size, device=keys.device)
    return gumbel(keys[:, None], int(Purpose.TOKEN), 0, when, positions[:, None], symbols)


def position_noise(keys: Tensor, purpose: Purpose, step: Tensor, width: int) -> Tensor:
    """(batch, width) uniform numbers; keys and steps (batch,)."""
    positions = torch.arange(width, device=keys.device)
    return uniform(keys[:, None], int(purpose), step[:, None], positions)


def span_noise(keys: Tensor, step: Tensor, width: int) -> Tensor:
    """(batch, n, n + 1) uniform numbers of every span of strings of up to n + 2 = `width` tokens.

    Indices are the first symbol and the number of symbols, where 0 is the symbol itself. Keys and
    steps are (batch,).
    """
    starts = torch.arange(width - 2, device=keys.device)
    sizes = torch.arange(width - 1, device=keys.device)
    return uniform(
        keys[:, None, None], int(Purpose.SPAN), step[:, None, None], starts[:, None], sizes
    )


def new_keys(count: int, generator: torch.Generator | None = None) -> Tensor:
    """(count,) int64 random keys on the CPU, one a string; key i does not depend on `count`."""
    high, low = torch.randint(0, 1 << 32, (count, 2), generator=generator).unbind(1)
    return (high << 32) ^ low
