"""Mixed corruption: masks, wrong symbols, swaps, deletions and insertions, all strings of a batch at once.

For: strings to repair, and the canvases that train a model to repair them.  Not for: masked diffusion (``masking.py``).
Easy to get wrong: edits are *defined* one at a time, from the last position of a string to its first, each looking at what
the later ones left behind.  A swap takes the first token still standing to its right, so a run of swaps carries one token to
the left; it does nothing if that token is MASK or EOS.  Everything here is the closed form of that definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import LanguageConfig, NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.noise.canvases import REPAIR, Canvases, Strings, make_canvases
from maskdiff.noise.masking import ROUNDING, choose_exactly
from maskdiff.noise.schedule import draw_sigma

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

MIN_LENGTH = 5  # no deletion makes a string shorter, BOS and EOS counted
KEEP, MASK, REPLACE, SWAP, DELETE, INSERT = range(6)


def edit_count(sigma: Tensor, editable: Tensor) -> Tensor:
    """Edits of strings with ``editable`` tokens at level ``sigma``, both (batch,): floor(sigma * n) in 1..n, 0 if n is 0."""
    count = (sigma.double() * editable + ROUNDING).long()
    return count.clamp(min=1).minimum(editable)


def draw_edits(
    strings: Strings,
    sigma: Tensor,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Choose the places and kinds of edits: (batch, width) int64 of KEEP..INSERT, and a random regular token everywhere.

    Raises:
        ConfigError: the shares of the operations are all zero.
    """
    shares = [
        config.mask_share,
        config.replace_share,
        config.swap_share,
        config.delete_share,
        config.insert_share,
    ]
    cumulative = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    if cumulative[-1] <= 0.0:
        raise ConfigError("the shares of the mixed corruption are all 0: give at least one of mask_share, replace_share, "
                          "swap_share, delete_share, insert_share a share above 0")  # fmt: skip
    editable = strings.inner() & (strings.tokens >= 0)
    for special in vocabulary.specials:
        editable &= strings.tokens != special
    edited = choose_exactly(editable, edit_count(sigma, editable.sum(1)), generator)
    draw = (
        torch.rand(strings.tokens.shape, generator=generator, dtype=torch.float64) * cumulative[-1]
    )
    kind = torch.bucketize(draw, cumulative, right=True).clamp_(max=4) + 1
    alphabet = torch.tensor(vocabulary.inner_ids)
    fresh = alphabet[torch.randint(len(alphabet), strings.tokens.shape, generator=generator)]
    return torch.where(edited, kind, KEEP), fresh


def forbid_length_breaks(edits: Tensor, length: Tensor, max_len: int) -> Tensor:
    """Turn to KEEP every deletion at ``MIN_LENGTH`` tokens or fewer and every insertion at ``max_len`` or more.

    Edits count from the right, so later positions use up the room first.

    Args:
        edits: (batch, width) of KEEP..INSERT.
        length: (batch,) before the edits, BOS and EOS counted.
    """
    deletes, inserts = edits == DELETE, edits == INSERT
    risky = (length - deletes.sum(1) < MIN_LENGTH) | (length + inserts.sum(1) > max_len)  # (batch,)
    rows = risky.nonzero()[:, 0]
    if not len(rows):
        return edits
    edits, now = edits.clone(), length[rows]
    some = edits[rows]  # (risky rows, width)
    for column in reversed((some >= DELETE).any(0).nonzero()[:, 0].tolist()):
        kind = some[:, column]
        shrink, grow = (kind == DELETE) & (now > MIN_LENGTH), (kind == INSERT) & (now < max_len)
        now = now - shrink.long() + grow.long()
        some[:, column] = torch.where((kind >= DELETE) & ~shrink & ~grow, KEEP, kind)
    edits[rows] = some
    return edits


def apply_edits(strings: Strings, edits: Tensor, fresh: Tensor, vocabulary: Vocabulary) -> Strings:
    """Carry out edits whose lengths are allowed.

    Every position j owns two slots of a line twice as long: 2j for a token inserted before it, 2j+1 for its own.  A run of
    swaps moves the first token standing to its right to the empty slot 2l of its leftmost swap l; then the line is closed up.

    Args:
        edits: (batch, width) of KEEP..INSERT; KEEP outside the inner positions.
        fresh: (batch, width) the token that a replacement or an insertion at each position brings.

    Returns:
        Strings as wide as the longest result.
    """
    batch, width = edits.shape
    at = torch.arange(width).expand(batch, width)
    own = torch.where(
        edits == MASK, vocabulary.mask, torch.where(edits == REPLACE, fresh, strings.tokens)
    )
    head = torch.where(edits == INSERT, fresh, own)  # what a swap from the left would meet
    closed = torch.zeros_like(edits, dtype=torch.bool)
    for special in vocabulary.specials:
        closed |= head == special

    standing = _following(edits != DELETE)  # nearest position to the right that is not deleted
    blocked = (edits == SWAP) & (closed & (edits != SWAP)).gather(1, standing)
    edits = torch.where(blocked, KEEP, edits)

    solid = (edits != SWAP) & (edits != DELETE)
    before = (
        torch.where(solid, at, -1).cummax(1).values.roll(1, 1)
    )  # the solid position to the left
    before[:, 0] = -1
    swaps = torch.nn.functional.pad(
        edits == SWAP, (1, 0)
    )  # (batch, 1 + width), so that "after -1" can be asked
    leftmost = _following(swaps).gather(1, before + 1) - 1  # first swap after it
    moved = (solid & (leftmost < at) & (leftmost >= 0)).nonzero()  # (moves, 2)

    keep = torch.stack((edits == INSERT, strings.valid() & (edits != DELETE)), dim=2).flatten(
        1
    )  # (batch, 2 width)
    line = torch.stack((fresh, own), dim=2).flatten(1)
    row, column = moved[:, 0], moved[:, 1]
    source, target = 2 * column + (edits[row, column] != INSERT), 2 * leftmost[row, column]
    line[row, target] = head[row, column]
    keep[row, source] = False
    keep[row, target] = True
    return _close_up(line, keep, vocabulary.pad)


def _following(marked: Tensor) -> Tensor:
    """(batch, width): the nearest marked position strictly to the right of each; width-1 if there is none."""
    width = marked.shape[1]
    place = torch.where(marked, torch.arange(width), width - 1).flip(1).cummin(1).values.flip(1)
    return torch.nn.functional.pad(place[:, 1:], (0, 1), value=width - 1)


def _close_up(line: Tensor, keep: Tensor, padding: int) -> Strings:
    """The kept tokens of each line, without gaps."""
    length = keep.sum(1)
    tokens = torch.full((len(line), int(length.max())), padding)
    tokens[torch.arange(tokens.shape[1]) < length[:, None]] = line[keep]  # both in row-major order
    return Strings(tokens, length)


def mixed_corruption(
    strings: Strings,
    sigma: Tensor,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    max_len: int = LanguageConfig.max_len,
) -> Strings:
    """Edit max(1, floor(sigma n)) of the n symbols of every string, by the shares of ``config``.

    Operations at a position: show MASK, put a random symbol (perhaps the same one), swap with the next symbol, delete,
    insert a random symbol before it.  Positions are handled from last to first; an operation that cannot be carried out
    (a swap with MASK or EOS, a deletion at 5 tokens or fewer, an insertion at ``max_len`` or more) does nothing.

    Args:
        sigma: (batch,) noise levels in [0, 1].
        max_len: longest result, BOS and EOS counted; 0 turns insertions off.  (The seed experiment corrupted rows already
            padded to full length, in which no insertion found room: 0 reproduces it.)

    Returns:
        Strings as wide as the longest result.
    """
    edits, fresh = draw_edits(strings, sigma, config, vocabulary, generator)
    edits = forbid_length_breaks(edits, strings.length, max_len)
    return apply_edits(strings, edits, fresh, vocabulary)


def on_canvas(corrupted: Strings, strings: Strings, vocabulary: Vocabulary) -> Tensor:
    """Lay corrupted strings on canvases of the clean length: (batch, width) tokens.

    What is too long loses its end (before EOS), what is too short is filled with MASK; BOS, EOS and padding are the clean
    ones.
    """
    batch, width = strings.tokens.shape
    shown = torch.full((batch, width), vocabulary.mask)
    shared = min(width, corrupted.tokens.shape[1])
    at = torch.arange(shared)
    shown[:, :shared] = torch.where(
        at < corrupted.length[:, None] - 1, corrupted.tokens[:, :shared], vocabulary.mask
    )
    return torch.where(strings.inner(), shown, strings.tokens)


def repair_noise(
    strings: Strings,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
    sigma: Tensor | None = None,
    max_len: int = LanguageConfig.max_len,
) -> Canvases:
    """Canvases to repair: corrupted strings at the clean length, a loss of weight 1 on every symbol, and sigma told.

    ``corruption_mode`` "mixed" is the mixed corruption; "mask_only" hides each symbol independently with probability sigma.

    Args:
        sigma: (batch,) noise levels in [0, 1]; drawn from ``config`` if not given.
    """
    if sigma is None:
        sigma = draw_sigma(len(strings), config, generator)
    inner = strings.inner()
    if config.corruption_mode == "mask_only":
        hidden = inner & (torch.rand(inner.shape, generator=generator) < sigma[:, None])
        tokens = strings.tokens.masked_fill(hidden, vocabulary.mask)
    else:
        corrupted = mixed_corruption(strings, sigma, config, vocabulary, generator, max_len)
        tokens = on_canvas(corrupted, strings, vocabulary)
    return make_canvases(strings, tokens, inner, torch.ones(1, 1), sigma, REPAIR)
