"""Small token tables, models over them, and the exact results of completion on them.

Recursion, straight from the definition.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskdiff.errors import ParseError
from maskdiff.languages import Vocabulary
from maskdiff.languages.byte_pairs import train_merges
from maskdiff.models.continuation import ROOT, HistoryTree, LatentStates
from maskdiff.models.table_model import TableModel
from maskdiff.models.token_table import TokenTable

History = tuple[int, ...]
SEED = secrets.randbits(32)  # another one in every run; the assertions print it


class Known(TableModel):
    """A table that caches its probabilities."""

    def __init__(self, table: TokenTable, limit: int, seed: int, sharpness: float = 1.5) -> None:
        super().__init__(table, limit, seed, sharpness)
        self._rows: dict[Hashable, np.ndarray] = {}

    def log_next(self, history: History) -> np.ndarray:
        key = self.key(history)
        if key not in self._rows:
            self._rows[key] = self.row(history)
        return self._rows[key]

    def key(self, history: History) -> Hashable:
        return history

    def row(self, history: History) -> np.ndarray:
        return super().log_next(history)


class Placed(Known):
    """A table that has forgotten how its text was cut.

    The distribution depends on the number of bytes alone.
    """

    def key(self, history: History) -> Hashable:
        return len(self.table.text(history)), len(history) + 1 >= self.limit

    def row(self, history: History) -> np.ndarray:
        size = len(self.table.text(history))
        return super().row(history if len(history) + 1 >= self.limit else (size,))


class Given(Known):
    """A table of a few histories; after all others the string ends."""

    def __init__(
        self,
        texts: Sequence[bytes | None],
        rows: Mapping[History, Mapping[int, float]],
        limit: int = 8,
    ) -> None:
        super().__init__(TokenTable((*texts, None), (len(texts),)), limit, 0)
        self.given = rows

    def row(self, history: History) -> np.ndarray:
        p = np.zeros(len(self.table))
        for token, share in self.given.get(history, {len(self.table) - 1: 1.0}).items():
            p[token] = share
        assert abs(p.sum() - 1) < 1e-12
        with np.errstate(divide="ignore"):
            return np.log(p)


class Pieces(Known):
    """A table over the pieces of a byte-pair tokenizer, which is at hand, and perhaps a silent
    token that it never writes."""

    def __init__(
        self, texts: Sequence[str], merges: int, limit: int, seed: int, silent: bool = False
    ) -> None:
        characters = "".join(sorted({*"".join(texts)}))
        plain = Vocabulary.of(characters, digit=False)
        self.vocabulary = plain.with_merges(train_merges(texts, characters, merges))
        inner = set(self.vocabulary.inner_ids)
        known = tuple(
            symbol.encode() if i in inner else None
            for i, symbol in enumerate(self.vocabulary.symbols)
        )
        super().__init__(TokenTable((*known, *[b""] * silent), (self.vocabulary.eos,)), limit, seed)

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        found: list[list[int] | None] = []
        for text in texts:
            try:
                found.append(self.vocabulary.encode(text.decode()))
            except (UnicodeDecodeError, ParseError):
                found.append(None)
        return found


class Counted:
    """A model that keeps a list of the nodes of each forward pass of its trees."""

    def __init__(self, model: Any) -> None:
        self.model, self.table, self.latent_states = model, model.table, model.latent_states
        self.passes: list[int] = []

    def tree(self) -> HistoryTree:
        return CountedReader(self)


class CountedReader:
    def __init__(self, counted: Counted) -> None:
        self.inner, self.passes, self.calls, self.positions = (
            counted.model.tree(),
            counted.passes,
            0,
            0,
        )

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        self.passes.append(len(parents))
        self.calls, self.positions = self.calls + 1, self.positions + len(parents)
        return self.inner.extend(parents, tokens)

    def forget(self, nodes: int) -> None:
        self.inner.forget(nodes)


@dataclass
class Many:
    """Random distributions over strings of `limits[b]` tokens after latent state b, none of
    which ends a string."""

    table: TokenTable
    latent_states: LatentStates
    seed: int
    rows: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)

    def log_next(self, latent: int, history: History) -> np.ndarray:
        key = (latent, *history)
        if key not in self.rows:
            logits = 1.5 * np.random.default_rng([self.seed, len(key), *key]).normal(
                size=len(self.table)
            )
            self.rows[key] = logits - np.logaddexp.reduce(logits)
        return self.rows[key]

    def strings(self, latent: int) -> list[tuple[History, float]]:
        """Every string, with its log-probability and the latent state's."""
        found = []
        for tokens in itertools.product(
            range(len(self.table)), repeat=self.latent_states.limits[latent]
        ):
            steps = [self.log_next(latent, tokens[:n])[token] for n, token in enumerate(tokens)]
            found.append((tokens, float(self.latent_states.log_prior[latent]) + float(sum(steps))))
        return found

    def tree(self) -> ManyTree:
        return ManyTree(self)


class ManyTree:
    def __init__(self, model: Many) -> None:
        self.model, self.calls, self.positions = model, 0, 0
        self.nodes: list[tuple[int, History]] = []

    def forget(self, nodes: int) -> None:
        del self.nodes[nodes:]

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        first = len(self.nodes)
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True):
            latent, history = (token, None) if parent == ROOT else self.nodes[parent]
            self.nodes.append((latent, () if history is None else (*history, token)))
        self.calls, self.positions = self.calls + 1, self.positions + len(parents)
        return torch.from_numpy(
            np.stack([self.model.log_next(*node) for node in self.nodes[first:]])
        )


def random_table(
    rng: np.random.Generator,
    alphabet: bytes = b"ab",
    pieces: int = 4,
    silent: bool = False,
    special: bool = False,
    ends: int = 1,
) -> TokenTable:
    """All bytes of the alphabet and some longer pieces, a text or two twice, in a random order.

    Then what else is asked for.
    """
    texts = [alphabet[i : i + 1] for i in range(len(alphabet))]
    texts += [
        bytes(rng.choice(list(alphabet), size=rng.integers(2, 4)).tolist()) for _ in range(pieces)
    ]
    texts.append(texts[rng.integers(len(texts))])
    tokens: list[bytes | None] = [texts[i] for i in rng.permutation(len(texts))]
    tokens += [b""] * silent + [None] * special
    first = int(rng.integers(len(tokens) + 1))
    tokens[first:first] = [None] * ends
    return TokenTable(tuple(tokens), tuple(range(first, first + ends)))


def begins(table: TokenTable, tokens: Sequence[int], prefix: bytes, tail: bytes = b"") -> bool:
    """Whether a string begins with the prefix, before any special token."""
    text = b""
    for token in tokens:
        if text.startswith(prefix):
            return True
        own = table.texts[token]
        if own is None:
            return False
        text += own
    return (text + tail).startswith(prefix)


class Brute:
    """The exact result of conditioning on a prefix, by recursion over histories."""

    def __init__(self, model: TableModel, prefix: bytes, whole: bool = False) -> None:
        self.model, self.prefix, self.whole = model, prefix, whole
        self.z: dict[History, float] = {}

    def mass(self, history: History = ()) -> float:
        """Z of a history."""
        if history not in self.z:
            self.z[history] = self._mass(history)
        return self.z[history]

    def _mass(self, history: History) -> float:
        texts = [self.model.table.texts[token] for token in history]
        special = None in texts
        text = b"".join(text for text in texts if text is not None)
        if self.whole and special:
            return float(
                history[-1] in self.model.table.ends
                and text == self.prefix
                and None not in texts[:-1]
            )
        if special or (self.whole and not self.prefix.startswith(text)):
            return 0.0
        if not self.whole and text.startswith(self.prefix):
            return 1.0
        if not self.prefix.startswith(text):
            return 0.0
        p = np.exp(self.model.log_next(history))
        return sum(
            float(p[token]) * self.mass((*history, token))
            for token in range(len(p))
            if p[token] > 0
        )

    def q(self, history: History) -> np.ndarray:
        """q(token | history)."""
        p = np.exp(self.model.log_next(history))
        z = [self.mass((*history, token)) if p[token] > 0 else 0.0 for token in range(len(p))]
        return p * np.array(z) / self.mass(history)

    def histories(self) -> list[History]:
        """Returns the histories that can take one more token and whose text is a proper beginning
        of the prefix (with `whole`, also the prefix itself).
        """
        found: list[History] = []
        stack: list[History] = [()]
        while stack:
            history = stack.pop()
            texts = [self.model.table.texts[token] for token in history]
            text = b"".join(text or b"" for text in texts)
            proper = self.prefix.startswith(text) and (self.whole or text != self.prefix)
            if None not in texts and proper and len(history) < self.model.limit:
                found.append(history)
                stack += [(*history, token) for token in range(len(self.model.table))]
        return found

    def leaves(self) -> dict[History, float]:
        """Probability of each covering history given the prefix."""
        found = {}
        for history in self.histories():
            log_p = sum(
                float(self.model.log_next(history[:n])[token]) for n, token in enumerate(history)
            )
            for token, own in enumerate(self.model.log_next(history)):
                if own > -math.inf and self.covers((*history, token)):
                    found[(*history, token)] = math.exp(log_p + own) / self.mass()
        return found

    def covers(self, history: History) -> bool:
        return self.model.table.texts[history[-1]] is not None and self.model.table.text(
            history
        ).startswith(self.prefix)

    def strings(self) -> dict[History, float]:
        """Probability of each string of tokens given the prefix.

        By listing all strings, not by recursion.
        """
        found = {
            s: math.exp(log_p)
            for s, log_p in self.model.strings()
            if begins(self.model.table, s, self.prefix)
        }
        return {s: p / sum(found.values()) for s, p in found.items()}


@dataclass
class Case:
    model: Known
    prefix: bytes
    description: str  # for the message of an assertion

    @property
    def brute(self) -> Brute:
        return Brute(self.model, self.prefix)


def random_case(
    number: int,
    alphabet: bytes = b"ab",
    silent: bool = False,
    special: bool = False,
    fewest: int = 2,
    most: int = 300,
    model: type[Known] = Known,
    limit: int | None = None,
) -> Case:
    """A possible prefix of a random table, which `fewest` to `most` histories begin.

    Every run of the tests draws another one.
    """
    rng = np.random.default_rng([SEED, number])
    while True:
        table = random_table(
            rng, alphabet, int(rng.integers(2, 6)), silent, special, int(rng.integers(1, 3))
        )
        known = model(
            table, limit or int(rng.integers(3, 6 if silent else 9)), int(rng.integers(2**31))
        )
        texts = [text for text in table.texts if text]
        prefix = b"".join(texts[i] for i in rng.integers(len(texts), size=6))[: rng.integers(1, 7)]
        case = Case(
            known,
            prefix,
            f"seed {SEED}, number {number}, prefix {prefix!r}, limit {known.limit}, {table}",
        )
        if fewest <= len(case.brute.histories()) <= most and case.brute.mass() > 0:
            return case


def chi_square(drawn: Sequence[Hashable], truth: Mapping[Any, float]) -> float:
    """z-value (Wilson and Hilferty) of the chi-square of draws.

    Cells of fewer than 5 expected are one. Infinite outside.
    """
    counts, total = Counter(drawn), len(drawn)
    if set(counts) - {x for x, p in truth.items() if p > 0}:
        return math.inf
    cells = sorted(((total * p, counts[x]) for x, p in truth.items()), reverse=True)
    small = [cell for cell in cells if cell[0] < 5]
    cells = cells[: len(cells) - len(small)]
    if small:
        cells.append((sum(expected for expected, _ in small), sum(count for _, count in small)))
    if cells[-1][0] < 5:
        expected, count = cells.pop()
        cells[-1] = (cells[-1][0] + expected, cells[-1][1] + count)
    statistic, freedom = (
        sum((count - expected) ** 2 / expected for expected, count in cells),
        len(cells) - 1,
    )
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(
        2 / (9 * freedom)
    )


ONE_IN_A_MILLION = 4.753  # of a standard normal, one side


def searched(text: bytes, stops: Sequence[bytes]) -> bytes:
    """The whole text up to the leftmost match."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
