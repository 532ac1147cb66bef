"""Edit scripts: the edits that make one string of another, symbol by symbol.

Positions count symbols of the given text, whatever was inserted or deleted before them. An
insertion at position p comes before the p-th symbol, several at one position in order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

FILL = 2.0**-20  # cost of a fill in the table, so that of equally cheap scripts few fill

Operation = Literal["insert", "delete", "replace", "swap", "fill"]


@dataclass(frozen=True)
class Edit:
    """One edit: `new` takes the place of `old`, a symbol of the given text; either may be "".

    `fill` gives a blank its symbol and costs 0; every other operation costs 1. A `swap` exchanges
    two symbols, which `old` and `new` have in both orders.
    """

    operation: Operation
    position: int
    old: str = ""
    new: str = ""

    @property
    def cost(self) -> int:
        return int(self.operation != "fill")

    def __str__(self) -> str:
        if self.operation == "replace":
            return f"replace {self.old!r} by {self.new!r} at {self.position}"
        return f"{self.operation} {self.new or self.old!r} at {self.position}"


def edit_distance(given: str, text: str, blank: str = "?") -> int:
    """Return the least number of edits that make `text` of `given`; filled blanks are free.

    A transposition of two neighbours that are edited no further counts as one (optimal string
    alignment).
    """
    end = _common_end(given, text, blank)
    table = _costs(given[: len(given) - end], text[: len(text) - end], blank, (), True)
    return int(table[-1, -1])  # less than 1 / FILL blanks are filled


def edit_cost(script: Sequence[Edit]) -> int:
    """Return the number of edits without filled blanks."""
    return sum(edit.cost for edit in script)


def edit_text(script: Sequence[Edit]) -> str:
    """Return the script as a line: `insert ')' at 10, replace '7' by '5' at 4`; or `unchanged`."""
    return ", ".join(map(str, script)) or "unchanged"


def edit_script(
    given: str,
    text: str,
    blank: str = "?",
    certain: Collection[int] = (),
    transpositions: bool = False,
) -> tuple[Edit, ...] | None:
    """Return a cheapest script that makes `text` of `given`, by position, always the same one.

    Every character is a symbol, and any symbol may fill a `blank`. Symbols of `given` at positions
    `certain` are neither deleted, replaced nor swapped (blanks are filled); None if no script keeps
    them. With `transpositions` a script may have swaps, see `edit_distance`.
    """
    # A common end is kept, except where a certain symbol may have to take its place.
    end = 0 if certain else _common_end(given, text, blank)
    i, j = len(given) - end, len(text) - end
    table = _costs(given[:i], text[:j], blank, certain, transpositions)
    if not np.isfinite(table[i, j]):
        return None
    script: list[Edit] = []
    while i or j:
        here = table[i, j]
        if (
            i
            and j
            and here
            == table[i - 1, j - 1] + _change(given[i - 1], text[j - 1], blank, i - 1 in certain)
        ):
            i, j = i - 1, j - 1
            if given[i] != text[j]:
                script.append(
                    Edit("fill" if given[i] == blank else "replace", i, given[i], text[j])
                )
        elif (
            transpositions
            and min(i, j) > 1
            and {i - 2, i - 1}.isdisjoint(certain)
            and given[i - 2 : i] == text[j - 1] + text[j - 2]
            and here == table[i - 2, j - 2] + 1
        ):
            i, j = i - 2, j - 2
            script.append(Edit("swap", i, given[i : i + 2], text[j : j + 2]))
        elif i and here == table[i - 1, j] + 1 and i - 1 not in certain:
            i -= 1
            script.append(Edit("delete", i, old=given[i]))
        else:
            j -= 1
            script.append(Edit("insert", i, new=text[j]))
    return tuple(reversed(script))


def _common_start(given: str, text: str, blank: str) -> int:
    """The number of symbols that both begin with, up to a blank."""
    pairs = enumerate(zip(given, text, strict=False))
    return next((i for i, (a, b) in pairs if a != b or a == blank), min(len(given), len(text)))


def _common_end(given: str, text: str, blank: str) -> int:
    return _common_start(given[::-1], text[::-1], blank)


def _change(old: str, new: str, blank: str, certain: bool) -> float:
    """The cost of `new` in the place of `old`."""
    if old == blank:
        return FILL
    if old == new:
        return 0.0
    return np.inf if certain else 1.0


def _costs(
    given: str, text: str, blank: str, certain: Collection[int], transpositions: bool = False
) -> np.ndarray:
    """The least costs of making text[:j] of given[:i], (len(given) + 1, len(text) + 1)."""
    codes = np.array([ord(symbol) for symbol in text], dtype=np.int64)
    step = np.arange(len(text) + 1)
    table = np.empty((len(given) + 1, len(text) + 1))
    # Up to the first difference, blank or certain symbol, the costs are differences of lengths.
    same = min((_common_start(given, text, blank), *certain))
    table[: same + 1] = np.abs(step - np.arange(same + 1)[:, None])
    for i, symbol in enumerate(given[same:], same):
        price = np.inf if i in certain else 1.0
        row = table[i] + price
        change = np.where(codes == ord(symbol), 0.0, price)
        change = np.full(len(text), FILL) if symbol == blank else change
        row[1:] = np.minimum(row[1:], table[i, :-1] + change)
        fixed = not {i - 1, i}.isdisjoint(certain)
        if transpositions and i and given[i - 1] != symbol and not fixed:
            crossed = (codes[:-1] == ord(symbol)) & (codes[1:] == ord(given[i - 1]))
            swapped = np.where(crossed, table[i - 1, :-2] + 1.0, np.inf)
            row[2:] = np.minimum(row[2:], swapped)
        table[i + 1] = np.minimum.accumulate(row - step) + step  # insertions after it
    return table
