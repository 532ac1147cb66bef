"""The application: routes, request bodies, whole and streamed responses, and errors."""

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
from maskdiff.serving import error_responses as status
from maskdiff.serving.error_responses import RequestError, as_request_error
from maskdiff.serving.generation import ChoiceDelta, generate_deltas, merge_deltas
from maskdiff.serving.middleware import ServerMiddleware
from maskdiff.serving.model import LOOPBACK, Prefill, ServedModel, ServerLimits
from maskdiff.serving.requests import GenerationRequest, RequestChecker
from maskdiff.serving.responses import usage
from maskdiff.serving.scheduler import Scheduler
from maskdiff.serving.schemas import AnyBody, ChatBody, CompletionBody, parse_body

DRAINED = (
    4  # bodies of up to this many times the limit are received, so that clients read the error
)
RETRY = {"Retry-After": "1"}
CLOSE = {"Connection": "close"}  # uvicorn closes after an internal error in any case
HEADERS = {
    status.TOO_MANY: RETRY,
    status.UNAVAILABLE: RETRY,
    status.TOO_SLOW: CLOSE,
    status.FAILED: CLOSE,
}

Result = TypeVar("Result")
Deltas = AsyncGenerator[list[ChoiceDelta], None]


class ClientGone(Exception):
    """The client has closed the connection."""


def create_app(
    model: ServedModel,
    limits: ServerLimits | None = None,
    prefill: Prefill = "continue",
    hosts: Sequence[str] = LOOPBACK,
) -> FastAPI:
    """Return the application that serves one model; its scheduler is `app.state.scheduler`.

    Args:
        model: The model.
        limits: Limits of requests; by default those of `ServerLimits`.
        prefill: What the model does with a chat that ends with a message of the assistant.
        hosts: The host names that clients may use; "*" allows any.
    """
    limits = limits or ServerLimits()
    scheduler, checker = Scheduler(model, limits), RequestChecker(model, limits, prefill)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.open()
        yield
        scheduler.close()

    app = FastAPI(
        title="maskdiff", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    app.state.scheduler = scheduler
    card = {
        "id": model.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "maskdiff",
        "max_model_len": model.max_tokens,
    }

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> Response:
        if name != model.name:
            message = "there is no such model here"
            raise RequestError(status.NOT_FOUND, message, "model", "model_not_found")
        return JSONResponse(card)

    @app.post("/v1/completions")
    async def completions(request: HTTPRequest) -> Response:
        checked = await read_request(request, scheduler, CompletionBody, checker.completion)
        return await respond(request, scheduler, checked)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: HTTPRequest) -> Response:
        checked = await read_request(request, scheduler, ChatBody, checker.chat)
        return await respond(request, scheduler, checked)

    for kind in (RequestError, UserError, HTTPException, ClientDisconnect, ClientGone, Exception):
        app.add_exception_handler(kind, error_response)
    app.add_middleware(ServerMiddleware, hosts=hosts, scheduler=scheduler)
    return app


async def error_response(request: HTTPRequest, error: Exception) -> Response:
    """Return the response to a failed request; the traceback of a bug goes to the log alone."""
    if isinstance(error, (ClientGone, ClientDisconnect)):
        return Response(status_code=status.CLIENT_CLOSED)  # nobody reads it
    if isinstance(error, HTTPException):
        shown = RequestError(error.status_code, str(error.detail))
        return JSONResponse(shown.as_json(), error.status_code, error.headers)
    shown = as_request_error(error)
    return JSONResponse(shown.as_json(), shown.status, HEADERS.get(shown.status))


async def read_request(
    request: HTTPRequest,
    scheduler: Scheduler,
    schema: type[AnyBody],
    check: Callable[[AnyBody], GenerationRequest],
) -> GenerationRequest:
    """Receive, parse and check a JSON request; its body is not kept.

    Other content types are rejected, because web pages may send them to any address.
    Raises RequestError, and UserError for a prompt that the model cannot read.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        message = "the Content-Type of a request must be application/json"
        raise RequestError(status.WRONG_TYPE, message, code="unsupported_media_type")
    seconds, limit = scheduler.limits.body_timeout, scheduler.limits.max_body
    with scheduler.body_memory.hold() as take:
        try:
            body = await asyncio.wait_for(read_body(request, limit, take), seconds)
        except asyncio.TimeoutError:
            message = f"the body did not come within {seconds:g} seconds"
            raise RequestError(status.TOO_SLOW, message, code="body_too_slow") from None
        return check(parse_body(schema, body))


async def read_body(request: HTTPRequest, limit: int, take: Callable[[int], None]) -> bytes:
    """Return a body of at most `limit` bytes, which `take` counts. Raises RequestError."""
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            take(len(part))
            body += part
        elif size > DRAINED * limit:
            break
    if size > limit:
        message = f"the body has more than {limit} bytes"
        raise RequestError(status.TOO_LARGE, message, code="body_too_large")
    return bytes(body)


async def respond(http: HTTPRequest, scheduler: Scheduler, request: GenerationRequest) -> Response:
    """Return the response, whole or as a stream.

    Raises ClientGone, RequestError and what the backend raises.
    """
    head = {
        "id": f"{request.format.prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": scheduler.model.name,
    }
    deltas = generate_deltas(scheduler, request.job)
    if not request.stream:
        return JSONResponse(await unless_gone(http, whole_response(request, head, deltas)))
    # The first deltas are awaited here, so that an error still determines the status.
    first = await unless_gone(http, anext(deltas))
    return EventStream(event_texts(request, head, first, deltas), deltas)


async def whole_response(
    request: GenerationRequest, head: dict[str, Any], deltas: Deltas
) -> dict[str, Any]:
    """Return the JSON of a response that is not streamed."""
    async with aclosing(deltas):
        choices = merge_deltas([delta async for batch in deltas for delta in batch])
    form = request.format
    return {
        **head,
        "object": form.name,
        "choices": [form.choice(c, request.echo, logprobs_of(request, c)) for c in choices],
        "usage": usage(request.prompt_tokens, sum(choice.num_tokens for choice in choices)),
    }


async def event_texts(
    request: GenerationRequest, head: dict[str, Any], first: list[ChoiceDelta], deltas: Deltas
) -> AsyncGenerator[str, None]:
    """Yield the events of a streamed response; a late failure is its last event."""
    form, num_tokens = request.format, 0
    base = {**head, "object": form.chunk_name} | ({"usage": None} if request.include_usage else {})
    async with aclosing(deltas):
        for index in range(len(request.job.prompts) * request.job.n):
            if (opening := form.first_chunk(index, request.echo)) is not None:
                yield event({**base, "choices": [opening]})
        batch: list[ChoiceDelta] | None = first
        while batch is not None:
            for delta in batch:
                num_tokens += delta.num_tokens
                logprobs = logprobs_of(request, delta)
                if delta.text or delta.finish or logprobs:
                    yield event({**base, "choices": [form.chunk(delta, logprobs)]})
            try:
                batch = await anext(deltas, None)
            except Exception as error:
                yield event(as_request_error(error).as_json())
                if isinstance(error, (RequestError, UserError)):
                    return
                raise
    if request.include_usage:
        yield event({**base, "choices": [], "usage": usage(request.prompt_tokens, num_tokens)})
    yield "data: [DONE]\n\n"


def event(item: dict[str, Any]) -> str:
    """Return the text of one server-sent event."""
    return f"data: {json.dumps(item, allow_nan=False)}\n\n"


def logprobs_of(request: GenerationRequest, delta: ChoiceDelta) -> dict[str, Any] | None:
    """Return the log-probabilities of a delta; None where they were not asked for."""
    if not request.include_logprobs:
        return None
    return request.format.logprobs(delta.tokens, request.top_logprobs)


class EventStream(StreamingResponse):
    """A stream of events that closes its generators at once when the client closes.

    A cancelled stream does not close its generator by itself, and would keep its place in the
    queue.
    """

    def __init__(self, events: AsyncGenerator[str, None], deltas: Deltas) -> None:
        headers = {"Cache-Control": "no-cache"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.events, self.deltas = events, deltas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            await self.events.aclose()
            await self.deltas.aclose()  # `events` does not close it before its first event


async def unless_gone(request: HTTPRequest, work: Awaitable[Result]) -> Result:
    """Return the result of `work`; cancel it and raise ClientGone if the client closes before."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect())
    # Read the exception of an abandoned task, so that asyncio does not log it.
    tasks[0].add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientGone
    finally:
        for task in tasks:
            task.cancel()


__all__ = ["create_app"]
