"""A generator whose every answer is known, for tests of the server, and what a client reads of a
stream."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import openai

from maskdiff.errors import ParseError
from maskdiff.serving.model import ServedModel
from maskdiff.stepwise.protocol import (
    Candidate,
    Capabilities,
    Reply,
    Request,
    Spent,
    Stop,
    split_step,
)

STORY = "one, two>three, four>five, six>seven, eight>nine, ten."


class Toy:
    """Goes on with the story behind the last "?" by tokens of 1 to 3 letters, some of them loud, as
    seed and place decide."""

    name = "toy"
    capabilities = Capabilities(True, True, False, True, True, False)

    def __init__(self) -> None:
        self.calls = self.forgotten = 0
        self.asked: list[Request] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fault: Exception | None = None
        self.pause = 0.0
        self.story = STORY
        self._users = 0

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        self._users += 1
        assert self._users == 1, "two threads at once"
        self.entered.set()
        assert self.gate.wait(20)
        time.sleep(self.pause)
        self._users -= 1
        self.calls += 1
        self.asked += requests
        if self.fault is not None and requests[0].partial:
            raise self.fault
        return [
            Reply(tuple(self._write(r, r.first + i) for i in range(r.num)), Spent())
            for r in requests
        ]

    def forget(self) -> None:
        self.forgotten += 1

    def _write(self, request: Request, number: int) -> Candidate:
        given = (request.prompt + request.answer).rpartition("?")[2]
        place, text, log_probs = sum(part.tokens for part in request.partial), "", []
        while True:
            digest = hashlib.blake2b(
                f"{request.seed} {number} {place}".encode(), digest_size=4
            ).digest()
            if request.temperature == 0:
                digest = bytes(4)
            at = len(given) + len(text)
            token = self.story[at : at + 1 + digest[0] % 3]
            text += token.upper() if digest[1] % 4 == 1 else token
            log_probs.append(-(1 + digest[2] % 8) / 8)
            place += 1
            if not token:
                return self._candidate(request, text, log_probs, "end")
            if split_step(text, 0, request.stop, request.overshoot):
                return self._candidate(request, text, log_probs, "stop")
            if len(log_probs) == request.stop.max_tokens:
                return self._candidate(request, text, log_probs, "length")

    def _candidate(
        self, request: Request, text: str, log_probs: list[float], finish: Any
    ) -> Candidate:
        step, over = split_step(text, 0, request.stop, request.overshoot) or (
            request.overshoot + text,
            "",
        )
        return Candidate(step, text, finish, len(log_probs), over, log_probs=tuple(log_probs))


def turn(text: str) -> str:
    return text + "?"


def count(text: str) -> int:
    if "\u00a7" in text:
        raise ParseError("unknown symbol \u00a7", 0, text)
    return len(text)


def served(toy: Toy, max_tokens: int = 200, token_bytes: int = 0) -> ServedModel:
    return ServedModel(
        toy, "toy", turn, max_tokens=max_tokens, count_tokens=count, token_bytes=token_bytes
    )


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=20)


def expected(
    prompt: str, seed: int, number: int, max_tokens: int, stops: tuple[str, ...], temperature: float
) -> Candidate:
    """Returns the answer of the generator to one whole request."""
    request = Request(
        prompt, temperature=temperature, stop=Stop(stops, max_tokens), seed=seed, first=number
    )
    return Toy().next_step([request])[0].candidates[0]


def streamed(chunks: Any) -> dict[int, dict[str, Any]]:
    """Text, end and log-probabilities of each choice of a stream; usage under -1."""
    got: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        if chunk.usage:
            got[-1] = {"usage": chunk.usage}
        for choice in chunk.choices:
            own = got.setdefault(
                choice.index,
                {"text": "", "finish": None, "stop": None, "log_probs": [], "roles": 0},
            )
            delta = getattr(choice, "delta", None)
            own["text"] += choice.text if delta is None else delta.content or ""
            own["roles"] += bool(delta is not None and delta.role)
            assert own["finish"] is None, "nothing comes after the end"
            own["finish"], own["stop"] = choice.finish_reason, choice.stop_reason
            if choice.logprobs:
                new = (
                    choice.logprobs.token_logprobs
                    if delta is None
                    else [t.logprob for t in choice.logprobs.content]
                )
                own["log_probs"] += new
    return got
