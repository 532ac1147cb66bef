"""Training objectives: the table of modes, and a batch divided among them.

A new objective is an entry of `MODES`: its noise, and its share of the strings. The training curve
reports its loss as `train/loss_NAME`. A share that is an option takes one field of `TrainConfig`,
made with `mode_share`. Append new entries: the random numbers of the others, and the training
states of earlier runs, depend on the order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from maskdiff.config import Config
from maskdiff.errors import ConfigError
from maskdiff.noise.canvases import Canvases, Strings
from maskdiff.noise.edits import repair_noise
from maskdiff.noise.masking import causal_canvas, mask_noise
from maskdiff.noise.open_ended import open_noise
from maskdiff.noise.skeleton import skeleton_noise

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

Generator = torch.Generator | None


@dataclass(frozen=True)
class Mode:
    """A training objective.

    Attributes:
        share: its share of the strings of a batch, in [0, 1]; None takes what the others leave.
        noise: turns clean strings into canvases with targets and weights.
        coupled: the model sees the noise of the draw at the hidden tokens in steps with coupling.
    """

    share: Callable[[Config, Vocabulary], float] | None
    noise: Callable[[Strings, Config, Vocabulary, Generator], Canvases]
    coupled: bool = False


def _mask(strings: Strings, config: Config, vocabulary: Vocabulary, rng: Generator) -> Canvases:
    return mask_noise(strings, config.noise, vocabulary, rng, config.train.loss_weight)


def _causal(strings: Strings, config: Config, _: Vocabulary, rng: Generator) -> Canvases:
    return causal_canvas(strings, config.train.cut_rows, rng)


def _repair(strings: Strings, config: Config, vocabulary: Vocabulary, rng: Generator) -> Canvases:
    return repair_noise(strings, config.noise, vocabulary, rng, max_len=config.language.max_len)


def _skeleton_share(config: Config, vocabulary: Vocabulary) -> float:
    """The option, or 0 for a language without digits."""
    return 0.0 if vocabulary.digit is None else config.train.skeleton_share


def _skeleton(strings: Strings, config: Config, vocabulary: Vocabulary, rng: Generator) -> Canvases:
    return skeleton_noise(strings, config.noise, vocabulary, rng, config.train.loss_weight)


def _open(strings: Strings, config: Config, vocabulary: Vocabulary, rng: Generator) -> Canvases:
    weight, longest = config.train.loss_weight, config.language.max_len
    return open_noise(strings, config.noise, vocabulary, rng, weight, longest)


MODES: dict[str, Mode] = {
    "mask": Mode(None, _mask, coupled=True),
    "causal": Mode(lambda config, _: config.train.causal_share, _causal),
    "repair": Mode(lambda config, _: config.train.repair_share, _repair),
    "skeleton": Mode(_skeleton_share, _skeleton),
    "open": Mode(lambda config, _: config.train.open_share, _open),
}


def mode_number(name: str) -> int:
    """The value of `Canvases.mode` for the mode `name`."""
    return list(MODES).index(name)


def mixture(
    strings: Strings, config: Config, vocabulary: Vocabulary, generator: Generator
) -> Canvases:
    """Divide the strings at random among the modes: canvases in the order of `MODES`.

    Raises:
        ConfigError: the shares add up to more than 1.
    """
    shares = [mode.share(config, vocabulary) for mode in MODES.values() if mode.share]
    *counts, rest = split_counts(len(strings), shares, generator)
    # A batch sorted by length must not tie length to mode.
    order = torch.randperm(len(strings), generator=generator).split([rest, *counts])
    parts = []
    for number, (mode, rows) in enumerate(zip(MODES.values(), order, strict=True)):
        if len(rows):
            part = mode.noise(strings[rows], config, vocabulary, generator)
            parts.append(replace(part, mode=torch.full_like(part.mode, number)))
    width = max(part.tokens.shape[1] for part in parts)
    return Canvases.cat([part.widened(width, vocabulary.pad) for part in parts])


def split_counts(n: int, shares: Sequence[float], generator: Generator) -> list[int]:
    """Number of `n` strings that each share gets, and the rest of them last.

    Each number is within one of share * n, and equal to it on average, so that small shares of
    small batches are right on average.

    Raises:
        ConfigError: the shares add up to more than 1.
    """
    if sum(shares) > 1.0 + 1e-9:
        raise ConfigError(
            f"the shares of the training objectives add up to {sum(shares):.3g}: they may add up "
            "to at most 1, and masking takes the rest; lower one of them"
        )
    start = float(torch.rand(1, generator=generator, dtype=torch.float64))
    totals = itertools.accumulate(shares)
    edges = [0, *(min(n, int(n * total + start + 1e-9)) for total in totals), n]
    return [b - a for a, b in itertools.pairwise(edges)]
