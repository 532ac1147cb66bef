"""`fit_damage`: the `Damage` that explains pairs of broken and right strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maskdiff.errors import DataError, ParseError, quote
from maskdiff.repair.damage import HIGHEST, TYPICAL, Damage
from maskdiff.text.edits import Edit, edit_script
from maskdiff.utils.tables import is_table, read_table

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

COLUMNS = ("broken", "right")  # of a table of pairs
# How much the default counts (Dirichlet priors): in edits, in replacements of each symbol, and in
# pairs.
EDITS, REPLACEMENTS, PAIRS = 30.0, 5.0, 30.0
ROUNDS = 300  # of expectation maximisation

Pair = tuple[str, str]  # broken, right


def fit_damage(pairs: Sequence[Pair], vocabulary: Vocabulary) -> Damage:
    """Return the damage of pairs (broken, right), smoothed with the default.

    Each pair is aligned by a cheapest edit script with transpositions. Symbols of a broken text
    that the vocabulary lacks count as blanks, and a blank is no edit. Of a pair of equal texts the
    text was right.

    Raises:
        ParseError: A right text has a symbol that the vocabulary lacks.
    """
    usual = Damage()
    if not pairs:
        return usual
    rights = [vocabulary.decode(vocabulary.encode(right)) for _, right in pairs]
    scripts = [
        _edits(vocabulary.readable(broken)[0], right, vocabulary.blank)
        for (broken, _), right in zip(pairs, rights, strict=True)
    ]
    edits = [edit for script in scripts for edit in script]
    # How often an edit of each kind is possible. The script undoes the damage.
    sizes = np.array([len(right) for right in rights])
    unequal = sum(a != b for right in rights for a, b in zip(right, right[1:], strict=False))
    possible = np.array([(sizes + 1).sum(), sizes.sum(), sizes.sum(), unequal])
    undone = Counter(edit.operation for edit in edits)
    counts = np.array([undone[name] for name in ("delete", "insert", "replace", "swap")])
    counts = counts * (sizes + 1).sum() / np.maximum(possible, 1)
    prior = np.array([usual.insert, usual.delete, usual.replace, usual.swap])
    shares = (counts + EDITS * prior) / (counts.sum() + EDITS)
    untouched, rates = _fit_rates(np.array([len(script) for script in scripts]), sizes, usual)
    return replace(
        Damage(*shares.tolist()),
        confusion=_fit_confusion(edits, vocabulary.inner_symbols),
        inserted=_fit_inserted(edits, vocabulary.inner_symbols),
        rates=rates,
        untouched=untouched,
    )


def _edits(broken: str, right: str, blank: str) -> list[Edit]:
    """The edits that make the right text of the broken one, without filled blanks."""
    script = edit_script(broken, right, blank, transpositions=True)
    return [edit for edit in script or () if edit.cost]


def _fit_confusion(edits: Sequence[Edit], symbols: Sequence[str]) -> Tensor | None:
    """The probabilities of written symbols, a right symbol a row; no symbol replaces itself."""
    place = {symbol: i for i, symbol in enumerate(symbols)}
    pairs = [(place[e.new], place[e.old]) for e in edits if e.operation == "replace"]
    if not pairs:
        return None
    other = 1 - torch.eye(len(symbols), dtype=torch.float64)
    table = REPLACEMENTS * other / other.sum(1, keepdim=True).clamp(min=1)
    for right, written in pairs:
        table[right, written] += 1
    return table / table.sum(1, keepdim=True)


def _fit_inserted(edits: Sequence[Edit], symbols: Sequence[str]) -> Tensor | None:
    """The probabilities of inserted symbols."""
    counts = Counter(edit.old for edit in edits if edit.operation == "delete")
    if not counts:
        return None
    total = counts.total() + EDITS
    shares = [(counts[symbol] + EDITS / len(symbols)) / total for symbol in symbols]
    return torch.tensor(shares, dtype=torch.float64)


def _fit_rates(
    edits: np.ndarray, sizes: np.ndarray, usual: Damage
) -> tuple[float, Mapping[float, float]]:
    """The probability that a text is right and the weights of the rates, by maximum a posteriori.

    A damaged string of n symbols has k > 0 edits with a probability proportional to
    r^k (1 - r)^(n - k) / (1 - (1 - r)^n) at the rate r; a right one has none.
    """
    lengths = np.maximum(sizes, 1)[:, None]
    rates = np.minimum(np.array([*usual.rates]) * TYPICAL / lengths, HIGHEST)  # (pairs, rates)
    kept = np.maximum(sizes - edits, 0)[:, None]
    of_rates = np.exp(edits[:, None] * np.log(rates) + kept * np.log1p(-rates))
    some = 1 - np.exp(lengths * np.log1p(-rates))
    p = np.column_stack([edits == 0, np.where(edits[:, None] > 0, of_rates / some, 0.0)])
    prior = np.array(
        [usual.untouched, *((1 - usual.untouched) * np.array([*usual.rates.values()]))]
    )
    weights = prior
    for _ in range(ROUNDS):
        joint = weights * p
        joint /= joint.sum(1, keepdims=True).clip(min=1e-300)
        weights = (joint.sum(0) + PAIRS * prior) / (len(edits) + PAIRS)
    damaged = weights[1:] / weights[1:].sum()
    return float(weights[0]), dict(zip(usual.rates, damaged.tolist(), strict=True))


# -------------------------- files


def damage_of_file(path: str | Path, vocabulary: Vocabulary) -> Damage:
    """Return the damage of a file of pairs.

    Each line has a broken text, a TAB and the right text. A file whose name ends in .csv, .tsv or
    .jsonl has them in the columns `broken` and `right`.

    Raises:
        DataError: The file cannot be read, or a line is no pair; with its number.
    """
    pairs = []
    for line, broken, right in _numbered_pairs(Path(path)):
        try:
            if not vocabulary.encode(right):
                raise DataError("the right text is empty")
        except (ParseError, DataError) as error:
            raise DataError(f"{path}: line {line}: {error}") from None
        pairs.append((broken, right))
    if not pairs:
        raise DataError(f"{path} has no pairs of broken and right texts")
    return fit_damage(pairs, vocabulary)


def _numbered_pairs(path: Path) -> list[tuple[int, str, str]]:
    """The numbers of lines, the broken and the right texts. Raises DataError."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        what = error.strerror or error
        raise DataError(f"cannot read pairs from {quote(str(path))}: {what}") from None
    columns = COLUMNS if is_table(path.name) else ("",)
    tables = [read_table(text, str(path), column).rows for column in columns]
    found = []
    for rows in zip(*tables, strict=True):
        cells = [row.cell for row in rows]
        wrong = next((cell for cell in cells if isinstance(cell, DataError)), None)
        if wrong is not None:
            raise DataError(f"{path}: line {rows[0].line}: {wrong}")
        texts = [cell for cell in cells if isinstance(cell, str)]
        if not texts:
            continue
        texts = texts if len(columns) > 1 else texts[0].split("\t")
        if len(texts) != len(COLUMNS):
            raise DataError(
                f"{path}: line {rows[0].line}: {quote(rows[0].raw)} is no pair; "
                "give the broken text, one TAB and the right text"
            )
        found.append((rows[0].line, texts[0], texts[1]))
    return found
