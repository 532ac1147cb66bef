"""The training noise of the experiment that this project continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maskdiff.config import LanguageConfig, NoiseConfig
from maskdiff.noise.canvases import IGNORE, Canvases, Strings
from maskdiff.noise.edits import mixed_corruption
from maskdiff.noise.modes import mode_number
from maskdiff.noise.schedule import draw_sigma

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary


def reference_noise(
    strings: Strings,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    max_len: int = LanguageConfig.max_len,
) -> Canvases:
    """The training noise of the seed experiment, its quirks included, for reproducing its numbers.

    Rows are padded to `max_len`, which they give as their length, so that pads are attended to. The
    loss is on every token of the clean string, BOS and EOS included. Corrupted strings keep their
    own length: EOS moves. No insertion ever finds room. A share `ar_prefix_ratio` of the rows shows
    `ar_prefix_len` clean symbols and masks the rest.

    Returns:
        Canvases of width `max_len`, mode "repair", or "mask" for rows with a clean prefix.
    """
    # Rows of the full width, corrupted.
    n = len(strings)
    targets = torch.full((n, max_len), vocabulary.pad)
    targets[:, : strings.tokens.shape[1]] = strings.tokens
    clean = Strings(targets, strings.length)
    sigma = draw_sigma(n, config, generator)
    tokens = targets.clone()
    if config.corruption_mode == "mask_only":
        hidden = clean.inner() & (torch.rand(targets.shape, generator=generator) < sigma[:, None])
        tokens.masked_fill_(hidden, vocabulary.mask)
    else:
        corrupted = mixed_corruption(strings, sigma, config, vocabulary, generator, max_len=0)
        tokens = torch.full_like(targets, vocabulary.pad)
        tokens[:, : corrupted.tokens.shape[1]] = corrupted.tokens

    # Rows with a clean prefix.
    prefix = (strings.length - 1).clamp(max=config.ar_prefix_len + 1)  # tokens kept, BOS counted
    kept = torch.rand(n, generator=generator) < config.ar_prefix_ratio
    suffix = clean.inner() & (torch.arange(max_len) >= prefix[:, None])
    tokens = torch.where(kept[:, None], targets.masked_fill(suffix, vocabulary.mask), tokens)
    real = clean.valid()
    return Canvases(
        tokens=tokens,
        targets=targets.masked_fill(~real, IGNORE),
        weights=real.float(),
        sigma=torch.where(kept, 1.0 - prefix / strings.length, sigma).float(),
        causal=torch.zeros(n, dtype=torch.bool),
        length=torch.full((n,), max_len),
        open_end=torch.zeros(n, dtype=torch.bool),
        mode=torch.where(kept, mode_number("mask"), mode_number("repair")),
    )
