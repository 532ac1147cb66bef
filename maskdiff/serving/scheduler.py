"""The scheduler: requests wait for the backend, which one worker thread calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from maskdiff.errors import UserError
from maskdiff.serving.error_responses import TOO_MANY, RequestError, shutdown_error
from maskdiff.serving.memory import MemoryBudget
from maskdiff.serving.model import ServedModel, ServerLimits
from maskdiff.stepwise.protocol import Reply, Request


class Scheduler:
    """Admits requests and runs their backend calls one after the other.

    Attributes:
        active: The number of requests that run or wait.
        closed: Whether the server shuts down.
        body_memory: Memory of the bodies that are being received.
        answer_memory: Memory of the answers under way.
        idle: Set while no call of the backend runs.
    """

    def __init__(self, model: ServedModel, limits: ServerLimits) -> None:
        self.model, self.limits = model, limits
        self.active = 0
        self.closed = False
        self.body_memory = MemoryBudget(limits.max_bodies)
        self.answer_memory = MemoryBudget(limits.answer_bytes)
        self.idle = threading.Event()
        self.idle.set()
        self._worker: ThreadPoolExecutor | None = None
        self._pending: set[asyncio.Future[list[Reply]]] = set()  # calls that somebody waits for
        self._cancelled: set[asyncio.Future[list[Reply]]] = set()  # those that `close` cancelled

    def open(self) -> None:
        """Accept requests (again)."""
        self.closed = False

    def close(self) -> None:
        """Fail all requests under way and accept no more; the running call is ignored.

        Must run in the thread of the event loop.
        """
        self.closed = True
        self.answer_memory.close()
        for future in self._pending:
            if future.cancel():
                self._cancelled.add(future)
        if self._worker is not None:
            self._worker.shutdown(wait=False)
            self._worker = None

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a place in the queue for a whole request. Raises RequestError when it is full."""
        if self.active > self.limits.max_waiting:
            message = "too many requests are waiting; try again in a moment"
            raise RequestError(TOO_MANY, message, code="too_many_requests")
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    async def call(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the backend's replies. A call that is cancelled before its turn does not run.

        Raises RequestError at shutdown, and what the backend raises.
        """
        if self.closed:
            raise shutdown_error()
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "maskdiff-serve")
        future = asyncio.get_running_loop().run_in_executor(self._worker, self._run, requests)
        self._pending.add(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future in self._cancelled:
                raise shutdown_error() from None
            raise
        finally:
            self._pending.discard(future)
            self._cancelled.discard(future)

    def _run(self, requests: Sequence[Request]) -> list[Reply]:
        with self.model.lock:
            if self.closed:
                raise shutdown_error()
            self.idle.clear()
            try:
                return self.model.backend.next_step(requests)
            except UserError:
                raise
            except BaseException:
                self.model.backend.forget()  # its caches may be incomplete
                raise
            finally:
                self.idle.set()


__all__ = ["Scheduler"]
