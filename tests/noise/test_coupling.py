"""The posterior noise of a draw gives the drawn token, and over all tokens is Gumbel noise."""

from __future__ import annotations

import math

import pytest
import torch

from maskdiff.noise import exponentials, posterior_gumbel

DRAWS = 40_000


def noise_of(
    probs: list[float], drawn_from: list[float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log_probs, tokens, noise): tokens from ``drawn_from``, the noise for ``probs``."""
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.tensor(probs).log().expand(DRAWS, -1)
    tokens = torch.multinomial(
        torch.tensor(drawn_from), DRAWS, replacement=True, generator=generator
    )
    return (
        log_probs,
        tokens,
        posterior_gumbel(log_probs, tokens, exponentials((DRAWS,), len(probs), generator)),
    )


@pytest.mark.parametrize("probs", [[0.6, 0.3, 0.1, 0.0], [0.999, 0.001], [1e-20, 1.0]])
def test_the_noise_leads_to_the_token(probs):
    possible = [float(p > 0) for p in probs]
    log_probs, tokens, noise = noise_of(probs, possible)
    assert torch.equal((log_probs + noise).argmax(-1), tokens)
    assert noise.isfinite().all()
    assert not noise[:, [p == 0 for p in probs]].any()


def kolmogorov(sample: torch.Tensor) -> float:
    """The Kolmogorov-Smirnov statistic for standard Gumbel noise; beyond 1.95 once in 1,000."""
    ordered = sample.double().sort().values
    truth = torch.exp(-torch.exp(-ordered))
    steps = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return float((truth - steps).abs().max()) * math.sqrt(len(ordered))


def test_over_tokens_from_the_model_it_is_independent_standard_gumbel_noise():
    probs = [0.6, 0.3, 0.1]
    _, _, noise = noise_of(probs, probs)
    assert max(kolmogorov(noise[:, i]) for i in range(3)) < 1.95
    correlation = torch.corrcoef(noise.T)
    assert (correlation - torch.eye(3)).abs().max() < 4 / math.sqrt(DRAWS)


def test_over_other_tokens_it_is_not():
    """The negative control: strings that the model would not draw need unusual noise."""
    _, _, noise = noise_of([0.6, 0.3, 0.1], [0.3, 0.3, 0.4])
    assert kolmogorov(noise[:, 2]) > 10
