"""The outside pass: what every position may be, given that the whole canvas parses.

For: ``posterior``.  Not for: joint samples; symbols drawn from the posteriors of two positions, each for itself, need not go
together.  Easy to get wrong: a span's probability is a sum over *wider* spans, so widths are visited from the widest down.

The outside algorithm (Lari and Young 1990), run on probabilities of spans rather than on outside weights: they are at most 1
and only grow smaller downwards, so that they are simply added up, and what underflows did not matter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskdiff.constraints.chart import TINY, Chart, second


def posterior(chart: Chart) -> Tensor:
    """(batch, n, symbols) log-probability of every symbol given that the whole string is in the language.

    Places beyond a string's length, and strings without any weight, are -inf throughout.  Raises ``ValueError`` on a ``best``
    chart, and where the numbers are not float64.
    """
    if chart.best or chart.emission.dtype != torch.float64:
        raise ValueError("posteriors need a float64 chart that adds up")
    spans = _Spans(chart)
    for width in range(chart.emission.shape[1], 0, -1):
        chart.rules.deadline.check()
        spans.complete(width)
    top = chart.emission.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    below = (
        chart.unit - top[..., 0]
    )  # log of each nonterminal's share of the best symbol's probability
    used = spans.units > 0
    if bool((used & (below < math.log(TINY))).any()):
        return _symbol_by_symbol(chart, spans.units)
    share = torch.where(used, (spans.units.log() - below).exp(), 0.0)
    mass = share.permute(1, 2, 0) @ chart.rules.emits.to(share.dtype)
    return mass.log() + (chart.emission - top)


def _symbol_by_symbol(chart: Chart, units: Tensor) -> Tensor:
    """The last step of ``posterior`` where probabilities are too far apart for a matrix product: in log space throughout."""
    result = torch.full_like(chart.emission, -torch.inf)
    for head, emits in enumerate(chart.rules.emits):
        given = (units[head].log() - chart.unit[head].nan_to_num(neginf=torch.inf))[
            ..., None
        ] + chart.emission
        result = torch.logaddexp(result, given.masked_fill(~emits, -torch.inf))
    return result


class _Spans:
    """Probabilities of spans: that a nonterminal derives just these symbols in a string of the language."""

    def __init__(self, chart: Chart) -> None:
        self.chart, self.rules = chart, chart.rules
        batch, n, _ = chart.emission.shape
        rows = torch.arange(batch, device=chart.length.device)
        self.root = chart.unit.new_zeros(
            batch, n + 1, n + 1
        )  # of the start symbol, as the whole string
        self.root[rows, 0, chart.length] = (chart.log_total > -torch.inf).to(self.root.dtype)
        full = len(self.rules.left[self.rules.slices[3]])
        self.firsts = chart.unit.new_zeros(
            full, batch, n + 1, n + 1
        )  # [pair, b, start, width] as the pair's first child
        self.seconds = torch.zeros_like(self.firsts)
        self.units = torch.zeros_like(chart.unit)  # (nonterminals, batch, n): as one symbol
        self.narrower = chart.unit.new_zeros(
            self.rules.long, batch, 1
        )  # spans one symbol narrower than their parent

    def complete(self, width: int) -> None:
        """Probabilities of the spans of one width, all wider ones being complete, and what they pass on to narrower ones."""
        rules, inside, unit = self.rules, self.chart.inside, self.chart.unit
        starts = unit.shape[2] - width + 1
        neither, by_left, by_right, both = rules.slices
        here = self.narrower
        here.index_add_(0, rules.left[both], self.firsts[:, :, :starts, width])
        here.index_add_(0, rules.right[both], self.seconds[:, :, :starts, width])
        here[0] += self.root[:, :starts, width]
        if width == 1:
            self.units[: rules.long] += here
            return
        derived = inside[:, :, :starts, width]
        above = rules.to_pairs(
            (here.log() - derived).masked_fill(derived == -torch.inf, -torch.inf)
        )
        self.narrower = here.new_zeros(rules.long, here.shape[1], starts + 1)
        left, right = rules.left[by_left], rules.right[by_left]
        used = (
            above[by_left] + unit[left, :, :starts] + inside[:, :, 1 : starts + 1, width - 1][right]
        ).exp_()
        self.units[:, :, :starts].index_add_(0, left, used)
        self.narrower[:, :, 1:].index_add_(0, right, used)
        left, right = rules.left[by_right], rules.right[by_right]
        used = (
            above[by_right] + inside[:, :, :starts, width - 1][left] + unit[right, :, width - 1 :]
        ).exp_()
        self.units[:, :, width - 1 :].index_add_(0, right, used)
        self.narrower[:, :, :-1].index_add_(0, left, used)
        if width == 2:
            left, right = rules.left[neither], rules.right[neither]
            used = (above[neither] + unit[left, :, :starts] + unit[right, :, 1:]).exp_()
            self.units[:, :, :starts].index_add_(0, left, used)
            self.units[:, :, 1:].index_add_(0, right, used)
        if len(self.firsts):
            left, right = rules.left[both], rules.right[both]
            used = inside[:, :, :starts, 1:width][left] + second(inside, starts, width)[right]
            used.add_(above[both][..., None]).exp_()
            self.firsts[:, :, :starts, 1:width] += used
            second(self.seconds, starts, width).add_(used)
