"""Denoisers with known distributions.

An exact one for languages small enough to enumerate, and deterministic ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from maskdiff.languages import Vocabulary

TINY = Vocabulary.of("0123()+*=")

# Strings of several lengths with far-from-product probabilities: brackets that must match, values
# that must agree.
STRINGS = {
    "(0)": 3.0,
    "(1)": 2.0,
    "0+0": 1.0,
    "1+1": 4.0,
    "*=*": 1.5,
    "=*=": 0.5,
    "(1+2)=": 3.0,
    "(2+1)=": 1.0,
    "0=(12)": 2.0,
    "1=(21)": 2.0,
    "++++++": 0.7,
    "((33))": 1.3,
    "(0**0)": 2.0,
}


class Exact:
    """The exact conditional distributions of an enumerated language, in both modes.

    Bidirectional: p(token i | visible tokens), `<DIGIT>` standing for any digit.
    Causal: p(token i | tokens before i).
    A canvas that no string fits gets logits of minus infinity everywhere.
    """

    def __init__(
        self, strings: dict[str, float] | None = None, vocabulary: Vocabulary = TINY
    ) -> None:
        self.vocabulary, self.calls, self.rows = vocabulary, 0, 0
        self.strings = strings or STRINGS
        encoded = [vocabulary.encode(text) for text in self.strings]
        width = max(map(len, encoded)) + 2
        table = [
            [vocabulary.bos, *row, vocabulary.eos, *[vocabulary.pad] * (width - len(row) - 2)]
            for row in encoded
        ]
        self.table = torch.tensor(table)  # (strings, width)
        self.length = torch.tensor([len(row) + 2 for row in encoded])
        self.weight = torch.tensor(list(self.strings.values()), dtype=torch.float64)

    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        self.calls += 1
        self.rows += len(tokens)
        vocabulary, width = self.vocabulary, tokens.shape[1]
        table = torch.nn.functional.pad(self.table, (0, max(0, width - self.table.shape[1])))[
            :, :width
        ]
        digits = torch.isin(table, torch.tensor(vocabulary.digit_ids))
        shown = tokens[:, None, :]  # (batch, 1, width) against (1, strings, width)
        fits = (
            (shown == table) | (shown == vocabulary.mask) | ((shown == vocabulary.digit) & digits)
        )
        same = (length[:, None] == self.length)[:, :, None]
        if causal:
            before = (
                torch.nn.functional.pad(fits.long().cumprod(-1)[..., :-1], (1, 0), value=1).bool()
                & same
            )
        else:
            before = (fits.all(-1, keepdim=True) & same).expand(-1, -1, width)
        mass = before.double() * self.weight[:, None]  # (batch, strings, width)
        onehot = torch.nn.functional.one_hot(table, len(vocabulary)).double()
        probs = torch.einsum("bsw,swv->bwv", mass, onehot)
        return probs.log().float()

    def truth(self, inner: int) -> dict[str, float]:
        """The distribution of the strings of ``inner`` symbols."""
        chosen = {text: weight for text, weight in self.strings.items() if len(text) == inner}
        return {text: weight / sum(chosen.values()) for text, weight in chosen.items()}


class Foresighted(Exact):
    """An exact denoiser that has learned to read the noise of the draw.

    It names the causal mode's sample outright.
    """

    inputs = frozenset({"noise"})

    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        if noise is None:
            return super().__call__(tokens, length, sigma, causal, previous)
        assert not causal
        assert not noise[tokens != self.vocabulary.mask].any()  # only blanks have a draw left
        assert not noise[..., list(self.vocabulary.specials)].any()
        drawn, blank = tokens.clone(), tokens == self.vocabulary.mask
        plain = [
            i
            for i in range(len(self.vocabulary))
            if i not in self.vocabulary.specials and i != self.vocabulary.digit
        ]
        for position in range(1, tokens.shape[1]):
            logits = super().__call__(drawn, length, sigma, True)[:, position]
            best = torch.tensor(plain)[
                (logits.log_softmax(-1) + noise[:, position])[:, plain].argmax(-1)
            ]
            drawn[:, position] = torch.where(blank[:, position], best, drawn[:, position])
        return torch.nn.functional.one_hot(drawn, len(self.vocabulary)).float() * 50


class Table:
    """Fixed logits (width, vocab) whatever the canvas, plus a bonus for the present token.

    Deterministic and checkable.
    """

    def __init__(self, logits: Tensor, vocabulary: Vocabulary = TINY) -> None:
        self.logits, self.vocabulary, self.calls, self.rows = logits, vocabulary, 0, 0
        self.seen: list[tuple[Tensor, Tensor, bool, Tensor | None]] = []

    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        self.calls += 1
        self.rows += len(tokens)
        self.seen.append(
            (tokens.clone(), sigma.clone(), causal, None if previous is None else previous.clone())
        )
        return self.logits[: tokens.shape[1]].expand(len(tokens), -1, -1).clone()


class Scrambled:
    """Pseudo-random logits that depend on every token of the string (those before, in the causal
    mode) and nothing else."""

    inputs = frozenset({"previous", "noise"})

    def __init__(self, vocabulary: Vocabulary = TINY, sharpness: float = 2.0) -> None:
        self.vocabulary, self.sharpness, self.calls, self.rows = vocabulary, sharpness, 0, 0

    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        self.calls += 1
        self.rows += len(tokens)
        positions = torch.arange(tokens.shape[1])
        inside = positions < length[:, None]
        feature = torch.sin((tokens + 1.0).double() * (positions + 1.7) * 12.9898) * inside
        context = (
            feature.cumsum(1) - feature
            if causal
            else feature.sum(1, keepdim=True).expand_as(feature)
        )
        context = context + length[:, None] * 0.37 + (0.0 if causal else 1.0)
        phase = (
            context[..., None] * 78.233
            + torch.arange(len(self.vocabulary)) * 4.1
            + positions[None, :, None] * 2.3
        )
        logits = (self.sharpness * torch.sin(phase)).float()
        return (
            logits if noise is None else logits.log_softmax(-1) + noise
        )  # the likeliest token is then the draw


def chi_square(texts: Sequence[str], truth: dict[str, float]) -> float:
    """z-value (Wilson and Hilferty) of the chi-square of ``texts`` against ``truth``.

    Infinite outside its support.
    """
    counts, total = Counter(texts), len(texts)
    if set(counts) - set(truth):
        return math.inf
    statistic = sum((counts[text] - total * p) ** 2 / (total * p) for text, p in truth.items())
    freedom = len(truth) - 1
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(
        2 / (9 * freedom)
    )
