"""Which symbol may come next: a left-to-right mask under which what has been written can always be completed.

For: the causal mode under a grammar.  Not for: the posterior of the next symbol; the mask says only what is possible, so a
masked causal sample is not an exact draw of the model's distribution given that the string parses (it is made to fit
one symbol at a time).  Easy to get wrong: "completable" means within *this* canvas, whose length is fixed and whose later
symbols may be known.  Where nothing is known the parser needs lengths alone, shared by all canvases of a grammar; elsewhere
it asks the inside chart of what is still to come.

Parsing is sparse, a few dictionaries per string, and stays on the CPU: a dense table of every nonterminal and span took
six times as long to draw with for the grammar of json and forty times for that of python-expressions (docs/experiments.md).
"""

from __future__ import annotations

from copy import copy
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from maskdiff.constraints.chart import Chart, Rules, fill
from maskdiff.languages.cfg import (
    CanvasLookahead,
    LengthLookahead,
    Lookahead,
    NormalForm,
    PrefixParser,
)

SHORTEST = 64  # symbols that an lookahead is made for at least


class PrefixMask:
    """Symbol by symbol: ``allowed()``, then ``write(...)``, then ``allowed()`` for the next position.

    ``possible`` (batch, n, symbols) bool says what each position may become, ``length`` (batch,) how long each string is.
    """

    def __init__(self, grammar: NormalForm, rules: Rules, possible: Tensor, length: Tensor) -> None:
        self.possible, self.position = possible.cpu().numpy(), 0
        self.device = possible.device
        sizes = length.tolist()
        lookaheads = _lookaheads(grammar, rules, possible, length)
        self._parsers = [
            PrefixParser(lookahead, n) for lookahead, n in zip(lookaheads, sizes, strict=True)
        ]

    def allowed(self) -> Tensor:
        """(batch, symbols) bool: what may stand at the present position; nothing beyond a string's end or in a lost one."""
        return torch.from_numpy(self._fitting()).to(self.device)

    def write(self, symbols: Tensor) -> None:
        """Say what stands at the present position: one of these (batch, symbols) bool, as a rule a single one.

        After something that was not allowed, nothing is. Beyond a string's end anything will do.
        """
        written = np.packbits(self._fitting() & symbols.cpu().numpy(), axis=1, bitorder="little")
        for parser, row in zip(self._parsers, written, strict=True):
            parser.write(int.from_bytes(row.tobytes(), "little"))
        self.position += 1

    def select(self, rows: Tensor) -> PrefixMask:
        """The mask of some of the strings, in the order of ``rows``, which may repeat (a beam)."""
        part = copy(self)
        part.possible = self.possible[rows.cpu().numpy()]
        part._parsers = [self._parsers[row].copy() for row in rows.tolist()]
        return part

    def _fitting(self) -> np.ndarray:
        """(batch, symbols) bool: see ``allowed``."""
        _, n, symbols = self.possible.shape
        if self.position >= n:
            return np.zeros((len(self._parsers), symbols), dtype=bool)
        size = -(-symbols // 8)
        packed = b"".join(parser.allowed.to_bytes(size, "little") for parser in self._parsers)
        rows = np.frombuffer(packed, dtype=np.uint8).reshape(len(self._parsers), size)
        found = np.unpackbits(rows, axis=1, count=symbols, bitorder="little").astype(bool)
        return found & self.possible[:, self.position]


def _lookaheads(
    grammar: NormalForm, rules: Rules, possible: Tensor, length: Tensor
) -> list[Lookahead]:
    """What each string (batch, n, symbols), (batch,) may still become; like strings share theirs."""
    n = possible.shape[1]
    general = _length_lookahead(grammar, max(SHORTEST, 1 << (n - 1).bit_length()))
    inside = torch.arange(n, device=length.device) < length[:, None]
    known = (~possible.all(2) & inside).any(1).nonzero()[:, 0]
    found: list[Lookahead] = [general] * len(length)
    if len(known):
        rows = torch.cat(
            (
                length[known, None].to(torch.int64),
                (possible[known] & inside[known, :, None]).flatten(1),
            ),
            1,
        )
        alike, which = torch.unique(rows, dim=0, return_inverse=True)
        emission = torch.where(
            alike[:, 1:].bool().view(len(alike), *possible.shape[1:]), 0.0, -torch.inf
        ).double()
        chart = fill(rules, emission, alike[:, 0])
        specific = [CanvasLookahead(grammar, _ends(chart, row)) for row in range(len(alike))]
        for row, group in zip(known.tolist(), which.tolist(), strict=True):
            found[row] = specific[group]
    return found


@lru_cache(maxsize=16)
def _length_lookahead(grammar: NormalForm, longest: int) -> LengthLookahead:
    return LengthLookahead(grammar, longest)


def _ends(chart: Chart, row: int) -> list[dict[int, int]]:
    """By start and nonterminal: where it may end in one string of the chart, as the bits of an integer."""
    widths = (chart.inside[:, row] > -torch.inf).cpu().numpy()  # (long nonterminals, n + 1, n + 1)
    alone = (chart.unit[:, row] > -torch.inf).cpu().numpy()  # (nonterminals, n)
    packed = np.packbits(widths, axis=2, bitorder="little")
    ends: list[dict[int, int]] = [{} for _ in range(alone.shape[1] + 1)]
    for head, start in np.argwhere(alone):
        ends[start][int(head)] = 2 << int(start)
    for head, start in np.argwhere(packed.any(axis=2)):
        ends[start][int(head)] = int.from_bytes(packed[head, start].tobytes(), "little") << int(
            start
        )
    return ends
