"""Whether a backend goes on from a partial answer, and noticing when it does not.

For: `probe`, asked before; `Guard`, which watches a run. Not for: backends. Easy to get wrong: a chat interface that closes the
turn answers fluently, with good log-probabilities, from the beginning, at every step; so nothing but *what* it says next tells.
A random string is asked for and its first half given as the partial answer: the next symbol is that of the second half, or of
the first. Comparing texts by their beginnings would call an echo a continuation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from maskdiff.stepwise.protocol import BackendError, Candidate, Rejected, Request, StepBackend, Stop

NONCES = 3
SAID = 4  # tokens asked for: the next symbol is all that counts, white space may come before it
DIGITS = 8  # of a nonce for a chat model
IN_A_ROW, EARLY = 2, 3  # repeated steps that stop a run; the step by which one is enough
SHORT = 8  # symbols; shorter steps repeat in good answers, too


class ProbeVerdict(Enum):
    """What a backend does with a partial answer."""

    CONTINUE = "goes on from it"
    RESTART = "ignores it and answers from the beginning"
    ECHO = "repeats it before going on"
    REJECT = "refuses it"
    UNKNOWN = "does not do the same thing each time, or nothing known"


@dataclass(frozen=True)
class Nonce:
    """A prompt, the reply that it asks for, and how many symbols of that are given (2 or more).

    reply[given] differs from reply[0], and reply[1] from both.
    """

    prompt: str
    reply: str
    given: int


@dataclass(frozen=True)
class ProbeResult:
    """The verdict and what each nonce showed."""

    verdict: ProbeVerdict
    seen: tuple[str, ...]


def digits_nonce(rng: np.random.Generator) -> Nonce:
    """A string of distinct random digits that a chat model is to repeat."""
    digits = "".join(map(str, rng.permutation(10)[:DIGITS]))
    return Nonce(f"Reply with exactly these digits and nothing else: {digits}", digits, DIGITS // 2)


def probe_continuation(
    generator: StepBackend,
    make: Callable[[np.random.Generator], Nonce] = digits_nonce,
    seed: int = 0,
) -> ProbeResult:
    """Ask `NONCES` times; one verdict that all of them gave, or UNKNOWN.

    Raises BackendError for a backend that does not answer even without a partial answer.
    """
    rng = np.random.default_rng(seed)
    verdicts, seen = [], []
    for _ in range(NONCES):
        nonce = make(rng)
        verdict, said = _classify(generator, nonce)
        verdicts.append(verdict)
        seen.append(f"{nonce.reply[: nonce.given]!r} of {nonce.reply!r} given: {said}")
    agreed = verdicts[0] if len(set(verdicts)) == 1 else ProbeVerdict.UNKNOWN
    return ProbeResult(agreed, tuple(seen))


def _classify(generator: StepBackend, nonce: Nonce) -> tuple[ProbeVerdict, str]:
    """What the next symbol tells, and the text that it came from."""
    try:
        said = _said(generator, nonce.prompt, nonce.reply[: nonce.given])
    except Rejected as error:
        _said(
            generator, nonce.prompt, ""
        )  # refused without it, too: then that is an error of its own, and raised
        return ProbeVerdict.REJECT, f"refused ({error})"
    symbol = said.lstrip()[:1]
    if symbol == nonce.reply[nonce.given]:
        return ProbeVerdict.CONTINUE, repr(said)
    if symbol != nonce.reply[0]:
        return ProbeVerdict.UNKNOWN, repr(said)
    # From the beginning: the model's own beginning, or an echo of ours? A beginning that is not the reply's tells.
    decoy = nonce.reply[1 : nonce.given]
    again = _said(generator, nonce.prompt, decoy).lstrip()[:1]
    told = f"{said!r}, and with {decoy!r} given: {again!r}"
    if again == nonce.reply[0]:
        return ProbeVerdict.RESTART, told
    return (ProbeVerdict.ECHO if again == decoy[0] else ProbeVerdict.UNKNOWN), told


def _said(generator: StepBackend, prompt: str, given: str) -> str:
    partial = (Candidate(step=given, text=given, finish="length", tokens=0),) if given else ()
    request = Request(prompt, partial, temperature=0.0, stop=Stop(strings=(), max_tokens=SAID))
    (reply,) = generator.next_step([request])
    if not reply.candidates:
        raise BackendError(f"{generator.name} gave no candidate")
    return reply.candidates[0].text


@dataclass
class RestartGuard:
    """Notices at run time that an answer starts again and again: its steps repeat, whole, what was said before.

    It says so when by the third step one of them did, or later when two in a row do; steps of fewer than `SHORT` symbols may
    repeat. A server that words its beginning anew each time is not noticed: it is the probe that tells.
    """

    seen: list[str] = field(default_factory=list)
    restarts: int = 0
    in_a_row: int = 0

    def restarted(self, step: str) -> bool:
        """Take the text of the next step; whether the run should stop."""
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
