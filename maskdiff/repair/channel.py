"""The channel p(y | x): what may have happened to a string, how probable that is, and how cheap the rest can be at best.

For: rates of masks, replacements, swaps, deletions and insertions, and bounds from them. Not for: searching (`beam.py`).
Easy to get wrong: a replacement may write the symbol that was there, so `keep` alone is not the probability of staying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskdiff.config import NoiseConfig

FLOOR = 1e-7  # of every share: whatever the user typed has some explanation
OPERATIONS = ("mask", "replace", "swap", "delete", "insert")


@dataclass(frozen=True)
class Channel:
    """What may have happened to each symbol of x, independently: rates (levels,) that are mixed with `weight` (levels,).

    keep: stays; mask: becomes MASK; replace: becomes a given symbol (itself included); swap: changes places with the next
    one; delete: is lost; spurious: a given symbol appears in a gap. Several noise levels make a mixture: the level belongs to
    the whole string and is summed over.
    """

    weight: Tensor
    keep: Tensor
    mask: Tensor
    replace: Tensor
    swap: Tensor
    delete: Tensor
    spurious: Tensor

    @classmethod
    def of(cls, noise: NoiseConfig, sigmas: Sequence[float], symbols: int) -> Channel:
        """The mixed corruption over an alphabet of `symbols`, with the shares of `noise`, at equally likely levels `sigmas`."""
        sigma = torch.tensor(list(sigmas), dtype=torch.float64).clamp(FLOOR, 1 - FLOOR)
        rate = {name: (sigma * getattr(noise, f"{name}_share")).clamp(min=FLOOR) for name in OPERATIONS}
        return cls(
            weight=torch.full_like(sigma, 1 / len(sigma)),
            keep=1 - sigma,
            mask=rate["mask"],
            replace=rate["replace"] / symbols,
            swap=rate["swap"],
            delete=rate["delete"],
            spurious=rate["insert"] / symbols,
        )

    @classmethod
    def blanks(cls) -> Channel:
        """Every symbol that is visible is right and masks hide one symbol each: filling blanks."""
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        return cls(weight=one, keep=one, mask=one, replace=zero, swap=zero, delete=zero, spurious=zero)

    def emission(self, damaged: Tensor, symbols: Tensor, mask: int, pad: int) -> Tensor:
        """P(a symbol of x becomes the one at y_j): (rows, levels, symbols, width) for `damaged` (rows, width)."""
        level = (slice(None), None, None)
        same = damaged[:, None, None, :] == symbols[None, None, :, None]  # (rows, 1, symbols, width)
        visible = self.replace[level] + self.keep[level] * same
        hidden = damaged[:, None, None, :] == mask
        return torch.where(hidden, self.mask[level], visible) * (damaged != pad)[:, None, None, :]


def rest_costs(best: Tensor, size: Tensor, longest: int, channel: Channel) -> Tensor:
    """Log-probability of the best way in which r more symbols of x become y[j:]: (jobs, levels, longest + 1, width + 1).

    `best` (jobs, levels, width) is the largest emission probability of each y_j. The Viterbi recursion over r is

        rest[r, j] = max(best_j rest[r-1, j+1],  delete rest[r-1, j])
        rest[r, j] = max over k >= j of spurious^(k-j) rest[r, k]
    """
    jobs, levels, width = best.shape
    position = torch.arange(width + 1)
    drop = channel.spurious.clamp(min=1e-300).log()[:, None] * position  # (levels, width + 1), drops before position j

    def close(values: Tensor) -> Tensor:
        return (values + drop).flip(-1).cummax(-1).values.flip(-1) - drop

    end = torch.where(position == size[:, None], 0.0, -torch.inf).to(torch.float64)[:, None, :]
    rows = [close(end.expand(jobs, levels, width + 1))]
    copy, lost = best.log(), channel.delete.log()[:, None]
    for _ in range(longest):
        ahead = F.pad(copy + rows[-1][..., 1:], (0, 1), value=-torch.inf)
        rows.append(close(torch.maximum(ahead, lost + rows[-1])))
    return torch.stack(rows, dim=2).clamp(min=-1e4)


def insertions(channel: Channel, width: int) -> Tensor:
    """(levels, width, width): probability that y[k:j] is all insertions, `spurious` to the power j - k."""
    position = torch.arange(width)
    gap = position[None, :] - position[:, None]
    return torch.where(gap >= 0, channel.spurious[:, None, None] ** gap.clamp(min=0), 0.0)
