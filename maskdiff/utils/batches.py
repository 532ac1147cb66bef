"""Requests in small batches, a cache for equal requests, and progress on the error stream.

Sizes of batches follow from the numbers of requests alone, not from the time that work takes, so
that a repeated run gives the same digits. A repeated request keeps its place in its batch, so that
all others keep their random keys.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from maskdiff.errors import DataError
from maskdiff.utils.lines import Line, LineReader

R = TypeVar("R")

LARGEST = 16  # requests in a batch on a CPU; more is not faster
LARGEST_ON_GPU = 256
MEMORY = 64 * 2**20  # characters of cached results
EVERY_SECONDS = 60.0  # between lines of progress, if the error stream is not a terminal
REFRESH_SECONDS = 0.5  # between updates of the bar
AGAIN = "an equal request was answered before"


class Repeated(DataError):
    """Takes the place of a request that equals an earlier one."""


class Requests:
    """Texts of arguments, then the lines of a reader."""

    def __init__(self, texts: Sequence[Line], reader: LineReader | None = None) -> None:
        self.texts, self.reader = list(texts), reader

    def take(self, most: int) -> list[Line]:
        """Return up to `most` requests, as `LineReader.take` does."""
        if self.texts:
            part, self.texts = self.texts[:most], self.texts[most:]
            return part
        return [] if self.reader is None else self.reader.take(most)

    def close(self) -> None:
        """Close the file."""
        if self.reader is not None:
            self.reader.close()


def growing(requests: Requests, largest: int, period: int | None = None) -> Iterator[list[Line]]:
    """Yield batches of 1, 2, 4, ... up to `largest` requests, split at multiples of `period`."""
    size, done = 1, 0
    while batch := requests.take(size if period is None else min(size, period - done % period)):
        yield batch
        done += len(batch)
        size = min(2 * size, largest)


class ResultCache(Generic[R]):
    """Results by text; beyond `room` characters the least recently used are dropped."""

    def __init__(self, room: int = MEMORY) -> None:
        self.room = room
        self._kept: OrderedDict[str, tuple[int, list[R]]] = OrderedDict()

    def get(self, text: str) -> list[R] | None:
        """Return the results of an equal request, or None."""
        if text not in self._kept:
            return None
        self._kept.move_to_end(text)
        return self._kept[text][1]

    def put(self, text: str, results: list[R]) -> None:
        """Add the results of a new request."""
        size = len(text) + len(repr(results))
        self._kept[text] = size, results
        self.room -= size
        while self.room < 0:
            _, (size, _) = self._kept.popitem(last=False)
            self.room += size


def answer_batches(
    batches: Iterable[Sequence[Line]],
    work: Callable[[Sequence[Line]], Iterable[tuple[int, R]]],
    memory: ResultCache[R] | None = None,
) -> Iterator[tuple[int, int, R]]:
    """Yield (number of the request, number of the sample, result), both from 1, in order.

    `work` maps a batch to pairs (index in the batch, result), in order, one or more each. A text
    that was answered before is `Repeated` in its batch, and gets the results of the first one.
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
    """Progress on the error stream: a bar on a terminal, otherwise a line a minute.

    Args:
        total: Number of requests, None if unknown.
        bar: False leaves out the bar, which would disturb output on the same terminal.
    """

    def __init__(self, program: str, unit: str, total: int | None, bar: bool = True) -> None:
        self.program, self.unit, self.total, self.done = program, unit, total, 0
        self.start = self.shown = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar: Any = None
        if bar and terminal:
            from tqdm import tqdm  # only here: it takes 30 ms to import

            self.bar = tqdm(total=total, unit=unit, file=sys.stderr)
        self.silent = terminal
        self.shared = sys.stdout.isatty()  # the output is on the terminal, too

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def finished(self, done: int) -> None:
        """Show that the first `done` requests are answered."""
        if self.bar is not None:
            self.bar.update(done - self.done)
        self.done = done
        self.tick()

    def hide(self) -> None:
        """Remove the bar before output on the same terminal; its next update shows it again."""
        if self.bar is not None and self.shared:
            self.bar.clear()

    def tick(self) -> None:
        """Refresh the bar, or print a line, if the last one is old enough."""
        now = time.monotonic()
        if now - self.shown < (EVERY_SECONDS if self.bar is None else REFRESH_SECONDS):
            return
        self.shown = now
        if self.bar is not None:
            self.bar.refresh()
        elif not self.silent:
            print(f"{self.program}: {self.line(now - self.start)}", file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Return what is done after so many seconds."""
        of = "" if self.total is None else f" of {self.total}"
        rate = self.done / max(seconds, 1e-9)
        return f"{self.done}{of} {self.unit}s done in {seconds:.0f} s, {rate:.2g} a second"


__all__ = [
    "LARGEST",
    "LARGEST_ON_GPU",
    "MEMORY",
    "ProgressBar",
    "Repeated",
    "Requests",
    "ResultCache",
    "answer_batches",
    "growing",
]
