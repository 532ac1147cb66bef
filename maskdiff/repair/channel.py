"""The channel p(y | x): what may have happened to a string, how probable that is, and how cheap the rest can be at best.

For: rates of masks, replacements, swaps, deletions and insertions, what they make of a given pair of strings, and bounds. Not
for: searching (`beam.py`). Easy to get wrong: a replacement may write the symbol that was there, so `keep` alone is not the
probability of staying. A symbol of y that is certain was not written by anything: neither inserted nor replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from maskdiff.config import NoiseConfig

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

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
        rate = {
            name: (sigma * getattr(noise, f"{name}_share")).clamp(min=FLOOR) for name in OPERATIONS
        }
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
        return cls(
            weight=one, keep=one, mask=one, replace=zero, swap=zero, delete=zero, spurious=zero
        )


@dataclass(frozen=True)
class Evidence:
    """What damaged strings y, one a row, say about the symbols of x whatever x is. Every table is of probabilities."""

    size: Tensor  # (rows,) length of y
    emission: Tensor  # (rows, levels, symbols, width): a symbol of x becomes y_j
    crossing: Tensor  # (rows, symbols, width + 1) bool: it is y_(j+1), so that the two may have changed places
    insertion: Tensor  # (rows, levels, width + 1, width + 1): y[k:j] is all insertions

    @classmethod
    def of(
        cls,
        channel: Channel,
        damaged: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        certain: Sequence[Collection[int]] | None = None,
    ) -> Evidence:
        """The evidence of strings of token ids, MASK allowed; `certain` are the positions of each that nothing has changed."""
        width = max(1, *(len(row) for row in damaged))
        ys = torch.tensor([[*row, *[vocabulary.pad] * (width - len(row))] for row in damaged]).view(
            -1, 1, width
        )
        sure = torch.tensor(
            [[j in kept for j in range(width)] for kept in certain or [()] * len(damaged)]
        ).view(-1, 1, width)
        symbols = torch.tensor(vocabulary.inner_ids)[:, None]
        same, hidden = (
            ys == symbols,
            ys == vocabulary.mask,
        )  # (rows, symbols, width), (rows, 1, width)
        level = (slice(None), None, None)
        visible = channel.replace[level] + channel.keep[level] * same[:, None]
        emission = (
            torch.where(hidden[:, None], channel.mask[level], visible)
            * (ys != vocabulary.pad)[:, None]
        )
        emission = emission * ~(sure & ~same & ~hidden)[:, None]
        settled = sure[..., :-1] & sure[..., 1:]  # two certain symbols have not changed places
        spurious = channel.spurious[:, None] * ~sure  # (rows, levels, width)
        return cls(
            size=torch.tensor([len(row) for row in damaged]),
            emission=emission,
            crossing=F.pad(same[..., 1:] & ~settled, (0, 2)),
            insertion=_insertions(spurious),
        )

    def __getitem__(self, rows: Tensor) -> Evidence:
        return Evidence(**{name: value[rows] for name, value in vars(self).items()})


def _insertions(spurious: Tensor) -> Tensor:
    """(rows, levels, width + 1, width + 1): the product of spurious[k:j], (rows, levels, width) each; 0 where j < k."""
    total, never = (
        F.pad(values.cumsum(-1), (1, 0))
        for values in (spurious.clamp(min=1e-300).log(), (spurious == 0).double())
    )
    position = torch.arange(total.shape[-1])
    possible = (position[None, :] >= position[:, None]) & (
        never[..., None, :] == never[..., :, None]
    )
    return torch.where(possible, total[..., None, :] - total[..., :, None], -torch.inf).exp()


def start(channel: Channel, insertion: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and beta, (rows, 1, levels, width + 1), of the empty prefix of x: y has been explained by insertions alone."""
    alpha = channel.weight[:, None] * insertion[:, :, 0]
    return alpha[:, None], torch.zeros_like(alpha)[:, None]


def advance(
    channel: Channel,
    insertion: Tensor,
    alpha: Tensor,
    beta: Tensor,
    emission: Tensor,
    crossing: Tensor,
) -> tuple[Tensor, Tensor]:
    """alpha and beta, (rows, beam, levels, width + 1), after one more symbol of x.

    alpha[..., j] is the probability that the prefix became y[:j], insertions after it included; beta[..., j] the same in the
    middle of a swap whose first half has read y[j + 1] and whose second has to become y[j]. emission (rows, beam, levels,
    width + 1) and crossing (rows, beam, 1, width + 1) are those of the symbol, with nothing beyond y.
    """
    after = channel.delete[:, None] * alpha
    after[..., 1:] += (alpha * emission)[..., :-1]
    after[..., 2:] += (beta * emission)[..., :-2]
    return torch.einsum("rblk,rlkj->rblj", after, insertion), channel.swap[
        :, None
    ] * alpha * crossing


@torch.no_grad()
def channel_log_probs(
    channel: Channel,
    damaged: Sequence[int],
    texts: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    certain: Collection[int] = (),
) -> Tensor:
    """log p(y | x) in nats, (texts,) float64, of each x of `texts`: summed over all alignments and noise levels.

    damaged: y, token ids, MASK allowed. texts: strings of inner token ids. certain: positions of y that nothing has changed;
    -inf where x does not have them. The forward algorithm, all x at once.
    """
    evidence = Evidence.of(channel, [damaged], vocabulary, [certain])
    place = {token: i for i, token in enumerate(vocabulary.inner_ids)}
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    longest = int(lengths.max()) if len(texts) else 0
    symbols = torch.tensor(
        [[*(place[token] for token in text), *[0] * (longest - len(text))] for text in texts]
    )
    emission = F.pad(evidence.emission[0], (0, 1)).transpose(0, 1)  # (symbols, levels, width + 1)
    alpha, beta = (x.expand(-1, len(texts), -1, -1) for x in start(channel, evidence.insertion))
    scale = torch.zeros(len(texts), dtype=torch.float64)
    end = int(evidence.size[0])
    found = alpha[0, :, :, end].sum(-1).log()
    for i in range(longest):
        symbol = symbols[:, i]
        alpha, beta = advance(
            channel,
            evidence.insertion,
            alpha,
            beta,
            emission[symbol][None],
            evidence.crossing[:, symbol, None],
        )
        peak = torch.maximum(alpha.amax((-2, -1)), beta.amax((-2, -1))).clamp(min=1e-300)
        alpha, beta, scale = (
            alpha / peak[..., None, None],
            beta / peak[..., None, None],
            scale + peak[0].log(),
        )
        found = torch.where(lengths == i + 1, alpha[0, :, :, end].sum(-1).log() + scale, found)
    return found


def rest_costs(evidence: Evidence, longest: int, channel: Channel) -> Tensor:
    """Log-probability of the best way in which r more symbols of x become y[j:]: (rows, levels, longest + 1, width + 1).

    With best_j the largest emission probability of y_j, the Viterbi recursion over r is

        rest[r, j] = max(best_j rest[r-1, j+1],  delete rest[r-1, j])
        rest[r, j] = max over k >= j of insertion[j, k] rest[r, k]
    """
    best = evidence.emission.amax(2)  # (rows, levels, width)
    rows, levels, width = best.shape
    single = evidence.insertion.diagonal(1, -2, -1).clamp(min=1e-300).log()
    drop = F.pad(single.cumsum(-1), (1, 0))  # of all before position j

    def close(values: Tensor) -> Tensor:
        return (values + drop).flip(-1).cummax(-1).values.flip(-1) - drop

    end = torch.where(torch.arange(width + 1) == evidence.size[:, None], 0.0, -torch.inf).to(
        torch.float64
    )[:, None, :]
    table = [close(end.expand(rows, levels, width + 1))]
    copy, lost = best.log(), channel.delete.log()[:, None]
    for _ in range(longest):
        ahead = F.pad(copy + table[-1][..., 1:], (0, 1), value=-torch.inf)
        table.append(close(torch.maximum(ahead, lost + table[-1])))
    return torch.stack(table, dim=2).clamp(min=-1e4)
