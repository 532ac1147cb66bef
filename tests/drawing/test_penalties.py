"""Penalties of repetition on one next token.

Bit for bit those of transformers, DRY, counts and `TokenHistory` by their definitions.
"""

from __future__ import annotations

import math
import os
import random

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("transformers")

import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from maskdiff.config import ControlConfig
from maskdiff.drawing.history import TokenHistory
from maskdiff.drawing.logits import draw_tokens, keep_min_p, keep_top_k, keep_top_p, temper
from maskdiff.sampling import Penalties
from maskdiff.text.repetition import periodic_tail


def history_of(
    context: Tensor,
    vocab: int,
    given: int = 0,
    counted: Tensor | None = None,
    drawn: Tensor | None = None,
) -> TokenHistory:
    """Returns the history of a context (batch, n), written token by token.

    The constructor receives the first `given` positions, too.
    """
    counted = torch.ones_like(context, dtype=torch.bool) if counted is None else counted
    drawn = counted if drawn is None else drawn
    first = counted & (torch.arange(context.shape[1]) < given)
    history = (
        TokenHistory(context, first, drawn, vocab)
        if given
        else TokenHistory.nothing(len(context), vocab)
    )
    for at in range(context.shape[1]):
        history.write(context[:, at], counted[:, at], drawn[:, at])
    return history


# ------------------------------------------------------------------------------------- transformers


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_penalties_and_ngrams_are_bit_for_bit_those_of_transformers(dtype: torch.dtype) -> None:
    """A ban that leaves nothing is lifted here and not there.

    Those rows are as if nothing was banned.
    """
    torch.manual_seed(0)
    rng, bans, lifted = random.Random(0), 0, 0
    for _ in range(80):
        batch, vocab, size = (
            rng.randint(1, 4),
            rng.randint(2, 12),
            rng.randint(1, 90 if rng.random() < 0.1 else 25),
        )
        logits, context = (
            4 * torch.randn(batch, vocab, dtype=dtype),
            torch.randint(vocab, (batch, size)),
        )
        history, penalty = history_of(context, vocab, rng.randint(0, size)), rng.uniform(0.5, 2.0)
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(context, logits)
        assert torch.equal(
            Penalties(ControlConfig(repetition_penalty=penalty)).shape(logits, history), theirs
        )
        for prompt in (
            torch.randint(size + 1, (batch,)),
            torch.full((batch,), rng.randint(0, size)),
        ):
            own = torch.arange(size) >= prompt[:, None]
            ignored = int(prompt[0]) if bool((prompt == prompt[0]).all()) else prompt
            apart = RepetitionPenaltyLogitsProcessor(penalty, ignored)(context, logits)
            exempt = history_of(context, vocab, rng.randint(0, size), own)
            assert torch.equal(
                Penalties(ControlConfig(repetition_penalty=penalty)).shape(logits, exempt), apart
            )
        for n in range(1, 6):
            both = NoRepeatNGramLogitsProcessor(n)(context, theirs)
            nothing = (both == -torch.inf).all(-1, keepdim=True)
            ours = Penalties(ControlConfig(repetition_penalty=penalty, no_repeat_ngram=n)).shape(
                logits, history
            )
            assert torch.equal(ours, torch.where(nothing, theirs, both))
            bans, lifted = bans + int((ours == -torch.inf).sum()), lifted + int(nothing.sum())
    assert bans > 500
    assert lifted > 20


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuts_are_bit_for_bit_those_of_transformers(dtype: torch.dtype) -> None:
    """One by one, and one after another as its ``generate`` applies them."""
    torch.manual_seed(0)
    rng, none = random.Random(0), torch.zeros(1, 1, dtype=torch.int64)
    for _ in range(150):
        vocab = rng.randint(2, 40)
        logits = rng.uniform(0.1, 6) * torch.randn(rng.randint(1, 4), vocab, dtype=dtype)
        k, p, share, heat = (
            rng.randint(1, vocab + 3),
            rng.uniform(0, 0.999),
            rng.uniform(0, 1),
            rng.uniform(0.3, 2),
        )
        assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(none, logits))
        assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(none, logits))
        assert torch.equal(keep_min_p(logits, share), MinPLogitsWarper(share)(none, logits))
        theirs = TopKLogitsWarper(k)(none, (logits / heat).log_softmax(-1))
        theirs = MinPLogitsWarper(share)(none, TopPLogitsWarper(p)(none, theirs))
        assert torch.equal(temper(logits, heat, p, k, share), theirs)
        noise = -torch.log(-torch.log(torch.rand(500, len(logits), vocab, dtype=torch.float64)))
        drawn = draw_tokens(logits, noise, heat, p, k, share)
        assert (theirs.expand(500, -1, -1).gather(-1, drawn[..., None]) > -torch.inf).all()


def test_truncation_keeps_the_likeliest_and_zero_truncates_nothing() -> None:
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(50, 9, generator=torch.Generator().manual_seed(1))
    for cut in ((1.0, 1, 0.0), (1.0, 0, 1.0), (0.0, 0, 0.0)):
        assert torch.equal(draw_tokens(logits, noise, 1.0, *cut), logits.argmax(-1))
    assert torch.equal(temper(logits, 1.0, 1.0, 0, 0.0), logits.log_softmax(-1))
    ties = torch.zeros(1, 4)
    assert torch.equal(keep_min_p(ties, 1.0), ties)
    assert torch.equal(keep_top_k(ties, 2), ties)


def test_a_ban_of_every_allowed_token_is_lifted() -> None:
    history, allowed = (
        history_of(torch.tensor([[0, 1, 2, 0, 1]]), 4),
        torch.tensor([[True, False, True, False]]),
    )
    bigrams, tokens = (Penalties(ControlConfig(no_repeat_ngram=n)) for n in (3, 1))
    logits = torch.zeros(1, 4)
    assert bigrams.shape(logits, history).tolist() == [[0.0, 0.0, -math.inf, 0.0]]
    assert bigrams.shape(logits, history, allowed).tolist() == [[0.0, 0.0, -math.inf, 0.0]]
    assert tokens.shape(logits, history, allowed).tolist() == [
        [0.0] * 4
    ]  # 3 is free, but may not be drawn
    impossible = torch.tensor([[0.0, 0.0, 0.0, -math.inf]])
    assert torch.equal(tokens.shape(impossible, history), impossible)
    both = TokenHistory.select(history, torch.tensor([0, 0]))
    mixed = torch.cat((logits, impossible))
    assert tokens.shape(mixed, both).tolist() == [
        [-math.inf] * 3 + [0.0],
        [0.0] * 3 + [-math.inf],
    ]  # each row by itself


# ---------------------------------------------------------------------------------------------- DRY


def longest_match(context: list[int], token: int, breakers: set[int], reach: int) -> int:
    """On how many tokens the end of the context and what stood before an earlier ``token``
    agree, at most 50."""
    text, best = context[-reach:] if reach else context, 0
    for at in range(1, len(text)):
        if text[at] == token and token not in breakers:
            size = 0
            while (
                size < min(at, 50)
                and text[at - 1 - size] == text[-1 - size]
                and text[-1 - size] not in breakers
            ):
                size += 1
            best = max(best, size)
    return best


def dry_by_definition(
    context: list[int], vocab: int, config: ControlConfig, breakers: set[int]
) -> Tensor:
    """Returns the DRY penalties, (vocab,) float64."""
    taken = []
    for token in range(vocab):
        size = longest_match(context, token, breakers, config.dry_range)
        over = size - config.dry_allowed_length
        taken.append(config.dry_multiplier * config.dry_base**over if size and over >= 0 else 0.0)
    return torch.tensor(taken, dtype=torch.float64)


@pytest.mark.parametrize(
    "probs, context, breakers, settings, expected",
    [  # of llama.cpp's tests/test-sampling.cpp
        (4, [0, 1], (), (1.0, 2, 4), [0.25] * 4),
        (4, [0, 1, 2, 0, 1], (), (1.0, 2, 5), [0.296923, 0.296923, 0.109232, 0.296923]),
        (5, [0, 1, 3, 4, 0, 1], (3,), (1.0, 2, 6), [0.2] * 5),
        (5, [0, 1, 2, 0, 1], (), (2.0, 2, 5), [0.241818, 0.241818, 0.032727, 0.241818, 0.241818]),
        (5, [0, 1, 2, 3, 4, 0, 1], (), (1.0, 4, 7), [0.2] * 5),
    ],
)
def test_dry_gives_the_probabilities_of_llama_cpp(
    probs, context, breakers, settings, expected
) -> None:
    multiplier, allowed, reach = settings
    config = ControlConfig(
        dry_multiplier=multiplier, dry_base=1.1, dry_allowed_length=allowed, dry_range=reach
    )
    history = history_of(torch.tensor([context]), probs)
    shaped = Penalties(config, breakers).shape(torch.full((1, probs), math.log(1 / probs)), history)
    assert torch.allclose(shaped.softmax(-1)[0], torch.tensor(expected), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("base", [2.0, 1.75])
def test_dry_equals_its_definition(base: float) -> None:
    """On 1,920 contexts over one to four tokens, some of them loops of more than 50.

    Base 2 is exact, so lengths are.
    """
    rng, some, long = random.Random(0), 0, 0
    for _ in range(120):
        vocab, size, batch = rng.randint(1, 4), rng.randint(1, 30), 16
        rows = [[rng.randrange(vocab) for _ in range(size)] for _ in range(batch)]
        if rng.random() < 0.1:
            size = 130
            rows = [([*range(vocab)] * size)[:size] for _ in range(batch)]
        breakers = (
            tuple(rng.sample(range(vocab), rng.randint(0, vocab - 1))) if rng.random() < 0.5 else ()
        )
        reach, allowed = rng.choice([0, 0, rng.randint(1, size + 2)]), rng.randint(1, 4)
        config = ControlConfig(
            dry_multiplier=2.0, dry_base=base, dry_allowed_length=allowed, dry_range=reach
        )
        history = history_of(torch.tensor(rows), vocab, rng.randint(0, size))
        expected = torch.stack(
            [dry_by_definition(row, vocab, config, set(breakers)) for row in rows]
        )
        ours = -Penalties(config, breakers).shape(
            torch.zeros(batch, vocab, dtype=torch.float64), history
        )
        assert (
            torch.equal(ours, expected)
            if base == 2.0
            else torch.allclose(ours, expected, rtol=1e-12)
        )
        some, long = (
            some + int((expected > 0).sum()),
            long + int((expected == 2 * base ** (50 - allowed)).sum()),
        )
    assert some > 1000
    assert long > 20


def test_dry_never_overflows() -> None:
    """The largest settings leave numbers that can be compared.

    What is forced stays what is drawn.
    """
    largest = Penalties(ControlConfig(dry_multiplier=100.0, dry_base=10.0, dry_allowed_length=1))
    history = history_of(torch.zeros(1, 200, dtype=torch.int64), 2)
    shaped = largest.shape(torch.tensor([[0.0, -math.inf]]), history)
    assert shaped.log_softmax(-1).tolist() == [[0.0, -math.inf]]


# ------------------------------------------------------------------------------ presence, frequency


@pytest.mark.parametrize(
    "context, expected",
    [  # of llama.cpp's tests/test-sampling.cpp
        ([0], [0.000011, 0.249997, 0.249997, 0.249997, 0.249997]),
        ([0, 1, 2], [0.000023, 0.000023, 0.000023, 0.499966, 0.499966]),
        ([0, 1, 2, 0, 0], [0.0, 0.000023, 0.000023, 0.499977, 0.499977]),
    ],
)
def test_penalties_give_the_probabilities_of_llama_cpp(
    context: list[int], expected: list[float]
) -> None:
    history, logits = history_of(torch.tensor([context]), 5), torch.full((1, 5), math.log(0.2))
    shaped = Penalties(ControlConfig(presence_penalty=5.0, frequency_penalty=5.0)).shape(
        logits, history
    )
    assert torch.allclose(shaped.softmax(-1)[0], torch.tensor(expected), atol=1e-5)
    strong = Penalties(ControlConfig(repetition_penalty=50.0)).shape(logits, history).softmax(-1)[0]
    seen = torch.tensor([token in context for token in range(5)])
    assert torch.allclose(strong, torch.where(seen, 0.0, 1 / (~seen).sum()), atol=1e-5)


@pytest.mark.slow
def test_presence_and_frequency_penalties_count_only_drawn_tokens() -> None:
    rng = random.Random(0)
    for _ in range(200):
        vocab, size, prompt = rng.randint(1, 6), rng.randint(0, 20), rng.randint(0, 10)
        row = [rng.randrange(vocab) for _ in range(prompt + size)]
        drawn = torch.arange(prompt + size)[None] >= prompt
        presence, frequency = rng.uniform(-2, 2), rng.uniform(-2, 2)
        logits = torch.randn(1, vocab, dtype=torch.float64)
        counts = [row[prompt:].count(token) for token in range(vocab)]
        own = [
            x - presence * (n > 0) - frequency * n
            for x, n in zip(logits[0].tolist(), counts, strict=True)
        ]
        config = ControlConfig(presence_penalty=presence, frequency_penalty=frequency)
        history = history_of(torch.tensor([row]), vocab, rng.randint(0, prompt + size), drawn=drawn)
        shaped = Penalties(config).shape(logits, history)[0]
        assert torch.allclose(shaped, torch.tensor(own, dtype=torch.float64), rtol=0, atol=1e-14)
        assert Penalties(config).shape(logits.float(), history).dtype == torch.float32


def test_prompts_count_for_the_repetition_penalty_unless_exempt() -> None:
    """`exempt_prompt` changes only the counted tokens, not presence and frequency penalties."""
    context, logits = torch.tensor([[0, 0, 1]]), torch.ones(1, 3)
    given = torch.tensor([[False, False, True]])
    config = ControlConfig(repetition_penalty=2.0, frequency_penalty=0.25)
    assert Penalties(config).shape(logits, history_of(context, 3, drawn=given)).tolist() == [
        [0.5, 0.25, 1.0]
    ]
    assert Penalties(config).shape(logits, history_of(context, 3, counted=given)).tolist() == [
        [1.0, 0.25, 1.0]
    ]


# ------------------------------------------------------------------------------------- TokenHistory


def agreement(left: list[int], right: list[int]) -> int:
    """Length of the longest common suffix.

    -1 marks a hole and agrees with nothing.
    """
    size = 0
    while size < min(len(left), len(right)) and left[-1 - size] == right[-1 - size] != -1:
        size += 1
    return size


@pytest.mark.parametrize("initial", ["nothing", "a beginning", "everything"])
def test_the_match_table_equals_brute_force(initial: str) -> None:
    """At every position of random texts with holes, also if the tokens right of the position are
    known."""
    rng, longest = random.Random(0), 0
    for _ in range(40):
        batch, size, vocab = rng.randint(1, 3), rng.randint(1, 24), rng.randint(1, 3)
        tokens = torch.randint(
            vocab, (batch, size), generator=torch.Generator().manual_seed(rng.randrange(10**6))
        )
        counted = (
            torch.rand(batch, size, generator=torch.Generator().manual_seed(rng.randrange(10**6)))
            < 0.9
        )
        given = {"nothing": 0, "a beginning": rng.randint(1, size), "everything": size}[initial]
        first = counted & (torch.arange(size) < given)
        history = (
            TokenHistory(tokens, first, counted, vocab)
            if given
            else TokenHistory.nothing(batch, vocab)
        )
        for at in range(size):
            history.write(tokens[:, at], counted[:, at], counted[:, at])
            known = counted & (torch.arange(size) < max(given, at + 1))
            rows = torch.where(known, tokens, -1).tolist()
            for row, found, counts in zip(
                rows, history.match.tolist(), history.counts.tolist(), strict=True
            ):
                assert counts == [row.count(token) for token in range(vocab)]
                expected = [
                    agreement(row[: at + 1], row[: j + 1]) if j != at else 0 for j in range(size)
                ]
                assert found[:size] == expected
                longest = max(longest, *found)
    assert longest > 10


def test_a_grown_history_equals_a_preallocated_one() -> None:
    """A history of 300 tokens grows beyond its initial capacity of 64.

    Its tables equal those of a history allocated at full size.
    """
    tokens = torch.randint(3, (2, 300), generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(2, 300, dtype=torch.bool)
    grown, preallocated = (
        TokenHistory.nothing(2, 3),
        TokenHistory(nothing.long(), nothing, nothing, 3),
    )
    yes = torch.ones(2, dtype=torch.bool)
    for at in range(300):
        for history in (grown, preallocated):
            history.write(tokens[:, at], yes, yes)
        assert torch.equal(grown.match[:, : at + 1], preallocated.match[:, : at + 1])
    assert torch.equal(grown.tokens[:, :300], tokens)
    assert torch.equal(grown.counts, preallocated.counts)
    assert torch.equal(grown.drawn, grown.counts)
    assert grown.counts.sum() == 600


def test_selected_texts_continue_like_separate_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, rows = torch.randint(2, (5, 40), generator=generator), torch.tensor([3, 0, 3])
    history = history_of(tokens[:, :30], 2)
    before = history.match.clone(), history.counts.clone(), history.tokens.clone()
    part, alone = history.select(rows), history_of(tokens[rows], 2)
    for at in range(30, 40):
        part.write(tokens[rows, at], *[torch.ones(3, dtype=torch.bool)] * 2)
    for name in ("tokens", "counts", "drawn", "match", "position", "reach"):
        assert torch.equal(
            torch.as_tensor(getattr(part, name)), torch.as_tensor(getattr(alone, name))
        )
    for old, new in zip(before, (history.match, history.counts, history.tokens), strict=True):
        assert torch.equal(old, new)
    assert len(history.select(torch.tensor([], dtype=torch.int64)).tokens) == 0


@pytest.mark.parametrize("most, repeats", [(1, 2), (3, 2), (5, 3), (20, 4), (100, 2)])
def test_looping_is_a_periodic_tail(most: int, repeats: int) -> None:
    """At every step of random texts over two tokens, in all of the text and in its last part
    alone."""
    rng, found = random.Random(0), 0
    for _ in range(8):
        batch, size = 6, rng.randint(1, 80)
        tokens = torch.randint(
            2, (batch, size), generator=torch.Generator().manual_seed(rng.randrange(10**6))
        )
        own = torch.tensor([rng.randint(0, size) for _ in range(batch)])
        yes, history = torch.ones(batch, dtype=torch.bool), TokenHistory.nothing(batch, 2)
        assert not history.looping(most, repeats, own).any()
        for at in range(1, size + 1):
            history.write(tokens[:, at - 1], yes, yes)
            whole, part = (
                history.looping(most, repeats, last).tolist()
                for last in (torch.full((batch,), at), own.clamp(max=at))
            )
            for row, last, loops, some in zip(
                tokens.tolist(), own.tolist(), whole, part, strict=True
            ):
                assert loops == (periodic_tail(row[:at], most, repeats) > 0)
                assert some == (periodic_tail(row[max(at - last, 0) : at], most, repeats) > 0)
                found += loops
    assert found > 20


def ternary(size: int, longest: int, seed: int) -> list[int]:
    """A random word over three symbols in which nothing of up to ``longest`` symbols stands
    twice in a row."""
    rng, word = random.Random(seed), [0]
    choices = [[], rng.sample(range(3), 3)]  # the untried symbols of each place
    while len(word) < size:
        if not choices[-1]:  # a dead end
            choices.pop()
            word.pop()
            continue
        word.append(choices[-1].pop())
        if any(word[-n:] == word[-2 * n : -n] for n in range(1, longest + 1)):
            word.pop()
        else:
            choices.append(rng.sample(range(3), 3))
    return word


def test_planted_loops_are_found_at_the_exact_step() -> None:
    """Periods 1 to 20 in one batch, behind beginnings of different lengths that have no loop."""
    before = [ternary(1 + 7 * (period % 5), 20, period) for period in range(1, 21)]
    rows = [start + [*range(3, 3 + period)] * 4 for period, start in enumerate(before, start=1)]
    planted, size = [len(row) for row in rows], max(map(len, rows))
    tokens = torch.tensor([row + [29] * (size - len(row)) for row in rows])
    history, yes, found = TokenHistory.nothing(20, 30), torch.ones(20, dtype=torch.bool), [0] * 20
    for at in range(1, size + 1):
        history.write(tokens[:, at - 1], yes, yes)
        for i, loops in enumerate(history.looping(20, 4, torch.full((20,), at)).tolist()):
            found[i] = found[i] or at * loops
    assert found == planted


@pytest.mark.slow
def test_ten_thousand_texts_without_a_loop_have_none() -> None:
    """Different square-free texts of 48 symbols.

    Not one hit at any step; with one repeated symbol each is a hit.
    """
    word = ternary(10_200, 24, 0)
    texts = torch.tensor(sorted({tuple(word[i : i + 48]) for i in range(len(word) - 47)})[:10_000])
    assert len(texts) == 10_000
    history, yes = TokenHistory.nothing(10_000, 3), torch.ones(10_000, dtype=torch.bool)
    for at in range(1, 49):
        history.write(texts[:, at - 1], yes, yes)
        assert not history.looping(24, 2, torch.full((10_000,), at)).any()
    history.write(texts[:, -1], yes, yes)
    assert history.looping(24, 2, torch.full((10_000,), 49)).all()
