"""Clean padded strings, and the canvases that a model is trained on.

The length of a string counts BOS and EOS: a string of n symbols has length n + 2, and its inner
positions are 1..n.
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

IGNORE = -100  # target of a token without a loss


@dataclass(frozen=True)
class Strings:
    """Clean strings: BOS, symbols, EOS, then PAD.

    Attributes:
        tokens: (batch, width) int64.
        length: (batch,) int64, BOS and EOS counted, 2..width.
    """

    tokens: Tensor
    length: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Strings:
        """The strings of `rows` (a slice, indices or a bool mask), at the same width."""
        return Strings(self.tokens[rows], self.length[rows])

    def valid(self) -> Tensor:
        """(batch, width) bool: not padding."""
        return _positions(self.tokens) < self.length[:, None]

    def inner(self) -> Tensor:
        """(batch, width) bool: symbols of the string, without BOS, EOS and padding."""
        at = _positions(self.tokens)
        return (at > 0) & (at < self.length[:, None] - 1)


@dataclass(frozen=True)
class Canvases:
    """Noised strings with their targets.

    Attributes:
        tokens: (batch, width) int64, the input of the model.
        targets: (batch, width) int64, clean token ids; `IGNORE` where there is no loss.
        weights: (batch, width) float32, weight of the loss; 0 where there is none.
        sigma: (batch,) float32, the noise level passed to the model.
        causal: (batch,) bool, rows trained to predict the next token.
        length: (batch,) int64, first and last token counted.
        open_end: (batch,) bool, rows whose last token is a symbol like others, and not EOS.
        mode: (batch,) int64, the objective: an index into `modes.MODES`, set by `mixture`.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    sigma: Tensor
    causal: Tensor
    length: Tensor
    open_end: Tensor
    mode: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Canvases:
        """The canvases of `rows` (a slice, indices or a bool mask), at the same width."""
        return Canvases(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def inner(self) -> Tensor:
        """(batch, width) bool: the symbols, whose number divides a loss in nats per token."""
        at = _positions(self.tokens)
        return (at > 0) & (at < (self.length - 1 + self.open_end)[:, None])

    def widened(self, width: int, padding: int) -> Canvases:
        """The same canvases, padded to `width` with `padding`, the id of PAD."""
        more = (0, width - self.tokens.shape[1])
        return replace(
            self,
            tokens=F.pad(self.tokens, more, value=padding),
            targets=F.pad(self.targets, more, value=IGNORE),
            weights=F.pad(self.weights, more),
        )

    @staticmethod
    def cat(parts: Sequence[Canvases]) -> Canvases:
        """All canvases of `parts`, which must have one width, in order."""
        names = [f.name for f in fields(Canvases)]
        return Canvases(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


def pad(
    rows: Sequence[Sequence[int] | np.ndarray], vocabulary: Vocabulary, width: int = 0
) -> Strings:
    """Strings from rows of symbol ids: framed with BOS and EOS, padded to the longest.

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
    *,
    targets: Tensor | None = None,
    causal: bool = False,
    open_end: bool = False,
) -> Canvases:
    """Canvases of one objective, with a loss on `hidden` alone.

    Args:
        strings: give the lengths, and the targets if those are not given.
        tokens: (batch, width) the input of the model.
        hidden: (batch, width) bool, tokens with a loss.
        weights: broadcasts to (batch, width).
        sigma: (batch,) noise level passed to the model.
        targets: (batch, width) clean token ids.
        causal: whether the rows are trained to predict the next token.
        open_end: whether the last token is a symbol like others, and not EOS.
    """
    clean = strings.tokens if targets is None else targets
    return Canvases(
        tokens=tokens,
        targets=clean.masked_fill(~hidden, IGNORE),
        weights=torch.where(hidden, weights, 0.0).float(),
        sigma=sigma.float(),
        causal=torch.full_like(strings.length, causal, dtype=torch.bool),
        length=strings.length,
        open_end=torch.full_like(strings.length, open_end, dtype=torch.bool),
        mode=torch.zeros_like(strings.length),
    )


def _positions(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], device=like.device)
