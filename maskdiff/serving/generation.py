"""Generating the choices of a completion job piece by piece; streamed text is never revised.

A stop string may span several tokens or end inside one. Text that may begin a stop string is held
back until the next token decides; and since the backend looks for stop strings within one call
only, the call after held text asks for a single token.

Calls are short (at most `SLICE` tokens), so that a lost client or a shutdown ends the work soon.
The backend samples token i of candidate j from (seed, j, i) alone, so slices do not change the
answer.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from maskdiff.serving.scheduler import Scheduler
from maskdiff.stepwise.protocol import Candidate, Request, Stop

SLICE = 64  # tokens of one call of the backend


@dataclass(frozen=True)
class CompletionJob:
    """`n` choices for each prompt.

    Attributes:
        keep_stop: Whether the text keeps the stop string that ended it.
        by_token: Whether a call generates one token, for streams and log-probabilities.
        memory: The most bytes that the job takes.
    """

    prompts: tuple[str, ...]
    n: int
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    by_token: bool = False
    memory: int = 0


@dataclass(frozen=True)
class GeneratedToken:
    """A sampled token; `text` is empty for the end, `offset` is its position in the answer."""

    text: str
    offset: int
    log_prob: float


@dataclass(frozen=True)
class ChoiceDelta:
    """What is new of choice `index`.

    Attributes:
        text: The text to append.
        tokens: The tokens sampled one by one since the last delta, also those of a stop string and
            of held text.
        num_tokens: The number of sampled tokens.
        finish: Why the choice ended; None while it goes on.
        stop_reason: The stop string that ended the choice.
    """

    index: int
    text: str = ""
    tokens: tuple[GeneratedToken, ...] = ()
    num_tokens: int = 0
    finish: Literal["stop", "length"] | None = None
    stop_reason: str | None = None


class ChoiceState:
    """Choice `index` of a job while it is generated."""

    def __init__(self, job: CompletionJob, index: int) -> None:
        self.job, self.index = job, index
        self.prompt, self.number = job.prompts[index // job.n], index % job.n
        self.stop = Stop(job.stop, job.max_tokens)
        self.partial: list[Candidate] = []
        self.text = ""
        self.sent = 0  # characters
        self.num_tokens = 0
        self.held = 0  # characters at the end of the text that may begin a stop string
        self.finished = False

    def request(self) -> Request:
        """Return the next request to the backend."""
        job = self.job
        if job.by_token or self.held:
            stop = Stop((), max_tokens=1)
        else:
            stop = Stop(job.stop, max_tokens=min(SLICE, job.max_tokens - self.num_tokens))
        return Request(
            prompt=self.prompt, partial=tuple(self.partial), num=1, temperature=job.temperature,
            stop=stop, seed=job.seed, first=self.number,
        )  # fmt: skip

    def append(self, candidate: Candidate) -> ChoiceDelta:
        """Append the backend's reply and return what it adds."""
        start = len(self.text)
        self.partial.append(replace(candidate, log_probs=None, entropies=None, gaps=None))
        self.text += candidate.text
        sampled = max(1, candidate.tokens)  # so that every job ends
        self.num_tokens += sampled
        tokens: tuple[GeneratedToken, ...] = ()
        if self.job.by_token and candidate.log_probs:
            tokens = (GeneratedToken(candidate.text, start, math.fsum(candidate.log_probs)),)
        end, finish, reason = self._certain(candidate, start)
        self.finished = finish is not None
        self.sent, text = end, self.text[self.sent : end]
        return ChoiceDelta(self.index, text, tokens, sampled, finish, reason)

    def _certain(
        self, candidate: Candidate, start: int
    ) -> tuple[int, Literal["stop", "length"] | None, str | None]:
        """Return where the certain text ends, the finish reason and the stop string.

        Only a stop string that ends after `start` counts.
        """
        job = self.job
        if (end := self.stop.find(self.text, start)) is not None:
            reason = max((s for s in job.stop if self.text.endswith(s, 0, end)), key=len)
            return end if job.keep_stop else end - len(reason), "stop", reason
        if candidate.finish == "end":
            return len(self.text), "stop", None
        if self.num_tokens >= job.max_tokens:
            return len(self.text), "length", None
        self.held = max((_overlap(self.text, stop) for stop in job.stop), default=0)
        return len(self.text) - (0 if job.keep_stop else self.held), None, None


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


async def generate_deltas(
    scheduler: Scheduler, job: CompletionJob
) -> AsyncGenerator[list[ChoiceDelta], None]:
    """Yield the deltas of all choices, call by call; closing the generator stops the work.

    Raises RequestError, and what the backend raises.
    """
    with scheduler.slot():
        async with scheduler.answer_memory.reserve(job.memory):
            choices = [ChoiceState(job, index) for index in range(len(job.prompts) * job.n)]
            while active := [choice for choice in choices if not choice.finished]:
                replies = await scheduler.call([choice.request() for choice in active])
                yield [choice.append(reply.candidates[0]) for choice, reply in zip(active, replies)]


def merge_deltas(deltas: Iterable[ChoiceDelta]) -> list[ChoiceDelta]:
    """Return one delta with the whole of each choice."""
    choices: dict[int, list[ChoiceDelta]] = {}
    for delta in deltas:
        choices.setdefault(delta.index, []).append(delta)
    return [
        ChoiceDelta(
            index,
            "".join(delta.text for delta in parts),
            tuple(token for delta in parts for token in delta.tokens),
            sum(delta.num_tokens for delta in parts),
            parts[-1].finish,
            parts[-1].stop_reason,
        )
        for index, parts in sorted(choices.items())
    ]


__all__ = [
    "SLICE", "ChoiceDelta", "ChoiceState", "CompletionJob", "GeneratedToken", "generate_deltas",
    "merge_deltas",
]  # fmt: skip
