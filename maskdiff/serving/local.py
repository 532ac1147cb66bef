"""Running an app: a real server on a socket, in the foreground or, for tests and demonstrations, beside the program.

For: `running`, `Server`, `listening`. Not for: flags and signals (`door.py`). Easy to get wrong: a bound socket that does not
listen yet can be bound twice, so `listening` does both; clients that come before the server does wait in its backlog.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from maskdiff.errors import ConfigError, quote

BACKLOG = 128
CONNECTIONS = 256  # beside those of requests that may wait; more get uvicorn's own 503
GRACE = 5  # seconds that connections get to end, after their work has been stopped


class Server(uvicorn.Server):
    """uvicorn's, which says when it is ready and, when it is to end, stops the work of requests first."""

    def __init__(self, app: FastAPI, ready: Callable[[], object]) -> None:
        logging.getLogger("uvicorn.error").addFilter(_worth_saying)
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
                limit_concurrency=CONNECTIONS + app.state.desk.limits.max_waiting,
            )
        )
        self.desk, self.ready = app.state.desk, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.desk.close()
        await super().shutdown(sockets=sockets)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not that connections which outlive the grace are cut."""
    cut = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "graceful shutdown" not in str(record.msg)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 picks a free one. Raises ConfigError."""
    where = f"{quote(host)}, port {port}"
    if not host or not 0 <= port < 2**16:
        raise ConfigError(f"cannot listen on {where}: give a host such as 127.0.0.1 and a port of 0 to {2**16 - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
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
        raise ConfigError(f"cannot listen on {where}: {reason}; choose another with --host and --port") from None
    return listener


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The base URL (`http://127.0.0.1:PORT/v1`) of `app`, which runs on a free port in a thread until the end of the block."""
    ready = threading.Event()
    with listening("127.0.0.1", 0) as listener:
        server = Server(app, ready.set)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, args=([listener],), name="maskdiff-serve", daemon=True)
        thread.start()
        try:
            while not ready.wait(0.05):
                if not thread.is_alive():
                    raise RuntimeError("the server did not start")
            yield url
        finally:
            server.should_exit = True
            thread.join(2 * GRACE)


__all__ = ["Server", "listening", "running"]
