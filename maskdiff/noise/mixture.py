"""The mixture of modes that one model is trained on, and the noise of the experiment that this project carries on.

For: turning a batch of clean strings into canvases.  Not for: any single kind of noise.  Easy to get wrong: shares are of
*strings*, and their counts are rounded at random so that small shares of small batches are right on average.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from maskdiff.config import LanguageConfig, NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.noise.canvases import IGNORE, MASKED, REPAIR, Canvases, Strings
from maskdiff.noise.edits import mixed_corruption, repair_noise
from maskdiff.noise.masking import causal_canvas, mask_noise
from maskdiff.noise.open_ended import open_noise
from maskdiff.noise.schedule import draw_sigma
from maskdiff.noise.skeleton import skeleton_noise

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary


def split_counts(n: int, shares: tuple[float, ...], generator: torch.Generator | None) -> list[int]:
    """How many of ``n`` strings each share gets, the rest going last: within one of share * n, and equal to it on average."""
    start = float(torch.rand(1, generator=generator, dtype=torch.float64))
    edges, total = [0], 0.0
    for share in shares:
        total += share
        edges.append(min(n, int(n * total + start + 1e-9)))
    edges.append(n)
    return [b - a for a, b in itertools.pairwise(edges)]


def mixture(
    strings: Strings,
    noise_config: NoiseConfig,
    causal_share: float,
    repair_share: float,
    skeleton_share: float,
    loss_weight: str,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    max_len: int = LanguageConfig.max_len,
    cut_rows: float = 0.0,
    open_share: float = 0.0,
) -> Canvases:
    """Divide the strings at random among the modes by share, the rest being masked: canvases in the order of ``MODES``.

    Args:
        loss_weight: "elbo" or "uniform", of masked positions.
        max_len: longest corrupted string of the repair share.
        cut_rows: share of the causal strings whose EOS is not taught.
        open_share: share of the strings that become open canvases, see ``open_noise``.

    Raises:
        ConfigError: the shares add up to more than 1, or a skeleton is asked of a vocabulary without <DIGIT>.
    """
    total = causal_share + repair_share + skeleton_share + open_share
    if total > 1.0 + 1e-9:
        raise ConfigError(
            f"causal_share + repair_share + skeleton_share + open_share is {total:.3g}: they may add up to at most 1, "
            "the rest being masked; lower one of them"
        )
    n = len(strings)
    shares = causal_share, repair_share, skeleton_share, open_share
    causal, repair, skeleton, opened, masked = split_counts(n, shares, generator)
    order = torch.randperm(
        n, generator=generator
    )  # a batch sorted by length must not tie length to mode
    rows = order.split([masked, causal, repair, skeleton, opened])
    to_mask, to_read, to_repair, to_skeleton, to_open = (strings[part] for part in rows)
    parts = []
    if masked:
        parts.append(mask_noise(to_mask, noise_config, vocabulary, generator, loss_weight))
    if causal:
        parts.append(causal_canvas(to_read, cut_rows, generator))
    if repair:
        parts.append(repair_noise(to_repair, noise_config, vocabulary, generator, max_len=max_len))
    if skeleton:
        parts.append(skeleton_noise(to_skeleton, noise_config, vocabulary, generator, loss_weight))
    if opened:
        parts.append(open_noise(to_open, noise_config, vocabulary, generator, loss_weight, max_len))
        width = max(part.tokens.shape[1] for part in parts)
        parts = [part.widened(width, vocabulary.pad) for part in parts]
    return Canvases.cat(parts)


def reference_noise(
    strings: Strings,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    max_len: int = LanguageConfig.max_len,
) -> Canvases:
    """The seed experiment's training noise, its quirks included, for reproducing its numbers.

    Rows are padded to ``max_len`` and claim that as their length, so that pads are attended to.  The loss is on every token
    of the clean string, BOS and EOS included.  Corrupted strings keep their own length: EOS moves.  No insertion ever finds
    room.  A share ``ar_prefix_ratio`` of the rows shows ``ar_prefix_len`` clean symbols and masks the rest.

    Returns:
        Canvases of width ``max_len``, mode "repair" ("mask" for rows with a clean prefix).
    """
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
        mode=torch.where(kept, MASKED, REPAIR),
    )
