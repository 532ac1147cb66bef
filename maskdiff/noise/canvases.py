"""The two shapes that data takes before a model sees it: clean padded strings, and canvases to train on.

For: the dataclasses that noise reads and writes, and padding.  Not for: choosing noise, or laying strings side by side in
rows (``maskdiff.data``).  Easy to get wrong: ``length`` counts BOS and EOS, so a string of n symbols has length n + 2 and
its *inner* positions are 1..n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskdiff.errors import DataError

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

IGNORE = -100  # target of a token that costs nothing
MASKED, CAUSAL, REPAIR, SKELETON, OPEN = 0, 1, 2, 3, 4  # values of ``Canvases.mode``
MODES = ("mask", "causal", "repair", "skeleton", "open")  # their names, in order


@dataclass(frozen=True)
class Strings:
    """Clean strings, BOS ... EOS then PAD.

    Attributes:
        tokens: (batch, width) int64.
        length: (batch,) int64, BOS and EOS counted, 2..width.
    """

    tokens: Tensor
    length: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Strings:
        """The strings of ``rows`` (a slice, indices or a bool mask), at the same width."""
        return Strings(self.tokens[rows], self.length[rows])

    def valid(self) -> Tensor:
        """(batch, width) bool: not padding."""
        return _arange(self.tokens) < self.length[:, None]

    def inner(self) -> Tensor:
        """(batch, width) bool: symbols of the string, without BOS, EOS and padding."""
        at = _arange(self.tokens)
        return (at > 0) & (at < self.length[:, None] - 1)


@dataclass(frozen=True)
class Canvases:
    """Noised strings with what is to be learned from them; a canvas has the length of its clean string.

    Attributes:
        tokens: (batch, width) int64, what the model sees.
        targets: (batch, width) int64, clean token ids; ``IGNORE`` where there is no loss.
        weights: (batch, width) float32, weight of the loss; 0 where there is none.
        sigma: (batch,) float32, the noise level that the model is told.
        causal: (batch,) bool, rows trained to predict the next token.
        length: (batch,) int64, BOS and EOS counted.
        mode: (batch,) int64, an index into ``MODES``.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    sigma: Tensor
    causal: Tensor
    length: Tensor
    mode: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Canvases:
        """The canvases of ``rows`` (a slice, indices or a bool mask), at the same width."""
        return Canvases(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def inner_tokens(self) -> int:
        """Symbols of all strings, without BOS and EOS (an open canvas has none): what divides a loss in nats per token."""
        return int(self.length.sum()) - 2 * len(self) + int((self.mode == OPEN).sum())

    def widened(self, width: int, padding: int) -> Canvases:
        """The same canvases, padded to ``width`` with ``padding``, the id of PAD."""
        more = width - self.tokens.shape[1]
        empty = {"tokens": padding, "targets": IGNORE, "weights": 0.0}
        return replace(
            self,
            **{
                name: F.pad(getattr(self, name), (0, more), value=value)
                for name, value in empty.items()
            },
        )

    @staticmethod
    def cat(parts: Sequence[Canvases]) -> Canvases:
        """All canvases of ``parts``, which must have one width, in order."""
        return Canvases(
            **{
                f.name: torch.cat([getattr(part, f.name) for part in parts])
                for f in fields(Canvases)
            }
        )


def pad(
    rows: Sequence[Sequence[int] | np.ndarray], vocabulary: Vocabulary, width: int = 0
) -> Strings:
    """Frame rows of symbol ids with BOS and EOS and pad them to the longest, or to ``width`` if that is more.

    Args:
        rows: inner token ids of each string (no BOS or EOS); arrays or lists.
        vocabulary: gives the ids of PAD, BOS and EOS.
        width: least width of the result, BOS and EOS counted.

    Raises:
        DataError: there is no row.
    """
    if not len(rows):
        raise DataError("no strings were given: a batch has at least one")
    counts = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    width = max(width, int(counts.max()) + 2)
    tokens = np.full((len(rows), width), vocabulary.pad, dtype=np.int64)
    inner = np.arange(width - 2) < counts[:, None]
    tokens[:, 0] = vocabulary.bos
    tokens[:, 1:-1][inner] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    tokens[np.arange(len(rows)), counts + 1] = vocabulary.eos
    return Strings(torch.from_numpy(tokens), torch.from_numpy(counts + 2))


def make_canvases(
    strings: Strings,
    tokens: Tensor,
    hidden: Tensor,
    weights: Tensor,
    sigma: Tensor,
    mode: int,
    targets: Tensor | None = None,
) -> Canvases:
    """Canvases of one mode, with a loss on ``hidden`` (batch, width) only; ``weights`` broadcasts to (batch, width)."""
    clean = strings.tokens if targets is None else targets
    return Canvases(
        tokens=tokens,
        targets=clean.masked_fill(~hidden, IGNORE),
        weights=torch.where(hidden, weights, 0.0).float(),
        sigma=sigma.float(),
        causal=torch.full_like(strings.length, mode == CAUSAL, dtype=torch.bool),
        length=strings.length,
        mode=torch.full_like(strings.length, mode),
    )


def _arange(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], device=like.device)
