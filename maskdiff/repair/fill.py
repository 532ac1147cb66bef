"""Fills blanks so that the statement of a string is true: a guided, verified, exhaustive search.

`search_fillings` works on one template. A `Guide` orders the search, a `NextSymbol` mask excludes
what a grammar forbids, and `holds` verifies. "No solution" is claimed only if no prefix is left: a
guide can put the only solution last, but not exclude it.

Prefixes grow from left to right and branch at blanks. Prefixes of one chunk have the same length
and are extended together, the chunk with the likeliest prefix first (best-first search; Hart,
Nilsson and Raphael 1968). Different lengths are compared by adding the expected cost of the blanks
to come. A prefix with a single possible ending (`forced_ending`: an expression and its `=`) is a
candidate at once: it is compared with the template, then verified.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.utils.deadline import NEVER, Deadline, TimedOut

if TYPE_CHECKING:
    from maskdiff.drawing.settings import NextSymbol
    from maskdiff.languages import Vocabulary

BOUND = 100_000  # prefixes and fillings that a search examines at most
CHUNK = 64  # prefixes that are extended together
KEPT = 2_000_000  # sum of (symbols of a string)^2 over all masks in memory, about 250 MB
UNLIKELY = -30.0  # nats, for symbols that the guide excludes: they are tried last


@dataclass(frozen=True)
class FillProblem:
    """A template and what makes a filling of it a solution.

    Attributes:
        template: A text with `vocabulary.blank` for each blank.
        holds: Returns whether a complete text is a solution.
        forced_ending: Returns the only ending with which a prefix holds; None if there are several.
        mask: Allowed next symbols, for a batch of this template alone; None allows all.
    """

    template: str
    vocabulary: Vocabulary
    holds: Callable[[str], bool]
    forced_ending: Callable[[str], str | None]
    mask: NextSymbol | None = None

    def fits(self, text: str) -> bool:
        """Return whether `text` is a filling of the template."""
        blank = self.vocabulary.blank
        return len(text) == len(self.template) and all(
            a in (blank, b) for a, b in zip(self.template, text, strict=True)
        )


@dataclass(frozen=True)
class FillOutcome:
    """The outcome of a search.

    Attributes:
        solutions: In the order of the search, about the likeliest by the guide first.
        exhausted: Every filling was excluded or is a solution.
        candidates: Fillings that were verified, and prefixes whose only ending does not fit.
        looked: Prefixes and fillings examined, which the bound limits.
        first: Candidates up to the first solution, including it; None without one.
        timed_out: The deadline ended the search.
    """

    solutions: tuple[str, ...]
    exhausted: bool
    candidates: int
    looked: int
    first: int | None
    timed_out: bool = False


class Guide:
    """Orders the search: independent log-probabilities (symbols of the template, vocab).

    Impossible symbols and NaN count as very unlikely: they are tried last, but not excluded.
    """

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = (
            log_probs.double()
            .cpu()
            .nan_to_num(nan=UNLIKELY, neginf=UNLIKELY, posinf=0.0)
            .clamp(UNLIKELY, 0.0)
        )

    def next(self, prefixes: Sequence[str]) -> Tensor:
        """Return log-probabilities (rows, vocab) of the symbol after prefixes of one length."""
        return self.log_probs[len(prefixes[0])].expand(len(prefixes), -1)

    def expected(self) -> Tensor:
        """Return the expected log-probability (symbols,) of each position."""
        weights = self.log_probs.softmax(-1)
        return (weights * self.log_probs).sum(-1)


def search_fillings(
    problem: FillProblem,
    guide: Guide,
    solutions: int = 1,
    bound: int = BOUND,
    patience: int | None = None,
    deadline: Deadline = NEVER,
) -> FillOutcome:
    """Search until `solutions` are found, nothing is left, or `bound` prefixes were examined.

    The search also ends `patience` prefixes after its first solution, and at the deadline. Nothing
    is random. The mask must allow a filling of the template.
    """
    search, limit, late = _Search(problem, guide, bound, deadline), bound, False
    try:
        search.begin()
        while search.open and search.looked < limit and len(search.found) < solutions:
            search.extend(heapq.heappop(search.open)[2])
            if patience is not None and search.found:
                limit, patience = min(bound, search.looked + patience), None
    except TimedOut:
        late = True
    left = late or bool(search.open) or search.cut or len(search.found) > solutions
    found = tuple(search.found[:solutions])
    return FillOutcome(found, not left, search.candidates, search.looked, search.first, late)


@dataclass
class _Origin:
    """The mask of the parents of several chunks; None after it was dropped."""

    mask: NextSymbol | None
    cost: int
    chunks: int = 0  # chunks that still use it


@dataclass(frozen=True)
class _Chunk:
    """Prefixes of one length; their last symbol is not in the mask of the origin yet."""

    prefixes: list[str]
    score: Tensor  # (rows,) log-probability of the symbols at blanks, by the guide
    rows: Tensor  # of the mask of the origin
    origin: _Origin


class _AllSymbols:
    """The mask without a grammar."""

    def __init__(self, vocabulary: Vocabulary, rows: int = 1) -> None:
        self.vocabulary, self.rows = vocabulary, rows

    def allowed(self) -> Tensor:
        one = torch.zeros(len(self.vocabulary), dtype=torch.bool)
        one[list(self.vocabulary.inner_ids)] = True
        return one.expand(self.rows, -1)

    def write(self, token: Tensor) -> None:
        pass

    def select(self, rows: Tensor) -> _AllSymbols:
        return _AllSymbols(self.vocabulary, len(rows))


@dataclass
class _Search:
    """The open chunks, and the results so far."""

    problem: FillProblem
    guide: Guide
    bound: int
    deadline: Deadline = NEVER
    open: list[tuple[float, int, _Chunk]] = field(default_factory=list)  # a heap, best first
    found: list[str] = field(default_factory=list)
    candidates: int = 0
    looked: int = 0
    first: int | None = None
    cut: bool = False  # whether the bound excluded a part of a chunk

    def __post_init__(self) -> None:
        template, vocabulary = self.problem.template, self.problem.vocabulary
        blank = torch.tensor([symbol == vocabulary.blank for symbol in template])
        costs = torch.where(blank, self.guide.expected(), 0.0)
        # Expected log-probability of all blanks from a position on.
        self.rest = [*costs.flip(0).cumsum(0).flip(0).tolist(), 0.0]
        self.number = itertools.count()
        self.kept: deque[_Origin] = deque()
        self.room = KEPT
        self.start = self.problem.mask or _AllSymbols(vocabulary)

    def begin(self) -> None:
        """Examine the text before the first blank, and open the chunks of its fillings."""
        self.looked = 1
        (text,) = self._undecided([""])
        if text is not None:
            self.root = len(text)
            self._write(self.start, [text], 0)
            self._branch(self.start, [text], torch.zeros(1, dtype=torch.float64))

    def extend(self, chunk: _Chunk) -> None:
        """Extend the prefixes of a chunk to their next blank, and verify complete ones."""
        # Known symbols up to the next blank; prefixes that become candidates end here.
        prefixes = chunk.prefixes[: self.bound - self.looked]
        self.cut = self.cut or len(prefixes) < len(chunk.prefixes)
        self.looked += len(prefixes)
        waiting = self._undecided(prefixes)
        places = torch.tensor(
            [i for i, text in enumerate(waiting) if text is not None], dtype=torch.int64
        )
        texts = [text for text in waiting if text is not None]
        # The mask after these symbols, and the chunks of the next blank.
        if texts:
            written = len(prefixes[0]) - 1
            if chunk.origin.mask is not None:
                mask = chunk.origin.mask.select(chunk.rows[places])
            else:
                mask, written = self.start.select(torch.zeros_like(places)), self.root
            self._write(mask, texts, written)
            self._branch(mask, texts, chunk.score[places])
        chunk.origin.chunks -= 1
        if not chunk.origin.chunks:
            self._drop(chunk.origin)

    def _undecided(self, prefixes: Sequence[str]) -> list[str | None]:
        """The prefixes extended to the next blank; None for those that led to a candidate."""
        template, blank = self.problem.template, self.problem.vocabulary.blank
        start = len(prefixes[0])
        end = next((i for i in range(start, len(template)) if template[i] == blank), len(template))
        return [self._check_prefixes(text + template[start:end], start) for text in prefixes]

    def _check_prefixes(self, text: str, start: int) -> str | None:
        """`text`, or None if a prefix of at least `start` symbols is or implies a candidate."""
        for size in range(start, len(text) + 1):
            self.deadline.check()
            if size == len(self.problem.template):
                self._verify(text)
                return None
            rest = self.problem.forced_ending(text[:size])
            if rest is not None:
                self._verify(text[:size] + rest)
                return None
        return text

    def _verify(self, text: str) -> None:
        self.candidates += 1
        if self.problem.fits(text) and self.problem.holds(text):
            self.found.append(text)
            self.first = self.first or self.candidates

    def _write(self, mask: NextSymbol, texts: Sequence[str], written: int) -> None:
        """Write the symbols after the first `written` to the mask."""
        ids = self.problem.vocabulary.ids
        for position in range(written, len(texts[0])):
            self.deadline.check()
            mask.write(torch.tensor([ids[text[position]] for text in texts]))

    def _branch(self, mask: NextSymbol, texts: list[str], score: Tensor) -> None:
        """Open the chunks of all symbols allowed at the next blank."""
        position = len(texts[0])
        symbols = self.problem.vocabulary.symbols
        row, token = mask.allowed().nonzero().T
        if not len(row):
            return
        scores = score[row] + self.guide.next(texts)[row, token]
        origin = _Origin(mask, len(texts) * len(self.problem.template) ** 2)
        for part in scores.argsort(descending=True, stable=True).split(CHUNK):
            pairs = zip(row[part].tolist(), token[part].tolist(), strict=True)
            prefixes = [texts[i] + symbols[k] for i, k in pairs]
            hope = float(scores[part[0]]) + self.rest[position + 1]
            heapq.heappush(
                self.open,
                (-hope, next(self.number), _Chunk(prefixes, scores[part], row[part], origin)),
            )
            origin.chunks += 1
        self.kept.append(origin)
        self.room -= origin.cost
        while self.room < 0 and len(self.kept) > 1:
            self._drop(self.kept.popleft())

    def _drop(self, origin: _Origin) -> None:
        """Drop the mask of an origin; it is computed again if needed."""
        self.room += origin.cost
        origin.mask, origin.cost = None, 0
