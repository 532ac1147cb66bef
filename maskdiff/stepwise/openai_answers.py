"""Reads responses of OpenAI-compatible servers: choices, tokens with log-probabilities, and costs.

Servers leave out what they like, and nothing is filled in: a response that gives no candidate
raises `Unusable`, and a missing value is None or 0. Log-probabilities have the form of chats or of
completions, and either may answer either request. Alternatives are only the likeliest tokens, so
their entropy is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NO_LOG_PROBS = (
    "returns no log-probabilities: choose a scorer that needs none, such as vote, "
    "or another backend"
)


class Unusable(Exception):
    """A response that gives no candidate: the problem, and the value that shows it."""

    def __init__(self, problem: str, given: object = "") -> None:
        super().__init__(problem)
        self.given = given


@dataclass(frozen=True)
class DrawnToken:
    """Log-probability of a drawn token, and those of the likeliest ones at its position."""

    log_prob: float
    alternatives: tuple[float, ...]


@dataclass(frozen=True)
class Usage:
    """Tokens that a request ran through the model, and those of them that were drawn."""

    forward: int
    drawn: int


def read_choices(body: object, num: int) -> list[dict[str, Any]]:
    """Return the choices of a response in order: `num`, or fewer if the server ignores n."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unusable("answered without choices", body)
    if not 1 <= len(choices) <= num:
        raise Unusable(f"{len(choices)} choices came where n is {num}")
    places = [choice.get("index") for choice in choices]
    if sorted(place for place in places if isinstance(place, int)) == list(range(len(choices))):
        choices = sorted(choices, key=lambda choice: choice["index"])
    return choices


def read_usage(body: Any) -> Usage | None:
    """Return the usage without cached tokens of the prompt; None if the server reports none."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, drawn = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(drawn, int):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(max(0, prompt - (cached if isinstance(cached, int) else 0)) + drawn, drawn)


def count_drawn(usage: Usage | None, drawn: list[list[DrawnToken] | None]) -> list[int]:
    """Return the number of drawn tokens of every choice.

    For a single choice it is the count of the server. For several, which the server sums up, it is
    the number of log-probabilities or, without these, an equal share; 0 if unknown.
    """
    num = len(drawn)
    if usage is not None and num == 1:
        return [usage.drawn]
    if usage is not None and all(tokens is None for tokens in drawn):
        share = usage.drawn // num
        return [share] * (num - 1) + [usage.drawn - share * (num - 1)]
    return [len(tokens or ()) for tokens in drawn]


def read_drawn(logprobs: object, text: str) -> list[DrawnToken]:
    """Return the tokens of a choice with this `text`, from either form of log-probabilities.

    Tokens of a stop string, after the text, are kept if they have a log-probability.
    """
    rows = _rows(logprobs) if isinstance(logprobs, dict) else []
    # Number of characters before each token.
    before = [0]
    for row in rows:
        before.append(before[-1] + len(str(row[0] or "")))
    while rows and not _is_number(rows[-1][1]) and before[len(rows) - 1] >= len(text):
        rows.pop()
    if (text and not rows) or not all(
        _is_number(number) and math.isfinite(number) for _, number, _ in rows
    ):
        raise Unusable(NO_LOG_PROBS)
    return [
        DrawnToken(float(number), tuple(float(top) for top in tops if _is_number(top)))
        for _, number, tops in rows
    ]


def _rows(logprobs: dict[str, Any]) -> list[tuple[Any, Any, list[Any]]]:
    """Text, log-probability and alternatives of every token."""
    content = logprobs.get("content")
    if isinstance(content, list):  # the form of chats
        rows = [entry if isinstance(entry, dict) else {} for entry in content]
        tops = [
            [top.get("logprob") for top in row.get("top_logprobs") or () if isinstance(top, dict)]
            for row in rows
        ]
        return [(row.get("token"), row.get("logprob"), top) for row, top in zip(rows, tops)]
    numbers = logprobs.get("token_logprobs") or []
    texts = logprobs.get("tokens") or [""] * len(numbers)
    given = logprobs.get("top_logprobs") or [{}] * len(numbers)
    return [
        (text, number, list(top.values()) if isinstance(top, dict) else [])
        for text, number, top in zip(texts, numbers, given)
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def entropy_bound(log_probs: Sequence[float]) -> float:
    """Return the entropy in nats of the likeliest tokens and one bucket of all others.

    It is a lower bound: the entropy within the bucket is missing.
    """
    probs = [math.exp(min(0.0, number)) for number in log_probs]
    probs.append(max(0.0, 1.0 - math.fsum(probs)))
    return max(0.0, -math.fsum(p * math.log(p) for p in probs if p > 0))


def probability_gap(log_probs: Sequence[float]) -> float:
    """Return the probability of the likeliest token minus that of the second."""
    first, second = sorted((math.exp(min(0.0, number)) for number in log_probs), reverse=True)[:2]
    return first - second


__all__ = [
    "DrawnToken",
    "Unusable",
    "Usage",
    "count_drawn",
    "entropy_bound",
    "probability_gap",
    "read_choices",
    "read_drawn",
    "read_usage",
]
