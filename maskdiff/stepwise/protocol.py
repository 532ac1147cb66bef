"""What a solver and a backend say to each other: requests for a next step, candidates, and what they cost.

For: `StepBackend`, the protocol that every backend fits, and the plain values that cross it. Not for: any backend, or how a
candidate is chosen. Easy to get wrong: a token may reach beyond the boundary of a step (`>(` where `>` ends it), so a candidate
keeps what it `said` and the part of that, after what was carried over, which makes up its `step`; the rest is `over`, and
belongs to the step after it. The ids are never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from maskdiff.errors import ConfigError, UserError

Finish = Literal[
    "stop", "end", "length"
]  # a stop string, the model's own end of the answer, the cap on tokens


class BackendError(UserError):
    """A backend that cannot be reached, refuses, or answers what cannot be used."""


class Rejected(BackendError):
    """A backend refused a request as malformed (HTTP 400 or 422), so that asking again is of no use."""


@dataclass(frozen=True)
class Stop:
    """Where a step ends.

    strings: the first that appears ends the step, which includes it; empty for a whole answer. max_tokens: a step that reaches
    it is cut there, and says so (`finish` "length"). min_tokens: stop strings that end before so many tokens of the step do
    not count. Raises ConfigError.
    """

    strings: tuple[str, ...] = (">",)
    max_tokens: int = 64
    min_tokens: int = 1

    def __post_init__(self) -> None:
        if any(not text for text in self.strings):
            raise ConfigError("an empty stop string would end every step at once; leave it out")
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(
                f"min_step_tokens is {self.min_tokens} and max_step_tokens {self.max_tokens}; 1 <= min <= max is needed"
            )

    def find(self, text: str, since: int = 0) -> int | None:
        """Where in `text` the first stop string that ends beyond `since` characters ends; None without one."""
        ends = []
        for stop in self.strings:
            at = text.find(stop, max(0, since - len(stop) + 1))
            if at >= 0:
                ends.append(at + len(stop))
        return min(ends, default=None)


@dataclass(frozen=True)
class Candidate:
    """One proposal for the next step.

    step: its text, with what the step before had said too much, and with the stop string that ended it. said: the text of
    `ids` alone. over: what was said beyond the boundary. ids: token ids, empty for a backend that does not tell them.
    log_probs, entropies, gaps: of each drawn token, in nats, under the model's own distribution (temperature 1); a gap is p of
    the likeliest token minus p of the second; None for a backend that does not tell them. tokens: how many were drawn.
    """

    step: str
    text: str
    finish: Finish
    tokens: int
    overshoot: str = ""
    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None
    gaps: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Spent:
    """What was spent: tokens run through a model, calls of it, candidates drawn, seconds. Adds up."""

    forward_tokens: int = 0
    calls: int = 0
    candidates: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.forward_tokens + other.forward_tokens,
            self.calls + other.calls,
            self.candidates + other.candidates,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Request:
    """`num` candidates for the step after `partial`, the steps of the answer so far (what was chosen of each).

    prompt: what the user said. temperature: of the draw; 0 is the likeliest token. seed: candidate i depends on it and on i
    alone, whatever else is asked in the same batch. first: number of the first candidate, so that more of them can be asked
    for later. session: which answer this is a part of; what a backend keeps is shared within an answer, never between answers,
    so that what one costs does not depend on the others.
    """

    prompt: str
    partial: tuple[Candidate, ...] = ()
    num: int = 1
    temperature: float = 1.0
    stop: Stop = field(default_factory=Stop)
    seed: int = 0
    first: int = 0
    session: int = 0

    @property
    def answer(self) -> str:
        """The text of the answer so far, up to the last token."""
        return "".join(candidate.text for candidate in self.partial)

    @property
    def overshoot(self) -> str:
        """What the last step said beyond its boundary: how the next one begins."""
        return self.partial[-1].overshoot if self.partial else ""


@dataclass(frozen=True)
class Reply:
    """The candidates of one request and what they cost."""

    candidates: tuple[Candidate, ...]
    spent: Spent


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do.

    continues: whether it goes on from a partial answer; None where only asking tells (`maskdiff.stepwise.probe`). log_probs,
    entropies: whether its candidates carry them. stop_strings: whether it ends a step at any text, or only at its own end.
    seed: whether the same request gives the same candidates again. token_ids: whether candidates carry ids, so that the very
    tokens are continued and not their text. chat: whether the prompt is a user's message, which a template of the backend
    turns into what its model reads.
    """

    continues: bool | None
    log_probs: bool
    entropies: bool
    stop_strings: bool
    seed: bool
    token_ids: bool
    chat: bool = False


class StepBackend(Protocol):
    """A backend: something that proposes the next step of an answer."""

    name: str
    capabilities: Capabilities

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests, which may be of different problems, together.

        Raises BackendError, and whatever UserError is due for a prompt that the backend cannot read.
        """
        ...

    def forget(self) -> None:
        """Drop what was kept of earlier requests; the answers to later ones do not change."""
        ...


def bounded(text: str, since: int, stop: Stop, carried: str) -> tuple[str, str] | None:
    """Step and overshoot of a step that has said `text` behind what was `carried`; None while no stop string is complete.

    `since` characters of `carried + text` were searched before.
    """
    whole = carried + text
    end = stop.find(whole, since)
    return None if end is None else (whole[:end], whole[end:])


__all__ = [
    "BackendError",
    "Candidate",
    "Capabilities",
    "Finish",
    "Rejected",
    "Reply",
    "Request",
    "Spent",
    "StepBackend",
    "Stop",
    "bounded",
]  # fmt: skip
