"""Batches of training strings, and rows in which whole strings are packed without padding.

`Batches.batch(step)` is a function of the seed and the step, so that an interrupted run resumes,
and several processes agree, without any saved state; its caches are only caches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from maskdiff.errors import DataError
from maskdiff.languages import split_of
from maskdiff.noise.canvases import IGNORE, Canvases, Strings, pad

if TYPE_CHECKING:
    from maskdiff.languages import Language, Split, Vocabulary

T = TypeVar("T")
CHUNK = 1024  # strings of a chunk of fresh draws; small, so that the loop never waits for long
MIN_ACCEPTANCE = 0.05  # a length tilt never rejects more than 95% of the draws
TRAIN, FRESH, EPOCH, HELD_OUT = range(4)  # first words of the seeds of independent streams


@dataclass(frozen=True)
class PackedCanvases:
    """Canvases laid end to end in rows; every field is (rows, width).

    Attributes:
        tokens: int64, PAD where there is no string.
        targets: int64, `IGNORE` where there is no loss.
        weights: float32.
        segment: int64, number of the string within its row, from 0; -1 on padding.
        position: int64, 0 at BOS; 0 on padding.
        from_end: int64, 0 at EOS; 0 on padding.
        sigma: float32, noise level passed to the model, 0 on padding.
        causal: bool.
        inner: bool, the symbols of the strings, see `Canvases.inner`.
        mode: int64, the objective: an index into `noise.MODES`; -1 on padding.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    segment: Tensor
    position: Tensor
    from_end: Tensor
    sigma: Tensor
    causal: Tensor
    inner: Tensor
    mode: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> PackedCanvases:
        """The canvases with `change` applied to every field, such as a choice of rows."""
        return PackedCanvases(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> PackedCanvases:
        """The same rows on `device`."""
        return self.map(lambda values: values.to(device, non_blocking=True))

    @property
    def fill(self) -> float:
        """Share of the row positions that hold a token."""
        return float((self.segment >= 0).float().mean())


def plan_rows(length: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place strings in rows, longest first, each in the fullest row with room (best fit).

    Args:
        length: (batch,) tokens of each string.
        width: tokens of a row.

    Returns:
        (batch,) row, (batch,) offset in it, (batch,) number within it, all int64; rows are numbered
        without gaps.
    """
    row_of, offset_of, number_of = (np.zeros(len(length), dtype=np.int64) for _ in range(3))
    rows_with: list[list[int]] = [[] for _ in range(width + 1)]  # rows by room left
    rooms = 0  # bit r is set where rows_with[r] is not empty
    held: list[int] = []  # strings in each row
    lengths = length.tolist()
    for string in np.argsort(-length, kind="stable").tolist():
        need = lengths[string]
        fitting = rooms >> need
        if fitting:
            room = need + (fitting & -fitting).bit_length() - 1
            row = rows_with[room].pop()
            if not rows_with[room]:
                rooms ^= 1 << room
        else:
            room, row = width, len(held)
            held.append(0)
        row_of[string], offset_of[string], number_of[string] = row, width - room, held[row]
        held[row] += 1
        rows_with[room - need].append(row)
        rooms |= 1 << (room - need)
    return row_of, offset_of, number_of


def pack(canvases: Canvases, width: int, padding: int = 0) -> PackedCanvases:
    """Lay whole canvases end to end in rows; none is cut, lost or repeated.

    Args:
        canvases: any widths and modes.
        width: tokens of a row, at least the longest canvas.
        padding: id of PAD.

    Raises:
        DataError: a canvas is longer than `width`.
    """
    longest = int(canvases.length.max())
    if longest > width:
        raise DataError(
            f"a string of {longest} tokens does not fit rows of {width}: give rows at least "
            f"{longest} wide"
        )

    # The place of every token in the rows.
    plan = plan_rows(canvases.length.cpu().numpy(), width)
    row, offset, number = map(torch.from_numpy, plan)
    rows = int(row.max()) + 1
    at = torch.arange(canvases.tokens.shape[1])
    valid = at < canvases.length[:, None]  # (batch, canvas width)
    place = (row * width + offset)[:, None] + at
    where = place[valid]  # (tokens,)

    # The fields, laid out.
    def lay(values: Tensor, empty: float | int | bool) -> Tensor:
        out = torch.full((rows * width,), empty, dtype=values.dtype)
        out[where] = values.expand_as(place)[valid]
        return out.view(rows, width)

    return PackedCanvases(
        tokens=lay(canvases.tokens, padding),
        targets=lay(canvases.targets, IGNORE),
        weights=lay(canvases.weights, 0.0),
        segment=lay(number[:, None], -1),
        position=lay(at[None], 0),
        from_end=lay(canvases.length[:, None] - 1 - at, 0),
        sigma=lay(canvases.sigma[:, None], 0.0),
        causal=lay(canvases.causal[:, None], False),
        inner=lay(canvases.inner(), False),
        mode=lay(canvases.mode[:, None], -1),
    )


class Store:
    """Strings in one flat array of token ids."""

    def __init__(self, texts: list[str], vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        if vocabulary.merges:
            rows = vocabulary.encode_many(texts)
            self.flat = np.fromiter((token for row in rows for token in row), dtype=np.int16)
            self.count = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        else:
            self._read_characters(texts)
        self.start = np.cumsum(self.count) - self.count

    def _read_characters(self, texts: list[str]) -> None:
        ids = {ord(symbol): n for symbol, n in self.vocabulary.ids.items() if len(symbol) == 1}
        table = np.full(1 + max(ids, default=0), -1, dtype=np.int64)
        table[list(ids)] = list(ids.values())
        points = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
        self.flat = table[points].astype(np.int16)
        self.count = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))

    def __len__(self) -> int:
        return len(self.count)

    def rows(self, index: np.ndarray) -> list[np.ndarray]:
        """Token ids of the strings at `index`."""
        places = zip(self.start[index].tolist(), self.count[index].tolist())
        return [self.flat[start : start + n] for start, n in places]


def length_acceptance(language: Language, tilt: float, least: float = MIN_ACCEPTANCE) -> np.ndarray:
    """Probability of keeping a draw of n symbols, for n = 0..max_symbols.

    The lengths of kept draws follow p(n)^(1 - tilt), and the distribution given the length does not
    change: n is kept with probability min(1, c p(n)^-tilt). The constant c is the largest without
    clipping, unless fewer than `least` of all draws would then be kept: then c grows until `least`
    are, and the rarest lengths stay rarer than the tilt asks.
    """
    p = language.length_probs()
    possible = p > 0
    log_ratio = np.where(possible, -tilt * np.log(np.where(possible, p, 1.0)), -np.inf)
    low, high = -log_ratio.max(), 0.0  # of log c: nothing is clipped, everything is kept

    def keep(log_c: float) -> np.ndarray:
        return np.asarray(np.exp(np.minimum(0.0, log_ratio + log_c)))

    if (p * keep(low)).sum() < least:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (p * keep(middle)).sum() < least else (low, middle)
        return keep(high)
    return keep(low)


def draw_texts(
    language: Language,
    count: int,
    rng: np.random.Generator,
    split: Split,
    acceptance: np.ndarray | None = None,
) -> list[str]:
    """`count` draws of the language that belong to `split`, kept by length with `acceptance`.

    Raises:
        DataError: the language has no string of that split, or too few to find one.
    """
    kept: list[str] = []
    tried, all_texts = 0, language.texts()
    if all_texts is not None and not any(split_of(text) == split for text in all_texts):
        raise _empty_split(all_texts, language, split)
    while len(kept) < count:
        if tried > 20_000 + 10_000 * count:
            raise DataError(
                f"no {split} string in {tried} draws of {language.name}: its configuration allows "
                "too few strings"
            )
        want = int(1.1 * (count - len(kept)) * max(1.0, tried / max(1, len(kept)))) + 64
        texts = language.sample_many(min(want, 1 << 16), rng)
        tried += len(texts)
        if acceptance is not None:
            chances = acceptance[[len(text) for text in texts]]
            texts = [text for text, keep in zip(texts, rng.random(len(texts)) < chances) if keep]
        kept += [text for text in texts if split_of(text) == split]
    return kept[:count]


def in_rows(texts: list[str], each: int, longest: int) -> list[str]:
    """Every `each` texts joined to one, without those that would not fit in `longest` symbols.

    A model that is trained on several answers packed as one cannot learn to stop.
    """
    if each == 1:
        return texts
    rows = []
    for start in range(0, len(texts), each):
        row = texts[start]
        for text in texts[start + 1 : start + each]:
            row += text if len(row) + len(text) <= longest else ""
        rows.append(row)
    return rows


def _empty_split(texts: Sequence[str], language: Language, split: Split) -> DataError:
    return DataError(
        f"none of the {len(set(texts))} strings of {language.name} falls into the {split} split; "
        "give some hundreds"
    )


def held_out(language: Language, split: Split, count: int, seed: int) -> list[str]:
    """`count` draws that belong to `split`, repetitions included; the same for the same seed.

    Of a language that is a list of strings each is given at most once, because a repeated string is
    no further evidence; there may be fewer.

    Raises:
        DataError: there is none.
    """
    rng, texts = np.random.default_rng((HELD_OUT, seed)), language.texts()
    if texts is None:
        return draw_texts(language, count, rng, split)
    own = [text for text in dict.fromkeys(texts) if split_of(text) == split]
    if not own:
        raise _empty_split(texts, language, split)
    return [own[i] for i in rng.permutation(len(own))[:count]]


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A generator (CPU) as a function of its arguments; others give independent streams."""
    state = np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class Batches:
    """Batches of training strings; `batch(step)` depends on the arguments and the step alone.

    Args:
        language: the source of strings.
        num_samples: size of a fixed training set of draws, in a new random order every epoch
            (batches cross the border of epochs); 0 draws new strings at every step.
        batch_size: strings of a batch.
        seed: of the set, its orders and the fresh draws.
        split: the split of all strings.
        length_tilt: lengths follow p(n)^(1 - tilt), see `length_acceptance`.
        min_acceptance: least share of draws kept by the tilt; rejected draws cost time.
        vocabulary: of the tokens, the characters of the language by default.
        in_a_row: draws that are joined to one string, see `in_rows`.
    """

    def __init__(
        self,
        language: Language,
        num_samples: int,
        batch_size: int,
        seed: int,
        split: Split = "train",
        length_tilt: float = 0.0,
        min_acceptance: float = MIN_ACCEPTANCE,
        vocabulary: Vocabulary | None = None,
        in_a_row: int = 1,
    ) -> None:
        self.in_a_row = in_a_row
        self.vocabulary = vocabulary or language.vocabulary
        self.language, self.split, self.seed = language, split, seed
        self.num_samples, self.batch_size = num_samples, batch_size
        self.acceptance: np.ndarray | None = None
        if length_tilt:
            self.acceptance = length_acceptance(language, length_tilt, min_acceptance)
        self._fixed = self._draw((TRAIN, seed), num_samples) if num_samples else None
        self._orders: dict[int, np.ndarray] = {}
        self._chunks: dict[int, Store] = {}
        self._lock = threading.Lock()

    def batch(self, step: int) -> Strings:
        """The strings of step `step` (from 0), as wide as the longest of them."""
        first, n = step * self.batch_size, self.batch_size
        period = self.num_samples or CHUNK
        rows: list[np.ndarray] = []
        with self._lock:
            for part in range(first // period, (first + n - 1) // period + 1):
                a, b = max(first - part * period, 0), min(first + n - part * period, period)
                if self._fixed is not None:
                    rows += self._fixed.rows(self._order(part)[a:b])
                else:
                    rows += self._chunk(part).rows(np.arange(a, b))
        return pad(rows, self.vocabulary)

    def texts(self) -> list[str]:
        """The fixed training set.

        Raises:
            DataError: there is none, because draws are fresh.
        """
        if self._fixed is None:
            raise DataError(
                "training draws are fresh (num_samples is 0): there is no list of them; set "
                "num_samples above 0"
            )
        rows = self._fixed.rows(np.arange(self.num_samples))
        return [self.vocabulary.decode(row.tolist()) for row in rows]

    def prefetch(
        self, first_step: int, transform: Callable[[Strings, int], T], depth: int = 4
    ) -> Iterator[T]:
        """Yield `transform(batch(step), step)` from `first_step` on, made ahead in a thread.

        The thread stops when the iterator is closed or dropped; its error is raised at its step.

        Args:
            first_step: the first step.
            transform: adds noise and packs; its random numbers come from a `step_generator`.
            depth: number of results made ahead.
        """
        ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._produce, args=(first_step, transform, ready, stop), daemon=True
        )
        thread.start()
        try:
            while True:
                result, error = ready.get()
                if error is not None:
                    raise error
                yield result  # type: ignore[misc]  # a result without an error is a T
        finally:
            stop.set()
            while thread.is_alive():  # it may be waiting for room
                try:
                    ready.get(timeout=0.01)
                except queue.Empty:
                    pass

    def _produce(
        self,
        step: int,
        transform: Callable[[Strings, int], T],
        ready: queue.Queue[tuple[T | None, BaseException | None]],
        stop: threading.Event,
    ) -> None:
        while not stop.is_set():
            try:
                ready.put((transform(self.batch(step), step), None))
            except BaseException as error:  # raised in the consumer
                ready.put((None, error))
                return
            step += 1

    def _draw(self, seed: tuple[int, ...], count: int) -> Store:
        many, rng = count * self.in_a_row, np.random.default_rng(seed)
        texts = draw_texts(self.language, many, rng, self.split, self.acceptance)
        longest = self.language.config.max_len - 2
        return Store(in_rows(texts, self.in_a_row, longest), self.vocabulary)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1}
            rng = np.random.default_rng((EPOCH, self.seed, epoch))
            self._orders[epoch] = rng.permutation(self.num_samples)
        return self._orders[epoch]

    def _chunk(self, index: int) -> Store:
        if index not in self._chunks:
            self._chunks = {k: v for k, v in self._chunks.items() if k == index - 1}
            self._chunks[index] = self._draw((FRESH, self.seed, index), CHUNK)
        return self._chunks[index]


def training_texts(batches: Batches) -> set[str]:
    """The distinct strings of a fixed training set. Raises DataError if draws are fresh."""
    return set(batches.texts())


__all__ = [
    "Batches",
    "PackedCanvases",
    "Strings",
    "draw_texts",
    "held_out",
    "length_acceptance",
    "pack",
    "pad",
    "plan_rows",
    "step_generator",
    "training_texts",
]
