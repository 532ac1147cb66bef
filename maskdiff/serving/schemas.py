"""The schemas of request bodies, and their checks that do not depend on the model.

Unknown fields are ignored, but a field of `UNSUPPORTED` is rejected unless its value has no effect:
ignoring it would change the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskdiff.serving.error_responses import BAD_REQUEST, RequestError

MAX_STOPS = 16
MAX_STOP = 256  # characters of one stop string
MAX_SEED = 2**63
MAX_NUMBER = 10**9  # choices or tokens; `requests.py` checks them against the server's limits
MAX_LIST = 4096  # messages of a chat, parts of a message, prompts of a request

# Fields that are not supported, and their values without effect (null always is one).
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0, 1),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
}

Item = TypeVar("Item")
# Validation stops at the first wrong item: the errors of a long list would take gigabytes.
BoundedList = Annotated[list[Item], Field(max_length=MAX_LIST, fail_fast=True)]


class StreamOptions(BaseModel):
    """The `stream_options` of a request."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class RequestBody(BaseModel):
    """The fields that completion and chat requests share."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str
    n: int | None = Field(None, ge=1, le=MAX_NUMBER)
    best_of: int | None = Field(None, ge=1, le=MAX_NUMBER)
    max_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = Field(None, ge=-MAX_SEED, lt=MAX_SEED)
    stop: str | BoundedList[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include_stop_str_in_output: bool | None = None

    def stop_strings(self) -> tuple[str, ...]:
        """Return the different stop strings. Raises RequestError."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        stops = tuple(dict.fromkeys(given))
        if len(stops) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP for stop in stops):
            message = f"stop takes up to {MAX_STOPS} strings of 1 to {MAX_STOP} characters each"
            raise RequestError(BAD_REQUEST, message, "stop")
        return stops


class CompletionBody(RequestBody):
    """The body of a `/completions` request."""

    prompt: str | BoundedList[str]
    logprobs: int | None = Field(None, ge=0, le=5)


class ContentPart(BaseModel):
    """One part of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | BoundedList[ContentPart] | None = None

    def text(self) -> str:
        """Return the text of the message. Raises RequestError for any other content."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or ()
        texts = [part.text for part in parts if part.type == "text" and part.text is not None]
        if self.content is None or len(texts) < len(self.content):
            raise RequestError(BAD_REQUEST, "the content of a message must be text", "messages")
        return "".join(texts)


class ChatBody(RequestBody):
    """The body of a `/chat/completions` request."""

    messages: BoundedList[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


AnyBody = TypeVar("AnyBody", bound=RequestBody)


def parse_body(schema: type[AnyBody], raw: bytes) -> AnyBody:
    """Return the validated body of a request. Raises RequestError."""
    try:
        body = schema.model_validate_json(raw)
    except ValidationError as error:
        raise _validation_error(error) from None
    _check_supported(body)
    return body


def _validation_error(error: ValidationError) -> RequestError:
    """Return the first mistake, without the given value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(
            BAD_REQUEST, f"the body is no JSON: {first['msg']}", code="invalid_json"
        )
    path = [str(part) for part in first["loc"]]
    message = f"{'.'.join(path) or 'the body'}: {first['msg']}"
    return RequestError(BAD_REQUEST, message, path[0] if path else None, "invalid_value")


def _check_supported(body: RequestBody) -> None:
    """Raise RequestError for unsupported fields and combinations."""
    for name, neutral in UNSUPPORTED.items():
        value = (body.model_extra or {}).get(name)
        if value is not None and value not in neutral:
            message = (
                f"{name} is not supported here; leave it out, the answer would not be what it "
                "asks for"
            )
            raise RequestError(BAD_REQUEST, message, name, "unsupported_value")
    if body.best_of is not None and body.best_of != (body.n or 1):
        message = "best_of other than n is not supported"
        raise RequestError(BAD_REQUEST, message, "best_of", "unsupported_value")
    if body.stream_options is not None and not body.stream:
        message = "stream_options is for streams; set stream to true"
        raise RequestError(BAD_REQUEST, message, "stream_options", "invalid_value")


__all__ = [
    "MAX_STOP", "MAX_STOPS", "UNSUPPORTED", "AnyBody", "ChatBody", "ChatMessage", "CompletionBody",
    "RequestBody", "parse_body",
]  # fmt: skip
