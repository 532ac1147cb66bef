"""Errors of requests: an HTTP status and the error object that OpenAI's clients read.

Clients never receive the messages of file errors and bugs, because these name paths.
"""

from __future__ import annotations

from typing import Any

from maskdiff.errors import CheckpointError, DataError, UserError, one_line
from maskdiff.stepwise.protocol import BackendError, Rejected

BAD_REQUEST, NOT_FOUND, TOO_SLOW, TOO_LARGE, WRONG_TYPE, TOO_MANY = 400, 404, 408, 413, 415, 429
CLIENT_CLOSED, FAILED, BAD_GATEWAY, UNAVAILABLE = 499, 500, 502, 503


class RequestError(Exception):
    """A request that fails. param: the wrong field; code: a word for programs."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(one_line(message))
        self.status, self.param, self.code = status, param, code

    def as_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        kind = "invalid_request_error" if self.status < FAILED else "server_error"
        if self.status == TOO_MANY:
            kind = "rate_limit_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def as_request_error(error: Exception) -> RequestError:
    """Return the error that the client receives for `error`."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, BackendError) and not isinstance(error, Rejected):
        return RequestError(BAD_GATEWAY, "the model could not be asked", code="backend_error")
    if isinstance(error, UserError) and not isinstance(error, (CheckpointError, DataError)):
        return RequestError(BAD_REQUEST, str(error), code="unreadable_prompt")
    message = "the server failed; its error stream says why"
    return RequestError(FAILED, message, code="internal_error")


def shutdown_error() -> RequestError:
    """Return the error of a request that the shutdown of the server ends."""
    return RequestError(UNAVAILABLE, "the server is ending", code="closing")


__all__ = [
    "BAD_GATEWAY", "BAD_REQUEST", "CLIENT_CLOSED", "FAILED", "NOT_FOUND", "TOO_LARGE", "TOO_MANY",
    "TOO_SLOW", "UNAVAILABLE", "WRONG_TYPE", "RequestError", "as_request_error", "shutdown_error",
]  # fmt: skip
