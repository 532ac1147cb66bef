"""The middleware of the application: allowed hosts, and the response at shutdown.

The check of the host matters on a loopback address too: a web page can make its own name resolve
to 127.0.0.1, and its requests then carry that name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskdiff.serving.error_responses import BAD_REQUEST, RequestError, shutdown_error
from maskdiff.serving.scheduler import Scheduler

ALLOWED = "maskdiff.host_allowed"  # a key of the scope


class ServerMiddleware:
    """Rejects requests for other hosts, and answers those that the shutdown cancels.

    Args:
        app: The application.
        hosts: Allowed host names; "*" allows any.
        scheduler: Tells whether the server shuts down.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], scheduler: Scheduler) -> None:
        self.app, self.scheduler = app, scheduler
        self._check_host = TrustedHostMiddleware(_mark_allowed, list(hosts), www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        await self._check_host(scope, receive, _discard)
        if not scope.pop(ALLOWED, False):
            message = "the Host header names another server; see --host"
            error = RequestError(BAD_REQUEST, message, code="invalid_host")
            await JSONResponse(error.as_json(), error.status)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if started or not self.scheduler.closed or scope["type"] != "http":
                raise
            error = shutdown_error()
            await JSONResponse(error.as_json(), error.status)(scope, receive, send)


async def _mark_allowed(scope: Scope, receive: Receive, send: Send) -> None:
    scope[ALLOWED] = True


async def _discard(message: Message) -> None:
    """Drop the plain text that starlette sends for a host that is not allowed."""


__all__ = ["ServerMiddleware"]
