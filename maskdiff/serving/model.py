"""The served model and the limits of requests. Nothing here needs the extra packages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from maskdiff.config import option
from maskdiff.errors import ConfigError

if TYPE_CHECKING:
    from maskdiff.stepwise.protocol import StepBackend

Prefill = Literal["continue", "restart", "reject", "echo"]
PREFILLS: tuple[Prefill, ...] = get_args(Prefill)
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # host names of a server on the same machine
DAY = 86_400.0


@dataclass(frozen=True)
class ServedModel:
    """A backend and how texts become its prompts.

    Only one thread uses a backend at a time, so applications that share a backend must share its
    `ServedModel`, which holds the lock.

    Args:
        backend: What generates the text.
        name: The model's name for clients.
        chat_prompt: From a user's message to a prompt; step languages append the separator.
        max_tokens: Room for prompt and answer together.
        count_tokens: The number of tokens of a text; UserError for one that the model cannot read.
            By default every character is a token.
        trim: From the content of a chat message to its text; by default all of it.
        token_bytes: Memory that the backend takes for each token of a prompt or an answer; 0 where
            it keeps none.

    Raises:
        ConfigError: For an empty name or too little room.
    """

    backend: StepBackend
    name: str
    chat_prompt: Callable[[str], str]
    max_tokens: int
    count_tokens: Callable[[str], int] = len
    trim: Callable[[str], str] = str
    token_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ConfigError(
                "a served model needs a name of printable characters; give one with --name"
            )
        if self.max_tokens < 2:
            raise ConfigError(
                f"max_tokens is {self.max_tokens}; a prompt and an answer need at least 2"
            )


@dataclass(frozen=True)
class ServerLimits:
    """What requests may ask for, and how long the server waits for its clients."""

    max_body: int = option(2**20, "bytes of the body of a request", low=1, high=10**9)
    max_headers: int = option(2**14, "bytes of the head of a request", low=256, high=10**6)
    max_n: int = option(16, "choices of one request, over all its prompts", low=1, high=1024)
    max_prompt: int = option(2**16, "characters of one prompt", low=1, high=10**9)
    max_waiting: int = option(
        64, "requests that may wait while one is answered; more get status 429", low=0, high=10_000
    )
    max_bodies: int = option(
        2**24, "bytes of all bodies being received; more get status 503", low=1, high=10**10
    )
    max_memory: int = option(
        1024, "MiB for answers under way, the model's cache included", low=1, high=10**6
    )
    max_connections: int = option(
        512, "connections; at most three quarters of the open files allowed", low=1, high=4096
    )
    max_per_client: int = option(256, "connections of one address", low=1, high=4096)
    header_timeout: float = option(10.0, "seconds for the head of a request", low=0.05, high=DAY)
    body_timeout: float = option(30.0, "seconds for the body of a request", low=0.05, high=DAY)
    idle_timeout: float = option(
        15.0, "seconds between two requests of a connection", low=0.05, high=DAY
    )
    write_timeout: float = option(
        60.0, "seconds in which a client reads what was sent", low=0.05, high=DAY
    )

    def __post_init__(self) -> None:
        if self.max_bodies < self.max_body:
            least = f"at least max_body ({self.max_body}) is needed"
            raise ConfigError(f"max_bodies is {self.max_bodies}; {least}")

    @property
    def answer_bytes(self) -> int:
        """Bytes that requests may reserve: a quarter of `max_memory`.

        A backend keeps twice as much before it drops the caches of ended requests, and adds what
        the running ones need; the texts of answers take the rest.
        """
        return self.max_memory * 2**20 // 4


__all__ = ["LOOPBACK", "PREFILLS", "Prefill", "ServedModel", "ServerLimits"]
