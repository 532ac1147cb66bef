"""Writing the choices of an answer, piece by piece, so that what was said is never taken back.

For: `Task`, what to write; `pieces`, the one loop behind answers that are streamed and answers that are not; `Desk`, where
requests wait for the generator. Not for: HTTP. Easy to get wrong: a stop string may span several tokens or be the middle of
one. Text that may be the beginning of one is held back until the next token decides; and since the generator looks for stop
strings in what it writes within one call only, the call after such text asks for a single token.

Calls are short (`SLICE` tokens at most), so a client that has gone away, or a server that is to end, stops the work soon. The
generator draws token i of candidate j from (seed, j, i) alone, so the slices make no difference to the answer.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from maskdiff.errors import UserError
from maskdiff.serving.memory import Memory
from maskdiff.serving.refusals import TOO_MANY, Refused, closing
from maskdiff.serving.served import Limits, Served
from maskdiff.stepwise.protocol import Candidate, Reply, Request, Stop

SLICE = 64  # tokens of one call of the generator


@dataclass(frozen=True)
class Task:
    """`n` choices for each prompt.

    by_token: one token a call, for streams and for log-probabilities. memory: bytes that writing
    the answer takes at most.
    """

    prompts: tuple[str, ...]
    n: int
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    by_token: bool = False
    memory: int = 0


@dataclass(frozen=True)
class Token:
    """One drawn token: its text (none for the model's own end), where it begins in the answer, and its log-probability."""

    text: str
    offset: int
    log_prob: float


@dataclass(frozen=True)
class Piece:
    """What has become certain of choice `index`.

    text: what to append to the answer. tokens: those drawn one by one since the last piece, the ones of a stop string and
    of held text included. drawn: how many tokens were drawn. stop_reason: the stop string that ended the choice.
    """

    index: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    drawn: int = 0
    finish: Literal["stop", "length"] | None = None
    stop_reason: str | None = None


class Draft:
    """Choice `index` of a task while it is written."""

    def __init__(self, task: Task, index: int) -> None:
        self.task, self.index = task, index
        self.prompt, self.number = task.prompts[index // task.n], index % task.n
        self.stop = Stop(task.stop, task.max_tokens)
        self.partial: list[Candidate] = []
        self.text = ""
        self.sent = self.drawn = self.held = (
            0  # characters given out, tokens drawn, characters that may begin a stop string
        )
        self.finished = False

    def request(self) -> Request:
        """What to ask the generator for next."""
        if self.task.by_token or self.held:
            stop = Stop((), max_tokens=1)
        else:
            stop = Stop(self.task.stop, max_tokens=min(SLICE, self.task.max_tokens - self.drawn))
        return Request(
            prompt=self.prompt, partial=tuple(self.partial), num=1, temperature=self.task.temperature, stop=stop,
            seed=self.task.seed, first=self.number,
        )  # fmt: skip

    def take(self, candidate: Candidate) -> Piece:
        """Append what the generator said."""
        since = len(self.text)
        self.partial.append(replace(candidate, log_probs=None, entropies=None, gaps=None))
        self.text += candidate.said
        drawn = max(1, candidate.tokens)  # so that every task ends
        self.drawn += drawn
        tokens: tuple[Token, ...] = ()
        if self.task.by_token and candidate.log_probs:
            tokens = (Token(candidate.said, since, math.fsum(candidate.log_probs)),)
        cut, finish, reason = self._end(candidate, since)
        self.finished = finish is not None
        self.sent, text = cut, self.text[self.sent : cut]
        return Piece(self.index, text, tokens, drawn, finish, reason)

    def _end(
        self, candidate: Candidate, since: int
    ) -> tuple[int, Literal["stop", "length"] | None, str | None]:
        """How much of the text is certain, and whether and why the choice ends there; a stop string must end behind `since`."""
        if (end := self.stop.find(self.text, since)) is not None:
            reason = max(
                (stop for stop in self.task.stop if self.text.endswith(stop, 0, end)), key=len
            )
            return end if self.task.keep_stop else end - len(reason), "stop", reason
        if candidate.finish == "end":
            return len(self.text), "stop", None
        if self.drawn >= self.task.max_tokens:
            return len(self.text), "length", None
        self.held = max((_begun(self.text, stop) for stop in self.task.stop), default=0)
        return len(self.text) if self.task.keep_stop else len(self.text) - self.held, None, None


def _begun(text: str, stop: str) -> int:
    """The most characters at the end of `text` with which `stop` begins, short of all of it."""
    most = min(len(stop) - 1, len(text))
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)


class Desk:
    """Where requests wait for the generator, which one thread uses at a time."""

    def __init__(self, served: Served, limits: Limits) -> None:
        self.served, self.limits = served, limits
        self.inside = 0  # requests that are answered or wait
        self.closed = False
        self.bodies = Memory(limits.max_bodies)  # of requests that are being read
        self.answers = Memory(limits.room)  # of requests under way
        self.idle = threading.Event()  # set while no call of the generator is running
        self.idle.set()
        self._worker: ThreadPoolExecutor | None = None
        self._asked: set[asyncio.Future[list[Reply]]] = set()  # what is waited for
        self._ended: set[asyncio.Future[list[Reply]]] = (
            set()
        )  # and is no longer, because of the end

    def open(self) -> None:
        """Take requests (again)."""
        self.closed = False

    def close(self) -> None:
        """Refuse what is under way, whose running call ends unheard, and take no more. In the thread of the event loop."""
        self.closed = True
        self.answers.close()
        for future in self._asked:
            if future.cancel():
                self._ended.add(future)
        if self._worker is not None:
            self._worker.shutdown(wait=False)
            self._worker = None

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for the whole of a request. Raises Refused when all are taken."""
        if self.inside > self.limits.max_waiting:
            raise Refused(
                TOO_MANY,
                "too many requests are waiting; try again in a moment",
                code="too_many_requests",
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The generator's replies; whoever is cancelled before the turn comes costs nothing. Raises Refused when closed."""
        if self.closed:
            raise closing()
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "maskdiff-serve")
        future = asyncio.get_running_loop().run_in_executor(self._worker, self._next_step, requests)
        self._asked.add(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future in self._ended:
                raise closing() from None
            raise
        finally:
            self._asked.discard(future)
            self._ended.discard(future)

    def _next_step(self, requests: Sequence[Request]) -> list[Reply]:
        with self.served.lock:
            if self.closed:
                raise closing()
            self.idle.clear()
            try:
                return self.served.generator.next_step(requests)
            except UserError:
                raise
            except BaseException:
                self.served.generator.forget()  # what it keeps may be half made
                raise
            finally:
                self.idle.set()


async def pieces(desk: Desk, task: Task) -> AsyncGenerator[list[Piece], None]:
    """The choices of `task` as they come, all of them together; closing the generator stops the work.

    Raises Refused, and what the generator raises.
    """
    with desk.place():
        async with desk.answers.reserved(task.memory):
            drafts = [Draft(task, index) for index in range(len(task.prompts) * task.n)]
            while active := [draft for draft in drafts if not draft.finished]:
                replies = await desk.ask([draft.request() for draft in active])
                yield [draft.take(reply.candidates[0]) for draft, reply in zip(active, replies)]


def joined(parts: Iterable[Piece]) -> list[Piece]:
    """One piece for each choice, which holds all of it."""
    choices: dict[int, list[Piece]] = {}
    for part in parts:
        choices.setdefault(part.index, []).append(part)
    return [
        Piece(
            index,
            "".join(part.text for part in own),
            tuple(token for part in own for token in part.tokens),
            sum(part.drawn for part in own),
            own[-1].finish,
            own[-1].stop_reason,
        )
        for index, own in sorted(choices.items())
    ]


__all__ = ["SLICE", "Desk", "Draft", "Piece", "Task", "Token", "joined", "pieces"]
