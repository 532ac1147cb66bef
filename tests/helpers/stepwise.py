"""Tiny untrained models of arithmetic-steps, a ledger kept by a hook, and scripted backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch

from maskdiff.checkpoint import Loaded, Payload, denoiser_from, make_payload
from maskdiff.config import Config, LanguageConfig
from maskdiff.languages.arithmetic_steps import ArithmeticSteps
from maskdiff.languages.byte_pairs import train_merges
from maskdiff.models.universal import UniversalDenoiser
from maskdiff.stepwise.protocol import (
    Candidate,
    Capabilities,
    Finish,
    Reply,
    Request,
    Spent,
    StepBackend,
    Stop,
)
from tests.helpers.step_trees import read, reducts, write

LANGUAGE = LanguageConfig(
    language="arithmetic-steps", operators="+-*", max_int=20, max_value=200, max_depth=2, max_len=96
)
STEPS = ArithmeticSteps(LANGUAGE)
SIZES = {
    "n_layer": 2,
    "k_iter": 1,
    "n_head": 2,
    "n_embd": 32,
    "mlp_ratio": 1.0,
    "causal_length": False,
    "end_positions": False,
}

# ------------------------------------------------------------------------------------------- models


@cache
def problems(count: int, seed: int = 0) -> tuple[str, ...]:
    return tuple(STEPS.problems(count, np.random.default_rng(seed)))


def payload(
    pieces: bool = False, seed: int = 0, open_share: float = 0.3, **model: object
) -> Payload:
    """An untrained model with strong opinions.

    With the default seed its steps, and its answers, end now and then.
    """
    vocabulary = STEPS.vocabulary
    if (
        pieces
    ):  # among them some that reach over the end of a step, such as `))>(- `, and one that ends two
        merges = train_merges(
            STEPS.sample_many(300, np.random.default_rng(7)), STEPS.spec.symbols, 60
        )
        vocabulary = vocabulary.with_merges([*merges, (")>1", ")>")])
    config = Config()
    sizes = {**SIZES, "block_size": LANGUAGE.max_len, "vocab_size": len(vocabulary), **model}
    kind = "bpe" if pieces else "characters"
    shape = replace(config.model, **sizes, vocabulary=kind)  # type: ignore[arg-type]
    config = replace(
        config, language=LANGUAGE, model=shape, train=replace(config.train, open_share=open_share)
    )
    torch.manual_seed(seed or (38 if pieces else 2))
    network = UniversalDenoiser(shape)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.add_((1.0 if name == "head.weight" else 0.3) * torch.randn_like(weight))
    counts = {"lengths": [0] * 9 + [1] * 50}  # no second count is needed
    lengths = [0.0] + [1 / 40] * 40 if pieces else ()
    return make_payload(config, vocabulary, network.state_dict(), language=counts, lengths=lengths)


def fresh(pieces: bool = False, double: bool = False, **settings: object) -> Loaded:
    """A model of one's own."""
    made = denoiser_from(payload(pieces, **settings))  # type: ignore[arg-type]
    if double:
        made.denoiser.model.double()
    return made


@cache
def loaded(pieces: bool = False, double: bool = False) -> Loaded:
    """A model that tests share, and so do not change."""
    return fresh(pieces, double)


@dataclass
class Ledger:
    """Counts the calls of a model and the tokens without padding."""

    tokens: int = 0
    calls: int = 0


@contextmanager
def ledger(model: Loaded) -> Iterator[Ledger]:
    """Count by a hook on the embedding, which every token passes."""
    book, pad = Ledger(), model.vocabulary.pad

    def count(_module: object, given: tuple[torch.Tensor, ...], _result: object) -> None:
        book.tokens += int((given[0] != pad).sum())
        book.calls += 1

    handle = model.denoiser.model.token.register_forward_hook(count)
    try:
        yield book
    finally:
        handle.remove()


# --------------------------------------------------------------------------------- asking a backend


def one(generator: StepBackend, **settings: object) -> Reply:
    [reply] = generator.next_step([Request(**settings)])  # type: ignore[arg-type]
    return reply


def walk(
    generator: StepBackend, requests: Sequence[Request], tokens: int
) -> list[tuple[list[Candidate], Spent]]:
    """Step after step of several answers together, of candidate 0 each, up to `tokens` tokens.

    And what each took.
    """
    answers: list[list[Candidate]] = [[] for _ in requests]
    spent = [Spent() for _ in requests]
    while going := [i for i, steps in enumerate(answers) if left(steps, tokens)]:
        asked = [
            replace(
                requests[i],
                partial=tuple(answers[i]),
                stop=replace(
                    requests[i].stop,
                    max_tokens=min(requests[i].stop.max_tokens, left(answers[i], tokens)),
                ),
            )
            for i in going
        ]
        for i, reply in zip(going, generator.next_step(asked), strict=True):
            answers[i].append(reply.candidates[0])
            spent[i] += reply.spent
    return list(zip(answers, spent, strict=True))


def left(steps: Sequence[Candidate], tokens: int) -> int:
    """How many more tokens an answer may have."""
    return 0 if steps and steps[-1].finish == "end" else tokens - sum(step.tokens for step in steps)


def ids_of(steps: Sequence[Candidate]) -> tuple[int, ...]:
    return tuple(token for step in steps for token in step.ids)


def same(left: Sequence[Candidate], right: Sequence[Candidate], tolerance: float = 1e-5) -> None:
    """The same candidates, the numbers up to rounding."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.step, a.text, a.overshoot, a.ids, a.finish, a.tokens) == (
            b.step,
            b.text,
            b.overshoot,
            b.ids,
            b.finish,
            b.tokens,
        )
        for name in ("log_probs", "entropies", "gaps"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=tolerance)


# -------------------------------------------------------------------------------- scripted backends

Script = Callable[[Request, int], Candidate]
WRONG = "9999"  # the value of no expression of the language
KNOWN = Capabilities(True, True, True, True, True, False)


class Scripted:
    """A backend that returns a function of the request and the number of the candidate, and
    records the requests."""

    name = "scripted"

    def __init__(self, script: Script, capabilities: Capabilities = KNOWN) -> None:
        self.script, self.capabilities = script, capabilities
        self.asked: list[Request] = []
        self.forgotten = 0

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += requests
        made = [tuple(self.script(r, r.first + i) for i in range(r.num)) for r in requests]
        return [Reply(steps, Spent(sum(s.tokens for s in steps), 1, len(steps))) for steps in made]

    def forget(self) -> None:
        self.forgotten += 1


def make_candidate(text: str, *log_probs: float, finish: Finish | None = None) -> Candidate:
    """Return a candidate of one step with one token for each log-probability."""
    finish = finish or ("stop" if text.endswith(">") else "end")
    known = log_probs or (-1.0,)
    return Candidate(
        text,
        text,
        finish,
        len(known),
        log_probs=known,
        entropies=tuple(-p for p in known),
        gaps=known,
    )


def solver_script(wrong: Callable[[Request, int], bool]) -> Script:
    """Return a script that writes correct steps, or `WRONG` where `wrong` is true.

    Whole answers without stops.
    """

    def script(request: Request, number: int) -> Candidate:
        problem, *done = (request.prompt + request.answer).rstrip(">").split(">")
        rest = solve((done or [problem])[-1])
        bad = wrong(request, number)
        if not request.stop.strings:
            return make_candidate(">".join([*rest[:-1], WRONG if bad else rest[-1]]), finish="end")
        step = WRONG if bad else rest[0]
        return make_candidate(step if bad or len(rest) == 1 else step + ">")

    return script


def stop_of(*strings: str, most: int = 64, least: int = 1) -> Stop:
    return Stop(strings, most, least)


def solve(text: str) -> list[str]:
    """The steps after an expression, leftmost reductions first."""
    tree = read(text)
    assert tree is not None
    following = reducts(tree)
    return [write(following[0]), *solve(write(following[0]))] if following else []
