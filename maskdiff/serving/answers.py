"""The forms of an answer: what the choices of a completion and of a chat look like, whole and in parts.

For: `COMPLETION` and `CHAT`. Not for: what they say. Easy to get wrong: log-probabilities list every drawn token, those of a
stop string and the model's own end included, so that they add up to what was drawn; the text may be shorter than they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from maskdiff.serving.writing import Piece, Token

IMPOSSIBLE = -9999.0  # instead of -inf, which JSON does not have


class Form(Protocol):
    """How one kind of request is answered. name: "object" of a whole answer and of a part; prefix: of ids."""

    name: str
    part_name: str
    prefix: str

    def whole(self, piece: Piece, lead: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """A choice of an answer that is not streamed."""
        ...

    def opening(self, index: int, lead: str) -> dict[str, Any] | None:
        """The first part of a choice, before anything is known of it; None where there is none."""
        ...

    def part(self, piece: Piece, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """A later part."""
        ...

    def logprobs(self, tokens: Sequence[Token], top: bool) -> dict[str, Any]:
        """Log-probabilities; with `top`, the chosen token is also the only one of the likeliest."""
        ...


class CompletionForm:
    """The form of `/completions`."""

    name = part_name = "text_completion"
    prefix = "cmpl"

    def whole(self, piece: Piece, lead: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "index": piece.index,
            "text": lead + piece.text,
            "logprobs": logprobs,
            **_end(piece),
        }

    def opening(self, index: int, lead: str) -> dict[str, Any] | None:
        return None

    def part(self, piece: Piece, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        return self.whole(piece, "", logprobs)

    def logprobs(self, tokens: Sequence[Token], top: bool) -> dict[str, Any]:
        numbers = [max(token.log_prob, IMPOSSIBLE) for token in tokens]
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": numbers,
            "top_logprobs": [
                {token.text: number} if top else {} for token, number in zip(tokens, numbers)
            ],
            "text_offset": [token.offset for token in tokens],
        }


class ChatForm:
    """The form of `/chat/completions`."""

    name, part_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def whole(self, piece: Piece, lead: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": lead + piece.text, "refusal": None}
        return {"index": piece.index, "message": message, "logprobs": logprobs, **_end(piece)}

    def opening(self, index: int, lead: str) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": lead}
        return {
            "index": index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": None,
            "stop_reason": None,
        }

    def part(self, piece: Piece, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {"index": piece.index, "delta": delta, "logprobs": logprobs, **_end(piece)}

    def logprobs(self, tokens: Sequence[Token], top: bool) -> dict[str, Any]:
        entries = [
            {
                "token": t.text,
                "logprob": max(t.log_prob, IMPOSSIBLE),
                "bytes": list(t.text.encode("utf-8", "replace")),
            }
            for t in tokens
        ]
        return {
            "content": [{**entry, "top_logprobs": [entry] if top else []} for entry in entries],
            "refusal": None,
        }


def _end(piece: Piece) -> dict[str, Any]:
    return {"finish_reason": piece.finish, "stop_reason": piece.stop_reason}


def usage(prompt_tokens: int, drawn: int) -> dict[str, Any]:
    """What was read and drawn."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": drawn,
        "total_tokens": prompt_tokens + drawn,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


COMPLETION, CHAT = CompletionForm(), ChatForm()

__all__ = ["CHAT", "COMPLETION", "Form", "usage"]
