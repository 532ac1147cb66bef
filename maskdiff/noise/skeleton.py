"""Skeletons: strings whose digits are <DIGIT>, for coarse-to-fine generation.

For: canvases that train the two stages, structure first and digits later, in the model that does everything else.  Not for:
the grammar of a skeleton (``maskdiff.languages``).  Easy to get wrong: an all-MASK canvas does not say whether a skeleton or
a string is wanted, so a model of both divides its belief between <DIGIT> and the ten digits; the first stage of a sampler
must add the digits' probability to <DIGIT>'s, not just forbid them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.noise.canvases import SKELETON, Canvases, Strings, make_canvases
from maskdiff.noise.masking import choose_exactly, mask_count
from maskdiff.noise.schedule import draw_sigma, model_sigma

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

STRUCTURE_MASKED = 0.25  # highest rate at which a string to fill also hides structure; the rate is uniform below it


def is_digit(tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Where ``tokens`` (any shape) are digits: bool of the same shape."""
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
    """Half of the canvases ask for a skeleton, half ask to fill one; which half a string falls in is random.

    *Skeleton*: digits become <DIGIT>, then the string is masked as in ``mask_noise``; the target is the skeleton.
    *Filling*: j of the d digits, j uniform on 1..d, are shown as <DIGIT> at weight d/j ("elbo") or 1, the other digits stay;
    on every second of these some structure is masked too, at weight 1, so that a faulty skeleton does not stop the filling.

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

    count = torch.where(fills, mask_count(sigma, digits), mask_count(sigma, inner))
    holes = choose_exactly(torch.where(fills[:, None], digit, strings.inner()), count, generator)
    rate = (
        (torch.rand(n, generator=generator) - 0.5).clamp(min=0.0) * 2.0 * STRUCTURE_MASKED * fills
    )
    loose = (
        strings.inner() & ~digit & (torch.rand(digit.shape, generator=generator) < rate[:, None])
    )

    hidden = holes | loose
    shown = torch.where(fills[:, None] & digit, vocabulary.digit, vocabulary.mask)
    clean = torch.where(fills[:, None], strings.tokens, skeleton)
    total = torch.where(fills, digits, inner)
    weight = total / count.clamp(min=1) if loss_weight == "elbo" else torch.ones(n)
    weights = torch.where(loose, 1.0, weight[:, None])
    tokens = torch.where(hidden, shown, clean)
    return make_canvases(
        strings, tokens, hidden, weights, model_sigma(sigma, config), SKELETON, targets=clean
    )
