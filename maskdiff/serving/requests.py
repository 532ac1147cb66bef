"""From a validated request body to a completion job and the format of its response."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from maskdiff.serving.error_responses import BAD_REQUEST, NOT_FOUND, TOO_LARGE, RequestError
from maskdiff.serving.generation import CompletionJob
from maskdiff.serving.model import Prefill, ServedModel, ServerLimits
from maskdiff.serving.responses import CHAT, COMPLETION, ResponseFormat
from maskdiff.serving.schemas import ChatBody, CompletionBody, RequestBody

# Bytes of Python objects and JSON for a token of an answer: sampled in a slice, or one at a time.
TEXT_BYTES, TOKEN_BYTES = 200, 2000
DEFAULT_TOKENS = 16  # of /completions, as in OpenAI's; a chat defaults to all the room there is


@dataclass(frozen=True)
class GenerationRequest:
    """A request that has passed all checks.

    Attributes:
        top_logprobs: Whether log-probabilities list the likeliest token too.
        echo: What the returned text begins with (prefill mode "echo").
    """

    job: CompletionJob
    format: ResponseFormat
    stream: bool
    include_usage: bool
    include_logprobs: bool
    prompt_tokens: int
    top_logprobs: bool = False
    echo: str = ""


@dataclass(frozen=True)
class RequestChecker:
    """Checks request bodies against the model and the limits of a server.

    Its methods raise RequestError, and UserError for a prompt that the model cannot read.
    """

    model: ServedModel
    limits: ServerLimits
    prefill: Prefill

    def completion(self, body: CompletionBody) -> GenerationRequest:
        """Return the request of a `/completions` body."""
        self._check_name(body)
        prompts = (body.prompt,) if isinstance(body.prompt, str) else tuple(body.prompt)
        if not prompts:
            raise RequestError(BAD_REQUEST, "prompt is an empty list; give a text", "prompt")
        tokens = self._token_counts(body, prompts, body.max_tokens, DEFAULT_TOKENS)
        top = None if body.logprobs is None else body.logprobs > 0
        return self._request(body, prompts, tokens, COMPLETION, top)

    def chat(self, body: ChatBody) -> GenerationRequest:
        """Return the request of a `/chat/completions` body."""
        self._check_name(body)
        if body.top_logprobs and not body.logprobs:
            message = "top_logprobs needs logprobs to be true"
            raise RequestError(BAD_REQUEST, message, "top_logprobs")
        prompt, echo = self._chat_prompt(body)
        asked = body.max_completion_tokens
        asked = asked if asked is not None else body.max_tokens
        tokens = self._token_counts(body, (prompt,), asked, None)
        top = bool(body.top_logprobs) if body.logprobs else None
        return self._request(body, (prompt,), tokens, CHAT, top, echo)

    def _check_name(self, body: RequestBody) -> None:
        if body.model != self.model.name:
            message = f"there is no such model here; the one that is served is {self.model.name}"
            raise RequestError(NOT_FOUND, message, "model", "model_not_found")

    def _chat_prompt(self, body: ChatBody) -> tuple[str, str]:
        """Return the prompt of a chat, and what the returned text begins with.

        A client may say whether the model continues a final message of the assistant
        (`continue_final_message`). For the others the prefill mode decides; "restart" ignores the
        field, as a server does that does not know it.
        """
        model, last = self.model, body.messages[-1]
        if body.continue_final_message and body.add_generation_prompt:
            message = "continue_final_message and add_generation_prompt cannot both be true"
            raise RequestError(BAD_REQUEST, message, "messages")
        if last.role == "user":
            # Without a generation prompt the model continues the user's own text.
            unfinished = bool(body.continue_final_message) or body.add_generation_prompt is False
            text = model.trim(last.text())
            return (text if unfinished else model.chat_prompt(text)), ""
        if last.role != "assistant":
            message = "the last message must be from the user or the assistant"
            raise RequestError(BAD_REQUEST, message, "messages")
        if self.prefill == "reject":
            raise RequestError(BAD_REQUEST, "last message must be from the user", "messages")
        if len(body.messages) < 2 or body.messages[-2].role != "user":
            message = "the assistant's message at the end must follow one from the user"
            raise RequestError(BAD_REQUEST, message, "messages")
        prompt = model.chat_prompt(model.trim(body.messages[-2].text()))
        partial = model.trim(last.text())
        ignored = self.prefill == "continue" and body.continue_final_message is False
        if self.prefill == "restart" or ignored:
            return prompt, ""
        return prompt + partial, partial if self.prefill == "echo" else ""

    def _token_counts(
        self, body: RequestBody, prompts: tuple[str, ...], asked: int | None, default: int | None
    ) -> tuple[int, int]:
        """Return the tokens of all prompts, and the most tokens of an answer.

        Without `asked` and `default` an answer may fill the room.
        """
        choices, most = (body.n or 1) * len(prompts), self.limits.max_n
        if choices > most:
            message = f"{choices} choices are asked for; at most {most} are allowed"
            raise RequestError(BAD_REQUEST, message, "n")
        if any(len(prompt) > self.limits.max_prompt for prompt in prompts):
            message = f"a prompt has more than {self.limits.max_prompt} characters"
            raise _too_long(body, message)
        counts = [self.model.count_tokens(prompt) for prompt in prompts]
        room = self.model.max_tokens - max(counts)
        tokens = asked if asked is not None else min(room, default or room)
        if room < 1 or tokens > room:
            message = (
                f"there is room for {self.model.max_tokens} tokens; the prompt has {max(counts)}, "
                f"and {max(1, tokens)} are asked for"
            )
            raise _too_long(body, message)
        return sum(counts), tokens

    def _request(
        self, body: RequestBody, prompts: tuple[str, ...], tokens: tuple[int, int],
        response: ResponseFormat, top_logprobs: bool | None, echo: str = "",
    ) -> GenerationRequest:  # fmt: skip
        """Return the request, with the memory that it may take."""
        logprobs = top_logprobs is not None
        if logprobs and not self.model.backend.capabilities.log_probs:
            message = "this model tells no log-probabilities"
            raise RequestError(BAD_REQUEST, message, "logprobs", "unsupported_value")
        n, stream = body.n or 1, bool(body.stream)
        prompt_tokens, max_tokens = tokens
        generated = n * len(prompts) * max_tokens
        memory = (prompt_tokens + generated) * self.model.token_bytes
        memory += generated * (TOKEN_BYTES if stream or logprobs else TEXT_BYTES)
        if memory > self.limits.answer_bytes:
            message = (
                f"the answer may take {memory / 2**20:.1f} MiB of memory; "
                f"{self.limits.answer_bytes / 2**20:g} are allowed; ask for fewer choices or "
                "tokens, or start the server with a larger --max_memory"
            )
            raise RequestError(TOO_LARGE, message, code="answer_too_large")
        job = CompletionJob(
            prompts=prompts,
            n=n,
            max_tokens=max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            seed=secrets.randbits(63) if body.seed is None else body.seed % 2**63,
            stop=body.stop_strings(),
            keep_stop=bool(body.include_stop_str_in_output),
            by_token=stream or logprobs,
            memory=memory,
        )
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return GenerationRequest(
            job, response, stream, usage, logprobs, prompt_tokens, bool(top_logprobs), echo
        )


def _too_long(body: RequestBody, message: str) -> RequestError:
    param = "messages" if isinstance(body, ChatBody) else "prompt"
    return RequestError(BAD_REQUEST, message, param, "context_length_exceeded")


__all__ = ["GenerationRequest", "RequestChecker"]
