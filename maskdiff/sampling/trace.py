"""A record of one run: which tokens stood on the canvas after every evaluation.

For: ``--trace``, and the token-grid picture in TensorBoard.  Not for: decisions; no sampler reads it.  Easy to get wrong:
a batch records a frame per pass of the loop, but a string that was finished did not take part; ``steps`` drops its frames.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maskdiff.errors import clusters, display_width, visible

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

# A colour for each role of a token, dark to light: padding, blank, then symbols spread over a hue circle.
_PADDING, _BLANK = (24, 24, 24), (70, 70, 78)


@dataclass
class Trace:
    """Frames of the whole batch; frame 0 is the canvas as given."""

    frames: list[Tensor] = field(default_factory=list)  # each (batch, width) int64
    spent: list[Tensor] = field(default_factory=list)  # each (batch,) int64, evaluations so far

    def record(self, tokens: Tensor, spent: Tensor) -> None:
        """Append a frame: tokens (batch, width), spent (batch,)."""
        self.frames.append(tokens.detach().cpu().clone())
        self.spent.append(spent.detach().cpu().clone())

    def steps(self, row: int) -> tuple[Tensor, Tensor]:
        """(frames, width) tokens of string ``row`` after each change, and (frames,) evaluations spent by then."""
        tokens = torch.stack([frame[row] for frame in self.frames])
        spent = torch.stack([count[row] for count in self.spent])
        kept = torch.ones(len(tokens), dtype=torch.bool)
        kept[1:] = (tokens[1:] != tokens[:-1]).any(1) | (spent[1:] != spent[:-1])
        return tokens[kept], spent[kept]

    def committed(self, row: int) -> Tensor:
        """(frames, width) bool: what changed since the frame before; nothing in frame 0."""
        tokens, _ = self.steps(row)
        changed = torch.zeros_like(tokens, dtype=torch.bool)
        changed[1:] = tokens[1:] != tokens[:-1]
        return changed

    def render(self, row: int, vocabulary: Vocabulary) -> str:
        """One line per evaluation: its number, the string with blanks as ``?``, and carets under what it changed."""
        tokens, spent = self.steps(row)
        changed = self.committed(row)
        lines = []
        for frame, count, marks in zip(tokens, spent.tolist(), changed, strict=True):
            inside = (
                (frame != vocabulary.pad) & (frame != vocabulary.bos) & (frame != vocabulary.eos)
            )
            cells = [_cell(i, vocabulary) for i in frame[inside].tolist()]
            lines.append(f"{count:4d}  {''.join(cells)}")
            if bool(marks.any()):
                lines.append("      " + _carets(cells, marks[inside].tolist()))
        return "\n".join(lines)

    def picture(self, row: int, vocabulary: Vocabulary, cell: int = 8) -> np.ndarray:
        """(frames * cell, width * cell, 3) uint8: a line per evaluation, a square per token, new tokens brighter."""
        tokens, _ = self.steps(row)
        grid = palette(vocabulary)[tokens.numpy()].astype(np.float32)
        fresh = self.committed(row).numpy()[..., None]
        grid = np.where(fresh, grid * 0.5 + 127.5, grid)
        squares: np.ndarray = grid.astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
        return squares


def _cell(token: int, vocabulary: Vocabulary) -> str:
    """One character for one token; a sign stands for a control character."""
    c = vocabulary.shown[token][:1]
    if visible(c) == c or unicodedata.category(c) == "Cf":
        return c
    return chr(0x2400 + ord(c)) if c < " " else "\ufffd"


def _carets(cells: list[str], marks: list[bool]) -> str:
    """Carets under the marked cells, in columns of a terminal; the cells of one emoji share theirs."""
    carets, first = "", 0
    for cluster in clusters("".join(cells)):  # a cell is one character
        end = first + len(cluster)
        carets += ("^" if any(marks[first:end]) else " ").ljust(display_width(cluster))
        first = end
    return carets.rstrip()


def palette(vocabulary: Vocabulary) -> np.ndarray:
    """(vocab, 3) uint8: a distinct colour for every token."""
    count = len(vocabulary)
    phase = 2 * np.pi * (np.arange(count)[:, None] / count + np.array([0, 1 / 3, 2 / 3]))
    colours: np.ndarray = (120 + 90 * np.cos(phase)).astype(np.uint8)
    colours[[vocabulary.pad, vocabulary.bos, vocabulary.eos]] = _PADDING
    colours[vocabulary.mask] = _BLANK
    return colours
