"""The canvas: a batch of strings in which some tokens are known, some tentative and some blank.

Known tokens never change, under any sampler. A tentative token (written by a sampler, or part of a
draft to be repaired) is visible but not known: a sampler may hide or rewrite it. A blank is the
mask token. `length` counts BOS and EOS; the constructors take lengths in symbols, without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.drawing.random import new_keys
from maskdiff.errors import CanvasError
from maskdiff.utils import arguments
from maskdiff.utils.arguments import checked_arguments

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary
    from maskdiff.sampling.trace import Trace


@dataclass(frozen=True)
class Canvas:
    """A batch of strings to fill; immutable, samplers return new ones.

    Two canvases of the same strings and keys give the same results, whatever their batch and width.
    """

    tokens: Tensor  # (batch, width) int64: BOS, symbols or MASK, EOS, then PAD
    known: Tensor  # (batch, width) bool: never changes; BOS, EOS and PAD are known
    length: Tensor  # (batch,) int64, BOS and EOS counted
    suspect: Tensor  # (batch,) float32: noise level of the visible tokens, 0 where all are right
    keys: Tensor  # (batch,) int64: the string's random key
    spent: Tensor  # (batch,) int64: evaluations that this string needed so far
    visits: (
        Tensor  # (batch, width) int64: how often the position was hidden again (renews its noise)
    )
    trace: Trace | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        known: Sequence[Sequence[bool]] | None,
        vocabulary: Vocabulary,
        generator: torch.Generator | None = None,
        sigma: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> Canvas:
        """Return a canvas of the inner token ids of each string; adds BOS, EOS and PAD.

        Args:
            known: For each token whether it is known; None where all but the blanks are.
            sigma: Noise level of the visible tokens, 0 to 1.
        """
        if not rows:
            raise CanvasError("a canvas needs at least one string, 0 were given")
        for index, row in enumerate(rows):
            if not row:
                raise CanvasError(
                    f"string {index} of the canvas is empty; give at least one symbol or blank"
                )
        if known is None:
            known = [[token != vocabulary.mask for token in row] for row in rows]
        width = max(map(len, rows)) + 2
        table, sure = [], []
        for row, mark in zip(rows, known, strict=True):
            gap = width - len(row) - 2
            table.append([vocabulary.bos, *row, vocabulary.eos, *[vocabulary.pad] * gap])
            sure.append([True, *mark, True, *[True] * gap])
        length = torch.tensor([len(row) + 2 for row in rows], device=device)
        return cls(
            tokens=torch.tensor(table, device=device),
            known=torch.tensor(sure, device=device),
            length=length,
            suspect=torch.full((len(rows),), sigma, device=device),
            keys=new_keys(len(rows), generator).to(device),
            spent=torch.zeros_like(length),
            visits=torch.zeros(len(rows), width, dtype=torch.int64, device=device),
        )

    @classmethod
    def blank(
        cls,
        lengths: Sequence[int],
        vocabulary: Vocabulary,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Canvas:
        """Return a canvas of blanks: one string of each length in symbols."""
        for length in lengths:
            if length < 1:
                raise CanvasError(
                    f"length {length} is impossible: a string has at least one symbol"
                )
        rows = [[vocabulary.mask] * int(n) for n in lengths]
        return cls.of(rows, None, vocabulary, generator, device=device)

    @classmethod
    @checked_arguments(texts=arguments.texts)
    def template(
        cls,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Canvas:
        """Return a canvas such as `(+?(*24))=1?`: every `?` is a blank, everything else is
        known."""
        rows = [vocabulary.encode(text, blanks=True) for text in texts]
        return cls.of(rows, None, vocabulary, generator, device=device)

    @classmethod
    @checked_arguments(texts=arguments.texts)
    def prefix(
        cls,
        texts: Sequence[str],
        lengths: Sequence[int],
        vocabulary: Vocabulary,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Canvas:
        """Return a canvas of known beginnings, with blanks up to each length in symbols."""
        rows = []
        for text, length in zip(texts, lengths, strict=True):
            start = vocabulary.encode(text, blanks=True)
            if len(start) > length:
                raise CanvasError(
                    f"a prefix of {len(start)} symbols does not fit in length {length}; "
                    "give a longer length"
                )
            rows.append(start + [vocabulary.mask] * (int(length) - len(start)))
        return cls.of(rows, None, vocabulary, generator, device=device)

    @classmethod
    @checked_arguments(texts=arguments.texts)
    def draft(
        cls,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        sigma: float,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Canvas:
        """Return texts to be repaired at their length: none is known, their noise level is
        `sigma`."""
        if not 0.0 <= sigma <= 1.0:
            raise CanvasError(f"noise level {sigma} of a draft is impossible: give one in [0, 1]")
        rows = [vocabulary.encode(text, blanks=True) for text in texts]
        known = [[False] * len(row) for row in rows]
        return cls.of(rows, known, vocabulary, generator, sigma, device)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> Canvas:
        """Return some of the strings, without the trace.

        `rows` is an index tensor, a boolean mask, a slice or a list.
        """
        index = (
            rows if isinstance(rows, (Tensor, slice)) else torch.as_tensor(rows, dtype=torch.int64)
        )
        parts = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "trace"}
        return replace(self, **parts, trace=None)

    def put(self, rows: Tensor, part: Canvas) -> Canvas:
        """Return the canvas with strings `rows` replaced by those of `part`, which may be
        narrower."""
        tokens, visits = self.tokens.clone(), self.visits.clone()
        width = part.tokens.shape[1]
        tokens[rows, :width] = part.tokens
        visits[rows, :width] = part.visits
        return replace(
            self, tokens=tokens, visits=visits, spent=self.spent.index_put((rows,), part.spent)
        )

    def trim(self) -> Canvas:
        """Return the canvas without the columns that are padding in every string."""
        width = int(self.length.max())
        if width == self.tokens.shape[1]:
            return self
        cut = {name: getattr(self, name)[:, :width] for name in ("tokens", "known", "visits")}
        return replace(self, **cut)

    def wider(self, width: int, pad: int) -> Canvas:
        """Return the canvas with padding up to `width` columns, which changes no result."""
        gap = width - self.tokens.shape[1]
        return replace(
            self,
            tokens=torch.nn.functional.pad(self.tokens, (0, gap), value=pad),
            known=torch.nn.functional.pad(self.known, (0, gap), value=True),
            visits=torch.nn.functional.pad(self.visits, (0, gap)),
        )

    def traced(self) -> Canvas:
        """Return the canvas with a new `Trace`, to which samplers write."""
        from maskdiff.sampling.trace import Trace

        trace = Trace()
        trace.record(self.tokens, self.spent)
        return replace(self, trace=trace)

    def recorded(self) -> Canvas:
        """Return the canvas itself; appends its tokens to the trace, if there is one."""
        if self.trace is not None:
            self.trace.record(self.tokens, self.spent)
        return self


@dataclass(frozen=True)
class Sample:
    """The result of a sampler: its final canvas."""

    canvas: Canvas

    @property
    def tokens(self) -> Tensor:
        """(batch, width) int64; MASK where the sampler left a blank (a warm start does)."""
        return self.canvas.tokens

    @property
    def length(self) -> Tensor:
        """(batch,) int64, BOS and EOS counted."""
        return self.canvas.length

    @property
    def evaluations(self) -> Tensor:
        """(batch,) int64: denoiser evaluations that each string needed, all stages together."""
        return self.canvas.spent

    @property
    def trace(self) -> Trace | None:
        """The record of the run, if the canvas was `traced()`."""
        return self.canvas.trace

    def texts(self, vocabulary: Vocabulary) -> list[str]:
        """Return the inner symbols of each string, without BOS, EOS and PAD; `?` for a blank."""
        rows, lengths = self.tokens.tolist(), self.length.tolist()
        return [
            vocabulary.decode(row[1 : n - 1], specials="show")
            for row, n in zip(rows, lengths, strict=True)
        ]
