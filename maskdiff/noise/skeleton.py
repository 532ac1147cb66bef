"""Skeletons: strings whose digits are <DIGIT>, for coarse-to-fine generation.

The canvases train both stages, structure first and digits second. A canvas of MASK alone does not
show whether a skeleton or a string is asked for, so a model of both divides its probability between
<DIGIT> and the ten digits: the first stage of a sampler must add the probability of the digits to
that of <DIGIT>, and not only forbid them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.noise.canvases import Canvases, Strings, make_canvases
from maskdiff.noise.masking import choose_exactly, mask_count
from maskdiff.noise.schedule import draw_sigma, model_sigma

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

STRUCTURE_MASKED = 0.25  # highest rate of hidden structure in a string to fill; uniform below it


def is_digit(tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Where `tokens` (any shape) are digits: bool of the same shape."""
    table = torch.zeros(len(vocabulary), dtype=torch.bool)
    table[list(vocabulary.digit_ids)] = True
    return table[tokens]


def skeleton_noise(
    strings: Strings,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    loss_weight: str = "elbo",
) -> Canvases:
    """Canvases of which half, at random, ask for a skeleton, and half ask to fill one.

    *Skeleton*: digits become <DIGIT>, then the string is masked as in `mask_noise`; the target is
    the skeleton. *Filling*: j of the d digits, j uniform on 1..d, become <DIGIT> at weight d/j
    ("elbo") or 1, and the other digits stay; in half of these some structure is masked too, at
    weight 1, so that a faulty skeleton does not stop the filling.

    Raises:
        ConfigError: the vocabulary has no <DIGIT>.
    """
    if vocabulary.digit is None:
        raise ConfigError(
            "skeleton_share is above 0 but the vocabulary has no <DIGIT>: set skeleton_share to 0"
        )
    n = len(strings)
    digit = is_digit(strings.tokens, vocabulary)  # (batch, width)
    skeleton = strings.tokens.masked_fill(digit, vocabulary.digit)
    fills = (torch.arange(n) + torch.randint(2, (1,), generator=generator)) % 2 == 1  # (batch,)
    sigma = draw_sigma(n, config, generator)
    inner, digits = strings.length - 2, digit.sum(1)

    # Digits to fill, or symbols of a skeleton; and structure of strings to fill.
    count = torch.where(fills, mask_count(sigma, digits), mask_count(sigma, inner))
    holes = choose_exactly(torch.where(fills[:, None], digit, strings.inner()), count, generator)
    uniform = torch.rand(n, generator=generator)
    rate = (uniform - 0.5).clamp(min=0.0) * 2.0 * STRUCTURE_MASKED * fills
    drawn = torch.rand(digit.shape, generator=generator) < rate[:, None]
    loose = strings.inner() & ~digit & drawn

    # Inputs, targets and weights.
    hidden = holes | loose
    shown = torch.where(fills[:, None] & digit, vocabulary.digit, vocabulary.mask)
    clean = torch.where(fills[:, None], strings.tokens, skeleton)
    total = torch.where(fills, digits, inner)
    weight = total / count.clamp(min=1) if loss_weight == "elbo" else torch.ones(n)
    weights = torch.where(loose, 1.0, weight[:, None])
    tokens = torch.where(hidden, shown, clean)
    return make_canvases(
        strings, tokens, hidden, weights, model_sigma(sigma, config), targets=clean
    )
