"""The bidirectional mode by blocks: given tokens stay, and costs equal the calls made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from maskdiff.checkpoint import Loaded
from maskdiff.drawing.logits import allowed_symbols
from maskdiff.errors import ConfigError, ParseError
from maskdiff.languages import Vocabulary
from maskdiff.stepwise.blocks import BlockBackend
from maskdiff.stepwise.protocol import BackendError, Candidate, Request, Spent
from tests.helpers.stepwise import (
    STEPS,
    Ledger,
    fresh,
    ids_of,
    ledger,
    loaded,
    one,
    problems,
    same,
    stop_of,
    walk,
)

PROMPTS = [STEPS.prompt(problem) for problem in problems(40, seed=2)]
BOTH = pytest.mark.parametrize("pieces", [False, True], ids=["characters", "pieces"])


@dataclass
class Shown:
    """Inputs and outputs of the denoiser at one call, row by row."""

    canvases: list[list[int]]
    log_p: Tensor


def open_alphabet(vocabulary: Vocabulary) -> Tensor:
    return allowed_symbols(torch.tensor(vocabulary.mask), vocabulary, "open")


def figures(log_p: Tensor, token: int) -> tuple[float, float, float]:
    """Return log-probability, entropy and gap of a token."""
    p = log_p.exp()
    two, entropy = p.topk(2).values, -(p * log_p.nan_to_num(neginf=0.0)).sum()
    return float(log_p[token]), float(entropy), float(two[0] - two[1])


class Recorder:
    """A denoiser that records its calls."""

    def __init__(self, generator: BlockBackend) -> None:
        self.inner, self.allowed, self.shown = (
            generator.denoiser,
            open_alphabet(generator.vocabulary),
            [],
        )
        generator.denoiser = self

    def __call__(
        self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, *rest: object
    ) -> Tensor:
        assert not causal
        assert not sigma.any()  # what is visible is right
        logits = self.inner(tokens, length, sigma, causal, *rest)
        log_p = logits.double().masked_fill(~self.allowed, -math.inf).log_softmax(-1)
        canvases = [row[:n].tolist() for row, n in zip(tokens, length.tolist(), strict=True)]
        assert all((row[n:] == 0).all() for row, n in zip(tokens, length.tolist(), strict=True))
        self.shown.append(Shown(canvases, log_p))
        return logits


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(("block", "per_call"), [(8, 1), (5, 2), (6, 9)])
@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_every_denoiser_call_shows_the_expected_canvases(
    pieces: bool, block: int, per_call: int, heat: float
) -> None:
    """Known tokens stay, the most confident blanks are filled, log-probabilities are the calls'."""
    generator = BlockBackend(loaded(pieces), block=block, per_call=per_call)
    vocabulary, recorder, inside, unused = generator.vocabulary, Recorder(generator), 0, 0
    for number, prompt in enumerate(PROMPTS[:4]):
        steps: tuple[Candidate, ...] = ()
        for _ in range(3):
            given = [vocabulary.bos, *vocabulary.encode(prompt), *ids_of(steps)]
            recorder.shown.clear()
            [step] = one(
                generator,
                prompt=prompt,
                partial=steps,
                temperature=heat,
                seed=number,
                stop=stop_of(">", ")", "2 ", most=11),
            ).candidates
            written: dict[int, tuple[int, float, float, float]] = {}
            for call, after in zip(recorder.shown, [*recorder.shown[1:], None], strict=False):
                [canvas] = call.canvases
                assert canvas[: len(given)] == given
                blanks = [place for place, token in enumerate(canvas) if token == vocabulary.mask]
                for place, (token, *_) in written.items():
                    assert canvas[place] == token
                assert sorted({*range(len(given), len(canvas))} - {*blanks}) == sorted(written)
                later = [] if after is None else after.canvases[0]
                hidden = [p for p in blanks if later and later[p] == vocabulary.mask]
                filled = [place for place in blanks if place not in hidden]
                assert len(filled) == min(per_call, len(blanks))
                log_p = call.log_p[0]
                sure = log_p.amax(-1)
                assert min(sure[filled]) >= max(sure[hidden], default=-math.inf)
                for place in filled:
                    own = log_p[place]
                    token = (
                        int(own.argmax())
                        if heat == 0
                        else _final_token(after, place, step, len(given))
                    )
                    if token >= 0:
                        assert own[token] > -math.inf
                    written[place] = token, *figures(own, token)
            places = range(len(given), len(given) + step.tokens)
            assert step.ids == tuple(written[place][0] for place in places)
            for index, name in enumerate(("log_probs", "entropies", "gaps"), start=1):
                assert getattr(step, name) == pytest.approx(
                    [written[place][index] for place in places], abs=1e-9
                )
            assert (len(written) % block, step.finish == "length") in ((0, False), (0, True))
            inside += step.finish == "stop" and step.tokens < len(written)
            unused += len(written) - step.tokens
            steps = (*steps, step)
            if step.finish == "end":
                break
        joined = "".join(step.step for step in steps) + steps[-1].overshoot
        assert joined == "".join(step.text for step in steps)
    if pieces and block > 1:  # stops inside a block, whose rest was discarded, by `given`
        assert inside > 0
        assert unused > 0


def _final_token(after: Shown | None, place: int, step: Candidate, start: int) -> int:
    """Return the token at a position, from the next call or the step.

    -1 for a token that was discarded at once.
    """
    if after is not None and place < len(after.canvases[0]):
        return after.canvases[0][place]
    return step.ids[place - start] if place - start < step.tokens else -1


@pytest.mark.slow
@BOTH
def test_other_requests_do_not_change_a_reply(pieces: bool) -> None:
    model = loaded(pieces, double=True)
    generator = BlockBackend(model, block=6, per_call=2)
    requests = [
        Request(prompt, num=2, temperature=heat, seed=i, stop=stop_of(">", most=14))
        for i, (prompt, heat) in enumerate(
            zip(PROMPTS, (0.0, 1.0, 0.5, 1.0, 2.0, 1.0), strict=False)
        )
    ]
    requests += [replace(requests[1], partial=one(generator, **vars(requests[1])).candidates[:1])]
    alone = [one(generator, **vars(request)) for request in requests]
    assert len({c.ids for reply in alone for c in reply.candidates}) > len(requests)
    with ledger(model) as book:
        together = generator.next_step(requests)
    for reply, expected in zip(together, alone, strict=True):
        same(reply.candidates, expected.candidates, 1e-6)
        assert (reply.spent.forward_tokens, reply.spent.calls) == (
            expected.spent.forward_tokens,
            expected.spent.calls,
        )
    assert sum(reply.spent.forward_tokens for reply in together) == book.tokens
    generator.forget()
    for reply, expected in zip(generator.next_step(requests[::-1]), alone[::-1], strict=True):
        same(reply.candidates, expected.candidates, 1e-6)
    for request, expected in zip(requests, alone, strict=True):
        same(
            one(generator, **vars(replace(request, num=4))).candidates[:2],
            expected.candidates,
            1e-6,
        )
        same(
            one(generator, **vars(replace(request, num=1, first=1))).candidates,
            expected.candidates[1:],
            1e-6,
        )


@pytest.mark.slow
@BOTH
def test_blocks_count_their_cost(pieces: bool) -> None:
    model = loaded(pieces)
    for prompt in PROMPTS[:4]:
        with ledger(model) as book:
            [(_, spent)] = walk(
                BlockBackend(model, block=4), [Request(prompt, stop=stop_of(">", most=10))], 20
            )
        assert (spent.forward_tokens, spent.calls) == (book.tokens, book.calls)
        with ledger(model) as book:
            reply = one(
                BlockBackend(model, block=4), prompt=prompt, num=3, stop=stop_of(">", most=10)
            )
        assert (reply.spent.forward_tokens, reply.spent.calls, reply.spent.candidates) == (
            book.tokens,
            book.calls,
            3,
        )
        assert book != Ledger()


def test_a_step_that_was_carried_over_costs_nothing() -> None:
    model = loaded(pieces=True)
    before = Candidate(
        "1>", "1>2>(", "stop", 3, overshoot="2>(", ids=tuple(model.vocabulary.encode("1>2>("))
    )
    for generator in (BlockBackend(model), BlockBackend(model, block=1)):
        with ledger(model) as book:
            reply = one(generator, prompt=PROMPTS[0], partial=(before,), num=2)
        assert reply.candidates == (Candidate("2>", "", "stop", 0, "(", (), (), (), ()),) * 2
        assert (book, reply.spent.forward_tokens, reply.spent.calls) == (Ledger(), 0, 0)


def test_unsupported_models_and_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="open_share"):
        BlockBackend(fresh(open_share=0.0))
    for settings in ({"block": 0}, {"per_call": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            BlockBackend(loaded(), **settings)
    with pytest.raises(ParseError, match="unknown symbol"):
        one(BlockBackend(loaded()), prompt="(+ a 1)>")


def test_steps_end_at_the_end_of_the_canvas() -> None:
    """A prompt that leaves no space is refused.

    A step that fills the space ends there with finish `length`.
    """
    model: Loaded = loaded()
    longest = model.config.model.block_size
    generator = BlockBackend(model, block=8)
    recorder = Recorder(generator)
    for space in (1, 5, 11):
        prompt = "1" * (longest - 1 - space)
        reply = one(generator, prompt=prompt, num=6, stop=stop_of("?"))  # which no token spells
        lengths = {step.tokens for step in reply.candidates if step.finish == "length"}
        assert lengths == {space}
        assert all(step.tokens <= space for step in reply.candidates)
    assert max(len(canvas) for call in recorder.shown for canvas in call.canvases) == longest
    with pytest.raises(
        BackendError, match=f"{longest - 1} tokens; the canvases of this model end at {longest}"
    ):
        one(generator, prompt="1" * (longest - 1))
    full = next(step for step in reply.candidates if step.finish == "length")
    with pytest.raises(BackendError, match="end at"):
        one(generator, prompt=prompt, partial=(full,))


def test_a_deterministic_choice_needs_no_seed() -> None:
    generator = BlockBackend(loaded(), block=4, per_call=2)
    cold = [
        one(generator, prompt=PROMPTS[0], temperature=0.0, seed=seed).candidates[0].ids
        for seed in range(3)
    ]
    warm = [
        one(generator, prompt=PROMPTS[0], temperature=1.0, seed=seed).candidates[0].ids
        for seed in range(3)
    ]
    assert len({*cold}) == 1
    assert len({*warm}) > 1
    assert generator.next_step([]) == []
    assert one(generator, prompt=PROMPTS[0], temperature=0.0).spent != Spent()
    assert torch.equal(
        open_alphabet(generator.vocabulary).nonzero()[:, 0],
        torch.tensor([3, *generator.vocabulary.inner_ids]),
    )
