"""Memory that requests may take together: what they hold is counted in bytes, and bounded.

For: `Memory`, of bodies while they are read (`holding`) and of answers under way (`reserved`). Not
for: measuring. Easy to get wrong: a request that is cancelled at the moment when its turn comes
holds memory already, and has to give it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from maskdiff.serving.refusals import UNAVAILABLE, Refused, closing


class Memory:
    """`most` bytes, of which `used` are taken. Used by one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._line: dict[
            asyncio.Future[None], int
        ] = {}  # turn of each request that waits -> its bytes

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes until the end of the block; it raises Refused without any."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if self.used + size > self.most:
                message = "too many bodies are being read; try again in a moment"
                raise Refused(UNAVAILABLE, message, code="overloaded")
            self.used += size
            held += size

        try:
            yield take
        finally:
            self._release(held)

    @asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes, at most `most`, for the block, which begins when they are free.

        Requests enter in the order in which they came. Raises Refused when the server ends before.
        """
        await self._enter(size)
        try:
            yield
        finally:
            self._release(size)

    def close(self) -> None:
        """Refuse the requests that wait."""
        line, self._line = self._line, {}
        for turn in line:
            if not turn.done():
                turn.set_exception(closing())

    async def _enter(self, size: int) -> None:
        if not self._line and self.used + size <= self.most:
            self.used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[turn] = size
        try:
            await turn
        except asyncio.CancelledError:
            if self._line.pop(turn, None) is None and not turn.cancelled() and not turn.exception():
                self._release(size)  # the turn came at the same moment
            self._call_in()  # this may have been the first in line
            raise

    def _release(self, size: int) -> None:
        self.used -= size
        self._call_in()

    def _call_in(self) -> None:
        """Let those enter for whom there is room now."""
        while self._line:
            turn, size = next(iter(self._line.items()))
            if turn.cancelled():
                del self._line[turn]
                continue
            if self.used + size > self.most:
                return
            del self._line[turn]
            self.used += size
            turn.set_result(None)


__all__ = ["Memory"]
