"""Refusals: a status and the error object that OpenAI's clients read.

For: `Refused`, and what an exception is to the client (`refusal`). Not for: deciding that something is wrong. Easy to get
wrong: messages of files, and of bugs, name paths; clients get neither, only that the server failed.
"""

from __future__ import annotations

from typing import Any

from maskdiff.errors import CheckpointError, DataError, UserError, one_line
from maskdiff.stepwise.protocol import BackendError, Rejected

BAD_REQUEST, NOT_FOUND, TOO_SLOW, TOO_LARGE, WRONG_TYPE, TOO_MANY = 400, 404, 408, 413, 415, 429
GONE, FAILED, BAD_GATEWAY, UNAVAILABLE = 499, 500, 502, 503


class Refused(Exception):
    """A request that is not answered. param: the field to blame; code: a word for programs."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(one_line(message))
        self.status, self.param, self.code = status, param, code

    def as_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "invalid_request_error" if self.status < FAILED else "server_error"
        if self.status == TOO_MANY:
            kind = "rate_limit_error"
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        }


def refusal(error: Exception) -> Refused:
    """What a client is told of `error`."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, BackendError) and not isinstance(error, Rejected):
        return Refused(BAD_GATEWAY, "the model could not be asked", code="backend_error")
    if isinstance(error, UserError) and not isinstance(error, (CheckpointError, DataError)):
        return Refused(BAD_REQUEST, str(error), code="unreadable_prompt")
    return Refused(FAILED, "the server failed; its error stream says why", code="internal_error")


def closing() -> Refused:
    """The error of a request that the end of the server cuts short."""
    return Refused(UNAVAILABLE, "the server is ending", code="closing")


__all__ = [
    "BAD_GATEWAY", "BAD_REQUEST", "FAILED", "GONE", "NOT_FOUND", "TOO_LARGE", "TOO_MANY",
    "TOO_SLOW", "UNAVAILABLE", "WRONG_TYPE", "Refused", "closing", "refusal",
]  # fmt: skip
