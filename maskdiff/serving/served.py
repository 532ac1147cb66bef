"""What is served, and how much of it one request may ask for.

For: `Served`, `Limits`, the names of the prefill modes. Not for: HTTP; nothing here needs the extra. Easy to get wrong: a
generator is used by one thread at a time, so apps that share a generator must share its `Served`, which holds the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from maskdiff.errors import ConfigError

if TYPE_CHECKING:
    from maskdiff.stepwise.protocol import Generator

Prefill = Literal["continue", "restart", "reject", "echo"]
PREFILLS: tuple[Prefill, ...] = get_args(Prefill)
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # what a server is called by clients on the same machine


@dataclass(frozen=True)
class Served:
    """A model and how texts become its prompts.

    name: what clients call it. turn: the prompt that a user's message becomes; for step languages it appends the separator.
    max_tokens: room for prompt and answer together. count: how many tokens a text has (raises UserError for one that the
    model cannot read); by default every character is one.
    """

    generator: Generator
    name: str
    turn: Callable[[str], str]
    max_tokens: int
    count: Callable[[str], int] = len
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ConfigError("a served model needs a name of printable characters; give one with --name")
        if self.max_tokens < 2:
            raise ConfigError(f"max_tokens is {self.max_tokens}; a prompt and an answer need at least 2")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may come at once.

    max_body: bytes of a request. max_n: choices of one request, over all its prompts. max_prompt: characters of one prompt.
    max_waiting: requests that may wait while another is answered.
    """

    max_body: int = 2**20
    max_n: int = 16
    max_prompt: int = 2**16
    max_waiting: int = 64


__all__ = ["LOOPBACK", "PREFILLS", "Limits", "Prefill", "Served"]
