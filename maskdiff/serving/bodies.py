"""The bodies of requests: their fields, and what is refused because leaving it out would change the answer.

For: `CompletionBody`, `ChatBody`, `parsed`. Not for: what depends on the model (`orders.py`). Easy to get wrong: fields that
are unknown are ignored, as everywhere, but those of `NEUTRAL` are known and not supported, so only values without effect pass.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskdiff.serving.refusals import BAD_REQUEST, Refused

MAX_STOPS = 16
MAX_STOP = 256  # characters of one stop string
MAX_SEED = 2**63
MAX_NUMBER = 10**9  # of choices or tokens; how many there are room for, `orders.py` says
MAX_LIST = 4096  # messages of a chat, parts of a message, prompts of a request

# Fields that are not supported, and the values with which they do nothing (null is always one).
NEUTRAL: dict[str, tuple[Any, ...]] = {
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
# Reading ends at the first wrong item: the errors of a long list would take gigabytes.
Listed = Annotated[list[Item], Field(max_length=MAX_LIST, fail_fast=True)]


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class Body(BaseModel):
    """What both kinds of requests have."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str
    n: int | None = Field(None, ge=1, le=MAX_NUMBER)
    best_of: int | None = Field(None, ge=1, le=MAX_NUMBER)
    max_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = Field(None, ge=-MAX_SEED, lt=MAX_SEED)
    stop: str | Listed[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include_stop_str_in_output: bool | None = None

    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises Refused."""
        stops = (
            (self.stop,) if isinstance(self.stop, str) else tuple(dict.fromkeys(self.stop or ()))
        )
        if len(stops) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP for stop in stops):
            raise Refused(
                BAD_REQUEST,
                f"stop takes up to {MAX_STOPS} strings of 1 to {MAX_STOP} characters each",
                "stop",
            )
        return stops


class CompletionBody(Body):
    """A request of `/completions`."""

    prompt: str | Listed[str]
    logprobs: int | None = Field(None, ge=0, le=5)


class Part(BaseModel):
    """A part of a message."""

    type: str
    text: str | None = None


class Message(BaseModel):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Listed[Part] | None = None

    def text(self) -> str:
        """What it says. Raises Refused where that is no text."""
        if isinstance(self.content, str):
            return self.content
        said = [
            part.text
            for part in self.content or ()
            if part.type == "text" and part.text is not None
        ]
        if self.content is None or len(said) < len(self.content):
            raise Refused(BAD_REQUEST, "the content of a message must be text", "messages")
        return "".join(said)


class ChatBody(Body):
    """A request of `/chat/completions`."""

    messages: Listed[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


AnyBody = TypeVar("AnyBody", bound=Body)


def parsed(kind: type[AnyBody], raw: bytes) -> AnyBody:
    """The body that `raw` is. Raises Refused."""
    try:
        body = kind.model_validate_json(raw)
    except ValidationError as error:
        raise _invalid(error) from None
    _check(body)
    return body


def _invalid(error: ValidationError) -> Refused:
    """What the first mistake is; what was given is not repeated."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return Refused(BAD_REQUEST, f"the body is no JSON: {first['msg']}", code="invalid_json")
    where = [str(part) for part in first["loc"]]
    message = f"{'.'.join(where) or 'the body'}: {first['msg']}"
    return Refused(BAD_REQUEST, message, where[0] if where else None, "invalid_value")


def _check(body: Body) -> None:
    """Raises Refused for what is not supported or does not go together."""
    for name, neutral in NEUTRAL.items():
        value = (body.model_extra or {}).get(name)
        if value is not None and value not in neutral:
            message = f"{name} is not supported here; leave it out, the answer would not be what it asks for"
            raise Refused(BAD_REQUEST, message, name, "unsupported_value")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Refused(
            BAD_REQUEST, "best_of other than n is not supported", "best_of", "unsupported_value"
        )
    if body.stream_options is not None and not body.stream:
        raise Refused(
            BAD_REQUEST,
            "stream_options is for streams; set stream to true",
            "stream_options",
            "invalid_value",
        )


__all__ = [
    "MAX_STOP", "MAX_STOPS", "NEUTRAL", "AnyBody", "Body", "ChatBody", "CompletionBody", "Message",
    "parsed",
]  # fmt: skip
