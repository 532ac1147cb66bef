"""`Denoiser`, what a sampler asks of a model, and the adapter of our model.

It hides shifts, pads, segments, caches and precision from the samplers. Row i of the logits scores
token i in both modes; in the causal mode it has seen only the tokens before i, so row 0 (BOS) has
no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from maskdiff.models.continuation import CausalStream
from maskdiff.utils.deadline import NEVER, Deadline

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary


GROUP = 2048  # tokens, padding included, that a CPU runs at once


class Denoiser(Protocol):
    """Scores every token of every string of a padded batch.

    A denoiser may have `causal_stream(length) -> CausalStream`; without it every token of the
    causal mode takes a full pass. It may have `inputs`, a set of the optional inputs that it reads
    (`previous`, `noise`); without it, it reads `previous`.
    """

    vocabulary: Vocabulary

    def __call__(
        self,
        tokens: Tensor,  # (batch, width) int64, PAD beyond length
        length: Tensor,  # (batch,) int64, BOS and EOS counted
        sigma: Tensor,  # (batch,) float32, noise level of the visible tokens
        causal: bool,
        # (batch, width, vocab) probabilities of the evaluation before
        previous: Tensor | None = None,
        # (batch, width, vocab) Gumbel noise of the draw at masked tokens, else 0 (2512.21323)
        noise: Tensor | None = None,
    ) -> Tensor:  # (batch, width, vocab) float32
        ...


class FullCausalStream:
    """The causal mode without a cache: every step is a pass over the whole string."""

    def __init__(self, denoiser: Denoiser, length: Tensor) -> None:
        self.denoiser, self.length, self.position = denoiser, length, 0
        vocabulary = denoiser.vocabulary
        positions = torch.arange(int(length.max()), device=length.device)
        inside = positions < length[:, None]
        self.tokens = torch.where(inside, vocabulary.mask, vocabulary.pad)  # (batch, width)
        self.sigma = torch.zeros(len(length), device=length.device)

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`."""
        self.tokens[:, self.position] = token
        self.position += 1
        return self.denoiser(self.tokens, self.length, self.sigma, True, None)[:, self.position]

    def select(self, rows: Tensor) -> FullCausalStream:
        """See `CausalStream.select`."""
        self.tokens, self.length, self.sigma = (
            self.tokens[rows],
            self.length[rows],
            self.sigma[rows],
        )
        return self


def causal_stream(denoiser: Denoiser, length: Tensor) -> CausalStream:
    """The denoiser's cached stream for strings of `length` (batch,), or the generic one."""
    own: Callable[[Tensor], CausalStream] | None = getattr(denoiser, "causal_stream", None)
    return own(length) if own is not None else FullCausalStream(denoiser, length)


INPUTS = {
    "previous": "use_self_cond",
    "noise": "use_coupling",
}  # optional input of a denoiser -> the flag that trains it


def reads(denoiser: Denoiser, name: str) -> bool:
    """Whether the denoiser reads the optional input `name`: `previous` or `noise`."""
    return name in getattr(denoiser, "inputs", ("previous",))


class ModelDenoiser:
    """A `UniversalDenoiser` in evaluation mode, without gradients, with float32 logits."""

    def __init__(self, model: Any, vocabulary: Vocabulary) -> None:
        self.model = model.eval()
        self.vocabulary, self.config = vocabulary, model.config
        config = model.config
        names = {"previous": config.use_self_cond, "noise": config.use_coupling}
        self.inputs = frozenset(name for name, used in names.items() if used)
        self.deadline = NEVER

    @contextmanager
    def until(self, deadline: Deadline) -> Iterator[None]:
        """A block in which evaluations raise TimedOut once `deadline` has passed."""
        before, self.deadline = self.deadline, deadline
        try:
            yield
        finally:
            self.deadline = before

    @property
    def device(self) -> torch.device:
        """The device of the weights, and of canvases."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the neural model."""
        weights: dict[str, Tensor] = self.model.state_dict()
        return weights

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """See `Denoiser`; pads, which lie beyond the length, are never attended to.

        On a CPU strings of similar length run together, in groups that fit its cache.

        Raises:
            TimedOut: Once the deadline has passed.
        """
        self.deadline.check()
        if tokens.device.type != "cpu" or tokens.numel() <= GROUP:
            return self._run(tokens, length, sigma, causal, previous, noise)
        logits = torch.zeros(*tokens.shape, len(self.vocabulary))
        by_length = length.argsort(stable=True)
        widths = length[by_length].tolist()
        start = 0
        while start < len(widths):
            self.deadline.check()
            end = start + 1
            while end < len(widths) and (end + 1 - start) * widths[end] <= GROUP:
                end += 1
            rows, width = by_length[start:end], widths[end - 1]
            seen, drawn = (None if x is None else x[rows, :width] for x in (previous, noise))
            logits[rows, :width] = self._run(
                tokens[rows, :width], length[rows], sigma[rows], causal, seen, drawn
            )
            start = end
        return logits

    def _run(
        self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, *extra: Tensor | None
    ) -> Tensor:
        logits: Tensor = self.model.forward_strings(tokens, length, sigma, causal, *extra)
        return logits.float()

    def causal_stream(self, length: Tensor) -> CausalStream:
        """The causal mode, with a key/value cache where the head predicts the next token."""
        # An aligned head scores a token that its own row sees: only a full pass can hide it.
        aligned = self.config.head == "aligned"
        return FullCausalStream(self, length) if aligned else ModelStream(self, length)

    def start_tree(self) -> Any:
        """Return the empty store of a tree of histories of the causal mode."""
        return self.model.start_tree()

    def tree_logits(self, tokens: Tensor, parents: Tensor, from_end: Tensor, cache: Any) -> Tensor:
        """Add nodes to a tree; see `UniversalDenoiser.tree_logits`."""
        logits: Tensor = self.model.tree_logits(tokens, parents, from_end, cache)
        return logits


class ModelStream:
    """Cached causal decoding of one batch."""

    def __init__(self, denoiser: ModelDenoiser, length: Tensor) -> None:
        self.denoiser, self.length, self.position = denoiser, length, 0
        self.cache = denoiser.model.start_cache(len(length))

    @torch.no_grad()
    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`; logits of strings that have ended have no meaning."""
        self.denoiser.deadline.check()
        from_end = (self.length - 1 - self.position).clamp(min=0)
        logits: Tensor = self.denoiser.model.next_logits(token, from_end, self.cache)
        self.position += 1
        return logits.float()

    def select(self, rows: Tensor) -> ModelStream:
        """See `CausalStream.select`."""
        self.cache, self.length = self.cache.select(rows), self.length[rows]
        return self
