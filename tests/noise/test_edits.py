"""The mixed corruption against its definition, edit by edit, and against brute force."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.config import NoiseConfig
from maskdiff.errors import ConfigError
from maskdiff.languages import Vocabulary
from maskdiff.noise import (
    IGNORE,
    Strings,
    mask_noise,
    mixed_corruption,
    on_canvas,
    pad,
    repair_noise,
)
from maskdiff.noise.edits import (
    DELETE,
    INSERT,
    KEEP,
    MASK,
    REPLACE,
    SWAP,
    apply_corruption,
    draw_edits,
    forbid_length_breaks,
)
from tests.helpers.noise import FULL, VOCABULARY, assert_share, generator, same, sample


def one_by_one(tokens: list[int], edits: list[int], fresh: list[int], max_len: int) -> list[int]:
    """The definition of the mixed corruption: edits one at a time, from the last to the first."""
    out = list(tokens)
    for place in reversed(range(len(tokens))):
        kind = edits[place]
        if kind == MASK:
            out[place] = VOCABULARY.mask
        elif kind == REPLACE:
            out[place] = fresh[place]
        elif kind == SWAP and out[place + 1] not in VOCABULARY.specials:
            out[place], out[place + 1] = out[place + 1], out[place]
        elif kind == DELETE and len(out) > 5:
            del out[place]
        elif kind == INSERT and len(out) < max_len:
            out.insert(place, fresh[place])
    return out


def edited(
    strings: Strings, edits: torch.Tensor, fresh: torch.Tensor, max_len: int = 64
) -> list[list[int]]:
    allowed = forbid_length_breaks(edits, strings.length, max_len)
    result = apply_corruption(strings, allowed, fresh, VOCABULARY)
    for row, n in zip(result.tokens.tolist(), result.length.tolist(), strict=True):
        assert set(row[n:]) <= {VOCABULARY.pad}
    return [row[:n] for row, n in zip(result.tokens.tolist(), result.length.tolist(), strict=True)]


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_edits_at_once_equal_edits_one_by_one(data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(st.lists(st.integers(4, 18), min_size=1, max_size=10), min_size=1, max_size=4)
    )
    strings = pad(rows, VOCABULARY)
    width = strings.tokens.shape[1]
    edits = torch.zeros_like(strings.tokens)
    for r, row in enumerate(rows):
        edits[r, 1 : len(row) + 1] = torch.tensor(
            data.draw(st.lists(st.integers(0, 5), min_size=len(row), max_size=len(row)))
        )
    fresh = torch.randint(
        4, 19, (len(rows), width), generator=generator(data.draw(st.integers(0, 99)))
    )
    max_len = data.draw(st.integers(0, 14))
    expected = [
        one_by_one(strings.tokens[r, :n].tolist(), edits[r].tolist(), fresh[r].tolist(), max_len)
        for r, n in enumerate(strings.length.tolist())
    ]
    assert edited(strings, edits, fresh, max_len) == expected


@pytest.mark.parametrize(
    "kinds",
    [
        (SWAP,),
        (SWAP, DELETE),
        (SWAP, INSERT),
        (SWAP, MASK, KEEP),
        (DELETE, INSERT),
        tuple(range(6)),
    ],
)
def test_edits_at_once_equal_edits_one_by_one_under_dense_edits(kinds: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(kinds))
    for max_len in (0, 9, 14, 64):
        strings = pad(
            [rng.integers(4, 19, rng.integers(1, 12)).tolist() for _ in range(300)], VOCABULARY
        )
        edits = torch.from_numpy(rng.choice(kinds, strings.tokens.shape)).where(
            strings.inner(), torch.tensor(KEEP)
        )
        fresh = torch.from_numpy(rng.integers(4, 19, strings.tokens.shape))
        expected = [
            one_by_one(
                strings.tokens[r, :n].tolist(), edits[r].tolist(), fresh[r].tolist(), max_len
            )
            for r, n in enumerate(strings.length.tolist())
        ]
        assert edited(strings, edits, fresh, max_len) == expected


@pytest.mark.parametrize(
    ("text", "edits", "max_len", "expected"),
    [
        ("1=1", [0, DELETE, 0], 64, "1=1"),  # 5 tokens with BOS and EOS are the minimum
        ("10=10", [DELETE] * 5, 64, "10="),  # the later positions use up the space
        (
            "10=10",
            [0, 0, 0, 0, SWAP],
            64,
            "10=10",
        ),  # nothing but EOS to the right of the last symbol
        ("10=10", [0, 0, 0, SWAP, SWAP], 64, "10=01"),  # so the run starts one earlier
        ("10=10", [SWAP, SWAP, SWAP, SWAP, 0], 64, "010=1"),  # a run carries one token to the left
        ("10=10", [0, 0, 0, SWAP, MASK], 64, "10=1?"),  # MASK cannot be swapped
        ("10=10", [0, 0, SWAP, DELETE, 0], 64, "100="),  # the neighbour after the deletion
        ("10=10", [INSERT, 0, 0, 0, INSERT], 64, "910=190"),
        ("10=10", [INSERT, 0, 0, 0, INSERT], 8, "10=190"),  # space for one: the later position
        ("10=10", [INSERT] * 5, 0, "10=10"),  # no insertions at all
        ("10=10", [0, SWAP, INSERT, 0, 0], 64, "190=10"),  # a swap takes the inserted token
    ],
)
def test_edge_cases_of_the_mixed_corruption(
    text: str, edits: list[int], max_len: int, expected: str
) -> None:
    strings = same(text, 1)
    fresh = torch.full_like(strings.tokens, VOCABULARY.encode("9")[0])
    row = edited(strings, torch.tensor([[0, *edits, 0]]), fresh, max_len)[0]
    assert VOCABULARY.decode(row, "drop") == expected


def test_shares_and_number_of_edits_are_as_configured() -> None:
    n, config = 6000, NoiseConfig()
    strings = same("(+(*75)10)=45", n)  # 13 symbols
    sigma = torch.full((n,), 0.4)
    edits, fresh = draw_edits(strings, sigma, config, VOCABULARY, generator())
    assert (edits != KEEP).sum(1).eq(5).all()  # floor(0.4 * 13)
    counts = edits[edits != KEEP].bincount(minlength=6).tolist()
    shares = (
        config.mask_share,
        config.replace_share,
        config.swap_share,
        config.delete_share,
        config.insert_share,
    )
    for count, share in zip(
        counts[1:], shares, strict=True
    ):  # a share off by 0.023 (mask) or 0.012 (delete) is caught
        assert_share(count, 5 * n, share)
    for count in (edits != KEEP).sum(0)[1:14].tolist():  # every position alike
        assert_share(count, n, 5 / 13)
    drawn = fresh.flatten().bincount(minlength=len(VOCABULARY))
    assert set(drawn.nonzero()[:, 0].tolist()) == set(VOCABULARY.inner_ids)
    for token in VOCABULARY.inner_ids:
        assert_share(int(drawn[token]), fresh.numel(), 1 / 15)


def test_at_least_one_edit_and_the_same_count_as_double_arithmetic() -> None:
    for sigma in (0.0, 0.1, 0.2, 0.3, 0.7, 0.9, 1.0):
        strings = sample(60)
        edits, _ = draw_edits(
            strings, torch.full((60,), sigma), NoiseConfig(), VOCABULARY, generator()
        )
        inner = (strings.length - 2).tolist()
        assert (edits != KEEP).sum(1).tolist() == [max(1, int(sigma * n)) for n in inner]


def exact_corruption(
    text: str, edits: int, config: NoiseConfig, vocabulary: Vocabulary, max_len: int
) -> dict[str, float]:
    """The distribution of the mixed corruption by enumeration of places, kinds and fresh tokens."""
    row = [vocabulary.bos, *vocabulary.encode(text), vocabulary.eos]
    shares = [
        config.mask_share,
        config.replace_share,
        config.swap_share,
        config.delete_share,
        config.insert_share,
    ]
    places = list(itertools.combinations(range(1, len(row) - 1), edits))
    chances: dict[str, float] = Counter()
    for chosen in places:
        for kinds in itertools.product(range(1, 6), repeat=edits):
            for tokens in itertools.product(vocabulary.inner_ids, repeat=edits):
                kind, fresh = [KEEP] * len(row), [0] * len(row)
                for place, k, token in zip(chosen, kinds, tokens, strict=True):
                    kind[place], fresh[place] = k, token
                p = (
                    math.prod(shares[k - 1] for k in kinds)
                    / len(places)
                    / len(vocabulary.inner_ids) ** edits
                )
                chances[vocabulary.decode(one_by_one(row, kind, fresh, max_len), "drop")] += p
    return chances


@pytest.mark.slow
@pytest.mark.parametrize("max_len", [7, 8])
def test_the_whole_distribution_of_the_mixed_corruption_by_brute_force(max_len: int) -> None:
    vocabulary, config, n = Vocabulary.of("12=", digit=True), NoiseConfig(), 40_000
    exact = exact_corruption("12=21", 3, config, vocabulary, max_len)
    assert sum(exact.values()) == pytest.approx(1.0)
    strings = pad([vocabulary.encode("12=21")] * n, vocabulary)
    result = mixed_corruption(
        strings, torch.full((n,), 0.6), config, vocabulary, generator(), max_len
    )
    rows = zip(result.tokens.tolist(), result.length.tolist(), strict=True)
    seen = Counter(vocabulary.decode(row[:length], "drop") for row, length in rows)
    assert set(seen) <= set(exact)
    common = {text: p for text, p in exact.items() if n * p >= 20}
    assert len(common) > 60
    for text, p in common.items():  # a corruption of chance 0.01 that is off by 0.004 is caught
        assert_share(seen[text], n, p)
    rest = sum(exact.values()) - sum(common.values())
    assert_share(sum(seen[t] for t in seen if t not in common), n, rest)


def test_the_identity_baseline_of_the_reference_corruption() -> None:
    """At sigma 0.2 without insertions: 76.2% of positions right, 22% of lengths changed."""
    strings = sample(4000)
    result = mixed_corruption(
        strings, torch.full((4000,), 0.2), NoiseConfig(), VOCABULARY, generator(), max_len=0
    )
    assert float((result.length != strings.length).double().mean()) == pytest.approx(0.22, abs=0.04)
    width = min(strings.tokens.shape[1], result.tokens.shape[1])
    right = (result.tokens[:, :width] == strings.tokens[:, :width]) & strings.inner()[:, :width]
    accuracy = right.sum(1) / (strings.length - 2)
    assert float(accuracy.mean()) == pytest.approx(0.762, abs=0.03)


def test_shares_that_are_all_zero_are_an_error() -> None:
    config = NoiseConfig(
        mask_share=0, replace_share=0, swap_share=0, delete_share=0, insert_share=0
    )
    with pytest.raises(ConfigError, match="mask_share"):
        mixed_corruption(sample(2), torch.ones(2), config, VOCABULARY, None)


def test_a_share_of_zero_never_happens() -> None:
    config = NoiseConfig(mask_share=0.0, insert_share=0.0)
    edits, _ = draw_edits(sample(500), torch.ones(500), config, VOCABULARY, generator())
    assert set(edits.unique().tolist()) == {KEEP, REPLACE, SWAP, DELETE}


def test_corrupted_strings_lie_on_the_clean_length() -> None:
    clean = pad([VOCABULARY.encode(t) for t in ("10=10", "1=1", "(+11)=2")], VOCABULARY)
    corrupted = pad([VOCABULARY.encode(t) for t in ("10=", "1=100", "(+11)=2")], VOCABULARY)
    shown = on_canvas(corrupted, clean, VOCABULARY)
    text = [VOCABULARY.decode(row, "drop") for row in shown.tolist()]
    assert text == ["10=??", "1=1", "(+11)=2"]


@pytest.mark.parametrize("mode", ["mixed", "mask_only"])
def test_repair_canvases_score_every_symbol_and_pass_the_level(mode: str) -> None:
    strings = sample(300)
    canvas = repair_noise(strings, NoiseConfig(corruption_mode=mode), VOCABULARY, generator())
    inner = strings.inner()
    assert canvas.weights.equal(inner.float())
    assert canvas.targets[inner].equal(strings.tokens[inner])
    assert (canvas.targets[~inner] == IGNORE).all()
    assert canvas.tokens[~inner].equal(strings.tokens[~inner])
    assert not canvas.causal.any()
    assert canvas.sigma.min() >= 0.1
    assert canvas.sigma.std() > 0.1
    wrong = inner & (canvas.tokens != strings.tokens) & (canvas.tokens != VOCABULARY.mask)
    assert bool(wrong.any()) == (mode == "mixed")
    assert not torch.isin(canvas.tokens[inner], torch.tensor([0, 2, 3])).any()


def test_given_levels_are_used() -> None:
    strings, sigma = sample(40), torch.full((40,), 0.25)
    assert repair_noise(strings, FULL, VOCABULARY, generator(), sigma=sigma).sigma.equal(sigma)
    canvas = mask_noise(strings, FULL, VOCABULARY, generator(), sigma=sigma)
    assert (
        (canvas.tokens == VOCABULARY.mask).sum(1).equal(((strings.length - 2) * 0.25).ceil().long())
    )
