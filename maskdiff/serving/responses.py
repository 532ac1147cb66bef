"""The JSON of completion and chat responses, whole and streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskdiff.serving.generation import ChoiceDelta, GeneratedToken

MIN_LOG_PROB = -9999.0  # instead of -inf, which JSON does not have


class CompletionFormat:
    """The format of `/completions`.

    Attributes:
        name: The "object" of a whole response.
        chunk_name: The "object" of a streamed chunk.
        prefix: What response ids begin with.
    """

    name = chunk_name = "text_completion"
    prefix = "cmpl"

    def choice(
        self, delta: ChoiceDelta, echo: str, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Return a choice of a whole response; its text begins with `echo`."""
        text = echo + delta.text
        return {"index": delta.index, "text": text, "logprobs": logprobs, **_finish(delta)}

    def first_chunk(self, index: int, echo: str) -> dict[str, Any] | None:
        """Return the chunk that opens a streamed choice; None where there is none."""
        return None

    def chunk(self, delta: ChoiceDelta, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """Return a later chunk of a streamed choice."""
        return self.choice(delta, "", logprobs)

    def logprobs(self, tokens: Sequence[GeneratedToken], top: bool) -> dict[str, Any]:
        """Return the log-probabilities of all sampled tokens, also of a stop string and the end.

        They add up to that of everything sampled, so the text may be shorter. With `top`, the list
        of the likeliest tokens holds the sampled token.
        """
        numbers = [max(token.log_prob, MIN_LOG_PROB) for token in tokens]
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": numbers,
            "top_logprobs": [
                {token.text: number} if top else {} for token, number in zip(tokens, numbers)
            ],
            "text_offset": [token.offset for token in tokens],
        }


class ChatFormat:
    """The format of `/chat/completions`; see `CompletionFormat`."""

    name, chunk_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def choice(
        self, delta: ChoiceDelta, echo: str, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": echo + delta.text, "refusal": None}
        return {"index": delta.index, "message": message, "logprobs": logprobs, **_finish(delta)}

    def first_chunk(self, index: int, echo: str) -> dict[str, Any] | None:
        content = {"role": "assistant", "content": echo}
        end = {"finish_reason": None, "stop_reason": None}
        return {"index": index, "delta": content, "logprobs": None, **end}

    def chunk(self, delta: ChoiceDelta, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        content = {"content": delta.text} if delta.text else {}
        return {"index": delta.index, "delta": content, "logprobs": logprobs, **_finish(delta)}

    def logprobs(self, tokens: Sequence[GeneratedToken], top: bool) -> dict[str, Any]:
        entries = [
            {
                "token": token.text,
                "logprob": max(token.log_prob, MIN_LOG_PROB),
                "bytes": list(token.text.encode("utf-8", "replace")),
            }
            for token in tokens
        ]
        content = [{**entry, "top_logprobs": [entry] if top else []} for entry in entries]
        return {"content": content, "refusal": None}


def _finish(delta: ChoiceDelta) -> dict[str, Any]:
    return {"finish_reason": delta.finish, "stop_reason": delta.stop_reason}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Return the token counts of a response."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


ResponseFormat = CompletionFormat | ChatFormat
COMPLETION, CHAT = CompletionFormat(), ChatFormat()

__all__ = ["CHAT", "COMPLETION", "ResponseFormat", "usage"]
