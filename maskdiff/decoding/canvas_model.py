"""Our bidirectional mode as a `Continuation`: strings with a known end as well as a known prefix.

`CanvasModel` is a canvas that is filled from the left (or from the right), `ending_with` the
canvases with a suffix. Only in a fixed order are the predictions of a masked model the factors of
one joint distribution. The joint that is conditioned here is: a length in tokens, as in the data;
tokens from the right until they cover the suffix; then tokens from the left. The suffix need not
begin at the boundary of a token: the token that covers its first character may bring more text (the
tail), into which the prefix may extend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskdiff.config import CompletionConfig
from maskdiff.decoding.condition import Conditioned, condition
from maskdiff.errors import CanvasError, ConfigError, quote
from maskdiff.models.causal import encode_bytes, token_table
from maskdiff.models.continuation import ROOT, LatentStates

if TYPE_CHECKING:
    from maskdiff.models.denoiser import ModelDenoiser
    from maskdiff.models.ngram_denoiser import NGramDenoiser

ROWS = 512  # canvases that are evaluated at once


class CanvasModel:
    """Canvases that are filled one token after another.

    Args:
        denoiser: The model.
        lengths: Tokens of each canvas.
        latent_states: The canvases as latent states.
        ends: Tokens that are there already at the right of each canvas; none if `backwards`.
        backwards: Fill from the right.
    """

    def __init__(
        self,
        denoiser: ModelDenoiser | NGramDenoiser,
        lengths: Sequence[int],
        latent_states: LatentStates,
        ends: Sequence[tuple[int, ...]] | None = None,
        backwards: bool = False,
    ) -> None:
        self.denoiser, self.lengths, self.latent_states, self.backwards = (
            denoiser,
            list(lengths),
            latent_states,
            backwards,
        )
        self.ends: list[tuple[int, ...]] = (
            list(ends) if ends is not None else [()] * len(self.lengths)
        )
        self.table = token_table(denoiser.vocabulary, ends=False, backwards=backwards)
        # Nothing is left out of a suffix: the prefix may require it, and its covers keep their
        # numbers.
        self.negligible, self.floor = (0.0, 0.0) if backwards else (1e-9, 1e-6)

    def tree(self) -> CanvasTree:
        """See `Continuation.tree`."""
        return CanvasTree(self)

    def encode(self, texts: Sequence[bytes]) -> list[list[int] | None]:
        """See `Canonical.encode`; backwards, of texts that are read from their end."""
        if not self.backwards:
            return encode_bytes(self.denoiser.vocabulary, texts)
        cuts = encode_bytes(self.denoiser.vocabulary, [text[::-1] for text in texts])
        return [None if cut is None else cut[::-1] for cut in cuts]


class CanvasTree:
    """See `HistoryTree`; a node is a canvas, and costs as many positions as it has tokens."""

    def __init__(self, model: CanvasModel) -> None:
        self.model, self.calls, self.positions = model, 0, 0
        self.norm = torch.empty(0)
        self.rows: list[list[int]] = []  # BOS, tokens or MASK, EOS
        self.next: list[int] = []  # the place that is to be filled
        vocabulary = model.denoiser.vocabulary
        self.allowed = torch.zeros(len(vocabulary), dtype=torch.bool)
        self.allowed[list(vocabulary.inner_ids)] = True

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `HistoryTree.extend`."""
        first = len(self.rows)
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True):
            self._add(parent, token)
        parts = [
            self._evaluate(range(start, min(start + ROWS, len(self.rows))))
            for start in range(first, len(self.rows), ROWS)
        ]
        self.calls, self.positions = (
            self.calls + len(parts),
            self.positions + sum(map(len, self.rows[first:])),
        )
        logits = torch.cat(parts)
        self.norm = logits.logsumexp(-1)
        return logits.log_softmax(-1)

    def forget(self, nodes: int) -> None:
        """See `HistoryTree.forget`."""
        del self.rows[nodes:], self.next[nodes:]

    def _add(self, parent: int, token: int) -> None:
        vocabulary, step = self.model.denoiser.vocabulary, -1 if self.model.backwards else 1
        if parent == ROOT:
            n, end = self.model.lengths[token], self.model.ends[token]
            self.rows.append(
                [vocabulary.bos, *[vocabulary.mask] * (n - len(end)), *end, vocabulary.eos]
            )
            self.next.append(n if self.model.backwards else 1)
            return
        row, place = list(self.rows[parent]), self.next[parent]
        row[place] = token
        self.rows.append(row)
        self.next.append(place + step)

    def _evaluate(self, nodes: range) -> Tensor:
        """(nodes, vocab) float64 logits of the token at the place to be filled."""
        denoiser = self.model.denoiser
        rows = [self.rows[node] for node in nodes]
        width = max(map(len, rows))
        tokens = torch.tensor(
            [row + [denoiser.vocabulary.pad] * (width - len(row)) for row in rows],
            device=denoiser.device,
        )
        length = torch.tensor([len(row) for row in rows], device=denoiser.device)
        logits = denoiser(tokens, length, torch.zeros(len(rows), device=denoiser.device), False)
        place = torch.tensor([self.next[node] for node in nodes], device=denoiser.device)
        here = logits[torch.arange(len(rows), device=denoiser.device), place].cpu().double()
        return here.masked_fill(~self.allowed, -torch.inf)


def ending_with(
    denoiser: ModelDenoiser | NGramDenoiser,
    lengths: NDArray[np.float64],
    suffix: bytes,
    settings: CompletionConfig | None = None,
) -> CanvasModel:
    """The canvases that end with a suffix, each with its probability.

    Args:
        denoiser: The model.
        lengths: (n + 1,) probability of each number of tokens.
        suffix: The end of the strings.
        settings: Mode, budget and beam of the search for covers of the suffix.

    Raises:
        CanvasError, ConfigError: As `condition` does, for the suffix.
    """
    settings = settings or CompletionConfig()
    possible = np.flatnonzero(lengths > 0).tolist()
    prior = torch.from_numpy(np.log(lengths[possible]))
    empty = CanvasModel(
        denoiser, possible, LatentStates(prior, tuple(possible), closed=True), backwards=True
    )
    try:
        found = condition(empty, suffix[::-1], settings.mode, settings.budget, settings.beam)
    except CanvasError:
        text = quote(suffix.decode(errors="backslashreplace"))
        wider = "" if settings.mode in ("auto", "exact") else f" in {settings.mode} mode; use exact"
        raise CanvasError(
            f"no string of at most {max(possible)} tokens was found that ends with {text}{wider}"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"the suffix: {error}") from None
    return _with_ends(denoiser, possible, suffix, found)


def _with_ends(
    denoiser: ModelDenoiser | NGramDenoiser, possible: list[int], suffix: bytes, found: Conditioned
) -> CanvasModel:
    sizes, ends, tails, priors = [], [], [], []
    for node, token, log_p in found.leaves():
        end = tuple([*found.histories.path(node), token][::-1])
        text = b"".join(denoiser.vocabulary.symbols[i].encode() for i in end)
        sizes.append(possible[found.histories.latent[node]])
        ends.append(end)
        tails.append(text[: len(text) - len(suffix)])
        priors.append(log_p)
    latent_states = LatentStates(
        torch.tensor(priors, dtype=torch.float64),
        tuple(n - len(end) for n, end in zip(sizes, ends, strict=True)),
        closed=True, tails=tuple(tails), suffix=suffix, log_dropped=found.log_dropped,
        spent=(found.summary.calls, found.summary.positions),
    )  # fmt: skip
    return CanvasModel(denoiser, sizes, latent_states, ends)
