"""Values that a solver and a backend exchange: requests for a next step, candidates, and costs.

A token may reach beyond the boundary of a step (`>(` where `>` ends it). A candidate has the `text`
of its own tokens, and the `step`: the overshoot of the step before and that text up to the
boundary. The rest is its `overshoot`, which begins the next step. The ids are never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from maskdiff.errors import ConfigError, UserError

# Why a step ends: a stop string, the model's own end of the answer, the limit of tokens.
Finish = Literal["stop", "end", "length"]


class BackendError(UserError):
    """A backend cannot be reached, refuses, or sends an answer that cannot be used."""


class Rejected(BackendError):
    """A backend refused a request as malformed (HTTP 400 or 422); asking again is of no use."""


@dataclass(frozen=True)
class Stop:
    """Where a step ends.

    Attributes:
        strings: The first that appears ends the step, which includes it; empty for a whole answer.
        max_tokens: A step of so many tokens is cut (`finish` "length").
        min_tokens: Stop strings that end before so many tokens do not count.

    Raises:
        ConfigError: For an empty string, or numbers out of order.
    """

    strings: tuple[str, ...] = (">",)
    max_tokens: int = 64
    min_tokens: int = 1

    def __post_init__(self) -> None:
        if any(not text for text in self.strings):
            raise ConfigError("an empty stop string would end every step at once; leave it out")
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(
                f"min_step_tokens is {self.min_tokens} and max_step_tokens {self.max_tokens}; "
                "1 <= min <= max is needed"
            )

    def find(self, text: str, since: int = 0) -> int | None:
        """Where in `text` a stop string first ends beyond `since` characters; None without one."""
        ends = []
        for stop in self.strings:
            at = text.find(stop, max(0, since - len(stop) + 1))
            if at >= 0:
                ends.append(at + len(stop))
        return min(ends, default=None)


@dataclass(frozen=True)
class Candidate:
    """One proposal for the next step.

    Log-probabilities, entropies and gaps are of each drawn token under the model's own distribution
    (temperature 1), in nats; None if the backend has none.

    Attributes:
        step: Its text, from the overshoot of the step before to the stop string that ended it.
        text: The text of `ids` alone.
        finish: Why it ended.
        tokens: Tokens that were drawn.
        overshoot: The text beyond the boundary of the step.
        ids: Token ids; empty for a backend without ids.
        log_probs: Log-probabilities.
        entropies: Entropies of the distributions.
        gaps: Probability of the likeliest token minus that of the second.
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
    """Tokens run through a model, calls of it, candidates drawn, seconds."""

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
    """`num` candidates for the step after `partial`, the chosen steps of the answer so far.

    Attributes:
        prompt: The user's text. partial: The chosen steps. num: Candidates. temperature: Of the
        draws; 0 takes the likeliest token. stop: Where the step ends. seed: Candidate i depends on
        it and on i alone, whatever else is in the batch. first: Number of the first candidate, so
        that more can be requested later. session: The answer that this is a part of. Caches are
        shared within an answer, never between
            answers, so that the cost of one does not depend on others.
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
        """The text of the answer so far."""
        return "".join(candidate.text for candidate in self.partial)

    @property
    def overshoot(self) -> str:
        """The text of the last step beyond its boundary, which begins the next step."""
        return self.partial[-1].overshoot if self.partial else ""


@dataclass(frozen=True)
class Reply:
    """The candidates of one request, and their cost."""

    candidates: tuple[Candidate, ...]
    spent: Spent


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        continues: Whether it continues a partial answer; None if only a probe tells
            (`maskdiff.stepwise.probe`).
        log_probs: Whether candidates have log-probabilities.
        entropies: Whether candidates have entropies.
        stop_strings: Whether a step ends at any text, or only at the backend's own end.
        seed: Whether a request gives the same candidates again.
        token_ids: Whether candidates have ids, so that the very tokens are continued.
        chat: Whether the prompt is a user's message, to which the backend applies a template.
    """

    continues: bool | None
    log_probs: bool
    entropies: bool
    stop_strings: bool
    seed: bool
    token_ids: bool
    chat: bool = False


class StepBackend(Protocol):
    """Proposes the next step of an answer."""

    name: str
    capabilities: Capabilities

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies to requests, which may be of different problems, as one batch.

        Raises:
            BackendError: For a backend that fails.
            UserError: For a prompt that the backend cannot read.
        """
        ...

    def forget(self) -> None:
        """Drop caches of earlier requests; later replies do not change."""
        ...


def split_step(text: str, since: int, stop: Stop, carried: str) -> tuple[str, str] | None:
    """Step and overshoot of a step of `text` after what was `carried`; None if it has not ended.

    Stop strings that end within `since` characters of `carried + text` do not count.
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
    "split_step",
]  # fmt: skip
