"""A budget of memory that requests share, in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from maskdiff.serving.error_responses import UNAVAILABLE, RequestError, shutdown_error


class MemoryBudget:
    """A budget of `most` bytes, of which `used` are taken; for one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._queue: dict[asyncio.Future[None], int] = {}  # turn of each waiting request -> bytes

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes bytes until the end of the block.

        The function raises RequestError when the budget is spent.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if self.used + size > self.most:
                message = "too many bodies are being read; try again in a moment"
                raise RequestError(UNAVAILABLE, message, code="overloaded")
            self.used += size
            held += size

        try:
            yield take
        finally:
            self._release(held)

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes, at most `most`, for the block, which begins when they are free.

        Requests enter in the order of their arrival. Raises RequestError at shutdown.
        """
        await self._acquire(size)
        try:
            yield
        finally:
            self._release(size)

    def close(self) -> None:
        """Fail the requests that wait."""
        queue, self._queue = self._queue, {}
        for turn in queue:
            if not turn.done():
                turn.set_exception(shutdown_error())

    async def _acquire(self, size: int) -> None:
        if not self._queue and self.used + size <= self.most:
            self.used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[turn] = size
        try:
            await turn
        except asyncio.CancelledError:
            # A request that is cancelled at its turn holds its memory already.
            if (
                self._queue.pop(turn, None) is None
                and not turn.cancelled()
                and not turn.exception()
            ):
                self._release(size)
            self._admit()  # the next one may fit without this one before it
            raise

    def _release(self, size: int) -> None:
        self.used -= size
        self._admit()

    def _admit(self) -> None:
        """Admit waiting requests for which there is room."""
        while self._queue:
            turn, size = next(iter(self._queue.items()))
            if turn.cancelled():
                del self._queue[turn]
                continue
            if self.used + size > self.most:
                return
            del self._queue[turn]
            self.used += size
            turn.set_result(None)


__all__ = ["MemoryBudget"]
