"""Requests in small batches, equal requests once, and progress on the error stream; what every verb
with `--input` shares.

For: `Requests`, `answered` and `Progress`. Not for: the work itself, or printing results. Easy to
get wrong: sizes of batches follow from the numbers of requests alone, never from the time that work
took, so that a run repeated gives the same digits; and a repeated request still takes its place in
its batch, so that all others keep their random keys.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from maskdiff.errors import DataError
from maskdiff.utils.lines import Line, LineReader

R = TypeVar("R")

LARGEST = 16  # requests worked on together on a CPU; more would be no faster, and later to show
LARGEST_ON_GPU = 256
MEMORY = 64 * 2**20  # characters of results that are kept for equal requests
EVERY_SECONDS = 60.0  # between lines of progress where the error stream is no terminal
REFRESH_SECONDS = 0.5  # between updates of the bar where it is one
AGAIN = "an equal request was answered before"


class Repeated(DataError):
    """Stands in a batch for a request that equals one before it; a new object each time, for it may
    be raised."""


class Requests:
    """Texts given as arguments, then the lines of a reader."""

    def __init__(self, texts: Sequence[Line], reader: LineReader | None = None) -> None:
        self.texts, self.reader = list(texts), reader

    def take(self, most: int) -> list[Line]:
        """Up to `most` requests, as in `LineReader.take`."""
        if self.texts:
            part, self.texts = self.texts[:most], self.texts[most:]
            return part
        return [] if self.reader is None else self.reader.take(most)

    def close(self) -> None:
        """Close the file."""
        if self.reader is not None:
            self.reader.close()


def growing(requests: Requests, largest: int, period: int | None = None) -> Iterator[list[Line]]:
    """Batches of 1, 2, 4, ... up to `largest` requests, none of which goes beyond a multiple of
    `period`."""
    size, done = 1, 0
    while batch := requests.take(size if period is None else min(size, period - done % period)):
        yield batch
        done += len(batch)
        size = min(2 * size, largest)


class ResultCache(Generic[R]):
    """Results by their text, of which the least recently used are forgotten beyond `room`
    characters."""

    def __init__(self, room: int = MEMORY) -> None:
        self.room = room
        self._kept: OrderedDict[str, tuple[int, list[R]]] = OrderedDict()

    def get(self, text: str) -> list[R] | None:
        """The results of an equal request, None where there are none."""
        if text not in self._kept:
            return None
        self._kept.move_to_end(text)
        return self._kept[text][1]

    def put(self, text: str, results: list[R]) -> None:
        """Keep the results of a request that is not there yet."""
        size = len(text) + len(repr(results))
        self._kept[text] = size, results
        self.room -= size
        while self.room < 0:
            _, (size, _) = self._kept.popitem(last=False)
            self.room += size


def answered(
    batches: Iterable[Sequence[Line]],
    work: Callable[[Sequence[Line]], Iterable[tuple[int, R]]],
    memory: ResultCache[R] | None = None,
) -> Iterator[tuple[int, int, R]]:
    """Results with the number of their request and their own within it, both from 1, in the order
    of the requests.

    `work` gets a batch and gives (place in the batch, result), place by place, one result or more
    each. A text that was answered before is `Repeated` in its batch, and gets the results of the
    first one.
    """
    memory, before = memory or ResultCache(), 0
    for batch in batches:
        known: dict[str, list[R]] = {}
        asked: list[Line] = []
        for text in batch:
            if isinstance(text, str) and text not in known:
                found = memory.get(text)
                known[text] = found or []
                asked.append(Repeated(AGAIN) if found else text)
            else:
                asked.append(Repeated(AGAIN) if isinstance(text, str) else text)
        made: dict[int, list[R]] = {}
        for place, result in work(asked):
            text = batch[place]
            if isinstance(asked[place], Repeated):
                assert isinstance(text, str)
                yield from (
                    (before + place + 1, i, own) for i, own in enumerate(known[text], start=1)
                )
                continue
            made.setdefault(place, []).append(result)
            if isinstance(text, str):
                known[text] = made[place]
            yield before + place + 1, len(made[place]), result
        for place, results in made.items():
            if isinstance(text := batch[place], str):
                memory.put(text, results)
        before += len(batch)


class ProgressBar:
    """How far a program is, on the error stream: a bar on a terminal, elsewhere a line a minute.

    total: requests, None where nobody knows. bar: False leaves the bar out, where it would run into
    the output.
    """

    def __init__(self, program: str, unit: str, total: int | None, bar: bool = True) -> None:
        self.program, self.unit, self.total, self.done = program, unit, total, 0
        self.start = self.shown = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar: Any = tqdm(total=total, unit=unit, file=sys.stderr) if bar and terminal else None
        self.silent = terminal
        self.shared = sys.stdout.isatty()  # the output is on the terminal, too

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def finished(self, done: int) -> None:
        """The first `done` requests are answered."""
        if self.bar is not None:
            self.bar.update(done - self.done)
        self.done = done
        self.tick()

    def hide(self) -> None:
        """Make room for output on the same terminal; the bar comes back with its next update."""
        if self.bar is not None and self.shared:
            self.bar.clear()

    def tick(self) -> None:
        """Show that work is going on, where it is time to."""
        now = time.monotonic()
        if now - self.shown < (EVERY_SECONDS if self.bar is None else REFRESH_SECONDS):
            return
        self.shown = now
        if self.bar is not None:
            self.bar.refresh()
        elif not self.silent:
            print(f"{self.program}: {self.line(now - self.start)}", file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What is done after so many seconds."""
        of = "" if self.total is None else f" of {self.total}"
        return f"{self.done}{of} {self.unit}s done in {seconds:.0f} s, {self.done / max(seconds, 1e-9):.2g} a second"


__all__ = [
    "LARGEST",
    "LARGEST_ON_GPU",
    "MEMORY",
    "ProgressBar",
    "Repeated",
    "Requests",
    "ResultCache",
    "answered",
    "growing",
]
