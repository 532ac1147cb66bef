"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import pytest
import torch

from maskdiff.config import ModelConfig, TrainConfig
from maskdiff.models.universal import UniversalDenoiser
from maskdiff.training.optimizers import Muon, lr_scale, make_optimizers, orthogonalise


def test_newton_schulz_brings_singular_values_near_one_and_keeps_singular_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = (
        torch.randn(3, 48, 16, generator=generator) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    )
    result = orthogonalise(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    diagonal = u.mT @ result @ vh.mT
    off = diagonal - torch.diag_embed(diagonal.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-3


def test_muon_orthogonalises_each_third_of_a_fused_weight_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    fused = torch.nn.Parameter(torch.zeros(48, 16))
    parts = [torch.nn.Parameter(torch.zeros(16, 16)) for _ in range(3)]
    fused.grad = (
        torch.randn(48, 16, generator=generator)
        * torch.tensor([1.0, 10.0, 0.1]).repeat_interleave(16)[:, None]
    )
    for part, gradient in zip(parts, fused.grad.split(16), strict=True):
        part.grad = gradient.clone()
    Muon([{"params": [fused], "splits": 3}], lr=0.1).step()
    Muon([{"params": parts}], lr=0.1).step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in parts]))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_weight_is_optimised_once(optimizer: str) -> None:
    model = UniversalDenoiser(ModelConfig(n_embd=16, n_head=2, use_self_cond=True))
    optimizers = make_optimizers(model, TrainConfig(optimizer=optimizer))
    owned = [id(w) for o in optimizers for group in o.param_groups for w in group["params"]]
    assert sorted(owned) == sorted(id(w) for w in model.parameters())


def test_the_schedule_warms_up_holds_and_decays() -> None:
    config = TrainConfig(max_iters=100, warmup_iters=10, decay_share=0.5, min_lr_ratio=0.1)
    scales = [lr_scale(step, config) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[10:51] == [1.0] * 41
    assert all(a > b for a, b in zip(scales[50:], scales[51:], strict=False))
    assert lr_scale(100, config) == pytest.approx(0.1)
    cosine = TrainConfig(max_iters=100, warmup_iters=0, decay_share=1.0, decay="cosine")
    assert lr_scale(50, cosine) == pytest.approx(0.5)
