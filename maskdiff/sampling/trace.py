"""A record of one run: the tokens on the canvas after every evaluation.

It is for `--trace` and for the token grid in TensorBoard; no sampler reads it. A batch records a
frame at every pass of the loop. `Trace.steps` drops the frames in which a string did not take part.
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

# Colours of padding and of a blank; symbols are spread over a hue circle.
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
        """Return the tokens of string `row` after each change, (frames, width), and the
        evaluations spent by then, (frames,)."""
        tokens = torch.stack([frame[row] for frame in self.frames])
        spent = torch.stack([count[row] for count in self.spent])
        kept = torch.ones(len(tokens), dtype=torch.bool)
        kept[1:] = (tokens[1:] != tokens[:-1]).any(1) | (spent[1:] != spent[:-1])
        return tokens[kept], spent[kept]

    def committed(self, row: int) -> Tensor:
        """Return (frames, width) bool: what changed since the frame before; nothing in frame 0."""
        tokens, _ = self.steps(row)
        changed = torch.zeros_like(tokens, dtype=torch.bool)
        changed[1:] = tokens[1:] != tokens[:-1]
        return changed

    def render(self, row: int, vocabulary: Vocabulary) -> str:
        """Return a line for each evaluation: its number and the string, with carets under its
        changes."""
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
        """Return (frames * cell, width * cell, 3) uint8: a square per token, new tokens
        brighter."""
        tokens, _ = self.steps(row)
        grid = palette(vocabulary)[tokens.numpy()].astype(np.float32)
        fresh = self.committed(row).numpy()[..., None]
        grid = np.where(fresh, grid * 0.5 + 127.5, grid)
        squares: np.ndarray = grid.astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
        return squares


def _cell(token: int, vocabulary: Vocabulary) -> str:
    """One character for one token; a control character has a sign of its own."""
    c = vocabulary.shown[token][:1]
    if visible(c) == c or unicodedata.category(c) == "Cf":
        return c
    return chr(0x2400 + ord(c)) if c < " " else "\ufffd"


def _carets(cells: list[str], marks: list[bool]) -> str:
    """Carets under the marked cells, in columns of a terminal; the cells of one emoji share
    them."""
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
