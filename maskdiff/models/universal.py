"""`UniversalDenoiser`: one small transformer with a bidirectional and a causal mode.

- `n_layer` blocks applied `k_iter` times; the input is injected again before each pass
- pre-norm RMSNorm without parameters, QK-norm with a learned gain per head, squared-ReLU MLP, no
  biases
- rotary or learned positions; optionally learned embeddings of the distances to both ends, which
  give the length (optional in the causal mode)
- the noise level of the visible tokens and the mode (causal or not) of every token as inputs
- a next-token head for both modes, or a head aligned with its input; self-conditioning, and
  coupling to the random numbers of the draw, each through a zero-initialised projection
- attention over packed rows: whole strings side by side, which do not see each other or pads
- key/value caches for the causal mode: of rows of strings, and of a tree of prefixes

Row i of the logits scores token i in both modes. The shift of the next-token head happens here and
nowhere else; the row of the first token of a string (BOS) scores nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from maskdiff.config import ModelConfig
from maskdiff.errors import LogitsError
from maskdiff.models import caches
from maskdiff.models.caches import Cache, TreeCache, is_chain
from maskdiff.models.layers import Block, Geometry, last_known, norm, rotary_tables

SIGMA_FREQUENCIES = 16  # sinusoids of the noise level, from half a wave over [0, 1] to 2^7 waves
# Projections that start at zero, so that weights without them are the same model.
LATE_INPUTS = ("previous.weight", "coupling.weight")
# Functions that draw random weights.
INITIALISERS = (
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    Tensor.normal_,
    Tensor.uniform_,
)
SELF = 0  # segment of the only string of a row


def finite(logits: Tensor, who: str = "the model") -> Tensor:
    """`logits` themselves. Raises LogitsError if one is NaN or infinite."""
    if not bool(logits.isfinite().all()):
        raise LogitsError(f"{who} gives NaN or infinite logits: its weights are unusable")
    return logits


class _Uninitialised(TorchFunctionMode):
    """Leaves weights as they are allocated."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in INITIALISERS:
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def uninitialised(config: ModelConfig, device: str = "cpu") -> UniversalDenoiser:
    """A model to load weights into; on the device `meta` it has only names and shapes.

    Drawing random weights only to replace them is slow, and on `meta` it imports `torch._dynamo`.
    """
    with torch.device(device), _Uninitialised():
        return UniversalDenoiser(config)


class UniversalDenoiser(nn.Module):
    """A recurrent transformer that scores every token of a canvas; see the module's docstring.

    Raises:
        ValueError: `n_embd` is no even multiple of `n_head`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.n_embd % config.n_head or (config.n_embd // config.n_head) % 2:
            raise ValueError(
                f"n_embd {config.n_embd} must be an even multiple of n_head {config.n_head}"
            )
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.n_embd)
        self.mode = nn.Embedding(2, config.n_embd)  # 0 bidirectional, 1 causal
        self.sigma = nn.Linear(2 * SIGMA_FREQUENCIES, config.n_embd, bias=False)
        starts = config.end_positions or config.positions == "learned"
        places, vocabulary, width = config.block_size, config.vocab_size, config.n_embd
        self.from_start = nn.Embedding(places, width) if starts else None
        self.from_end = nn.Embedding(places, width) if config.end_positions else None
        previous, coupling = config.use_self_cond, config.use_coupling
        self.previous = nn.Linear(vocabulary, width, bias=False) if previous else None
        self.coupling = nn.Linear(vocabulary, width, bias=False) if coupling else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.inject = nn.Parameter(torch.zeros(config.n_embd))
        self.head = None if config.tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        cos, sin = rotary_tables(config.block_size, config.n_embd // config.n_head)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights.

        ==================  ==============================================================
        embeddings          normal, std 0.02 (token: 1.0, which the first norm undoes, unless tied)
        qkv, up             uniform with std 1/sqrt(n_embd)
        out, down           zero: every block starts as the identity
        head                zero: the first prediction is uniform
        previous, coupling  zero: self-conditioning and coupling start off
        inject, gain        zero, one
        ==================  ==============================================================
        """
        bound = math.sqrt(3 / self.config.n_embd)
        zero = ("head.weight", "inject", *LATE_INPUTS)
        for name, weight in self.named_parameters():
            if name.endswith(("qkv.weight", "up.weight")):
                nn.init.uniform_(weight, -bound, bound)
            elif name.endswith(("out.weight", "down.weight")) or name in zero:
                nn.init.zeros_(weight)
            elif name.endswith("gain"):
                nn.init.ones_(weight)
            else:
                large = name == "token.weight" and not self.config.tied
                nn.init.normal_(weight, std=1.0 if large else 0.02)

    def forward(
        self,
        tokens: Tensor,
        sigma: Tensor,
        *,
        segment: Tensor,
        position: Tensor,
        from_end: Tensor,
        causal: Tensor,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
        k_iter: int | None = None,
    ) -> Tensor:
        """Score every token of a packed batch.

        Args:
            tokens: (rows, width) token ids.
            sigma: (rows, width) noise level of the visible tokens of the string, in [0, 1].
            segment: (rows, width) number of the string of each token; negative on padding.
            position: (rows, width) distance from the first token of the string (BOS is 0).
            from_end: (rows, width) distance to the last token of the string (EOS is 0).
            causal: (rows, width) True in strings that are read from left to right.
            previous: (rows, width, vocab) probabilities of an earlier prediction, or zero.
            noise: (rows, width, vocab) Gumbel noise of the draw at masked tokens; zero elsewhere,
                and for symbols that are never drawn.
            k_iter: applications of the stack; that of the configuration by default.

        Returns:
            (rows, width, vocab) logits; row i scores token i in both modes.
        """
        x = self.embed(tokens, sigma, position, from_end, causal, previous, noise)
        geometry = self.geometry(segment, position, causal)
        raw = self.scores(self.trunk(x, geometry, k_iter or self.config.k_iter)).float()
        return raw if self.config.head == "aligned" else F.pad(raw[:, :-1], (0, 0, 1, 0))

    def embed(
        self,
        tokens: Tensor,
        sigma: Tensor,
        position: Tensor,
        from_end: Tensor,
        causal: Tensor,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The input of the residual stream, (rows, width, n_embd)."""
        # Sinusoids of the noise level; zero at sigma 0.
        frequencies = math.pi * 2.0 ** torch.linspace(0, 8, SIGMA_FREQUENCIES, device=sigma.device)
        angles = sigma.to(frequencies)[..., None] * frequencies
        waves = torch.cat((angles.sin(), angles.cos() - 1), dim=-1)
        level = self.sigma(waves.to(self.sigma.weight.dtype))
        x = self.token(tokens) + self.mode(causal.long()) + level

        # Positions, and the optional inputs.
        if self.from_start is not None:
            x = x + last_known(self.from_start, position)
        if self.from_end is not None:
            ends = last_known(self.from_end, from_end)
            if not self.config.causal_length:
                ends = torch.where(causal[..., None], 0.0, ends)
            x = x + ends
        if self.previous is not None and previous is not None:
            x = x + self.previous(previous.to(x.dtype))
        if self.coupling is not None and noise is not None:
            x = x + self.coupling(noise.to(x.dtype))
        return self.dropout(x)

    def geometry(self, segment: Tensor, position: Tensor, causal: Tensor) -> Geometry:
        """Attention mask and rotary tables of a packed batch."""
        order = torch.arange(segment.size(1), device=segment.device)
        # Padding sees padding, so that no softmax is empty.
        visible = segment[:, :, None] == segment[:, None, :]
        visible = visible & (~causal[:, :, None] | (order[:, None] >= order))
        return Geometry(visible[:, None], *self.rotations(position))

    def rotations(self, position: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Rotary tables at (rows, width) positions."""
        if self.config.positions != "rotary":
            return None, None
        return self.cos[position][:, None], self.sin[position][:, None]

    def trunk(
        self, x: Tensor, geometry: Geometry, k_iter: int, cache: Cache | TreeCache | None = None
    ) -> Tensor:
        """Apply the stack `k_iter` times to (rows, width, n_embd) and norm the result."""
        x = start = norm(x)
        for k in range(k_iter):
            x = x + self.inject * start
            for i, block in enumerate(self.blocks):
                x = block(x, geometry, cache, k * len(self.blocks) + i)
        return norm(x)

    def forward_strings(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
        k_iter: int | None = None,
    ) -> Tensor:
        """Score padded strings, each in a row of its own.

        Args:
            tokens: (batch, width) BOS to EOS, then padding.
            length: (batch,) BOS and EOS counted.
            sigma: (batch,) noise level of the visible tokens, in [0, 1].
            causal: whether the strings are read from left to right.
            previous: (batch, width, vocab), as in `forward`.
            noise: (batch, width, vocab), as in `forward`.
            k_iter: as in `forward`.

        Returns:
            (batch, width, vocab) logits; rows beyond the length of a string are meaningless.
        """
        self._lengthen(tokens.size(1))
        position = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
        inside = position < length[:, None]
        return self(
            tokens,
            sigma[:, None].expand(tokens.shape),
            segment=torch.where(inside, SELF, -1),
            position=position,
            from_end=(length[:, None] - 1 - position).clamp(min=0),
            causal=torch.full_like(inside, causal),
            previous=previous,
            noise=noise,
            k_iter=k_iter,
        )

    def start_cache(self, rows: int, k_iter: int | None = None, width: int = 0) -> Cache:
        """An empty cache for `rows` strings of up to `width` tokens; 0: those of training."""
        config = self.config
        applications = (k_iter or config.k_iter) * config.n_layer
        room, head = width or config.block_size, config.n_embd // config.n_head
        shape = (applications, rows, config.n_head, room, head)
        keys = torch.zeros(shape, device=self.token.weight.device, dtype=self.token.weight.dtype)
        return Cache(keys, torch.zeros_like(keys))

    def next_logits(self, token: Tensor, from_end: Tensor, cache: Cache) -> Tensor:
        """Read one token a row in causal mode and score the next one.

        Args:
            token: (rows,) token at position `cache.filled`.
            from_end: (rows,) its distance to the last token of its string.
            cache: updated in place.

        Returns:
            (rows, vocab) logits of the token at position `cache.filled + 1`.

        Raises:
            ValueError: the head is aligned, and does not predict the next token.
        """
        position = torch.full_like(token, cache.filled)
        logits = self._read(token[:, None], position[:, None], from_end[:, None], None, cache)
        cache.filled += 1
        return logits

    def read_beginnings(self, tokens: Tensor, pads: Tensor, cache: Cache) -> Tensor:
        """Read more tokens of left-padded strings in causal mode, and score the token behind each.

        For a model whose causal mode is not conditioned on the length.

        Args:
            tokens: (rows, n) next n tokens of each row.
            pads: (rows,) tokens of padding at the start of each row, which are not attended to.
            cache: of the tokens before; updated in place.

        Returns:
            (rows, vocab) logits.

        Raises:
            ValueError: the head is aligned.
        """
        n, begin = tokens.size(1), cache.filled
        order = torch.arange(begin + n, device=tokens.device)
        now = order[begin:]
        visible = (order >= pads[:, None, None]) & (order <= now[:, None])  # (rows, n, begin + n)
        visible = visible | (order == now[:, None])  # padding sees itself: no softmax is empty
        position = (now - pads[:, None]).clamp(min=0)
        self._lengthen(begin + n)
        logits = self._read(tokens, position, torch.zeros_like(position), visible[:, None], cache)
        cache.filled += n
        return logits

    def start_tree(self, k_iter: int | None = None) -> TreeCache:
        """An empty tree."""
        config, weight = self.config, self.token.weight
        room, applications = 64, (k_iter or config.k_iter) * config.n_layer
        keys = weight.new_zeros(applications, room, config.n_head, config.n_embd // config.n_head)
        none = torch.zeros(0, dtype=torch.int64, device=weight.device)
        paths = torch.zeros(room, caches.SEGMENT, dtype=torch.int32, device=weight.device)
        values, above = torch.zeros_like(keys), none.new_zeros(room)
        return TreeCache(keys, values, paths, above, none, none, none[:, None])

    def tree_logits(
        self, token: Tensor, parents: Tensor, from_end: Tensor, cache: TreeCache
    ) -> Tensor:
        """Read new nodes of a tree in causal mode, and score the token behind each.

        Args:
            token: (nodes,) token of each node; BOS for a root.
            parents: (nodes,) numbers of their parents, each before its child; negative for a root.
            from_end: (nodes,) distance to the last token of the string.
            cache: updated in place.

        Returns:
            (nodes, vocab) logits.

        Raises:
            ValueError: the head is aligned.
        """
        nodes = cache.grow(parents)
        chain = len(nodes) > 1 and is_chain(nodes, parents)
        cache.read(nodes, chain)
        shape = cache.new.shape
        position = cache.depth[cache.new]  # (rows, n)
        width = int(position.max()) + 1
        self._lengthen(width)
        visible = torch.arange(width, device=token.device) <= position[..., None]
        tokens, from_end = token.view(shape), from_end.view(shape)
        x = self._trunk_of(tokens, position, from_end, visible[:, None], cache)
        return self.scores(x.flatten(0, 1)).float()

    def _lengthen(self, width: int) -> None:
        """Extend the rotary tables to `width`; learned positions are not extended."""
        if width > len(self.cos):
            tables = rotary_tables(2 * width, self.config.n_embd // self.config.n_head)
            self.cos, self.sin = (table.to(self.cos) for table in tables)

    def _read(
        self,
        tokens: Tensor,
        position: Tensor,
        from_end: Tensor,
        visible: Tensor | None,
        cache: Cache | TreeCache,
    ) -> Tensor:
        """(rows, vocab) logits of the token behind the last of new tokens (rows, n)."""
        x = self._trunk_of(tokens, position, from_end, visible, cache)
        return self.scores(x[:, -1]).float()

    def _trunk_of(
        self,
        tokens: Tensor,
        position: Tensor,
        from_end: Tensor,
        visible: Tensor | None,
        cache: Cache | TreeCache,
    ) -> Tensor:
        """(rows, n, n_embd) output of the trunk for new tokens (rows, n), in causal mode."""
        if self.config.head == "aligned":
            raise ValueError("an aligned head has no next-token prediction; train with head: next")
        sigma = torch.zeros(tokens.shape, device=tokens.device)
        causal = torch.ones_like(position, dtype=torch.bool)
        x = self.embed(tokens, sigma, position, from_end, causal)
        k_iter = cache.keys.size(0) // self.config.n_layer
        return self.trunk(x, Geometry(visible, *self.rotations(position)), k_iter, cache)

    def scores(self, x: Tensor) -> Tensor:
        """(..., vocab) raw scores of the output of the trunk (..., n_embd).

        Raises:
            LogitsError: one is not finite, in evaluation mode; in training the loss is checked.
        """
        raw: Tensor = F.linear(x, self.token.weight) if self.head is None else self.head(x)
        return raw if self.training else finite(raw)

    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(weight.numel() for weight in self.parameters())
