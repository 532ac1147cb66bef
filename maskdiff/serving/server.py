"""Running an application on a socket, in the foreground or in a thread."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from maskdiff.errors import ConfigError, quote
from maskdiff.serving.connections import Connection, ConnectionGuard
from maskdiff.serving.logs import limit_logs
from maskdiff.serving.scheduler import Scheduler

logger = logging.getLogger("uvicorn.error")

BACKLOG = 128
GRACE = 3  # seconds for connections to end after their work was stopped
MAX_FILES = 2**16  # descriptors to ask for
PAUSE = 1.0  # seconds without accepting connections after the descriptors ran out


class Server(uvicorn.Server):
    """uvicorn's server with a guard of its connections.

    It accepts connections itself, because at the limit of descriptors the servers of asyncio
    (Python 3.11) log without end. At shutdown it first stops the work of requests.

    Args:
        app: An application of `create_app`.
        ready: Called when the server accepts connections.
    """

    def __init__(self, app: FastAPI, ready: Callable[[], object]) -> None:
        limit_logs()
        self.scheduler: Scheduler = app.state.scheduler
        self.ready, limits = ready, self.scheduler.limits
        config = uvicorn.Config(
            app, http=Connection, ws="none", loop="asyncio", lifespan="on", log_config=None,
            log_level="error", access_log=False, server_header=False,
            h11_max_incomplete_event_size=limits.max_headers, timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=math.ceil(limits.idle_timeout) + 1,  # the guard comes first
        )  # fmt: skip
        super().__init__(config)
        self.guard = ConnectionGuard(limits, cast("set[Connection]", self.server_state.connections))
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections of the listening `sockets`."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(STARTUP_FAILURE)
        self.servers = []
        self._accepting = [asyncio.create_task(self._accept(item)) for item in sockets or ()]
        self.started = True
        self.ready()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as error:  # no descriptor or memory left, or a lost client
                if error.errno != errno.ECONNABORTED:
                    logger.error("maskdiff: cannot accept connections: %s", error.strerror)
                    await asyncio.sleep(0.01 if self.guard.end_longest() else PAUSE)
                continue
            try:
                if self.guard.admit(address[0]):
                    await loop.connect_accepted_socket(self._make_connection, client)
                    continue
            except OSError:  # a lost client
                pass
            client.close()
            await asyncio.sleep(0)

    def _make_connection(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn, which calls this ten times a second."""
        self.guard.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, stop the work and end the connections."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self.scheduler.close()
        await super().shutdown(sockets=sockets)


def open_listener(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one. Raises ConfigError.

    It binds and listens at once, because a bound socket that does not listen can be bound twice.
    """
    where = f"{quote(host)}, port {port}"
    if not host or not 0 <= port < 2**16:
        advice = f"give a host such as 127.0.0.1 and a port of 0 to {2**16 - 1}"
        raise ConfigError(f"cannot listen on {where}: {advice}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {where}: {reason}; choose another with --host and --port"
        ) from None
    return listener


def raise_file_limit() -> int:
    """Raise the soft limit of open files and return it."""
    if sys.platform == "win32":
        return MAX_FILES
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (ValueError, OSError):  # the system allows fewer
            return soft
    return most


@contextmanager
def run_in_thread(app: FastAPI) -> Iterator[str]:
    """Serve `app` on a free port for the block; gives the URL `http://127.0.0.1:PORT/v1`."""
    ready = threading.Event()
    with open_listener("127.0.0.1", 0) as listener:
        server = Server(app, ready.set)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while not ready.wait(0.05):
                if not thread.is_alive():
                    raise RuntimeError("the server did not start")
            yield url
        finally:
            server.should_exit = True
            thread.join(2 * GRACE)


__all__ = ["Server", "open_listener", "raise_file_limit", "run_in_thread"]
