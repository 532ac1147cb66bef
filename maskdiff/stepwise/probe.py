"""Tests whether a backend continues a partial answer.

A chat interface that closes the turn answers fluently from the beginning at every step, with good
log-probabilities; only the text of its answer reveals that. `probe_continuation` therefore asks for
a random string and gives its first half as partial answer: the next symbol is that of the second
half, or of the first. `RestartGuard` detects repeated steps during a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from maskdiff.stepwise.protocol import BackendError, Candidate, Rejected, Request, StepBackend, Stop

NONCES = 3
PROBE_TOKENS = 4  # requested: only the next symbol counts, and white space may precede it
DIGITS = 8  # of a nonce for a chat model
IN_A_ROW, EARLY = 2, 3  # repeated steps that stop a run; up to this step a single one does
SHORT = 8  # symbols; shorter steps also repeat in good answers


class ProbeVerdict(Enum):
    """What a backend does with a partial answer; the value completes `it ...`."""

    CONTINUE = "goes on from it"
    RESTART = "ignores it and answers from the beginning"
    ECHO = "repeats it before going on"
    REJECT = "refuses it"
    UNKNOWN = "does not do the same thing each time, or nothing known"


@dataclass(frozen=True)
class Nonce:
    """A prompt, the reply that it asks for, and the number of its symbols that are given, from 2.

    reply[given] differs from reply[0], and reply[1] from both.
    """

    prompt: str
    reply: str
    given: int


@dataclass(frozen=True)
class ProbeResult:
    """The verdict, and what each nonce showed."""

    verdict: ProbeVerdict
    seen: tuple[str, ...]


def digits_nonce(rng: np.random.Generator) -> Nonce:
    """Return a nonce of distinct random digits that a chat model is to repeat."""
    digits = "".join(map(str, rng.permutation(10)[:DIGITS]))
    return Nonce(f"Reply with exactly these digits and nothing else: {digits}", digits, DIGITS // 2)


def probe_continuation(
    generator: StepBackend,
    make: Callable[[np.random.Generator], Nonce] = digits_nonce,
    seed: int = 0,
) -> ProbeResult:
    """Return the verdict on which `NONCES` tests agree, or UNKNOWN.

    Raises BackendError for a backend that does not even answer without a partial answer.
    """
    rng = np.random.default_rng(seed)
    verdicts, seen = [], []
    for _ in range(NONCES):
        nonce = make(rng)
        verdict, shown = _classify(generator, nonce)
        verdicts.append(verdict)
        seen.append(f"{nonce.reply[: nonce.given]!r} of {nonce.reply!r} given: {shown}")
    agreed = verdicts[0] if len(set(verdicts)) == 1 else ProbeVerdict.UNKNOWN
    return ProbeResult(agreed, tuple(seen))


def _classify(generator: StepBackend, nonce: Nonce) -> tuple[ProbeVerdict, str]:
    """The verdict of one nonce, and what the backend answered."""
    try:
        text = _answer(generator, nonce.prompt, nonce.reply[: nonce.given])
    except Rejected as error:
        _answer(generator, nonce.prompt, "")  # raises if the prompt alone is refused, too
        return ProbeVerdict.REJECT, f"refused ({error})"
    symbol = text.lstrip()[:1]
    if symbol == nonce.reply[nonce.given]:
        return ProbeVerdict.CONTINUE, repr(text)
    if symbol != nonce.reply[0]:
        return ProbeVerdict.UNKNOWN, repr(text)
    # It begins as the reply does: a restart, or an echo? Another partial answer decides.
    decoy = nonce.reply[1 : nonce.given]
    again = _answer(generator, nonce.prompt, decoy).lstrip()[:1]
    shown = f"{text!r}, and with {decoy!r} given: {again!r}"
    if again == nonce.reply[0]:
        return ProbeVerdict.RESTART, shown
    return (ProbeVerdict.ECHO if again == decoy[0] else ProbeVerdict.UNKNOWN), shown


def _answer(generator: StepBackend, prompt: str, given: str) -> str:
    partial = (Candidate(step=given, text=given, finish="length", tokens=0),) if given else ()
    request = Request(
        prompt, partial, temperature=0.0, stop=Stop(strings=(), max_tokens=PROBE_TOKENS)
    )
    (reply,) = generator.next_step([request])
    if not reply.candidates:
        raise BackendError(f"{generator.name} gave no candidate")
    return reply.candidates[0].text


@dataclass
class RestartGuard:
    """Detects during a run that an answer restarts: whole steps are repeated.

    One repetition among the first `EARLY` steps, or `IN_A_ROW` in a row later, counts as a restart;
    steps of fewer than `SHORT` symbols do not count. It does not detect a server that words its
    beginning differently each time, which the probe does.
    """

    seen: list[str] = field(default_factory=list)
    restarts: int = 0
    in_a_row: int = 0

    def restarted(self, step: str) -> bool:
        """Add the text of the next step; return whether the run should stop."""
        again = len(step) >= SHORT and step in self.seen
        self.seen.append(step)
        self.restarts += again
        self.in_a_row = self.in_a_row + 1 if again else 0
        return self.in_a_row >= IN_A_ROW or (len(self.seen) == EARLY and self.restarts > 0)


__all__ = [
    "Nonce",
    "ProbeResult",
    "ProbeVerdict",
    "RestartGuard",
    "digits_nonce",
    "probe_continuation",
]
