"""Which symbol may come next: a left-to-right mask under which what has been written can always be completed.

For: the causal mode under a grammar.  Not for: the posterior of the next symbol; the mask says only what is possible, so a
masked causal sample is not an exact draw of the model's distribution given that the string parses (it is made to fit
one symbol at a time).  Easy to get wrong: "completable" means within *this* canvas, whose length is fixed and whose later
symbols may be known, so the mask asks the inside chart of what is still to come.

A chart parser in two halves: ``done`` is what the written symbols derive, ``future`` what the canvas may still become, and a
nonterminal is *wanted* on a span if a string of the language has it there, given all that was written before the span.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from maskdiff.sampling.chart import Chart


class PrefixMask:
    """Symbol by symbol: ``allowed()``, then ``write(...)``, then ``allowed()`` for the next position.

    ``chart`` is the inside chart of the canvas: its emissions say what each position may become.
    """

    def __init__(self, chart: Chart) -> None:
        self.rules, self.position = chart.rules, 0
        batch, n, _ = chart.emission.shape
        self.n, device = n, chart.length.device
        self.possible = chart.emission > -torch.inf  # (batch, n, symbols)
        self.unit = chart.unit > -torch.inf  # (nonterminals, batch, n)
        starts, ends = torch.arange(n + 1, device=device)[:, None], torch.arange(n + 1, device=device)
        span = chart.inside[:, :, starts, (ends - starts).clamp(min=0)] > -torch.inf
        self.future = (span & (ends > starts)).float()  # [long nonterminal, b, start, end]
        self.done = torch.zeros_like(self.future)  # the same of what was written
        self.wanted = torch.zeros(len(self.rules.left), batch, n + 1, n + 1, device=device)  # [pair, b, start, end]
        self.written = torch.zeros(len(self.unit), batch, n + 1, device=device)  # [nonterminal, b, position]: as one symbol
        self.length = chart.length
        self.alive = chart.log_total > -torch.inf  # (batch,) whether all that was written was allowed
        self._heads = self._look()

    def allowed(self) -> Tensor:
        """(batch, symbols) bool: what may stand at the present position; nothing beyond a string's end or in a lost one."""
        if self.position >= self.n:
            return self.possible.new_zeros(self.possible.shape[0], self.possible.shape[2])
        reachable = (self._heads.T @ self.rules.emits.float()) > 0
        return reachable & self.possible[:, self.position] & self.alive[:, None]

    def write(self, symbols: Tensor) -> None:
        """Say what stands at the present position: one of these (batch, symbols) bool, as a rule a single one.

        After something that was not allowed, nothing is. Beyond a string's end anything will do.
        """
        rules, at = self.rules, self.position
        fitting = self.allowed() & symbols
        self.alive = self.alive & fitting.any(1)
        self.written[:, :, at] = (rules.emits.float() @ fitting.T.float() > 0).float()
        by_right, by_left, both = (rules.slices[kind] for kind in (2, 1, 3))  # short right child, short left child
        column = torch.zeros_like(self.done[:, :, :, 0])  # [long nonterminal, b, start]: derives what stands from there to here
        column[:, :, at] = self.written[: rules.long, :, at]
        until = self.done[:, :, : at + 1, : at + 1][rules.left[both]]
        while True:
            joined = torch.zeros(len(rules.left), *column.shape[1:], device=column.device)
            if at > 0:
                neither = rules.slices[0]
                joined[neither, :, at - 1] = (
                    self.written[rules.left[neither], :, at - 1] * self.written[rules.right[neither], :, at]
                )
            joined[by_right] = self.done[rules.left[by_right], :, :, at] * self.written[rules.right[by_right], :, at, None]
            joined[by_left, :, :-1] = self.written[rules.left[by_left], :, :-1] * column[rules.right[by_left], :, 1:]
            joined[both, :, : at + 1] = torch.einsum("pbhm,pbm->pbh", until, column[rules.right[both], :, : at + 1])
            grown = ((column + _pooled(joined, rules.pair, rules.parent, rules.long)) > 0).float()
            if torch.equal(grown, column):
                break
            column = grown
        self.done[:, :, :, at + 1] = column
        self.position += 1
        if self.position < self.n:
            self._heads = self._look()

    def select(self, rows: Tensor) -> PrefixMask:
        """The mask of some of the strings, in the order of ``rows``, which may repeat (a beam)."""
        part = copy(self)
        for name in ("possible", "length", "alive"):
            setattr(part, name, getattr(self, name)[rows])
        for name in ("unit", "future", "done", "wanted", "written", "_heads"):
            setattr(part, name, getattr(self, name)[:, rows])
        return part

    def _look(self) -> Tensor:
        """(nonterminals, batch) whether a nonterminal is wanted as the one symbol here; notes what pairs are wanted here."""
        rules, at = self.rules, self.position
        by_left, by_right, both = rules.slices[1:]
        spans = torch.zeros(rules.long, len(self.length), self.n + 1, device=self.future.device)  # [long nonterminal, b, end]
        alone = torch.zeros(len(self.unit), len(self.length), device=self.future.device)
        if at == 0:
            spans[0, torch.arange(len(self.length), device=self.future.device), self.length] = 1.0
        else:
            before = self.wanted[:, :, :at]  # [pair, b, start, end]
            after = torch.zeros_like(self.wanted[:, :, 0])  # [pair, b, end]: its second child is wanted from here
            long_left = rules.left < rules.long
            after[long_left] = torch.einsum("pbhe,pbh->pbe", before[long_left], self.done[rules.left[long_left], :, :at, at])
            after[~long_left] = before[~long_left, :, at - 1] * self.written[rules.left[~long_left], :, at - 1, None]
            spans, alone = self._children(rules.right, after, spans, alone)
        after_here = [self.future[:, :, at + 1 :, at + 1 :][rules.right[kind]] for kind in (by_left, both)]
        while True:
            wanted = (_pooled(spans, rules.parent, rules.pair, len(rules.left)) > 0).float()
            first = torch.zeros_like(wanted)  # [pair, b, end]: its first child is wanted up to there
            for kind, rest in zip((by_left, both), after_here):
                first[kind, :, at + 1 :] = torch.einsum("pbe,pbje->pbj", wanted[kind, :, at + 1 :], rest)
            for kind in (by_right, rules.slices[0]):
                first[kind, :, :-1] = wanted[kind, :, 1:] * self.unit[rules.right[kind]]
            first[:, :, : at + 1] = 0.0
            grown, alone = self._children(rules.left, first, spans, alone)
            if torch.equal(grown, spans):
                break
            spans = grown
        self.wanted[:, :, at] = wanted
        alone[: rules.long] = spans[:, :, at + 1]
        return (alone > 0).float()

    def _children(self, child: Tensor, told: Tensor, spans: Tensor, alone: Tensor) -> tuple[Tensor, Tensor]:
        """What pairs want of one of their children (pairs, b, end) added to the long and to the short nonterminals."""
        long = child < self.rules.long
        index = torch.arange(len(child), device=child.device)
        grown = spans + _pooled(told, index[long], child[long], self.rules.long)
        single = alone + _pooled(told[:, :, self.position + 1], index[~long], child[~long], len(alone))
        return (grown > 0).float(), (single > 0).float()


def _pooled(x: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
    """(size, …) sums of the rows ``x[source]`` by ``target``."""
    return x.new_zeros(size, *x.shape[1:]).index_add_(0, target, x[source])
