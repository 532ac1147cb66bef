"""A left-to-right mask of the symbols that keep a string completable.

Completable means: within this canvas, whose length is fixed and whose later symbols may be known.
The mask says what is possible, so a masked left-to-right sample is no exact draw given the grammar.

Parsing is sparse and stays on the CPU. A dense table of all nonterminals and spans takes six times
as long for the grammar of json and forty times for that of python-expressions, see
docs/experiments.md.
"""

from __future__ import annotations

from copy import copy
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from maskdiff.constraints.chart import Chart, RuleTensors, inside_chart
from maskdiff.languages.cfg import (
    CanvasLookahead,
    LengthLookahead,
    Lookahead,
    NormalForm,
    PrefixParser,
)

SHORTEST = 64  # the least length of a shared lookahead


class PrefixMask:
    """Masks a batch of strings symbol by symbol: `allowed`, `write`, `allowed`, ...

    Args:
        grammar: The grammar.
        rules: Its rules as tensors.
        possible: (batch, n, symbols) bool, the symbols that each position may become.
        length: (batch,) symbols of each string.
    """

    def __init__(
        self, grammar: NormalForm, rules: RuleTensors, possible: Tensor, length: Tensor
    ) -> None:
        self.possible, self.position = possible.cpu().numpy(), 0
        self.device = possible.device
        sizes = length.tolist()
        lookaheads = _lookaheads(grammar, rules, possible, length)
        self._parsers = [
            PrefixParser(lookahead, n) for lookahead, n in zip(lookaheads, sizes, strict=True)
        ]

    def allowed(self) -> Tensor:
        """Return the symbols of the present position, (batch, symbols) bool.

        None is allowed beyond the end of a string and after a symbol that was not allowed.
        """
        return torch.from_numpy(self._fitting()).to(self.device)

    def write(self, symbols: Tensor) -> None:
        """Writes one of the symbols (batch, symbols) bool, normally a single one, and moves on."""
        written = np.packbits(self._fitting() & symbols.cpu().numpy(), axis=1, bitorder="little")
        for parser, row in zip(self._parsers, written, strict=True):
            parser.write(int.from_bytes(row.tobytes(), "little"))
        self.position += 1

    def select(self, rows: Tensor) -> PrefixMask:
        """Return the mask of the strings `rows`, which may repeat (a beam)."""
        part = copy(self)
        part.possible = self.possible[rows.cpu().numpy()]
        part._parsers = [self._parsers[row].copy() for row in rows.tolist()]
        return part

    def _fitting(self) -> np.ndarray:
        """See `allowed`, as an array."""
        _, n, symbols = self.possible.shape
        if self.position >= n:
            return np.zeros((len(self._parsers), symbols), dtype=bool)
        size = -(-symbols // 8)
        packed = b"".join(parser.allowed.to_bytes(size, "little") for parser in self._parsers)
        rows = np.frombuffer(packed, dtype=np.uint8).reshape(len(self._parsers), size)
        found = np.unpackbits(rows, axis=1, count=symbols, bitorder="little").astype(bool)
        return found & self.possible[:, self.position]


def _lookaheads(
    grammar: NormalForm, rules: RuleTensors, possible: Tensor, length: Tensor
) -> list[Lookahead]:
    """The lookahead of each string; equal canvases share one.

    Canvases without known symbols share that of their grammar, which needs lengths alone.
    """
    n = possible.shape[1]
    general = _length_lookahead(grammar, max(SHORTEST, 1 << (n - 1).bit_length()))
    inside = torch.arange(n, device=length.device) < length[:, None]
    known = (~possible.all(2) & inside).any(1).nonzero()[:, 0]
    found: list[Lookahead] = [general] * len(length)
    if len(known):
        symbols = (possible[known] & inside[known, :, None]).flatten(1)
        rows = torch.cat((length[known, None].to(torch.int64), symbols), 1)
        distinct, which = torch.unique(rows, dim=0, return_inverse=True)
        fitting = distinct[:, 1:].bool().view(len(distinct), *possible.shape[1:])
        emission = torch.where(fitting, 0.0, -torch.inf).double()
        chart = inside_chart(rules, emission, distinct[:, 0])
        specific = [CanvasLookahead(grammar, _ends(chart, row)) for row in range(len(distinct))]
        for row, group in zip(known.tolist(), which.tolist(), strict=True):
            found[row] = specific[group]
    return found


@lru_cache(maxsize=16)
def _length_lookahead(grammar: NormalForm, longest: int) -> LengthLookahead:
    return LengthLookahead(grammar, longest)


def _ends(chart: Chart, row: int) -> list[dict[int, int]]:
    """By start and nonterminal: its ends in one string of the chart, as bits."""
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
