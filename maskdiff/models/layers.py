"""Layers of the transformer: norm, rotary positions, attention and the block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskdiff.config import ModelConfig
from maskdiff.models.caches import Cache, TreeCache


def norm(x: Tensor) -> Tensor:
    """RMSNorm without parameters over the last dimension."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(block_size: int, head_dim: int, base: float = 1000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, each (block_size, head_dim / 2) [2104.09864]."""
    # On the CPU even if the weights are on `meta`: arithmetic there imports `torch._dynamo`.
    cpu = torch.device("cpu")
    frequencies = base ** -(torch.arange(0, head_dim, 2, device=cpu) / head_dim)
    angles = torch.outer(torch.arange(block_size, device=cpu), frequencies)
    return angles.cos(), angles.sin()


def last_known(table: nn.Embedding, place: Tensor) -> Tensor:
    """Learned embeddings of positions; beyond the table, which training never is, its last one."""
    return table(place.clamp(max=table.num_embeddings - 1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of channels of `x` (rows, heads, width, head_dim).

    The tables `cos` and `sin` are (rows, 1, width, head_dim / 2).
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


@dataclass
class Geometry:
    """Attention mask and rotary tables of a batch, shared by all layers.

    Attributes:
        visible: (rows, 1, width, keys) True where the query may attend; None for everywhere.
        cos: (rows, 1, width, head_dim / 2), or None without rotary positions.
        sin: likewise.
    """

    visible: Tensor | None
    cos: Tensor | None
    sin: Tensor | None


class Attention(nn.Module):
    """Multi-head attention with QK-norm; the mask makes it bidirectional or causal."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        # Unit queries and keys alone cannot attend sharply.
        self.gain = nn.Parameter(torch.ones(config.n_head, 1, 1))

    def forward(
        self, x: Tensor, geometry: Geometry, cache: Cache | TreeCache | None, slot: int
    ) -> Tensor:
        # 3 x (rows, heads, width, head_dim)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.gain * norm(q), norm(k)
        if geometry.cos is not None and geometry.sin is not None:
            q, k = rotate(q, geometry.cos, geometry.sin), rotate(k, geometry.cos, geometry.sin)
        if cache is not None:  # append the new tokens, and attend to all before them
            k, v = cache.extend(slot, k, v)
        # (rows, heads, width, head_dim)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=geometry.visible)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm attention and squared-ReLU MLP [2109.08668]."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden = int(config.mlp_ratio * config.n_embd)
        self.attention = Attention(config)
        self.up = nn.Linear(config.n_embd, hidden, bias=False)
        self.down = nn.Linear(hidden, config.n_embd, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, geometry: Geometry, cache: Cache | TreeCache | None, slot: int
    ) -> Tensor:
        x = x + self.dropout(self.attention(norm(x), geometry, cache, slot))
        return x + self.dropout(self.down(F.relu(self.up(norm(x))).square()))
