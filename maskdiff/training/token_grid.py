"""An image of one denoising run: a row per evaluation, a cell per token with its symbol.

Blanks are dark and empty; the changes of an evaluation are bright and framed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskdiff.sampling.trace import Trace

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

CELL, SCALE = 24, 2  # pixels of a cell, and of a dot of its letter
INK, CHALK = (0, 0, 0), (255, 255, 255)  # letters on bright and on dark cells
FRAME, GAP = (255, 255, 255), (0, 0, 0)

# 5 x 7 dots: a hexadecimal number for each line from the top; its highest bit (10) is on the left.
FONT = {
    "0": "0e 11 13 15 19 11 0e", "1": "04 0c 04 04 04 04 0e", "2": "0e 11 01 02 04 08 1f",
    "3": "1f 02 04 02 01 11 0e", "4": "02 06 0a 12 1f 02 02", "5": "1f 10 1e 01 01 11 0e",
    "6": "06 08 10 1e 11 11 0e", "7": "1f 01 02 04 08 08 08", "8": "0e 11 11 0e 11 11 0e",
    "9": "0e 11 11 0f 01 02 0c", "+": "00 04 04 1f 04 04 00", "-": "00 00 00 1f 00 00 00",
    "*": "00 04 15 0e 15 04 00", "=": "00 00 1f 00 1f 00 00", "(": "02 04 08 08 08 04 02",
    ")": "08 04 02 02 02 04 08", ",": "00 00 00 00 0c 04 08", "_": "00 00 00 00 00 00 1f",
    "#": "0a 0a 1f 0a 1f 0a 0a", " ": "00 00 00 00 00 00 00",
}  # fmt: skip
UNKNOWN = "1f 11 11 11 11 11 1f"  # a box, for a symbol without a letter here


def dots(character: str) -> np.ndarray:
    """(7 * SCALE, 5 * SCALE) bool: the letter for `character`."""
    lines = [int(line, 16) for line in FONT.get(character, UNKNOWN).split()]
    bits = [[line >> (4 - column) & 1 for column in range(5)] for line in lines]
    return np.array(bits, dtype=bool).repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def letter(token: int, vocabulary: Vocabulary) -> str:
    """The character drawn for a token: a space for blanks, padding, BOS and EOS."""
    if token in (vocabulary.mask, vocabulary.pad, vocabulary.bos, vocabulary.eos):
        return " "
    return "#" if token == vocabulary.digit else vocabulary.symbols[token]


def token_grid(trace: Trace, row: int, vocabulary: Vocabulary) -> np.ndarray:
    """`trace.picture` with letters and frames, (frames * CELL, width * CELL, 3) uint8."""
    picture = trace.picture(row, vocabulary, CELL)
    tokens, _ = trace.steps(row)
    changed = trace.committed(row)
    masks = [dots(letter(token, vocabulary)) for token in range(len(vocabulary))]
    height, width = masks[0].shape
    top, left = (CELL - height) // 2, (CELL - width) // 2
    for y, (frame, marks) in enumerate(zip(tokens.tolist(), changed.tolist(), strict=True)):
        for x, (token, mark) in enumerate(zip(frame, marks, strict=True)):
            cell = picture[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]
            if mark:
                _outline(cell[1:-1, 1:-1], FRAME, 2)
            _outline(cell, GAP, 1)
            bright = cell[CELL // 2, 3] @ (0.30, 0.59, 0.11) > 100  # left of the letter
            cell[top : top + height, left : left + width][masks[token]] = INK if bright else CHALK
    return picture


def _outline(area: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    """Paint the border of `area`."""
    t = thickness
    area[:t] = area[-t:] = colour
    area[:, :t] = area[:, -t:] = colour
