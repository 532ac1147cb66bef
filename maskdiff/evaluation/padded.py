"""The baseline of training speed: a loop as such experiments are usually written first.

Rows are padded to the longest length, pads are attended to, attention builds its whole matrix, and
Python corrupts every string by itself. `speed.py` alone uses it. It must stay ordinary, neither
tuned nor slowed down: the model has the shape of the reference experiment's (2 blocks, 128 wide, 4
heads), applied as often as ours.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from maskdiff.config import NoiseConfig
from maskdiff.languages import Language


class PlainBlock(nn.Module):
    """Pre-norm attention and MLP with everything spelled out."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        wide = nn.Linear(width, 4 * width, bias=False)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Linear(4 * width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.first(x)).chunk(3, -1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        weights = scores.softmax(-1)  # (rows, heads, length, length)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.second(x))


class PlainDenoiser(nn.Module):
    """Token, position and noise-level embeddings, blocks applied `passes` times, a linear head."""

    def __init__(
        self,
        vocab: int,
        length: int,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        passes: int = 2,
    ):
        super().__init__()
        self.token, self.position = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.level = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.final, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.passes = passes

    def forward(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        x = x + self.level(sigma[:, None])[:, None]
        for _ in range(self.passes):
            for block in self.blocks:
                x = block(x)
        return self.head(self.final(x))  # (rows, length, vocab)


def corrupt_row(
    row: list[int],
    sigma: float,
    shares: dict[str, float],
    symbols: list[int],
    mask: int,
    width: int,
) -> list[int]:
    """Return token ids between BOS and EOS with max(1, floor(sigma n)) random edits."""
    row = list(row)
    places = random.sample(range(1, len(row) - 1), max(1, int(sigma * (len(row) - 2))))
    for place in sorted(places, reverse=True):
        edit = random.choices(list(shares), list(shares.values()))[0]
        if edit == "mask":
            row[place] = mask
        elif edit == "replace":
            row[place] = random.choice(symbols)
        elif edit == "swap" and place + 2 < len(row):
            row[place], row[place + 1] = row[place + 1], row[place]
        elif edit == "delete" and len(row) > 5:
            del row[place]
        elif edit == "insert" and len(row) < width:
            row.insert(place, random.choice(symbols))
    return row


class PaddedLoop:
    """The training loop: `noised()` makes a batch, `step(batch)` learns from it."""

    def __init__(
        self,
        language: Language,
        texts: list[str],
        passes: int = 2,
        batch_size: int = 64,
        lr: float = 3e-4,
    ):
        vocabulary, self.width = language.vocabulary, language.config.max_len
        self.batch_size = batch_size
        self.rows = [[vocabulary.bos, *vocabulary.encode(text), vocabulary.eos] for text in texts]
        self.symbols = list(vocabulary.inner_ids)
        self.mask, self.pad = vocabulary.mask, vocabulary.pad
        noise = NoiseConfig()
        kinds = ("mask", "replace", "swap", "delete", "insert")
        self.shares = {name: getattr(noise, f"{name}_share") for name in kinds}
        self.levels = (noise.sigma_min, noise.sigma_max)
        self.model = PlainDenoiser(len(vocabulary), self.width, passes=passes)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.01)

    def noised(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return corrupted tokens, clean tokens (both (batch, width)) and levels (batch,)."""
        clean, shown, levels = [], [], []
        for row in random.choices(self.rows, k=self.batch_size):
            sigma = random.uniform(*self.levels)
            noisy = corrupt_row(row, sigma, self.shares, self.symbols, self.mask, self.width)
            clean.append(torch.tensor(row + [self.pad] * (self.width - len(row))))
            shown.append(torch.tensor(noisy + [self.pad] * (self.width - len(noisy))))
            levels.append(sigma)
        return torch.stack(shown), torch.stack(clean), torch.tensor(levels)

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        """Make one update; returns its number of tokens without padding."""
        shown, clean, levels = batch
        logits = self.model(shown, levels)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), clean.flatten(), ignore_index=self.pad
        )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return int((clean != self.pad).sum())
