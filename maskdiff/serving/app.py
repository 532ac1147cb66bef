"""The application: routes, the reading of bodies, answers whole and streamed, and errors as OpenAI's clients know them.

For: `create_app`. Not for: listening (`local.py`, `door.py`) or writing answers (`writing.py`). Easy to get wrong: a client
that goes away. A stream that is cancelled between two parts does not close its generator by itself, and would keep its place in
the queue; and who waits for a whole answer is not missed unless somebody watches the connection.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from maskdiff.errors import UserError
from maskdiff.serving.answers import usage
from maskdiff.serving.bodies import AnyBody, ChatBody, CompletionBody, parsed
from maskdiff.serving.orders import Order, chat_order, completion_order
from maskdiff.serving.refusals import (
    FAILED,
    GONE,
    NOT_FOUND,
    TOO_LARGE,
    TOO_MANY,
    TOO_SLOW,
    UNAVAILABLE,
    WRONG_TYPE,
    Refused,
    refusal,
)  # fmt: skip
from maskdiff.serving.served import LOOPBACK, Limits, Prefill, Served
from maskdiff.serving.shell import Shell
from maskdiff.serving.writing import Desk, Piece, joined, pieces

DRAINED = 4  # times the limit of a body that is read and thrown away, so that its sender gets to read the refusal

Result = TypeVar("Result")


class Gone(Exception):
    """The client has gone away."""


def create_app(
    served: Served,
    limits: Limits | None = None,
    prefill: Prefill = "continue",
    hosts: Sequence[str] = LOOPBACK,
) -> FastAPI:
    """The server of one model; `app.state.desk` is where its requests wait. hosts: the names that clients may call it by."""
    limits = limits or Limits()
    desk = Desk(served, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk.open()
        yield
        desk.close()

    app = FastAPI(
        title="maskdiff", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    app.state.desk = desk
    card = {
        "id": served.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "maskdiff",
    }
    card["max_model_len"] = served.max_tokens

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != served.name:
            raise Refused(NOT_FOUND, "there is no such model here", "model", "model_not_found")
        return JSONResponse(card)

    @app.post("/v1/completions")
    async def completions(request: HTTPRequest) -> Response:
        def order(body: CompletionBody) -> Order:
            return completion_order(body, served, limits)

        return await answer(request, desk, await read_order(request, desk, CompletionBody, order))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: HTTPRequest) -> Response:
        def order(body: ChatBody) -> Order:
            return chat_order(body, served, limits, prefill)

        return await answer(request, desk, await read_order(request, desk, ChatBody, order))

    for kind in (Refused, UserError, HTTPException, ClientDisconnect, Gone, Exception):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(Shell, hosts=hosts, desk=desk)
    return app


async def on_error(request: HTTPRequest, error: Exception) -> Response:
    """What a client is told; of bugs nothing, but the server's own log has their traceback."""
    if isinstance(error, (Gone, ClientDisconnect)):
        return Response(status_code=GONE)  # nobody reads it
    if isinstance(error, HTTPException):
        refused = Refused(error.status_code, str(error.detail))
        return JSONResponse(refused.as_json(), error.status_code, error.headers)
    refused = refusal(error)
    close = {"Connection": "close"}  # behind a bug, uvicorn closes in any case
    later = {"Retry-After": "1"}
    headers = {TOO_MANY: later, UNAVAILABLE: later, TOO_SLOW: close, FAILED: close}
    return JSONResponse(refused.as_json(), refused.status, headers.get(refused.status))


async def read_order(
    request: HTTPRequest, desk: Desk, kind: type[AnyBody], order: Callable[[AnyBody], Order]
) -> Order:
    """What a JSON request asks for; its body is not kept.

    Other types are refused, because web pages may send them to any address without asking.
    Raises Refused, and UserError for a prompt that the model cannot read.
    """
    kind_sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind_sent != "application/json":
        message = "the Content-Type of a request must be application/json"
        raise Refused(WRONG_TYPE, message, code="unsupported_media_type")
    seconds = desk.limits.body_timeout
    with desk.bodies.holding() as take:
        try:
            body = await asyncio.wait_for(read_body(request, desk.limits.max_body, take), seconds)
        except asyncio.TimeoutError:
            message = f"the body did not come within {seconds:g} seconds"
            raise Refused(TOO_SLOW, message, code="body_too_slow") from None
        return order(parsed(kind, body))


async def read_body(request: HTTPRequest, limit: int, take: Callable[[int], None]) -> bytes:
    """The body of a request, of at most `limit` bytes, which `take` counts. Raises Refused."""
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            take(len(part))
            body += part
        elif size > DRAINED * limit:
            break
    if size > limit:
        raise Refused(TOO_LARGE, f"the body has more than {limit} bytes", code="body_too_large")
    return bytes(body)


# --------------------------------------------------------------------------------------------------------------- answers


async def answer(request: HTTPRequest, desk: Desk, order: Order) -> Response:
    """The answer to a request, whole or as a stream. Raises Gone, Refused and what the generator raises."""
    head = {
        "id": f"{order.form.prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": desk.served.name,
    }
    parts = pieces(desk, order.task)
    if not order.stream:
        return JSONResponse(await unless_gone(request, whole(order, head, parts)))
    first = await unless_gone(
        request, anext(parts)
    )  # so that what is wrong with the request is said by the status
    return EventStream(events(order, head, first, parts), parts)


async def whole(
    order: Order, head: dict[str, Any], parts: AsyncGenerator[list[Piece], None]
) -> dict[str, Any]:
    """An answer that is not streamed."""
    async with aclosing(parts):
        choices = joined([piece async for batch in parts for piece in batch])
    return {
        **head,
        "object": order.form.name,
        "choices": [
            order.form.whole(piece, order.lead, logprobs_of(order, piece)) for piece in choices
        ],
        "usage": usage(order.prompt_tokens, sum(piece.drawn for piece in choices)),
    }


async def events(
    order: Order, head: dict[str, Any], first: list[Piece], parts: AsyncGenerator[list[Piece], None]
) -> AsyncGenerator[str, None]:
    """A streamed answer, part by part; a failure on the way is its last event."""
    form, drawn = order.form, 0
    base = {**head, "object": form.part_name} | ({"usage": None} if order.with_usage else {})
    async with aclosing(parts):
        for index in range(len(order.task.prompts) * order.task.n):
            if (opening := form.opening(index, order.lead)) is not None:
                yield event({**base, "choices": [opening]})
        batch: list[Piece] | None = first
        while batch is not None:
            for piece in batch:
                drawn += piece.drawn
                logprobs = logprobs_of(order, piece)
                if piece.text or piece.finish or logprobs:
                    yield event({**base, "choices": [form.part(piece, logprobs)]})
            try:
                batch = await anext(parts, None)
            except Exception as error:
                refused = refusal(error)
                yield event(refused.as_json())
                if isinstance(error, (Refused, UserError)):
                    return
                raise
    if order.with_usage:
        yield event({**base, "choices": [], "usage": usage(order.prompt_tokens, drawn)})
    yield "data: [DONE]\n\n"


def event(item: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(item, allow_nan=False)}\n\n"


def logprobs_of(order: Order, piece: Piece) -> dict[str, Any] | None:
    """Log-probabilities in the form of the order, where they are asked for."""
    return order.form.logprobs(piece.tokens, order.top) if order.with_logprobs else None


class EventStream(StreamingResponse):
    """A stream of events that closes its generators at once when the client goes away."""

    def __init__(
        self, written: AsyncGenerator[str, None], parts: AsyncGenerator[list[Piece], None]
    ) -> None:
        super().__init__(
            written, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self.written, self.parts = written, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            await self.written.aclose()
            await self.parts.aclose()  # of which the other knows nothing before it has begun


async def unless_gone(request: HTTPRequest, work: Awaitable[Result]) -> Result:
    """What `work` returns; it is cancelled, and Gone raised, if the client goes away before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    tasks[0].add_done_callback(
        lambda task: task.cancelled() or task.exception()
    )  # it may fail when nobody waits any more
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise Gone
    finally:
        for task in tasks:
            task.cancel()


__all__ = ["create_app"]
