"""The distribution of the lengths of the generator's strings, and the share of draws that fit.

The length of the expression follows exactly by dynamic programming over (depth, length). The number
of digits of the value depends on the value. For each (depth, length) the values are kept exactly
while there are at most `POOL` of them. Beyond that, a pool of up to `POOL` equally likely draws
represents them, each made from the pools of its arguments with a fixed seed: a Monte Carlo
estimate, stratified by exact lengths. Small languages are exact (`LengthTable.exact`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskdiff.config import LanguageConfig
from maskdiff.languages.arithmetic.grammar import COIN, Grammar, apply_operator, checked_grammar

Array = NDArray[Any]

POOL = 16384  # values of one (depth, length)
CELLS = 8_000_000  # values of all; bounds the memory for long strings
OUTER = 2**18  # pairs of values that are combined exactly
SEED = 20240611
STORED = Path(__file__).with_name("default_lengths.json")  # of the default language
# The options that the generator reads.
GENERATOR_OPTIONS = (
    "notation", "operators", "min_int", "max_int", "min_depth", "max_depth", "separator", "max_len"
)  # fmt: skip
_POWERS = np.power(10.0, np.arange(1, 150))
_LARGEST = 1e149  # values are clipped, so that their squares are finite


@dataclass(frozen=True)
class LengthTable:
    """A distribution of lengths.

    Attributes:
        probs: The probability of each length after rejection, (max_len - 1,).
        acceptance: The probability that a draw fits.
        exact: Whether both are exact up to rounding.
    """

    probs: Array
    acceptance: float
    exact: bool


@dataclass
class _Values:
    """The values of the expressions of one (depth, length) with weights that sum to 1."""

    values: Array
    weights: Array
    exact: bool


@lru_cache(maxsize=32)
def length_table(config: LanguageConfig) -> LengthTable:
    """Return the length distribution of a language.

    That of the default language is read from `default_lengths.json`; others take about a second,
    once per process.
    """
    if all(getattr(config, name) == getattr(LanguageConfig, name) for name in GENERATOR_OPTIONS):
        stored = json.loads(STORED.read_text(encoding="utf-8"))
        return LengthTable(np.array(stored["probs"]), stored["acceptance"], stored["exact"])
    return compute_length_table(config)


def compute_length_table(config: LanguageConfig) -> LengthTable:
    """Return the length distribution of a language without the file."""
    grammar = checked_grammar(config)
    room = config.max_len - 2
    longest = room - 2  # '=' and a digit follow the expression
    lengths = expression_lengths(config, grammar, longest)
    values = _all_values(config, grammar, lengths)
    probs = np.zeros(room + 1)
    exact = True
    depths = range(config.min_depth, config.max_depth + 1)
    for d in depths:
        for m in np.flatnonzero(lengths[d]):
            state = values[d][int(m)]
            total = int(m) + 1 + _digits(state.values)
            fits = total <= room
            share = lengths[d][m] / len(depths)
            probs += share * np.bincount(
                total[fits], weights=state.weights[fits], minlength=room + 1
            )
            exact &= state.exact
    acceptance = float(probs.sum())
    return LengthTable(probs / acceptance, acceptance, exact)


def expression_lengths(config: LanguageConfig, grammar: Grammar, longest: int) -> Array:
    """Return P(expression of m symbols | depth d), (max_depth + 1, longest + 1), exact."""
    operands = np.zeros(longest + 1)
    for m in range(1, min(longest, len(str(grammar.max_int))) + 1):
        low, high = _operand_range(grammar, m)
        operands[m] = max(0, high - low + 1) / grammar.operands
    table = np.zeros((config.max_depth + 1, longest + 1))
    table[0] = operands
    extra = grammar.brackets
    for d in range(1, config.max_depth + 1):
        pairs = np.convolve(table[d - 1], table[:d].mean(axis=0))[: longest + 1]
        table[d] = COIN * operands
        table[d, extra:] += (1.0 - COIN) * pairs[: max(0, longest + 1 - extra)]
    return table


def _operand_range(grammar: Grammar, digits: int) -> tuple[int, int]:
    """The smallest and largest operand with `digits` digits; there is none if they are reversed."""
    low = max(grammar.min_int, 10 ** (digits - 1) if digits > 1 else 0)
    return low, min(grammar.max_int, 10**digits - 1)


def _digits(values: Array) -> Array:
    """The number of symbols of each value, its sign included."""
    digits: Array = np.searchsorted(_POWERS, np.abs(values), side="right") + 1 + (values < 0)
    return digits


def _all_values(
    config: LanguageConfig, grammar: Grammar, lengths: Array
) -> list[dict[int, _Values]]:
    """The values of every (depth, length) that occurs."""
    rng = np.random.default_rng(SEED)
    size = int(np.clip(CELLS // max(1, lengths.size), 256, POOL))
    pools = np.zeros((*lengths.shape, size))  # (depth, length, draw): equally likely draws
    states: list[dict[int, _Values]] = []
    for d in range(lengths.shape[0]):
        states.append({})
        for m in (int(m) for m in np.flatnonzero(lengths[d])):
            parts = _parts(d, m, grammar, lengths)
            exact = _exact(parts, m, grammar, states, size)
            state = states[d][m] = exact or _resampled(parts, m, grammar, pools, rng)
            pools[d, m] = state.values[_systematic(state.weights, size, rng)]
    return states


@dataclass
class _Parts:
    """The derivations of an expression of given depth and length; probabilities sum to 1."""

    leaf: float  # of an operand
    mass: Array  # (ways,) of each pair of arguments
    arguments: Array  # (ways, 4) depth and length of the first argument, and of the second


def _parts(d: int, m: int, grammar: Grammar, lengths: Array) -> _Parts:
    low, high = _operand_range(grammar, m)
    leaf = (1.0 if d == 0 else COIN) * max(0, high - low + 1) / grammar.operands
    inner = m - grammar.brackets
    if d == 0 or inner < 2:
        return _Parts(1.0, np.empty(0), np.empty((0, 4), dtype=np.int64))
    first = lengths[d - 1, : inner + 1]
    # (other depth, length of the first argument)
    masses = first * lengths[:d, : inner + 1][:, ::-1] * (1.0 - COIN) / d
    other, length = np.nonzero(masses)
    mass = masses[other, length]
    total = leaf + mass.sum()
    arguments = np.stack([np.full_like(other, d - 1), length, other, inner - length], axis=1)
    return _Parts(leaf / total, mass / total, arguments)


def _combine(operator: str, first: Array, second: Array) -> Array:
    return apply_operator(operator, first, second).clip(-_LARGEST, _LARGEST)


def _exact(
    parts: _Parts, m: int, grammar: Grammar, states: list[dict[int, _Values]], size: int
) -> _Values | None:
    """All values with exact weights; None if there are too many."""
    low, high = _operand_range(grammar, m)
    leaf = parts.leaf
    if (leaf > 0 and high - low >= size) or len(parts.mass) > size:
        return None
    pairs = [(states[a][i], states[b][j]) for a, i, b, j in parts.arguments.tolist()]
    if not all(x.exact and y.exact for x, y in pairs):
        return None
    if 2 * len(grammar.operators) * sum(len(x.values) * len(y.values) for x, y in pairs) > OUTER:
        return None
    values, weights = [np.empty(0)], [np.empty(0)]
    if leaf > 0:
        values.append(np.arange(low, high + 1, dtype=float))
        weights.append(np.full(high - low + 1, leaf / (high - low + 1)))
    for mass, (x, y) in zip(parts.mass.tolist(), pairs, strict=True):
        share = np.outer(x.weights, y.weights).ravel() * mass / (2 * len(grammar.operators))
        first, second = np.repeat(x.values, len(y.values)), np.tile(y.values, len(x.values))
        for operator in grammar.operators:
            values += [_combine(operator, first, second), _combine(operator, second, first)]
            weights += [share, share]
    distinct, index = np.unique(np.concatenate(values), return_inverse=True)
    if len(distinct) > size:
        return None
    return _Values(distinct, np.bincount(index.ravel(), weights=np.concatenate(weights)), True)


def _resampled(
    parts: _Parts, m: int, grammar: Grammar, pools: Array, rng: np.random.Generator
) -> _Values:
    """A pool of equally likely values, each computed from the pools of its arguments."""
    size = pools.shape[-1]
    # Draw the ways (0 is an operand) and the arguments.
    part = _systematic(np.concatenate([[parts.leaf], parts.mass]), size, rng)  # (draw,)
    table = np.concatenate([np.zeros((1, 4), dtype=np.int64), parts.arguments])[part]  # (draw, 4)
    first = pools[table[:, 0], table[:, 1], rng.integers(size, size=size)]
    second = pools[table[:, 2], table[:, 3], rng.integers(size, size=size)]
    swap = rng.random(size) < 0.5
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    # Draw the operators, and compute the values.
    operator = rng.integers(len(grammar.operators), size=size)
    values = np.select(
        [operator == i for i in range(len(grammar.operators))],
        [_combine(o, first, second) for o in grammar.operators],
    )
    low, high = _operand_range(grammar, m)
    if parts.leaf > 0:
        values = np.where(part == 0, rng.integers(low, high + 1, size=size).astype(float), values)
    return _Values(values, np.full(size, 1.0 / size), False)


def _systematic(weights: Array, size: int, rng: np.random.Generator) -> Array:
    """Systematic resampling: index i occurs size * weights[i] times, rounded at random, (size,)."""
    edges = np.cumsum(weights)
    points = (rng.random() + np.arange(size)) * (edges[-1] / size)
    index: Array = np.minimum(np.searchsorted(edges, points, side="right"), len(weights) - 1)
    return index
