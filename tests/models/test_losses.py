"""Losses against arithmetic by hand and against enumeration."""

from __future__ import annotations

import itertools
import math

import torch

from maskdiff.models.losses import sums_by, token_nll, weighted_nll
from maskdiff.noise import IGNORE


def test_token_nll_is_minus_log_softmax_and_zero_where_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator)
    targets = torch.tensor([[0, 4, IGNORE], [IGNORE, 2, 3]])
    nll = token_nll(logits, targets)
    for i, j in itertools.product(range(2), range(3)):
        t = int(targets[i, j])
        expected = 0.0 if t == IGNORE else float(logits[i, j].exp().sum().log() - logits[i, j, t])
        assert math.isclose(float(nll[i, j]), expected, abs_tol=1e-5)


def test_the_elbo_of_an_exact_denoiser_is_the_entropy() -> None:
    """Weights n/k and exact conditionals give -log p of the joint, over all masks of two bits."""
    joint = torch.tensor([[0.4, 0.1], [0.2, 0.3]])
    entropy = -(joint * joint.log()).sum()
    total = 0.0
    for x in itertools.product(range(2), range(2)):
        for k in (1, 2):
            masks = list(itertools.combinations(range(2), k))
            for mask in masks:
                logits = torch.zeros(1, 2, 2)
                for i in mask:
                    if k == 2:
                        logits[0, i] = joint.sum(1 - i).log()
                    else:
                        row = joint[:, x[1]] if i == 0 else joint[x[0]]
                        logits[0, i] = (row / row.sum()).log()
                weights = torch.tensor([[2 / k if i in mask else 0.0 for i in range(2)]])
                loss = weighted_nll(logits, torch.tensor([list(x)]), weights).sum()
                total += float(joint[x] * loss / (2 * len(masks)))
    # The order is drawn at random, and each order by itself is exact.
    orders = 0.5 * sum(
        float(-(joint.sum(1 - i) * joint.sum(1 - i).log()).sum())
        + float(-(joint * (joint / joint.sum(1 - i, keepdim=True)).log()).sum())
        for i in range(2)
    )
    assert math.isclose(orders, float(entropy), abs_tol=1e-5)
    assert math.isclose(total, float(entropy), abs_tol=1e-5)


def test_sums_by_group() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert sums_by(values, torch.tensor([[0, 2], [2, 1]]), 4).tolist() == [1.0, 4.0, 5.0, 0.0]
