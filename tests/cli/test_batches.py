"""Requests in batches, equal ones once, and progress."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence

import pytest

from maskdiff.errors import DataError
from maskdiff.utils import batches
from maskdiff.utils.batches import (
    ProgressBar,
    Repeated,
    Requests,
    ResultCache,
    answer_batches,
    growing,
)
from maskdiff.utils.deadline import NEVER, Deadline, TimedOut
from maskdiff.utils.lines import Line, LineReader
from tests.helpers.fuzz import both_seeds, cases


def reader(*texts: str) -> LineReader:
    return LineReader(io.BytesIO("".join(f"{text}\n" for text in texts).encode()))


def test_batch_size_grows_from_one_within_the_period() -> None:
    requests = Requests([], reader(*map(str, range(100))))
    sizes = [len(batch) for batch in growing(requests, 16, 40)]
    assert sizes == [1, 2, 4, 8, 16, 9, 16, 16, 8, 16, 4]
    assert sum(sizes) == 100


def test_arguments_are_answered_before_lines_are_read() -> None:
    requests = Requests(["a", "b"], reader("c", "d"))
    assert [requests.take(5), requests.take(1), requests.take(5), requests.take(5)] == [
        ["a", "b"],
        ["c"],
        ["d"],
        [],
    ]


class Worker:
    """Count computed requests; a text has one result per character, a bad one has one."""

    def __init__(self) -> None:
        self.seen: list[Line] = []

    def __call__(self, batch: Sequence[Line]) -> Iterator[tuple[int, str]]:
        for place, text in enumerate(batch):
            self.seen.append(text)
            count = len(text) if isinstance(text, str) else 1
            for i in range(count):
                yield place, f"{text}/{len(self.seen)}/{i}"


@both_seeds
def test_equal_requests_are_computed_once(seed: int) -> None:
    """Every request has the results of the first equal one, in its position, for any batches."""
    for rng in cases(400, seed):
        texts: list[Line] = [
            rng.choice(["a", "bb", "ccc", "dd", "e"]) for _ in range(rng.randrange(1, 30))
        ]
        bad = DataError("no text")
        for i in range(len(texts)):
            if rng.random() < 0.1:
                texts[i] = bad
        parts, rest = [], list(texts)
        while rest:
            size = rng.randrange(1, 6)
            parts.append(rest[:size])
            rest = rest[size:]
        worker = Worker()
        found = list(answer_batches(parts, worker))
        first = {text: texts.index(text) + 1 for text in texts if isinstance(text, str)}
        expected = []
        for number, text in enumerate(texts, start=1):
            place = first[text] if isinstance(text, str) else number
            own = range(len(text) if isinstance(text, str) else 1)
            expected += [(number, i + 1, f"{text}/{place}/{i}") for i in own]
        assert found == expected
        assert len(worker.seen) == len(
            texts
        )  # every request keeps its position, so keys equal those without repeats
        worked = [text for text in worker.seen if not isinstance(text, Repeated)]
        assert worked == [
            text for i, text in enumerate(texts) if text is bad or text not in texts[:i]
        ]


def test_results_are_yielded_before_their_batch_ends() -> None:
    worked = []

    def work(batch: Sequence[Line]) -> Iterator[tuple[int, Line]]:
        for place, text in enumerate(batch):
            worked.append(text)
            yield place, text

    results = answer_batches([["a", "b"]], work)
    assert next(results) == (1, 1, "a")
    assert worked == ["a"]


def test_result_cache_is_bounded_and_evicts_the_least_recently_used() -> None:
    memory: ResultCache[str] = ResultCache(room=60)
    for text in "abc":
        memory.put(text, ["x" * 10])  # 15 characters each, with brackets, quotes and the text
    assert memory.get("a") is not None
    memory.put("d", ["x" * 10])
    memory.put("e", ["x" * 10])
    assert memory.get("b") is None
    assert memory.get("a") is not None
    memory.put("f", ["x" * 1000])  # larger than the cache
    assert memory.room == 60
    assert memory.get("a") is None
    memory.put("a", ["y"])
    assert memory.get("a") == ["y"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_without_a_terminal_is_one_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(batches.time, "monotonic", clock)
    with ProgressBar("program", "string", 400) as progress:
        for done in range(1, 301):
            clock.now += 0.5
            progress.finished(done)
        clock.now += 59.0
        progress.tick()
        clock.now += 2.0
        progress.tick()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "program: 120 of 400 strings done in 60 s, 2 a second",
        "program: 240 of 400 strings done in 120 s, 2 a second",
        "program: 300 of 400 strings done in 209 s, 1.4 a second",
    ]
    with ProgressBar("program", "string", None) as progress:
        clock.now += 61
        progress.tick()
    assert capsys.readouterr().err == "program: 0 strings done in 61 s, 0 a second\n"


def test_progress_on_a_terminal_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar("program", "string", 7) as progress:
        progress.hide()
        progress.finished(3)
    assert "/7" in terminal.getvalue()
    assert capsys.readouterr().out == ""
    silent = Terminal()
    monkeypatch.setattr(sys, "stderr", silent)
    with ProgressBar("program", "string", 7, bar=False) as progress:
        progress.start = progress.shown = -1e9
        progress.finished(3)
    assert silent.getvalue() == ""


def test_deadline_raises_when_passed_and_calls_its_tick() -> None:
    clock, ticks = Clock(), []
    deadline = Deadline(2.5, lambda: ticks.append(clock.now), clock)
    deadline.check()
    clock.now += 2.4
    deadline.check()
    assert not deadline.passed
    clock.now += 0.1
    with pytest.raises(TimedOut, match=r"no answer within 2.5 s; give a larger --timeout"):
        deadline.check()
    assert len(ticks) == 3
    NEVER.check()
    assert not NEVER.passed
