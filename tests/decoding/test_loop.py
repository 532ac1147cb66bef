"""`decode` on a table of logits: draws, forced tokens, masks, and strings that end one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from maskdiff.config import ControlConfig
from maskdiff.decoding.loop import Batch, decode, keyed_noise
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import temper
from maskdiff.drawing.penalties import Penalties
from maskdiff.drawing.random import new_keys, token_noise
from maskdiff.drawing.settings import Draw

SIZE, END = 7, 0
TABLE = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()


class Stream:
    """Predicts the next token from a table and counts the tokens that it reads."""

    def __init__(self) -> None:
        self.read: list[list[int]] = []

    def step(self, token: Tensor) -> Tensor:
        self.read.append(token.tolist())
        return TABLE[token]

    def select(self, rows: Tensor) -> Stream:
        return self


@dataclass
class Words:
    """Strings that end with END, or after `limit` tokens."""

    count: int
    limit: int
    history: TokenHistory | None = None
    free: Tensor | None = None
    tokens: dict[int, list[int]] = field(default_factory=dict)

    def write(self, rows: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
        assert scores.shape == (len(rows), SIZE)
        if self.history is not None:
            yes = torch.ones_like(tokens, dtype=torch.bool)
            self.history.write(tokens, yes, yes)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            self.tokens.setdefault(row, []).append(token)
        own = [self.tokens[row] for row in rows.tolist()]
        return torch.tensor([t[-1] != END and len(t) < self.limit for t in own])


def keys(count: int) -> Tensor:
    return new_keys(count, torch.Generator().manual_seed(3))


def written(
    own: Tensor, draw: Draw | None = None, limit: int = 12, first: int = 5, **batch: object
) -> list[list[int]]:
    words = Words(len(own), limit)
    noise = keyed_noise(own, torch.full_like(own, first), SIZE)
    start = TABLE[torch.full((len(own),), 3)]
    whole = Batch(noise, **batch)  # type: ignore[arg-type]
    steps = list(decode(Stream(), start, words, whole, draw or Draw()))
    assert [len(rows) for rows in steps] == [
        sum(len(tokens) > t for tokens in words.tokens.values()) for t in range(len(steps))
    ]
    return [words.tokens[row] for row in range(len(own))]


@pytest.mark.parametrize("draw", [Draw(), Draw(0.7, 0.8), Draw(0.0)])
def test_every_string_is_drawn_as_by_hand(draw: Draw) -> None:
    """Token t is argmax(log p / T + Gumbel noise of the key and position first + t)."""
    own = keys(40)
    for key, tokens in zip(own, written(own, draw), strict=True):
        last = 3
        for t, token in enumerate(tokens):
            noise = token_noise(key[None], torch.zeros(1, 1).long(), 0, torch.tensor([5 + t]), SIZE)
            scores = TABLE[last].log_softmax(-1)
            if draw.temperature:
                scores = temper(scores, draw.temperature, draw.top_p) + noise[0, 0]
            assert token == int(scores.argmax())
            last = token
        assert tokens[-1] == END or len(tokens) == 12


def test_strings_do_not_depend_on_their_batch() -> None:
    own = keys(30)
    assert written(own) == [written(key[None])[0] for key in own]


def test_only_unfinished_strings_are_read() -> None:
    own, stream = keys(30), Stream()
    words = Words(30, 9)
    noise = keyed_noise(own, torch.zeros_like(own), SIZE)
    for _ in decode(stream, TABLE[torch.full((30,), 3)], words, Batch(noise), Draw()):
        pass
    going = [
        [words.tokens[row][t] for row in range(30) if len(words.tokens[row]) > t + 1]
        for t in range(len(stream.read))
    ]
    assert stream.read == going


def test_forced_tokens_win_and_change_no_other_draw() -> None:
    """A token drawn after a forced one has the noise of its own position."""
    own = keys(20)
    free = written(own, limit=6)
    forced = torch.full((20, 6), -1)
    for row, tokens in enumerate(free):
        forced[row, : len(tokens)] = torch.tensor(tokens)
        forced[row, -1] = -1
    assert written(own, limit=6, forced=forced) == free
    fixed = written(own, limit=6, forced=torch.full((20, 6), 4))
    assert fixed == [[4] * 6] * 20


def test_impossible_tokens_are_never_drawn_and_offsets_change_nothing() -> None:
    own, impossible = keys(500), torch.arange(SIZE) % 3 != 1

    def first(scores: Tensor, position: int) -> list[int]:
        words, noise = Words(500, 1), keyed_noise(own, torch.full((500,), position), SIZE)
        for _ in decode(Stream(), scores.expand(500, -1), words, Batch(noise), Draw()):
            pass
        return [words.tokens[row][0] for row in range(500)]

    scores = TABLE[2].masked_fill(impossible, -torch.inf)
    drawn = first(scores, 3)
    assert {*drawn} == {1, 4}
    assert drawn == first(scores + 5, 3)
    assert drawn != first(scores, 4)


def test_only_allowed_tokens_are_drawn() -> None:
    allowed = torch.zeros(SIZE, dtype=torch.bool)
    allowed[[2, 5]] = True
    made = written(keys(50), allowed=allowed)
    assert {token for tokens in made for token in tokens} == {2, 5}


class Alternating:
    """A `NextSymbol` that allows even and odd tokens in turn; row i begins with parity i % 2."""

    def __init__(self, parity: Tensor) -> None:
        self.parity = parity

    def allowed(self) -> Tensor:
        return torch.arange(SIZE) % 2 == self.parity[:, None]

    def write(self, token: Tensor) -> None:
        assert torch.equal(token % 2, self.parity)
        self.parity = 1 - self.parity

    def select(self, rows: Tensor) -> Alternating:
        return Alternating(self.parity[rows])


def test_the_mask_follows_its_strings() -> None:
    made = written(keys(60), mask=Alternating(torch.arange(60) % 2))
    for row, tokens in enumerate(made):
        assert [token % 2 for token in tokens] == [(row + t) % 2 for t in range(len(tokens))]
    assert len({len(tokens) for tokens in made}) > 2  # they end one by one


def test_penalties_apply_to_free_strings_alone() -> None:
    """A ban of repeated tokens holds in the strings that are free, and nothing changes in
    others."""
    penalties = Penalties(ControlConfig(no_repeat_ngram=1))
    own, draw = keys(20), Draw(penalties=penalties)
    start, noise = TABLE[torch.full((20,), 3)], keyed_noise(keys(20), torch.full((20,), 5), SIZE)
    plain = written(own, limit=5)
    for free in (True, False):
        words = _Marked(20, 5, TokenHistory.nothing(20, SIZE))
        words.value = free
        for _ in decode(Stream(), start, words, Batch(noise), draw):
            pass
        made = [words.tokens[row] for row in range(20)]
        assert (made == plain) is not free
        assert all(len(set(tokens)) == len(tokens) for tokens in made) is free


class _Marked(Words):
    value = True

    @property
    def free(self) -> Tensor:  # type: ignore[override]
        assert self.history is not None
        return torch.full((len(self.history.tokens),), self.value)

    @free.setter
    def free(self, value: object) -> None:
        pass
