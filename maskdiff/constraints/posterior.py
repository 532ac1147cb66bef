"""The outside pass: the distribution of each position given that the string is in the language.

The outside algorithm (Lari and Young 1990) on probabilities of spans instead of outside weights.
They are at most 1 and decrease from wide to narrow spans, so they are added up without logarithms,
and what underflows is negligible. A span's probability is a sum over wider spans, so widths are
visited from the widest down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskdiff.constraints.chart import TINY, Chart, second_parts


def posterior(chart: Chart) -> Tensor:
    """Return the log-probabilities of symbols given that the string is in the language.

    Args:
        chart: A float64 chart of sums.

    Returns:
        (batch, n, symbols); -inf beyond a string's length and for strings without weight.

    Raises:
        ValueError: The chart is a `best` chart or not float64.
        TimedOut: The deadline of the rules has passed.
    """
    if chart.best or chart.emission.dtype != torch.float64:
        raise ValueError("posteriors need a float64 chart that adds up")
    spans = _Spans(chart)
    for width in range(chart.emission.shape[1], 0, -1):
        chart.rules.deadline.check()
        spans.complete(width)
    # Divide the probability of each nonterminal among its symbols.
    top = chart.emission.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    below = chart.unit - top[..., 0]  # log of a nonterminal's weight relative to the best symbol
    used = spans.units > 0
    if bool((used & (below < math.log(TINY))).any()):
        return _symbol_by_symbol(chart, spans.units)
    share = torch.where(used, (spans.units.log() - below).exp(), 0.0)
    mass = share.permute(1, 2, 0) @ chart.rules.emits.to(share.dtype)
    return mass.log() + (chart.emission - top)


def _symbol_by_symbol(chart: Chart, units: Tensor) -> Tensor:
    """The same in log space, for probabilities that are too far apart for a matrix product."""
    result = torch.full_like(chart.emission, -torch.inf)
    for head, emits in enumerate(chart.rules.emits):
        share = units[head].log() - chart.unit[head].nan_to_num(neginf=torch.inf)  # (batch, n)
        given = (share[..., None] + chart.emission).masked_fill(~emits, -torch.inf)
        result = torch.logaddexp(result, given)
    return result


class _Spans:
    """Probabilities that a nonterminal derives a span in a string of the language."""

    def __init__(self, chart: Chart) -> None:
        self.chart, self.rules = chart, chart.rules
        batch, n, _ = chart.emission.shape
        rows = torch.arange(batch, device=chart.length.device)
        # The start symbol as the whole string.
        self.root = chart.unit.new_zeros(batch, n + 1, n + 1)
        self.root[rows, 0, chart.length] = (chart.log_total > -torch.inf).to(self.root.dtype)
        # [pair, b, start, width]: the first and the second child of pairs of long nonterminals.
        full = len(self.rules.left[self.rules.slices[3]])
        self.firsts = chart.unit.new_zeros(full, batch, n + 1, n + 1)
        self.seconds = torch.zeros_like(self.firsts)
        self.units = torch.zeros_like(chart.unit)  # (nonterminals, batch, n): single symbols
        # Spans that are one symbol narrower than their parent.
        self.narrower = chart.unit.new_zeros(self.rules.long, batch, 1)

    def complete(self, width: int) -> None:
        """Completes the spans of one width and adds their probabilities to narrower spans.

        All wider spans must be complete.
        """
        rules, inside, unit = self.rules, self.chart.inside, self.chart.unit
        starts = unit.shape[2] - width + 1
        neither, by_left, by_right, both = rules.slices
        # Add up the probabilities of this width.
        here = self.narrower
        here.index_add_(0, rules.left[both], self.firsts[:, :, :starts, width])
        here.index_add_(0, rules.right[both], self.seconds[:, :, :starts, width])
        here[0] += self.root[:, :starts, width]
        if width == 1:
            self.units[: rules.long] += here
            return
        derived = inside[:, :, :starts, width]
        outside = (here.log() - derived).masked_fill(derived == -torch.inf, -torch.inf)
        above = rules.to_pairs(outside)  # (pairs, batch, starts)
        self.narrower = here.new_zeros(rules.long, here.shape[1], starts + 1)
        # Pairs of a symbol and a long nonterminal.
        left, right = rules.left[by_left], rules.right[by_left]
        second = inside[:, :, 1 : starts + 1, width - 1][right]
        used = (above[by_left] + unit[left, :, :starts] + second).exp_()
        self.units[:, :, :starts].index_add_(0, left, used)
        self.narrower[:, :, 1:].index_add_(0, right, used)
        # Pairs of a long nonterminal and a symbol.
        left, right = rules.left[by_right], rules.right[by_right]
        first = inside[:, :, :starts, width - 1][left]
        used = (above[by_right] + first + unit[right, :, width - 1 :]).exp_()
        self.units[:, :, width - 1 :].index_add_(0, right, used)
        self.narrower[:, :, :-1].index_add_(0, left, used)
        # Pairs of two symbols.
        if width == 2:
            left, right = rules.left[neither], rules.right[neither]
            used = (above[neither] + unit[left, :, :starts] + unit[right, :, 1:]).exp_()
            self.units[:, :, :starts].index_add_(0, left, used)
            self.units[:, :, 1:].index_add_(0, right, used)
        # Pairs of two long nonterminals, over all splits.
        if len(self.firsts):
            left, right = rules.left[both], rules.right[both]
            used = inside[:, :, :starts, 1:width][left] + second_parts(inside, starts, width)[right]
            used.add_(above[both][..., None]).exp_()
            self.firsts[:, :, :starts, 1:width] += used
            second_parts(self.seconds, starts, width).add_(used)
