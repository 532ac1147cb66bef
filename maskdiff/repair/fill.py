"""Filling blanks so that what a string states is true: a guided search, verified, exhaustive within a bound.

For: `solve`, on one template and whatever `holds` asks. Not for: models and grammars themselves; they come as a `Guide` (which
filling to try first) and as a `NextSymbol` (what a grammar still allows). Easy to get wrong: what "no solution" means. It is
claimed only once no beginning is left that was not looked at; a guide may put the only solution last, but never out of reach.

Beginnings grow from left to right and branch at blanks alone. Those of one chunk, siblings and cousins of the same length, are
extended together, the chunk with the likeliest beginning first (best-first search; Hart, Nilsson and Raphael 1968). Lengths are
compared by adding what the blanks to come will cost, as the guide expects. A beginning that leaves but one continuation
(`forced_ending`: an expression and its `=`) is a candidate at once: compared with the template, then verified.
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

BOUND = 100_000  # beginnings and fillings looked at before a search gives up
CHUNK = 64  # beginnings extended together
KEPT = 2_000_000  # (symbols of a string)^2, summed over all masks that are kept: some 250 MB; others are made again
UNLIKELY = -30.0  # nats: what the guide holds for impossible is tried last


@dataclass(frozen=True)
class FillProblem:
    """What is asked: a template, a text with `vocabulary.blank` for each blank, and what makes a filling of it a solution.

    holds: whether a complete text is a solution. forced_ending: the one continuation that makes a text beginning like this hold,
    None where there is a choice. mask: what may come next, for a batch of this template alone; None allows every symbol.
    """

    template: str
    vocabulary: Vocabulary
    holds: Callable[[str], bool]
    forced_ending: Callable[[str], str | None]
    mask: NextSymbol | None = None

    def fits(self, text: str) -> bool:
        """Whether `text` is a filling of the template."""
        blank = self.vocabulary.blank
        return len(text) == len(self.template) and all(
            a in (blank, b) for a, b in zip(self.template, text, strict=True)
        )


@dataclass(frozen=True)
class FillOutcome:
    """What a search found: solutions, the likeliest to the guide first, as nearly as chunks allow.

    exhausted: every filling was ruled out or is among the solutions. candidates: fillings that were verified, and beginnings
    whose only continuation does not fit. looked: beginnings and fillings looked at, what the bound counts. first: candidates
    up to the first solution, that one included; None without one. timed_out: the deadline ended the
    search.
    """

    solutions: tuple[str, ...]
    exhausted: bool
    candidates: int
    looked: int
    first: int | None
    timed_out: bool = False


class Guide:
    """What to try first: log-probabilities (symbols of the template, vocab) of each position, each for itself.

    Impossible symbols and numbers that are none count as very unlikely: they are tried last, not never.
    """

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = (
            log_probs.double()
            .cpu()
            .nan_to_num(nan=UNLIKELY, neginf=UNLIKELY, posinf=0.0)
            .clamp(UNLIKELY, 0.0)
        )

    def next(self, begun: Sequence[str]) -> Tensor:
        """(rows, vocab) log-probabilities of what follows beginnings of one length."""
        return self.log_probs[len(begun[0])].expand(len(begun), -1)

    def expected(self) -> Tensor:
        """(symbols,) what a blank costs on average, if it is filled as the guide says."""
        weights = self.log_probs.softmax(-1)
        return (weights * self.log_probs).sum(-1)


def search_fillings(
    puzzle: FillProblem,
    guide: Guide,
    solutions: int = 1,
    bound: int = BOUND,
    patience: int | None = None,
    deadline: Deadline = NEVER,
) -> FillOutcome:
    """Search until so many solutions are found, nothing is left, or `bound` beginnings and fillings were looked at.

    With `patience` the search also ends that many looks after its first solution, and it ends at
    the deadline. Nothing is random: the same puzzle and guide give the same outcome. The template
    must be one that the mask leaves a filling of.
    """
    search, limit, late = _Search(puzzle, guide, bound, deadline), bound, False
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
    """The mask that a family of chunks begins with: that of their parents. None once it was dropped."""

    mask: NextSymbol | None
    cost: int
    families: int = 0  # chunks that still need it


@dataclass(frozen=True)
class _Chunk:
    """LatentStates of one length, the last symbol of which the mask of their parents (`rows` of the origin's) has not seen."""

    begun: list[str]
    score: Tensor  # (rows,) log-probability of the symbols at blanks, by the guide
    rows: Tensor
    origin: _Origin


class _Anything:
    """The mask of no grammar at all."""

    def __init__(self, vocabulary: Vocabulary, rows: int = 1) -> None:
        self.vocabulary, self.rows = vocabulary, rows

    def allowed(self) -> Tensor:
        one = torch.zeros(len(self.vocabulary), dtype=torch.bool)
        one[list(self.vocabulary.inner_ids)] = True
        return one.expand(self.rows, -1)

    def write(self, token: Tensor) -> None:
        pass

    def select(self, rows: Tensor) -> _Anything:
        return _Anything(self.vocabulary, len(rows))


@dataclass
class _Search:
    """The open chunks, and what was found so far."""

    puzzle: FillProblem
    guide: Guide
    bound: int
    deadline: Deadline = NEVER
    open: list[tuple[float, int, _Chunk]] = field(
        default_factory=list
    )  # a heap, the likeliest first
    found: list[str] = field(default_factory=list)
    candidates: int = 0
    looked: int = 0
    first: int | None = None
    cut: bool = False  # whether the bound left out a part of a chunk

    def __post_init__(self) -> None:
        template, vocabulary = self.puzzle.template, self.puzzle.vocabulary
        blank = torch.tensor([symbol == vocabulary.blank for symbol in template])
        costs = torch.where(blank, self.guide.expected(), 0.0)
        self.rest = [
            *costs.flip(0).cumsum(0).flip(0).tolist(),
            0.0,
        ]  # what all blanks from a position on will cost
        self.number = itertools.count()
        self.kept: deque[_Origin] = deque()
        self.room = KEPT
        self.start = self.puzzle.mask or _Anything(vocabulary)

    def begin(self) -> None:
        """Look at what stands before the first blank, and open the chunks of what may stand
        there."""
        self.looked = 1
        (text,) = self._undecided([""])
        if text is not None:
            self.root = len(text)
            self._write(self.start, [text], 0)
            self._branch(self.start, [text], torch.zeros(1, dtype=torch.float64))

    def extend(self, chunk: _Chunk) -> None:
        """Go on with the beginnings of a chunk up to their next blank, verifying what is complete."""
        begun = chunk.begun[: self.bound - self.looked]
        self.cut = self.cut or len(begun) < len(chunk.begun)
        self.looked += len(begun)
        waiting = self._undecided(begun)
        places = torch.tensor(
            [i for i, text in enumerate(waiting) if text is not None], dtype=torch.int64
        )
        texts = [text for text in waiting if text is not None]
        if texts:
            written = len(begun[0]) - 1
            if chunk.origin.mask is not None:
                mask = chunk.origin.mask.select(chunk.rows[places])
            else:
                mask, written = self.start.select(torch.zeros_like(places)), self.root
            self._write(mask, texts, written)
            self._branch(mask, texts, chunk.score[places])
        chunk.origin.families -= 1
        if not chunk.origin.families:
            self._drop(chunk.origin)

    def _undecided(self, begun: Sequence[str]) -> list[str | None]:
        """The beginnings with what is known behind them, up to the next blank; None where nothing is left to choose."""
        template, blank = self.puzzle.template, self.puzzle.vocabulary.blank
        start = len(begun[0])
        end = next((i for i in range(start, len(template)) if template[i] == blank), len(template))
        return [self._settle(text + template[start:end], start) for text in begun]

    def _settle(self, text: str, start: int) -> str | None:
        """`text`, or None once a beginning of it, of at least `start` symbols, is or implies a candidate."""
        for size in range(start, len(text) + 1):
            self.deadline.check()
            if size == len(self.puzzle.template):
                self._verify(text)
                return None
            rest = self.puzzle.forced_ending(text[:size])
            if rest is not None:
                self._verify(text[:size] + rest)
                return None
        return text

    def _verify(self, text: str) -> None:
        self.candidates += 1
        if self.puzzle.fits(text) and self.puzzle.holds(text):
            self.found.append(text)
            self.first = self.first or self.candidates

    def _write(self, mask: NextSymbol, texts: Sequence[str], written: int) -> None:
        """Tell the mask, which knows the first `written` symbols, the others."""
        ids = self.puzzle.vocabulary.ids
        for position in range(written, len(texts[0])):
            self.deadline.check()
            mask.write(torch.tensor([ids[text[position]] for text in texts]))

    def _branch(self, mask: NextSymbol, texts: list[str], score: Tensor) -> None:
        """Open the chunks of all that may stand at the next blank."""
        position = len(texts[0])
        symbols = self.puzzle.vocabulary.symbols
        row, token = mask.allowed().nonzero().T
        if not len(row):
            return
        scores = score[row] + self.guide.next(texts)[row, token]
        origin = _Origin(mask, len(texts) * len(self.puzzle.template) ** 2)
        for part in scores.argsort(descending=True, stable=True).split(CHUNK):
            pairs = zip(row[part].tolist(), token[part].tolist(), strict=True)
            begun = [texts[i] + symbols[k] for i, k in pairs]
            hope = float(scores[part[0]]) + self.rest[position + 1]
            heapq.heappush(
                self.open,
                (-hope, next(self.number), _Chunk(begun, scores[part], row[part], origin)),
            )
            origin.families += 1
        self.kept.append(origin)
        self.room -= origin.cost
        while self.room < 0 and len(self.kept) > 1:
            self._drop(self.kept.popleft())

    def _drop(self, origin: _Origin) -> None:
        """Give up the mask of an origin, once."""
        self.room += origin.cost
        origin.mask, origin.cost = None, 0
