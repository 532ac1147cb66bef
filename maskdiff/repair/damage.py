"""`Damage`: how strings are damaged, and the channel p(y | x) of a few such edits."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff.errors import ConfigError, nearest, quote
from maskdiff.repair.channel import FLOOR, Channel
from maskdiff.repair.neighbours import EditWeights
from maskdiff.repair.truncation import Truncation

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

# Rates of edits a symbol and how likely they are: one edit is the most frequent damage.
TYPICAL = 30  # symbols of a text to which the rates refer
HIGHEST = 0.5  # rate of a short text
RATES = {0.01: 0.8, 0.03: 0.15, 0.1: 0.04, 0.3: 0.01}
DRAWS = 100  # of an edit that is impossible where it falls
CHANCE = 0.1  # share of replacements and insertions that follow no table of confusions
UNTOUCHED = 0.5  # probability that a text is right, where nothing is known of it
KEYBOARD = ("`1234567890-=", "qwertyuiop[]\\", "asdfghjkl;'", "zxcvbnm,./")
SHIFTED = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
LOOKALIKES = (
    "0OoQD", "1lI|!i", "2Zz", "5Ss", "8B", "6bG", "9gq", "4A", "7T", "cCe(", "uv", "nmh", "ft",
    ".,'`", ":;", "-_~", "[({", "])}", "xX", "kK", "pP", "wW", "yY",
)  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """Which edits damage strings; the shares of the four kinds add up to 1.

    Attributes:
        insert: Share of edits that insert a symbol.
        delete: Share that remove one.
        replace: Share that replace one.
        swap: Share that exchange a symbol and the next one.
        confusion: (symbols, symbols) probability that the symbol of a row is written as that of a
            column, where it is replaced; None if all are alike. Symbols are `inner_ids`.
        inserted: (symbols,) probability of each inserted symbol; None if all are alike.
        rates: Possible numbers of edits a symbol of a text of `TYPICAL` symbols, each with its
            probability for a damaged text, which has at least one edit. The number of edits of a
            text does not depend on its length.
        untouched: Probability that a text is right, where nothing is known of it.
    """

    insert: float = 0.3
    delete: float = 0.3
    replace: float = 0.3
    swap: float = 0.1
    confusion: Tensor | None = None
    inserted: Tensor | None = None
    rates: Mapping[float, float] = field(default_factory=lambda: dict(RATES))
    untouched: float = UNTOUCHED

    def channel(
        self, vocabulary: Vocabulary, broken: bool = False, length: int = TYPICAL
    ) -> Channel:
        """Return the channel of few edits of this kind; every blank hides one symbol.

        The rate of edits is unknown. Unless the text, of `length` symbols, is `broken`, it has
        none with probability `untouched`.
        """
        size = len(vocabulary.inner_ids)
        noise = Channel.of_rates(
            [min(rate * TYPICAL / max(length, 1), HIGHEST) for rate in self.rates],
            insert=self.insert,
            delete=self.delete,
            replace=self.replace,
            swap=self.swap,
            symbols=size,
        )
        weight = torch.tensor([*self.rates.values()], dtype=torch.float64)
        noise = replace(noise, weight=weight)
        if self.confusion is not None:
            noise = replace(noise, confusion=self.confusion.double() * size)
        if self.inserted is not None:
            noise = replace(noise, inserted=self.inserted.double() * size)
        return replace(noise, untouched=0.0) if broken else noise.or_untouched(self.untouched)

    def apply(
        self, tokens: Sequence[int], edits: int, vocabulary: Vocabulary, rng: np.random.Generator
    ) -> list[int]:
        """Return inner token ids after random edits at random places, one after another.

        A replacement writes another symbol. An edit that is impossible (a deletion of the only
        symbol, a transposition of equal symbols) is drawn again, at most `DRAWS` times.
        """
        made, symbols = list(tokens), np.array(vocabulary.inner_ids)
        kinds = np.array([self.insert, self.delete, self.replace, self.swap])
        for _ in range(edits):
            for _ in range(DRAWS):
                kind, at = rng.choice(4, p=kinds / kinds.sum()), int(rng.integers(len(made) + 1))
                if kind == 0:
                    made.insert(at, int(rng.choice(symbols, p=_normal(self.inserted))))
                elif at == len(made) or (kind == 1 and len(made) == 1):
                    continue
                elif kind == 1:
                    del made[at]
                elif kind == 2:
                    row = int(np.flatnonzero(symbols == made[at])[0])
                    table = None if self.confusion is None else self.confusion[row]
                    symbol = int(rng.choice(symbols, p=_normal(table)))
                    if symbol == made[at]:
                        continue
                    made[at] = symbol
                elif at + 1 < len(made) and made[at] != made[at + 1]:
                    made[at], made[at + 1] = made[at + 1], made[at]
                else:
                    continue
                break
        return made

    def weights(self, symbols: int) -> EditWeights:
        """Return log-weights of the edits that undo the damage, for the search."""

        def log(share: float) -> float:
            return math.log(share) if share > 0 else -math.inf

        return EditWeights(
            insert=log(self.delete),
            delete=log(self.insert / symbols),
            replace=log(self.replace / symbols),
            transpose=log(self.swap),
            confusion=_log_factors(self.confusion, symbols),
            inserted=_log_factors(self.inserted, symbols),
        )


@dataclass(frozen=True)
class FewEdits:
    """The channel of a damage for texts of any length; see `Damage.channel`."""

    damage: Damage
    broken: bool = False

    def log_probs(
        self,
        damaged: Sequence[int],
        texts: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        certain: Collection[int] = (),
    ) -> Tensor:
        """Return log p(y | x), see `channel_log_probs`."""
        channel = self.damage.channel(vocabulary, self.broken, len(damaged))
        return channel.log_probs(damaged, texts, vocabulary, certain)


def _log_factors(shares: Tensor | None, symbols: int) -> NDArray[np.float64] | None:
    """Logarithms of shares relative to uniform ones."""
    if shares is None:
        return None
    return (shares.double() * symbols).clamp(min=FLOOR).log().numpy()


def _normal(shares: Tensor | None) -> NDArray[np.float64] | None:
    """The probabilities of shares."""
    if shares is None:
        return None
    values = shares.double().numpy()
    return np.asarray(values / values.sum())


def _smoothed(related: Callable[[str, str], bool], symbols: Sequence[str]) -> Tensor:
    """Confusions with related symbols, each as likely; `CHANCE` of any other one."""
    table = torch.tensor([[float(a != b and related(a, b)) for b in symbols] for a in symbols])
    table = table / table.sum(1, keepdim=True).clamp(min=1)
    alone = table.sum(1, keepdim=True) == 0
    return torch.where(alone, 1.0, CHANCE) / len(symbols) + (1 - CHANCE) * table


def _keys(vocabulary: Vocabulary) -> Damage:
    """Slips on a US keyboard: neighbouring keys, lost and doubled symbols, transpositions."""
    place = {key: (x + 0.5 * y, y) for y, row in enumerate(KEYBOARD) for x, key in enumerate(row)}

    def key(symbol: str) -> tuple[float, int] | None:
        return place.get(SHIFTED.get(symbol, symbol.lower()))

    def near(a: str, b: str) -> bool:
        first, second = key(a), key(b)
        if first is None or second is None:
            return False
        return abs(first[0] - second[0]) <= 1 and abs(first[1] - second[1]) <= 1

    return Damage(0.25, 0.25, 0.3, 0.2, _smoothed(near, vocabulary.inner_symbols))


def _scanned(vocabulary: Vocabulary) -> Damage:
    """Errors of optical character recognition: symbols that look alike."""

    def alike(a: str, b: str) -> bool:
        return a.lower() == b.lower() or any(a in group and b in group for group in LOOKALIKES)

    return Damage(0.1, 0.1, 0.8, 0.0, _smoothed(alike, vocabulary.inner_symbols))


DAMAGES: dict[str, Callable[[Vocabulary], Damage | Truncation]] = {
    "edits": lambda vocabulary: Damage(),
    "keyboard": _keys,
    "ocr": _scanned,
    "swap": lambda vocabulary: Damage(0.0, 0.0, 0.0, 1.0),
    "truncation": lambda vocabulary: Truncation(),
}


def named_damage(name: str, vocabulary: Vocabulary) -> Damage | Truncation:
    """Return the damage of a name. Raises ConfigError for an unknown one."""
    if name not in DAMAGES:
        raise ConfigError(
            f"damage {quote(name)} is unknown; "
            f"the nearest of {', '.join(DAMAGES)} is {nearest(name, tuple(DAMAGES))!r}"
        )
    return DAMAGES[name](vocabulary)
