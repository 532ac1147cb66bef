"""Data: packing loses nothing, batches are functions of (seed, step), splits never mix."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff.config import LanguageConfig
from maskdiff.data import (
    Batches,
    PackedCanvases,
    draw_texts,
    held_out,
    in_rows,
    length_acceptance,
    pack,
    pad,
    plan_rows,
    step_generator,
    training_texts,
)
from maskdiff.errors import DataError
from maskdiff.languages import Vocabulary, make_language, split_of
from maskdiff.noise import IGNORE, Canvases, Strings
from tests.helpers.noise import mixed

LANGUAGE = make_language(LanguageConfig())
VOCABULARY = LANGUAGE.vocabulary


@dataclass
class Tiny:
    """A language of 1, 2, 4 or 5 letters with known, uneven probabilities."""

    vocabulary: Vocabulary = Vocabulary.of("ab", digit=False)  # noqa: RUF009
    chances: Sequence[float] = (0.0, 0.6, 0.3, 0.0, 0.09, 0.01)
    name: str = "tiny"
    max_symbols: int = 5

    def length_probs(self) -> np.ndarray:
        return np.array(self.chances, dtype=np.float64)

    def texts(self) -> None:
        return None

    def sample_many(self, n: int, rng: np.random.Generator) -> list[str]:
        lengths = rng.choice(len(self.chances), n, p=self.chances)
        return ["".join("ab"[int(x < 0.2 + 0.1 * m)] for x in rng.random(m)) for m in lengths]


def canvases(n: int, seed: int = 0) -> Canvases:
    texts = LANGUAGE.sample_many(n, np.random.default_rng(seed))
    strings = pad([VOCABULARY.encode(text) for text in texts], VOCABULARY)
    return mixed(strings, torch.Generator().manual_seed(seed), 0.3, 0.2, 0.1)


def texts_of(strings: Strings, vocabulary: Vocabulary = VOCABULARY) -> list[str]:
    return [vocabulary.decode(row, "drop") for row in strings.tokens.tolist()]


# ----------------------------------------------------------------------------------------- packing


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200), st.integers(64, 200))
@settings(max_examples=150, deadline=None)
def test_packing_plan_places_every_string_whole_and_disjoint(
    lengths: list[int], width: int
) -> None:
    row, offset, number = plan_rows(np.array(lengths), width)
    taken: set[tuple[int, int]] = set()
    for r, o, n in zip(row.tolist(), offset.tolist(), lengths, strict=True):
        assert o >= 0
        assert o + n <= width
        cells = {(r, c) for c in range(o, o + n)}
        assert not cells & taken
        taken |= cells
    rows = int(row.max()) + 1
    assert set(row.tolist()) == set(range(rows))
    for r in range(rows):  # numbered from 0, left to right, without gaps between strings
        mine = sorted(
            (o, k, n) for rr, o, k, n in zip(row, offset, number, lengths, strict=True) if rr == r
        )
        assert [k for _, k, _ in mine] == list(range(len(mine)))
        assert [o for o, _, _ in mine] == [sum(n for _, _, n in mine[:i]) for i in range(len(mine))]
    assert (
        rows <= 11 / 9 * math.ceil(sum(lengths) / width) * 2 + 1
    )  # decreasing fits stay within 11/9 of the optimum


def first_fit_decreasing(lengths: list[int], width: int) -> int:
    free_space: list[int] = []
    for n in sorted(lengths, reverse=True):
        for i, free in enumerate(free_space):
            if free >= n:
                free_space[i] -= n
                break
        else:
            free_space.append(width - n)
    return len(free_space)


def test_best_fit_needs_no_more_rows_than_first_fit() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = 0, 0
    for _ in range(200):
        lengths = [len(text) + 2 for text in LANGUAGE.sample_many(64, rng)]
        ours += int(plan_rows(np.array(lengths), 128)[0].max()) + 1
        theirs += first_fit_decreasing(lengths, 128)
    assert ours <= theirs


@pytest.mark.parametrize("width", [64, 100, 128, 512])
def test_packed_rows_hold_every_canvas_once_with_all_its_fields(width: int) -> None:
    given = canvases(97)
    packed = pack(given, width)
    found = []
    for r in range(len(packed.tokens)):
        for segment in range(int(packed.segment[r].max()) + 1):
            at = (packed.segment[r] == segment).nonzero()[:, 0]
            n = len(at)
            assert at.tolist() == list(range(int(at[0]), int(at[0]) + n))
            assert packed.position[r, at].tolist() == list(range(n))
            assert packed.from_end[r, at].tolist() == list(range(n - 1, -1, -1))
            parts = [getattr(packed, f.name)[r, at] for f in fields(PackedCanvases)]
            named = dict(zip((f.name for f in fields(PackedCanvases)), parts, strict=True))
            assert all(len(set(named[name].tolist())) == 1 for name in ("sigma", "causal", "mode"))
            single = (float(named["sigma"][0]), bool(named["causal"][0]), int(named["mode"][0]))
            found.append(
                (
                    *(tuple(named[name].tolist()) for name in ("tokens", "targets", "weights")),
                    *single,
                )
            )
    expected = [
        (
            *(
                tuple(getattr(given, name)[i, :n].tolist())
                for name in ("tokens", "targets", "weights")
            ),
            float(given.sigma[i]), bool(given.causal[i]), int(given.mode[i]),
        )
        for i, n in enumerate(given.length.tolist())
    ]  # fmt: skip
    assert Counter(found) == Counter(expected)


def test_padding_of_packed_rows_is_empty() -> None:
    packed = pack(canvases(64), 128)
    empty = packed.segment < 0
    assert empty.any()
    zero = dict.fromkeys(("tokens", "weights", "position", "from_end", "sigma"), 0)
    for name, value in {**zero, "targets": IGNORE, "mode": -1}.items():
        assert (getattr(packed, name)[empty] == value).all(), name
    assert not packed.causal[empty].any()
    assert not packed.inner[empty].any()
    assert packed.to("cpu").tokens.equal(packed.tokens)


def test_packed_rows_are_well_filled_and_count_their_tokens() -> None:
    fills = []
    for seed in range(20):
        one = canvases(64, seed)
        packed = pack(one, 128)
        fills.append(packed.fill)
        assert int(packed.inner.sum()) == int(one.inner().sum())
        assert (
            packed.tokens.shape[0] <= math.ceil(int(one.length.sum()) / 128) + 1
        )  # the fewest possible, or one more
    assert np.mean(fills) > 0.9
    assert (
        canvases(64).length.double().mean() / 64 < 0.4
    )  # negative control: what padding to 64 would fill


def test_a_canvas_wider_than_the_rows_is_an_error() -> None:
    one = canvases(64)
    with pytest.raises(DataError, match="does not fit"):
        pack(one, int(one.length.max()) - 1)
    assert pack(one, int(one.length.max())).fill > 0


# ----------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("num_samples", [0, 300])
def test_a_batch_depends_on_seed_and_step_only(num_samples: int) -> None:
    steps = [0, 1, 70, 3, 70, 200, 0]
    one, two = (Batches(LANGUAGE, num_samples, 64, seed=3) for _ in range(2))
    forward = {step: one.batch(step) for step in sorted(set(steps))}
    for step in steps:  # another object, another order, with repetitions
        again = two.batch(step)
        assert again.tokens.equal(forward[step].tokens)
        assert again.length.equal(forward[step].length)
    assert not Batches(LANGUAGE, num_samples, 64, seed=4).batch(0).tokens.equal(forward[0].tokens)
    assert not forward[0].tokens.equal(forward[1].tokens)


def test_every_epoch_gives_every_string_once_in_a_new_order() -> None:
    batches = Batches(LANGUAGE, 150, 40, seed=0)
    given_texts = [
        text for step in range(15) for text in texts_of(batches.batch(step))
    ]  # 600 = 4 epochs
    epochs = [given_texts[i : i + 150] for i in range(0, 600, 150)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(batches.texts())
    assert epochs[0] != epochs[1] != epochs[2]
    assert training_texts(batches) == set(epochs[0])


def test_a_batch_may_be_larger_than_the_training_set() -> None:
    batches = Batches(LANGUAGE, 7, 40, seed=0)
    assert len(batches.batch(2)) == 40
    seen = Counter(text for step in range(7) for text in texts_of(batches.batch(step)))
    assert seen == Counter(batches.texts() * 40)


@pytest.mark.slow
@pytest.mark.parametrize(("num_samples", "tilt"), [(0, 0.0), (3000, 0.0), (0, 0.7)])
def test_no_held_out_string_is_ever_trained_on(num_samples: int, tilt: float) -> None:
    batches = Batches(LANGUAGE, num_samples, 512, seed=1, length_tilt=tilt)
    trained = {text for step in range(12) for text in texts_of(batches.batch(step))}
    assert {split_of(text) for text in trained} == {"train"}
    for split in ("validation", "test"):
        others = held_out(LANGUAGE, split, 300, seed=1)
        assert {split_of(text) for text in others} == {split}
        assert not trained & set(others)
        assert (
            others
            == held_out(LANGUAGE, split, 300, seed=1)
            != held_out(LANGUAGE, split, 300, seed=2)
        )
    raw = LANGUAGE.sample_many(3000, np.random.default_rng(0))
    assert len({split_of(text) for text in raw}) == 3  # negative control


def test_batches_use_strings_of_their_split() -> None:
    batches = Batches(LANGUAGE, 100, 10, seed=0, split="test")
    assert {split_of(text) for text in batches.texts()} == {"test"}


def test_training_texts_of_fresh_draws_are_an_error() -> None:
    with pytest.raises(DataError, match="num_samples"):
        training_texts(Batches(LANGUAGE, 0, 8, seed=0))


@pytest.mark.slow
def test_a_split_without_strings_is_an_error() -> None:
    texts = ["a", "b", "aa", "ab", "ba", "bb"]
    split = next(s for s in ("test", "validation") if s not in {split_of(t) for t in texts})
    with pytest.raises(DataError, match="too few strings"):
        language = Tiny(chances=(0, 0.5, 0.5))
        draw_texts(language, 5, np.random.default_rng(0), split)  # type: ignore[arg-type]


def test_training_strings_are_real_strings() -> None:
    assert all(
        LANGUAGE.holds(text) for text in texts_of(Batches(LANGUAGE, 0, 256, seed=0).batch(5))
    )


def test_streams_of_generators_are_repeatable_and_distinct() -> None:
    def first(*key: int) -> list[int]:
        return torch.randint(2**40, (4,), generator=step_generator(*key)).tolist()

    keys = [(0, 0), (0, 1), (1, 0), (0, 0, 1), (1, 1), (0, 2**31)]
    assert len({tuple(first(*key)) for key in keys}) == len(keys)
    assert first(3, 4) == first(3, 4)


# ------------------------------------------------------------------------------------- length tilt


@pytest.mark.parametrize("tilt", [0.0, 0.5, 1.0])
def test_tilt_gives_the_documented_lengths(tilt: float) -> None:
    language = Tiny()
    p = np.array(language.chances)
    kept = p * length_acceptance(language, tilt, least=0.0)  # type: ignore[arg-type]
    expected = np.where(p > 0, p ** (1 - tilt), 0.0)
    assert kept / kept.sum() == pytest.approx(expected / expected.sum())


def test_the_tilt_never_rejects_too_much() -> None:
    language = Tiny(chances=(0, 0.9899, 0.01, 0, 0, 0.0001))
    acceptance = length_acceptance(language, 1.0, least=0.05)  # type: ignore[arg-type]
    p = np.array(language.chances)
    assert (p * acceptance).sum() == pytest.approx(0.05, rel=1e-6)
    assert acceptance[2] == acceptance[5] == 1.0
    assert acceptance[3] == acceptance[4] == 0.0


@pytest.mark.slow
def test_tilt_changes_only_the_lengths() -> None:
    """A share of a length off by 0.07, or of a word given its length by 0.06, is caught."""
    language, n = Tiny(), 10_000
    acceptance = length_acceptance(language, 1.0, least=0.0)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    everything = language.sample_many(n * 8, rng)
    kept = [
        t
        for t, keep in zip(
            everything, rng.random(len(everything)) < acceptance[[len(t) for t in everything]]
        )
        if keep
    ]
    splits = {t: split_of(t) for t in set(everything)}
    train = Counter(t for t in everything if splits[t] == "train")
    rng = np.random.default_rng(1)
    drawn = draw_texts(language, n, rng, "train", acceptance)  # type: ignore[arg-type]
    assert len(drawn) == n
    made = Counter(drawn)
    assert {split_of(t) for t in made} == {"train"}
    # Flat before the split is taken out; the split removes some strings of each length.
    lengths = Counter(map(len, kept))
    assert max(abs(lengths[m] / len(kept) - 0.25) for m in (1, 2, 4, 5)) < 4.5 * math.sqrt(
        0.25 * 0.75 / len(kept)
    )
    for length in (1, 2, 4, 5):
        tilted = {t: c for t, c in made.items() if len(t) == length}
        plain = {t: c for t, c in train.items() if len(t) == length}
        a, b = sum(tilted.values()), sum(plain.values())
        for text in plain:
            p = (made[text] + plain[text]) / (a + b)
            error = math.sqrt(p * (1 - p) * (1 / a + 1 / b)) or 1.0
            assert abs(made[text] / a - plain[text] / b) < 4.5 * error


def test_the_tilt_flattens_the_lengths_of_training_strings() -> None:
    plain, tilted = (
        Batches(LANGUAGE, 0, 2048, seed=0, length_tilt=tilt).batch(0).length for tilt in (0.0, 0.7)
    )
    assert tilted.double().mean() > plain.double().mean() + 5
    assert (tilted >= 42).double().mean() > 2 * (plain >= 42).double().mean()


# ---------------------------------------------------------------------------------------- producer


def test_prefetching_equals_direct_batches_and_resumes_at_any_step() -> None:
    batches = Batches(LANGUAGE, 200, 16, seed=0)

    def transform(strings: Strings, step: int) -> tuple[int, torch.Tensor]:
        canvas = mixed(strings, step_generator(0, step), 0.3, 0.2, 0.1)
        return step, pack(canvas, 64).tokens

    whole = [item for item, _ in zip(batches.prefetch(0, transform), range(20))]
    resumed = [item for item, _ in zip(batches.prefetch(12, transform, depth=1), range(8))]
    assert [step for step, _ in whole] == list(range(20))
    assert all(a == b and x.equal(y) for (a, x), (b, y) in zip(whole[12:], resumed, strict=True))


def test_an_error_in_the_producer_is_raised_at_its_step_and_the_thread_ends() -> None:
    def transform(strings: Strings, step: int) -> int:
        if step == 3:
            raise DataError("step 3 is bad")
        return step

    stream = Batches(LANGUAGE, 50, 4, seed=0).prefetch(1, transform)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(DataError, match="step 3"):
        next(stream)


def test_closing_the_stream_stops_the_thread() -> None:
    before = threading.active_count()
    stream = Batches(LANGUAGE, 50, 4, seed=0).prefetch(0, lambda strings, step: step, depth=2)
    assert next(stream) == 0
    time.sleep(0.02)  # the queue is full
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


# -------------------------------------------------------------------------------- strings in a row


@pytest.mark.slow
@given(
    st.lists(st.text("ab", min_size=1, max_size=9), max_size=30),
    st.integers(1, 5),
    st.integers(9, 20),
)
@settings(max_examples=200, deadline=None)
def test_rows_hold_whole_texts_in_their_order(texts: list[str], each: int, longest: int) -> None:
    rows = in_rows(texts, each, longest)
    if each == 1:
        assert rows == texts
        return
    assert len(rows) == -(-len(texts) // each)
    for i, row in enumerate(rows):
        part = texts[i * each : (i + 1) * each]
        assert len(row) <= longest or row == part[0]
        left = row
        for text in part:  # the first always, then each that fits behind those before it
            size = len(row) - len(left) + len(text)
            if left.startswith(text) and (text is part[0] or size <= longest):
                left = left[len(text) :]
        assert left == ""


def test_consecutive_batches_equal_consecutive_draws() -> None:
    one = Batches(LANGUAGE, 0, 60, 3)
    rows = Batches(LANGUAGE, 0, 20, 3, in_a_row=3)
    made = [VOCABULARY.decode(row, "drop") for row in rows.batch(0).tokens.tolist()]
    singles = [VOCABULARY.decode(row, "drop") for row in one.batch(0).tokens.tolist()]
    assert made == in_rows(singles, 3, LANGUAGE.config.max_len - 2)
    assert sum(not LANGUAGE.parses(text) for text in made) > 10
    assert all(len(text) <= LANGUAGE.config.max_len - 2 for text in made)
    fixed = Batches(LANGUAGE, 50, 10, 3, in_a_row=3)
    assert len(fixed.texts()) == 50
