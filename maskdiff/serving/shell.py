"""What stands around the application: which hosts a request may name, and the answer of one that is cancelled at the end.

For: `Shell`, pure ASGI. Not for: routes and errors (`app.py`). Easy to get wrong: a server that only this machine reaches is
reached by web pages too, whose own names were made to mean 127.0.0.1; their requests tell that name as the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskdiff.serving.refusals import BAD_REQUEST, Refused, closing
from maskdiff.serving.writing import Desk

MARK = "maskdiff.host"  # in a scope: the host may be named


class Shell:
    """Refuses requests for hosts that are not of `hosts` ("*": any), and those that are cancelled because the end came."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], desk: Desk) -> None:
        self.app, self.desk = app, desk
        self._trusted = TrustedHostMiddleware(_mark, list(hosts), www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        await self._trusted(scope, receive, _drop)
        if not scope.pop(MARK, False):
            refused = Refused(
                BAD_REQUEST, "the Host header names another server; see --host", code="invalid_host"
            )
            await JSONResponse(refused.as_json(), refused.status)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            if begun or not self.desk.closed or scope["type"] != "http":
                raise
            refused = closing()
            await JSONResponse(refused.as_json(), refused.status)(scope, receive, send)


async def _mark(scope: Scope, receive: Receive, send: Send) -> None:
    scope[MARK] = True


async def _drop(message: Message) -> None:
    """Nobody reads the plain text of starlette's refusal."""


__all__ = ["Shell"]
