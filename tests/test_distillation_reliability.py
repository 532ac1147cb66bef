"""Labels of tokens and the area under a ROC curve, against their definitions; a teacher who knows, one who does not, one who lies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from distillation_helpers import planted

from maskdiff.distillation.reliability import area, token_labels


def by_pairs(signal: np.ndarray, right: np.ndarray) -> float:
    """The share of pairs of a right and a wrong token in which the right one has more, ties counting half."""
    known = np.isfinite(signal) & np.isfinite(right)
    pairs = list(itertools.product(signal[known & (right == 1)], signal[known & (right == 0)]))
    return float(np.mean([1.0 if good > bad else 0.5 if good == bad else 0.0 for good, bad in pairs])) if pairs else math.nan


@pytest.mark.parametrize("seed", range(40))
def test_the_area_is_that_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signal = rng.integers(-3, 4, 30).astype(float)  # with ties
    right = rng.choice([0.0, 1.0, np.nan], 30, p=[0.3, 0.5, 0.2])
    signal[rng.random(30) < 0.1] = np.nan
    assert area(signal, right) == pytest.approx(by_pairs(signal, right), abs=1e-12, nan_ok=True)


def test_who_knows_who_does_not_and_who_lies() -> None:
    """2,000 tokens; of a signal that knows nothing the area has a standard deviation of 0.014."""
    rng = np.random.default_rng(0)
    right = (rng.random(2000) < 0.7).astype(float)
    assert area(right, right) == 1.0
    assert area(-right, right) == 0.0
    assert area(rng.normal(size=2000), right) == pytest.approx(0.5, abs=0.07)
    assert math.isnan(area(rng.normal(size=5), np.ones(5)))


def test_labels_of_tokens_are_those_of_their_symbols() -> None:
    """A letter a token here: the end says nothing, and has no label."""
    labels = token_labels(planted(), [True, False, None, True], (1, 2, 3, 4, 0))
    assert labels[:2].tolist() == [1.0, 0.0]
    assert np.isnan(labels[2])
    assert labels[3] == 1.0
    assert np.isnan(labels[4])
