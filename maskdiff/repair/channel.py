"""The channel p(y | x): rates of damage, the probability of y given x, and bounds for the search.

A replacement may write the symbol that was there, so a symbol stays with more than `keep`. A symbol
of y that is certain was neither inserted nor replaced.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from maskdiff.config import NoiseConfig

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

NEGLIGIBLE = 1e-60  # share of p(y | x) that the forward algorithm may leave out
BLANK = 0.5  # least probability that a text with blanks has no edits
FLOOR = 1e-7  # of every share, so that every y has some explanation
OPERATIONS = ("mask", "replace", "swap", "delete", "insert")


@dataclass(frozen=True)
class Channel:
    """Rates (levels,) of what happens to each symbol of x, independently, mixed with `weight`.

    Each level is one noise level of the whole string; p(y | x) sums over levels.

    Attributes:
        keep: It stays.
        mask: It becomes MASK.
        replace: It becomes one given symbol, which may be itself.
        swap: It changes places with the next one.
        delete: It is removed.
        spurious: One given symbol appears in a gap.
        confusion: (symbols, symbols) factors of `replace` for the symbol of a row that becomes
            that of a column, 1 on average; None for 1.
        inserted: (symbols,) factors of `spurious` for each symbol; None for 1.
        untouched: Probability that y is x; the levels are then those of strings with at least one
            edit. None for no such condition.
    """

    weight: Tensor
    keep: Tensor
    mask: Tensor
    replace: Tensor
    swap: Tensor
    delete: Tensor
    spurious: Tensor
    confusion: Tensor | None = None
    inserted: Tensor | None = None
    untouched: float | None = None

    @classmethod
    def of_rates(
        cls,
        rates: Sequence[float],
        *,
        insert: float,
        delete: float,
        replace: float,
        swap: float,
        symbols: int,
    ) -> Channel:
        """Return the mixture of equally likely rates of edits, with the shares of their kinds.

        A blank is no edit: it hides one symbol, with the same probability at every rate.
        """
        rate = torch.tensor(list(rates), dtype=torch.float64).clamp(FLOOR, 1 - FLOOR)
        return cls(
            weight=torch.full_like(rate, 1 / len(rate)),
            keep=1 - rate,
            mask=torch.ones_like(rate),
            replace=(rate * replace).clamp(min=FLOOR) / symbols,
            swap=(rate * swap).clamp(min=FLOOR),
            delete=(rate * delete).clamp(min=FLOOR),
            spurious=(rate * insert).clamp(min=FLOOR) / symbols,
        )

    def or_untouched(self, share: float) -> Channel:
        """Return the channel in which a string has at least one edit with 1 - `share`, or none."""
        parts = {
            "weight": torch.tensor([share]).double(),
            "keep": torch.ones(1).double(),
            "mask": torch.ones(1).double(),
            **{name: torch.zeros(1).double() for name in ("replace", "swap", "delete", "spurious")},
        }
        weight = {"weight": (1 - share) * self.weight}
        joined = {n: torch.cat((p, weight.get(n, getattr(self, n)))) for n, p in parts.items()}
        return replace(self, **joined, untouched=share)

    def given_edits(self, lengths: Tensor) -> Tensor:
        """Return factors (texts, levels) that condition x of `lengths` (texts,) on some edit.

        They are 1 without the condition, and 0 for a level without edits.
        """
        if self.untouched is None:
            return torch.ones(len(lengths), len(self.keep), dtype=torch.float64)
        some = 1 - self.keep ** lengths[:, None]
        return torch.where(some > 0, 1 / some.clamp(min=1e-300), 0.0)

    @classmethod
    def of(cls, noise: NoiseConfig, sigmas: Sequence[float], symbols: int) -> Channel:
        """Return the mixture of equally likely levels `sigmas` over an alphabet of `symbols`."""
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
        """Return the channel of blanks: a mask hides one symbol, all other symbols are right."""
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        return cls(
            weight=one, keep=one, mask=one, replace=zero, swap=zero, delete=zero, spurious=zero
        )

    def log_probs(
        self,
        damaged: Sequence[int],
        texts: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        certain: Collection[int] = (),
    ) -> Tensor:
        """Return log p(y | x), see `channel_log_probs`."""
        return channel_log_probs(self, damaged, texts, vocabulary, certain)


@dataclass(frozen=True)
class Evidence:
    """Probabilities of parts of damaged strings y, one a row, that do not depend on all of x."""

    size: Tensor  # (rows,) length of y
    emission: Tensor  # (rows, levels, symbols, width): a symbol of x becomes y_j
    crossing: Tensor  # (rows, symbols, width + 1) bool: it is y_(j+1), so a swap is possible
    runs: Tensor  # (rows, levels, n, width + 1): y[j - 2^i : j] is all insertions; n is small

    @classmethod
    def of(
        cls,
        channel: Channel,
        damaged: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        certain: Sequence[Collection[int]] | None = None,
    ) -> Evidence:
        """Return the evidence of strings of token ids; `certain` positions did not change."""
        width = max(1, *(len(row) for row in damaged))
        ys = torch.tensor([[*row, *[vocabulary.pad] * (width - len(row))] for row in damaged]).view(
            -1, 1, width
        )
        sure = torch.tensor(
            [[j in kept for j in range(width)] for kept in certain or [()] * len(damaged)]
        ).view(-1, 1, width)
        symbols = torch.tensor(vocabulary.inner_ids)[:, None]
        same, hidden = ys == symbols, ys == vocabulary.mask  # (rows, symbols or 1, width)
        level = (slice(None), None, None)
        replaced = channel.replace[level]
        if channel.confusion is not None:  # its columns y, (rows, 1, symbols, width)
            columns = channel.confusion[:, _columns(ys, vocabulary)[:, 0]]
            replaced = replaced * columns.transpose(0, 1)[:, None]
        visible = replaced + channel.keep[level] * same[:, None]
        emission = (
            torch.where(hidden[:, None], channel.mask[level], visible)
            * (ys != vocabulary.pad)[:, None]
        )
        emission = emission * ~(sure & ~same & ~hidden)[:, None]
        fixed = sure[..., :-1] & sure[..., 1:]  # two certain symbols were not swapped
        spurious = channel.spurious[:, None] * ~sure  # (rows, levels, width)
        if channel.inserted is not None:
            factor = channel.inserted[_columns(ys, vocabulary)]
            spurious = spurious * torch.where(hidden, 1.0, factor)
        return cls(
            size=torch.tensor([len(row) for row in damaged]),
            emission=emission,
            crossing=F.pad(same[..., 1:] & ~fixed, (0, 2)),
            runs=_runs(spurious),
        )

    def __getitem__(self, rows: Tensor) -> Evidence:
        return Evidence(**{name: value[rows] for name, value in vars(self).items()})


def _columns(ys: Tensor, vocabulary: Vocabulary) -> Tensor:
    """The places of tokens among the symbols, (rows, 1, width); 0 for MASK and PAD."""
    place = torch.zeros(len(vocabulary), dtype=torch.int64)
    place[list(vocabulary.inner_ids)] = torch.arange(len(vocabulary.inner_ids))
    return place[ys]


def _runs(spurious: Tensor) -> Tensor:
    """The products of spurious[j - 2^i : j], as far as they are not all 0; see `Evidence.runs`."""
    runs = [F.pad(spurious, (1, 0))]
    while (size := 2 ** len(runs)) < runs[0].shape[-1] and (runs[-1] > 0).any():
        half = runs[-1]
        runs.append(half * F.pad(half[..., : -size // 2], (size // 2, 0)))
    return torch.stack(runs, dim=2)


def _with_insertions(values: Tensor, runs: Tensor) -> Tensor:
    """Add what insertions make of `values` (rows, beam, levels, columns), in place.

    The result is the recurrence total[j] = values[j] + spurious[j - 1] total[j - 1], in a number
    of steps that is the logarithm of the columns: after step i it has up to 2^(i + 1) - 1
    insertions.
    """
    for i in range(runs.shape[2]):
        size = 2**i
        values[..., size:] += values[..., :-size] * runs[:, None, :, i, size:]
    return values


def start(channel: Channel, runs: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and beta, (rows, 1, levels, width + 1), of the empty prefix of x."""
    alpha = torch.zeros_like(runs[:, None, :, 0])
    alpha[..., 0] = channel.weight
    return _with_insertions(alpha, runs), torch.zeros_like(alpha)


def advance(
    channel: Channel, runs: Tensor, alpha: Tensor, beta: Tensor, emission: Tensor, crossing: Tensor
) -> tuple[Tensor, Tensor]:
    """Return alpha and beta, (rows, beam, levels, width + 1), after one more symbol of x.

    alpha[..., j] is the probability that the prefix became y[:j], including insertions after it;
    beta[..., j] is the same within a swap whose first half became y[j + 1] and whose second half
    has to become y[j].

    Args:
        channel: The rates.
        runs: See `Evidence`; columns of all tables may be a slice of those of y.
        alpha: That of the prefix without the symbol, and beta likewise.
        emission: (rows, beam, levels, width + 1), of the symbol, 0 beyond y.
        crossing: (rows, beam, 1, width + 1), of the symbol, 0 beyond y.
    """
    after = channel.delete[:, None] * alpha
    after[..., 1:] += (alpha * emission)[..., :-1]
    after[..., 2:] += (beta * emission)[..., :-2]
    middle = channel.swap[:, None] * alpha * crossing
    return _with_insertions(after, runs), middle


@torch.no_grad()
def channel_log_probs(
    channel: Channel,
    damaged: Sequence[int],
    texts: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    certain: Collection[int] = (),
) -> Tensor:
    """Return log p(y | x) in nats, (texts,) float64, summed over all alignments and noise levels.

    This is the forward algorithm for all x at once, on the columns that matter: for an x near y
    these are some tens around the diagonal, however long y is.

    Args:
        damaged: y, token ids; MASK is allowed.
        texts: The x, strings of inner token ids.
        certain: Positions of y that did not change; -inf for an x without their symbols.
    """
    # Emissions of the symbols of all x.
    evidence = Evidence.of(channel, [damaged], vocabulary, [certain])
    place = {token: i for i, token in enumerate(vocabulary.inner_ids)}
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    longest = int(lengths.max()) if len(texts) else 0
    symbols = torch.tensor(
        [[*(place[token] for token in text), *[0] * (longest - len(text))] for text in texts]
    )
    emission = F.pad(evidence.emission[0], (0, 1)).transpose(0, 1)  # (symbols, levels, width + 1)
    # One step for each position of x; the result of an x is read when it ends.
    alpha, beta = (x.repeat(1, len(texts), 1, 1) for x in start(channel, evidence.runs))
    scale = torch.zeros(len(texts), dtype=torch.float64)
    end = int(evidence.size[0])
    factor = channel.given_edits(lengths)
    found = (factor * alpha[0, :, :, end]).sum(-1).log()
    band = _Band.of(channel, evidence, lengths)
    runs = evidence.runs[:, :, : max(1, band.reach.bit_length())]  # longer ones are negligible
    for i in range(longest):
        symbol = symbols[:, i]
        band = band.moved(alpha, beta)
        columns = (..., slice(band.first, band.stop))
        after, middle = advance(
            channel,
            runs[columns],
            alpha[columns],
            beta[columns],
            emission[columns][symbol][None],
            evidence.crossing[columns][:, symbol, None],
        )
        peak = torch.maximum(after.amax((-2, -1)), middle.amax((-2, -1))).clamp(min=1e-300)
        alpha[columns], beta[columns] = (x / peak[..., None, None] for x in (after, middle))
        scale = scale + peak[0].log()
        whole = (factor * alpha[0, :, :, end]).sum(-1).log() + scale
        found = torch.where(lengths == i + 1, whole, found)
    if channel.untouched is None:
        return found
    same = torch.tensor([_same(damaged, text, vocabulary.mask) for text in texts], dtype=torch.bool)
    # A text with blanks may need no edit even if it is known to be broken.
    share = max(channel.untouched, BLANK if vocabulary.mask in damaged else 0.0)
    return torch.where(same, torch.tensor(share, dtype=torch.float64).log(), found)


def _same(damaged: Sequence[int], text: Sequence[int], mask: int) -> bool:
    """Whether the text is the damaged one, whose blanks may be any symbols."""
    pairs = zip(damaged, text, strict=False)
    return len(damaged) == len(text) and all(y in (x, mask) for y, x in pairs)


@dataclass(frozen=True)
class _Band:
    """The columns of alpha and beta, from `first` up to `stop`, that are not negligible.

    Attributes:
        reach: Columns by which one more symbol of x moves the end of the band at most.
        least: Share of the largest entry of a level below which an entry is negligible.
    """

    first: int
    stop: int
    reach: int
    least: float

    @classmethod
    def of(cls, channel: Channel, evidence: Evidence, lengths: Tensor) -> _Band:
        """Return the band of all columns. x of other lengths than y need rarer entries."""
        shift = int((lengths - evidence.size).abs().max()) if len(lengths) else 0
        rates = torch.cat((evidence.runs[:, :, 0].flatten(), channel.delete))
        rates = rates[rates > 0].log()
        if not len(rates):  # no edits change the length
            return cls(0, evidence.runs.shape[-1], 0, 0.0)
        least = max(math.log(NEGLIGIBLE) + shift * float(rates.min()), -690.0)
        common = float(evidence.runs[:, :, 0].amax().clamp(min=1e-300, max=0.99).log())
        return cls(0, evidence.runs.shape[-1], 2 + math.ceil(least / common), math.exp(least))

    def moved(self, alpha: Tensor, beta: Tensor) -> _Band:
        """Return the band of the next step: without negligible columns, and `reach` further."""
        columns = (..., slice(self.first, self.stop))
        floor = self.least * alpha[columns].amax(-1, keepdim=True)
        large = torch.maximum(alpha[columns], beta[columns]) > floor
        kept = large.flatten(0, -2).any(0).nonzero().flatten().tolist()
        if not kept:
            return self
        stop = min(self.first + kept[-1] + 1 + self.reach, alpha.shape[-1])
        return replace(self, first=self.first + kept[0], stop=stop)


def rest_costs(evidence: Evidence, longest: int, channel: Channel) -> Tensor:
    """Return the log-probability of the best way in which r more symbols of x become y[j:].

    The shape is (rows, levels, longest + 1, width + 1). With best_j the largest emission
    probability of y_j, the Viterbi recursion over r is

        rest[r, j] = max(best_j rest[r-1, j+1],  delete rest[r-1, j])
        rest[r, j] = max over k >= j of rest[r, k] where y[j:k] is all insertions
    """
    best = evidence.emission.amax(2)  # (rows, levels, width)
    rows, levels, width = best.shape
    single = evidence.runs[:, :, 0, 1:].clamp(min=1e-300).log()
    drop = F.pad(single.cumsum(-1), (1, 0))  # of all symbols before position j

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
