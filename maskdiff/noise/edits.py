"""Mixed corruption: masks, wrong symbols, swaps, deletions and insertions.

Edits are defined one at a time, from the last position of a string to its first; each edit sees the
result of the later ones. A swap takes the first token that still stands to its right, so a run of
swaps carries one token to the left; it does nothing if that token is MASK or EOS. The code is the
closed form of that definition, for all strings of a batch at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.config import LanguageConfig, NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.noise.canvases import Canvases, Strings, make_canvases
from maskdiff.noise.masking import ROUNDING, choose_exactly
from maskdiff.noise.schedule import draw_sigma

if TYPE_CHECKING:
    from maskdiff.languages import Vocabulary

MIN_LENGTH = 5  # no deletion makes a string shorter, BOS and EOS counted
KEEP, MASK, REPLACE, SWAP, DELETE, INSERT = range(6)


def edit_count(sigma: Tensor, editable: Tensor) -> Tensor:
    """Number of edits at level `sigma` of strings with `editable` tokens, both (batch,).

    It is floor(sigma * n), at least 1; 0 if n is 0.
    """
    count = (sigma.double() * editable + ROUNDING).long()
    return count.clamp(min=1).minimum(editable)


def draw_edits(
    strings: Strings,
    sigma: Tensor,
    config: NoiseConfig,
    vocabulary: Vocabulary,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw the positions and kinds of edits.

    Returns:
        (batch, width) int64 of KEEP..INSERT, and (batch, width) random regular tokens.

    Raises:
        ConfigError: the shares of the operations are all zero.
    """
    c = config
    shares = [c.mask_share, c.replace_share, c.swap_share, c.delete_share, c.insert_share]
    cumulative = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    if cumulative[-1] <= 0.0:
        raise ConfigError(
            "the shares of the mixed corruption are all 0: give at least one of mask_share, "
            "replace_share, swap_share, delete_share, insert_share a share above 0"
        )
    editable = strings.inner() & (strings.tokens >= 0)
    for special in vocabulary.specials:
        editable &= strings.tokens != special
    edited = choose_exactly(editable, edit_count(sigma, editable.sum(1)), generator)
    shape, alphabet = strings.tokens.shape, torch.tensor(vocabulary.inner_ids)
    draw = torch.rand(shape, generator=generator, dtype=torch.float64) * cumulative[-1]
    kind = torch.bucketize(draw, cumulative, right=True).clamp_(max=4) + 1
    fresh = alphabet[torch.randint(len(alphabet), shape, generator=generator)]
    return torch.where(edited, kind, KEEP), fresh


def forbid_length_breaks(edits: Tensor, length: Tensor, max_len: int) -> Tensor:
    """Turn deletions at `MIN_LENGTH` tokens or fewer, and insertions at `max_len`, into KEEP.

    Edits count from the right, so later positions use up the room first.

    Args:
        edits: (batch, width) of KEEP..INSERT.
        length: (batch,) before the edits, BOS and EOS counted.
        max_len: longest result.
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


def apply_corruption(
    strings: Strings, edits: Tensor, fresh: Tensor, vocabulary: Vocabulary
) -> Strings:
    """Apply edits whose lengths are allowed.

    Every position j has two slots of a line twice as long: 2j for a token inserted before it, 2j+1
    for its own. A run of swaps moves the first token to its right to the empty slot 2l of its
    leftmost swap l; then the line is closed up.

    Args:
        strings: what is edited.
        edits: (batch, width) of KEEP..INSERT; KEEP outside the inner positions.
        fresh: (batch, width) the token of a replacement or an insertion at each position.
        vocabulary: gives the special tokens.

    Returns:
        Strings as wide as the longest result.
    """
    # The token of each position, and the first that a swap from its left would take.
    batch, width = edits.shape
    at = torch.arange(width).expand(batch, width)
    own = torch.where(edits == REPLACE, fresh, strings.tokens)
    own = own.masked_fill(edits == MASK, vocabulary.mask)
    head = torch.where(edits == INSERT, fresh, own)
    closed = torch.zeros_like(edits, dtype=torch.bool)
    for special in vocabulary.specials:
        closed |= head == special

    # Swaps with MASK or EOS do nothing.
    standing = _following(edits != DELETE)  # nearest position to the right that is not deleted
    blocked = (edits == SWAP) & (closed & (edits != SWAP)).gather(1, standing)
    edits = torch.where(blocked, KEEP, edits)

    # Positions whose token a run of swaps moves: those behind the run, and its leftmost swap.
    solid = (edits != SWAP) & (edits != DELETE)
    before = torch.where(solid, at, -1).cummax(1).values.roll(1, 1)  # the solid one to the left
    before[:, 0] = -1
    swaps = torch.nn.functional.pad(edits == SWAP, (1, 0))  # (batch, 1 + width): column 0 is -1
    leftmost = _following(swaps).gather(1, before + 1) - 1  # first swap after it
    moved = (solid & (leftmost < at) & (leftmost >= 0)).nonzero()  # (moves, 2)

    # Lay out both slots of every position, move the tokens, and close the gaps.
    slots = torch.stack((edits == INSERT, strings.valid() & (edits != DELETE)), dim=2)
    keep = slots.flatten(1)  # (batch, 2 width)
    line = torch.stack((fresh, own), dim=2).flatten(1)
    row, column = moved[:, 0], moved[:, 1]
    source, target = 2 * column + (edits[row, column] != INSERT), 2 * leftmost[row, column]
    line[row, target] = head[row, column]
    keep[row, source] = False
    keep[row, target] = True
    return _close_up(line, keep, vocabulary.pad)


def _following(marked: Tensor) -> Tensor:
    """(batch, width) the nearest marked position to the right of each; width - 1 if none is."""
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
    """Edit max(1, floor(sigma n)) of the n symbols of every string, by the shares of `config`.

    Operations at a position: replace it by MASK or by a random symbol (perhaps the same one), swap
    it with the next symbol, delete it, insert a random symbol before it. Positions are handled from
    last to first; an impossible operation (a swap with MASK or EOS, a deletion at 5 tokens or
    fewer, an insertion at `max_len` or more) does nothing.

    Args:
        strings: clean strings.
        sigma: (batch,) noise levels in [0, 1].
        config: the shares of the operations.
        vocabulary: gives the symbols.
        generator: of the random numbers.
        max_len: longest result, BOS and EOS counted; 0 turns insertions off, as in the seed
            experiment, which corrupted rows already padded to full length.

    Returns:
        Strings as wide as the longest result.
    """
    edits, fresh = draw_edits(strings, sigma, config, vocabulary, generator)
    edits = forbid_length_breaks(edits, strings.length, max_len)
    return apply_corruption(strings, edits, fresh, vocabulary)


def on_canvas(corrupted: Strings, strings: Strings, vocabulary: Vocabulary) -> Tensor:
    """Corrupted strings on canvases of the clean length: (batch, width) tokens.

    A longer string loses its end (before EOS), a shorter one is filled with MASK; BOS, EOS and
    padding are the clean ones.
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
    """Canvases to repair: corrupted strings at the clean length, weight 1 on every symbol.

    The noise level is passed to the model. `corruption_mode` "mixed" is the mixed corruption;
    "mask_only" hides each symbol independently with probability sigma.

    Args:
        strings: clean strings.
        config: the corruption.
        vocabulary: gives the symbols.
        generator: of the random numbers.
        sigma: (batch,) noise levels in [0, 1]; drawn from `config` if not given.
        max_len: longest corrupted string.
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
    return make_canvases(strings, tokens, inner, torch.ones(1, 1), sigma)
