"""From the body of a request to what is to be written, and in which form it is answered.

For: `completion_order`, `chat_order`. Not for: writing or HTTP. Easy to get wrong: whether a chat that ends with the assistant
is gone on with. The client may say so (`continue_final_message`); most clients do not, and then the server's prefill mode
decides; a server in mode "restart" stands for those that do not even know the field.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from maskdiff.serving.answers import CHAT, COMPLETION, Form
from maskdiff.serving.bodies import Body, ChatBody, CompletionBody, Message
from maskdiff.serving.refusals import BAD_REQUEST, NOT_FOUND, TOO_LARGE, Refused
from maskdiff.serving.served import Limits, Prefill, Served
from maskdiff.serving.writing import Task

# Bytes of Python objects and JSON for each token of an answer; one drawn by itself takes more.
TEXT_BYTES, TOKEN_BYTES = 200, 2000
DEFAULT_TOKENS = 16  # of /completions, as in OpenAI's; chats default to all the room there is


@dataclass(frozen=True)
class Order:
    """A request that can be answered. lead: what the text returned begins with (mode "echo")."""

    task: Task
    form: Form
    stream: bool
    with_usage: bool
    with_logprobs: bool
    prompt_tokens: int
    top: bool = False
    lead: str = ""


def completion_order(body: CompletionBody, served: Served, limits: Limits) -> Order:
    """Raises Refused, and UserError for a prompt that the model cannot read."""
    _known(body, served)
    prompts = (body.prompt,) if isinstance(body.prompt, str) else tuple(body.prompt)
    if not prompts:
        raise Refused(BAD_REQUEST, "prompt is an empty list; give a text", "prompt")
    task, tokens = _task(
        body, prompts, body.max_tokens, served, limits, body.logprobs is not None, DEFAULT_TOKENS
    )
    return _order(body, task, COMPLETION, tokens, body.logprobs is not None, bool(body.logprobs))


def chat_order(body: ChatBody, served: Served, limits: Limits, prefill: Prefill) -> Order:
    """Raises Refused, and UserError for a prompt that the model cannot read."""
    _known(body, served)
    if body.top_logprobs and not body.logprobs:
        raise Refused(BAD_REQUEST, "top_logprobs needs logprobs to be true", "top_logprobs")
    prompt, lead = _conversation(body, served, prefill)
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    task, tokens = _task(body, (prompt,), most, served, limits, bool(body.logprobs), None)
    return _order(body, task, CHAT, tokens, bool(body.logprobs), bool(body.top_logprobs), lead)


def _order(
    body: Body, task: Task, form: Form, tokens: int, logprobs: bool, top: bool, lead: str = ""
) -> Order:
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return Order(task, form, bool(body.stream), usage, logprobs, tokens, top, lead)


def _known(body: Body, served: Served) -> None:
    if body.model != served.name:
        raise Refused(
            NOT_FOUND,
            f"there is no such model here; the one that is served is {served.name}",
            "model",
            "model_not_found",
        )


# ----------------------------------------------------------------------------------------------------------------- chats


def _conversation(body: ChatBody, served: Served, prefill: Prefill) -> tuple[str, str]:
    """The prompt of a chat, and what the text returned begins with."""
    last = body.messages[-1]
    if body.continue_final_message and body.add_generation_prompt:
        raise Refused(
            BAD_REQUEST,
            "continue_final_message and add_generation_prompt cannot both be true",
            "messages",
        )
    if last.role == "user":
        # Without an invitation to answer, it is the user's own text that the model goes on with.
        open_ended = bool(body.continue_final_message) or body.add_generation_prompt is False
        text = served.trim(last.text())
        return (text if open_ended else served.turn(text)), ""
    if last.role != "assistant":
        raise Refused(
            BAD_REQUEST, "the last message must be from the user or the assistant", "messages"
        )
    if prefill == "reject":
        raise Refused(BAD_REQUEST, "last message must be from the user", "messages")
    prompt = served.turn(served.trim(_asked(body.messages).text()))
    partial = served.trim(last.text())
    if prefill == "restart" or (prefill == "continue" and body.continue_final_message is False):
        return prompt, ""
    return prompt + partial, partial if prefill == "echo" else ""


def _asked(messages: list[Message]) -> Message:
    """The user's message that the assistant's at the end answers."""
    if len(messages) < 2 or messages[-2].role != "user":
        raise Refused(
            BAD_REQUEST,
            "the assistant's message at the end must follow one from the user",
            "messages",
        )
    return messages[-2]


# ----------------------------------------------------------------------------------------------------------------- sizes


def _task(
    body: Body,
    prompts: tuple[str, ...],
    asked: int | None,
    served: Served,
    limits: Limits,
    logprobs: bool,
    default: int | None,
) -> tuple[Task, int]:
    """What to write, and how many tokens the prompts have together; with no default, the answer may fill the room."""
    n = body.n or 1
    if n * len(prompts) > limits.max_n:
        raise Refused(
            BAD_REQUEST,
            f"{n * len(prompts)} choices are asked for; at most {limits.max_n} are allowed",
            "n",
        )
    if any(len(prompt) > limits.max_prompt for prompt in prompts):
        raise _too_long(body, f"a prompt has more than {limits.max_prompt} characters")
    counts = [served.count(prompt) for prompt in prompts]
    room = served.max_tokens - max(counts)
    most = asked if asked is not None else min(room, default or room)
    if room < 1 or most > room:
        raise _too_long(
            body,
            f"there is room for {served.max_tokens} tokens; the prompt has {max(counts)}, and {max(1, most)} are asked for",
        )
    if logprobs and not served.generator.capabilities.log_probs:
        raise Refused(
            BAD_REQUEST, "this model tells no log-probabilities", "logprobs", "unsupported_value"
        )
    written = n * len(prompts) * most
    by_token = bool(body.stream) or logprobs
    each = TOKEN_BYTES if by_token else TEXT_BYTES
    memory = (sum(counts) + written) * served.token_bytes + written * each
    if memory > limits.room:
        raise _too_much(memory, limits.room)
    task = Task(
        prompts=prompts,
        n=n,
        max_tokens=most,
        temperature=1.0 if body.temperature is None else body.temperature,
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
        stop=body.stops(),
        keep_stop=bool(body.include_stop_str_in_output),
        by_token=by_token,
        memory=memory,
    )
    return task, sum(counts)


def _too_much(memory: int, room: int) -> Refused:
    return Refused(
        TOO_LARGE,
        f"the answer may take {memory / 2**20:.1f} MiB of memory; {room / 2**20:g} are allowed; "
        "ask for fewer choices or tokens, or start the server with a larger --max_memory",
        code="answer_too_large",
    )


def _too_long(body: Body, message: str) -> Refused:
    return Refused(
        BAD_REQUEST,
        message,
        "messages" if isinstance(body, ChatBody) else "prompt",
        "context_length_exceeded",
    )


__all__ = ["Order", "chat_order", "completion_order"]
