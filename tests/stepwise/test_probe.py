"""Probing whether a backend continues a partial answer, for every kind and twenty seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from maskdiff.stepwise.probe import NONCES, Nonce, ProbeVerdict, digits_nonce, probe_continuation
from maskdiff.stepwise.protocol import BackendError, Candidate, Rejected, Reply, Request, Spent
from tests.helpers.stepwise import STEPS, Scripted, make_candidate

ReplyFunction = Callable[[str, str], str]  # (whole reply, given part) -> text


def language_nonce(rng: np.random.Generator) -> Nonce:
    problem, reply, given = STEPS.nonce(rng)
    return Nonce(STEPS.prompt(problem), reply, given)


def refuse(reply: str, given: str) -> str:
    if given:
        raise Rejected("HTTP 400: the last message must be the user's")
    return reply


BACKENDS: dict[str, tuple[ProbeVerdict, ReplyFunction]] = {
    "continue": (ProbeVerdict.CONTINUE, lambda reply, given: reply[len(given) :]),
    "continue behind a space": (
        ProbeVerdict.CONTINUE,
        lambda reply, given: " " + reply[len(given) :],
    ),
    "restart": (ProbeVerdict.RESTART, lambda reply, given: reply),
    "restart in a sentence": (
        ProbeVerdict.RESTART,
        lambda reply, given: "\n" + reply + ", as you asked",
    ),
    "echo": (ProbeVerdict.ECHO, lambda reply, given: given + reply[len(given) :]),
    "echo alone": (ProbeVerdict.ECHO, lambda reply, given: given or reply),
    "reject": (ProbeVerdict.REJECT, refuse),
    "garbage": (ProbeVerdict.UNKNOWN, lambda reply, given: "Sure! Here it is"),
    "nothing": (ProbeVerdict.UNKNOWN, lambda reply, given: ""),
    "begins, then garbage": (
        ProbeVerdict.UNKNOWN,
        lambda reply, given: reply if reply.startswith(given) else "?",
    ),
}


class Backend(Scripted):
    """A backend whose answer is a function of the reply that the nonce requests."""

    def __init__(
        self, make: Callable[[np.random.Generator], Nonce], reply_of: Callable[[int], ReplyFunction]
    ) -> None:
        self.nonces: list[Nonce] = []
        self.replies: list[tuple[Nonce, str, str]] = []
        self.make, self.reply_of = make, reply_of
        super().__init__(self.script)

    def nonce(self, rng: np.random.Generator) -> Nonce:
        self.nonces.append(self.make(rng))
        return self.nonces[-1]

    def script(self, request: Request, number: int) -> Candidate:
        nonce = self.nonces[-1]
        assert request.prompt == nonce.prompt
        assert (request.temperature, request.stop.strings) == (0.0, ())
        text = self.reply_of(len(self.nonces) - 1)(nonce.reply, request.answer)[
            : request.stop.max_tokens
        ]
        self.replies.append((nonce, request.answer, text))
        return make_candidate(text, finish="length")


def verdict_by_prefix(nonce: Nonce, given: str, text: str) -> ProbeVerdict:
    """Compare prefixes: a reply that starts like the partial answer counts as continued."""
    return (
        ProbeVerdict.CONTINUE
        if text.startswith(given) or nonce.reply.startswith(given + text[:1])
        else ProbeVerdict.UNKNOWN
    )


@pytest.mark.parametrize("make", [digits_nonce, language_nonce])
@pytest.mark.parametrize("kind", BACKENDS)
def test_probe_gives_the_right_verdict_on_twenty_seeds(
    kind: str, make: Callable[[np.random.Generator], Nonce]
) -> None:
    expected, reply_of = BACKENDS[kind]
    for seed in range(20):
        backend = Backend(make, lambda number: reply_of)
        probed = probe_continuation(backend, backend.nonce, seed)
        assert (probed.verdict, len(probed.seen)) == (expected, NONCES)
        assert len(backend.nonces) == NONCES
        assert all(
            repr(nonce.reply) in seen
            for nonce, seen in zip(backend.nonces, probed.seen, strict=True)
        )


@pytest.mark.parametrize("make", [digits_nonce, language_nonce])
def test_prefix_comparison_gives_wrong_verdicts(
    make: Callable[[np.random.Generator], Nonce],
) -> None:
    """Prefix comparison classifies echoes and restarts as continuations; the probe does not."""
    for kind in ("continue", "echo", "restart"):
        for seed in range(20):
            backend = Backend(make, lambda number, kind=kind: BACKENDS[kind][1])
            verdict = probe_continuation(backend, backend.nonce, seed).verdict
            replies = [entry for entry in backend.replies if entry[0].reply.startswith(entry[1])]
            assert len(replies) == NONCES
            assert all(verdict_by_prefix(*entry) is ProbeVerdict.CONTINUE for entry in replies)
            assert (verdict is ProbeVerdict.CONTINUE) == (kind == "continue")


def test_inconsistent_replies_give_unknown() -> None:
    kinds = ("continue", "restart", "echo", "reject")
    for first in kinds:
        for other in kinds:
            for seed in range(5):
                backend = Backend(
                    digits_nonce,
                    lambda n, first=first, other=other: BACKENDS[first if n < 2 else other][1],
                )
                verdict = probe_continuation(backend, backend.nonce, seed).verdict
                assert verdict is (BACKENDS[first][0] if first == other else ProbeVerdict.UNKNOWN)


def test_errors_are_raised_and_give_no_verdict() -> None:
    """A backend that refuses everything, or is unreachable, does not refuse partial answers."""

    def refuses(reply: str, given: str) -> str:
        raise Rejected("HTTP 400: no such model")

    def breaks(reply: str, given: str) -> str:
        raise BackendError("connection refused")

    for reply_of, message in ((refuses, "no such model"), (breaks, "connection refused")):
        backend = Backend(digits_nonce, lambda number, reply_of=reply_of: reply_of)
        with pytest.raises(BackendError, match=message):
            probe_continuation(backend, backend.nonce)

    class Silent(Scripted):
        def next_step(self, requests):  # type: ignore[no-untyped-def]
            return [Reply((), Spent()) for _ in requests]

    with pytest.raises(BackendError, match="no candidate"):
        probe_continuation(Silent(lambda request, number: make_candidate("")))


@pytest.mark.parametrize("make", [digits_nonce, language_nonce])
def test_nonces_distinguish_all_behaviours(make: Callable[[np.random.Generator], Nonce]) -> None:
    """The next symbols of continuation, restart and decoy differ; replies are random."""
    rng, replies = np.random.default_rng(0), set()
    for _ in range(200):
        nonce = make(rng)
        assert 2 <= nonce.given < len(nonce.reply)
        assert nonce.reply[nonce.given] != nonce.reply[0]
        assert nonce.reply[1] not in (nonce.reply[0], nonce.reply[nonce.given])
        replies.add(nonce.reply)
    assert len(replies) > 150


def test_equal_seeds_send_equal_requests() -> None:
    asked = []
    for seed in (0, 0, 1):
        backend = Backend(digits_nonce, lambda number: BACKENDS["continue"][1])
        probe_continuation(backend, backend.nonce, seed)
        asked.append(backend.asked)
    assert asked[0] == asked[1] != asked[2]
    assert len(asked[0]) == NONCES  # one request per nonce if the first decides
