"""The causal mode by steps equals one continuous draw, one pass, and any batch."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

from maskdiff.checkpoint import Loaded
from maskdiff.decoding import CausalModel
from maskdiff.errors import ConfigError, ParseError
from maskdiff.models import caches
from maskdiff.stepwise import causal
from maskdiff.stepwise.causal import CausalBackend
from maskdiff.stepwise.protocol import BackendError, Candidate, Request, Spent, Stop
from maskdiff.stepwise.writing import answer_ids
from tests.helpers.completion import ONE_IN_A_MILLION, chi_square
from tests.helpers.fuzz import both_seeds, cases
from tests.helpers.stepwise import (
    STEPS,
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

PROMPTS = [STEPS.prompt(problem) for problem in problems(120, seed=2)]
TOKENS = 20  # of an answer at most
BOTH = pytest.mark.parametrize("pieces", [False, True], ids=["characters", "pieces"])


def next_log_probs(model: Loaded, strings: list[list[int]]) -> torch.Tensor:
    """Return log p(token i

    tokens before) of BOS and a string, by one pass without a cache.|Shape (strings, width, vocab).
    """
    vocabulary = model.vocabulary
    length = torch.tensor([len(ids) + 1 for ids in strings])
    tokens = torch.full((len(strings), int(length.max())), vocabulary.pad)
    for row, ids in zip(tokens, strings, strict=True):
        row[: len(ids) + 1] = torch.tensor([vocabulary.bos, *ids])
    with torch.no_grad():
        logits = model.denoiser.model.forward_strings(
            tokens, length, torch.zeros(len(strings)), causal=True
        )
    allowed = torch.zeros(len(vocabulary), dtype=torch.bool)
    allowed[[*vocabulary.inner_ids, vocabulary.eos]] = True
    return logits.double().masked_fill(~allowed, -math.inf).log_softmax(-1)


@pytest.mark.slow
@BOTH
def test_steps_join_to_the_whole_answer(pieces: bool) -> None:
    """On 120 prompts greedy steps have the ids of one continuous draw.

    Log-probabilities equal those of one pass.
    """
    model = loaded(pieces, double=True)
    generator = CausalBackend(model)
    whole = generator.next_step(
        [Request(prompt, temperature=0.0, stop=stop_of(most=TOKENS)) for prompt in PROMPTS]
    )
    generator.forget()
    walked = walk(generator, [Request(prompt, temperature=0.0) for prompt in PROMPTS], TOKENS)
    # No two tokens are so close that rounding could decide between them.
    assert min(gap for reply in whole for gap in reply.candidates[0].gaps) > 5e-5
    strings = []
    for prompt, reply, (steps, _) in zip(PROMPTS, whole, walked, strict=True):
        [once] = reply.candidates
        assert ids_of(steps) == once.ids
        assert (
            (steps[-1].finish == "end")
            == (once.finish == "end")
            == (once.ids[-1] == model.vocabulary.eos)
        )
        assert "".join(step.text for step in steps) == once.text == once.step
        assert "".join(step.step for step in steps) + steps[-1].overshoot == once.text
        assert all(
            step.step.count(">") == 1 and step.step[-1] == ">"
            for step in steps
            if step.finish == "stop"
        )
        strings.append([*model.vocabulary.encode(prompt), *once.ids])
    log_p = next_log_probs(model, strings)
    for i, (ids, reply, (steps, _)) in enumerate(zip(strings, whole, walked, strict=True)):
        [once] = reply.candidates
        rows = log_p[i, len(ids) + 1 - once.tokens : len(ids) + 1]  # of the drawn tokens
        full = float(rows.gather(1, torch.tensor(once.ids)[:, None]).sum())
        assert sum(once.log_probs) == pytest.approx(full, abs=1e-5)
        assert sum(p for step in steps for p in step.log_probs) == pytest.approx(full, abs=1e-5)
        entropies = [e for step in steps for e in step.entropies]
        assert entropies == pytest.approx(
            (-(rows.exp() * rows.nan_to_num(neginf=0.0)).sum(-1)).tolist(), abs=1e-5
        )
        gaps = [gap for step in steps for gap in step.gaps]
        assert gaps == pytest.approx(
            (rows.exp().topk(2).values @ torch.tensor([1.0, -1.0]).double()).tolist(), abs=1e-5
        )
    # None of this is empty: many answers have several steps, some end by themselves, and pieces do
    # reach over a boundary.
    assert sum(len(steps) > 2 for steps, _ in walked) >= 9
    assert sum(steps[-1].finish == "end" for steps, _ in walked) > 5
    assert any(step.overshoot for steps, _ in walked for step in steps) == pieces
    assert (
        any(step.tokens == 0 for steps, _ in walked for step in steps) == pieces
    )  # a whole step that was carried over


def some_requests(model: Loaded) -> list[Request]:
    """Return requests of several temperatures, prompts and lengths of the partial answer.

    One partial answer is continued twice.
    """
    generator = CausalBackend(model)
    requests = [
        Request(prompt, num=3, temperature=heat, seed=i, stop=stop_of(">", most=10))
        for i, (prompt, heat) in enumerate(
            zip(PROMPTS, (0.0, 0.5, 1.0, 1.0, 2.0, 1.0), strict=False)
        )
    ]
    begun = [
        replace(r, partial=(c,))
        for r in requests[2:4]
        for c in one(generator, **vars(r)).candidates[:2]
    ]
    return [*requests, *begun, replace(begun[-1], seed=99)]


@pytest.mark.slow
@BOTH
def test_other_requests_do_not_change_a_reply(
    pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(pieces)
    requests = some_requests(model)
    alone = [CausalBackend(model).next_step([request])[0].candidates for request in requests]
    assert len({c.step for steps in alone for c in steps}) > len(requests)
    generator = CausalBackend(model)
    for _ in range(2):  # the second time all nodes are cached
        for reply, expected in zip(generator.next_step(requests), alone, strict=True):
            same(reply.candidates, expected)
    generator.forget()
    for reply, expected in zip(generator.next_step(requests[::-1]), alone[::-1], strict=True):
        same(reply.candidates, expected)
    for request, expected in zip(requests, alone, strict=True):
        same(one(generator, **vars(replace(request, num=5))).candidates[:3], expected)
        same(one(generator, **vars(replace(request, num=2, first=1))).candidates, expected[1:])
    generator.memory = 0  # forget before every request
    for reply, expected in zip(generator.next_step(requests), alone, strict=True):
        same(reply.candidates, expected)
    fresh_backend = CausalBackend(model)
    fresh_backend.next_step(requests)
    assert generator.nodes == fresh_backend.nodes == len(generator.after)


@pytest.mark.slow
@BOTH
def test_one_token_at_a_time_equals_the_whole_step(pieces: bool) -> None:
    """A step requested token by token equals the step requested at once, with its figures."""
    model = loaded(pieces)
    for number in range(12):
        request = Request(
            PROMPTS[number],
            temperature=1.0,
            seed=number,
            first=number % 3,
            stop=stop_of(">", most=12),
        )
        [expected] = one(CausalBackend(model), **vars(request)).candidates
        generator, parts = CausalBackend(model), []
        while not parts or (parts[-1].finish == "length" and len(parts) < 12):
            single = replace(request, partial=tuple(parts), stop=stop_of(">", most=1))
            parts += one(generator, **vars(single)).candidates
        joined = Candidate(
            "".join(part.step for part in parts),
            "".join(part.text for part in parts),
            parts[-1].finish,
            len(parts),
            parts[-1].overshoot,
            ids_of(parts),
            *(
                tuple(x for part in parts for x in getattr(part, name))
                for name in ("log_probs", "entropies", "gaps")
            ),
        )
        same([joined], [expected])


@BOTH
def test_forgetting_costs_tokens_and_does_not_change_replies(pieces: bool) -> None:
    model = loaded(pieces)
    request = Request(PROMPTS[3], num=2, seed=5, stop=stop_of(">", most=9))
    generator = CausalBackend(model)
    first = generator.next_step([request])[0]
    later = replace(request, partial=first.candidates[1:])
    known = generator.next_step([later])[0]
    generator.forget()
    fresh_backend = generator.next_step([later])[0]
    same(known.candidates, fresh_backend.candidates)
    path = (
        len(model.vocabulary.encode(request.prompt)) + 1 + first.candidates[1].tokens
    )  # BOS, prompt and first step
    unread = int(first.candidates[1].finish != "end")  # its last token
    assert fresh_backend.spent.forward_tokens - known.spent.forward_tokens == path - unread


@pytest.mark.slow
@BOTH
def test_a_tiny_temperature_equals_temperature_zero(pieces: bool) -> None:
    generator, stop = CausalBackend(loaded(pieces)), stop_of(most=TOKENS)
    cold, cool, warm = (
        [
            reply.candidates[0].ids
            for reply in generator.next_step([Request(p, (), 1, heat, stop) for p in PROMPTS[:60]])
        ]
        for heat in (0.0, 1e-6, 1.0)
    )
    assert cold == cool
    assert sum(a != b for a, b in zip(cold, warm, strict=True)) > 30


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("heat", [1.0, 0.6])
def test_draws_follow_the_model(pieces: bool, heat: float) -> None:
    """Compare 4,000 first tokens with softmax(log p / T), at a level of one in a million.

    The test has power: draws of the other temperature are distinguished, and their distance in
    total variation is asserted, too.
    """
    model, prompt = loaded(pieces, double=True), PROMPTS[1]
    ids = model.vocabulary.encode(prompt)
    log_p = next_log_probs(model, [[*ids, model.vocabulary.eos]])[0, -1]
    truth, other = ((log_p / t).softmax(-1) for t in (heat, 1.6 - heat))
    assert 0.05 < float((truth - other).abs().sum() / 2) < 0.35
    reply = one(
        CausalBackend(model),
        prompt=prompt,
        num=4000,
        temperature=heat,
        stop=stop_of(most=1),
        seed=11,
    )
    drawn = [candidate.ids[0] for candidate in reply.candidates]
    assert chi_square(drawn, dict(enumerate(truth.tolist()))) < ONE_IN_A_MILLION
    assert chi_square(drawn, dict(enumerate(other.tolist()))) > ONE_IN_A_MILLION
    for candidate in reply.candidates[:50]:  # at temperature 1 for any temperature of the draw
        assert candidate.log_probs[0] == pytest.approx(float(log_p[candidate.ids[0]]), abs=1e-5)
    assert reply.spent.forward_tokens == len(ids) + 1  # the last token of an answer costs nothing


@pytest.mark.slow
@BOTH
def test_draws_of_two_tokens_follow_the_model(pieces: bool) -> None:
    """The second token depends on the first through the model only.

    No random number is used at two positions.
    """
    model, prompt = loaded(pieces, double=True), PROMPTS[1]
    ids, inner, eos = (
        model.vocabulary.encode(prompt),
        list(model.vocabulary.inner_ids),
        model.vocabulary.eos,
    )
    p = next_log_probs(model, [[*ids, first, eos] for first in inner])[
        :, -2:
    ].exp()  # (first, 2, vocab)
    truth = {
        (a, b): float(p[i, 0, a] * p[i, 1, b]) for i, a in enumerate(inner) for b in (*inner, eos)
    }
    truth[(eos,)] = float(p[0, 0, eos])
    assert sum(truth.values()) == pytest.approx(1.0)
    reply = one(CausalBackend(model), prompt=prompt, num=3000, stop=stop_of(most=2), seed=12)
    drawn = [candidate.ids for candidate in reply.candidates]
    assert chi_square(drawn, truth) < ONE_IN_A_MILLION


@pytest.mark.slow
@BOTH
def test_steps_count_their_cost(pieces: bool) -> None:
    """For one problem tokens and calls equal those of the hook.

    For a batch the tokens of all problems sum to those of the hook.
    """
    model = loaded(pieces)
    for prompt in PROMPTS[:6]:
        generator, partial, spent = CausalBackend(model), (), Spent()
        with ledger(model) as book:
            for number in range(4):
                reply = one(
                    generator,
                    prompt=prompt,
                    partial=partial,
                    num=3,
                    seed=number,
                    stop=stop_of(">", most=8),
                )
                partial, spent = (*partial, reply.candidates[number % 3]), spent + reply.spent
                if partial[-1].finish == "end":
                    break
        assert (spent.forward_tokens, spent.calls) == (book.tokens, book.calls)
        assert spent.candidates == 3 * len(partial)
    generator = CausalBackend(model)
    with ledger(model) as book:
        walked = walk(generator, [Request(prompt) for prompt in [*PROMPTS[:20], PROMPTS[0]]], 12)
    assert sum(spent.forward_tokens for _, spent in walked) == book.tokens
    assert max(spent.calls for _, spent in walked) <= book.calls


def test_a_partial_answer_is_not_tokenised_again() -> None:
    """`)>(` as one token and as three tokens are two histories.

    Ids decide; text is tokenised only if no ids spell it.
    """
    model = loaded(pieces=True)
    vocabulary, prompt = model.vocabulary, PROMPTS[0]
    text = ")>14 "
    cut, single = vocabulary.encode(text), [vocabulary.ids[symbol] for symbol in text]
    assert cut != single
    assert vocabulary.decode(cut) == vocabulary.decode(single) == text
    as_cut, as_single, no_ids, foreign, beyond = (
        Candidate(text, text, "length", len(ids), ids=tuple(ids))
        for ids in (cut, single, (), single[::-1], (50_000, -1))
    )
    by_pieces, by_characters, *others = (
        one(
            CausalBackend(model), prompt=prompt, partial=(c,), num=3, stop=stop_of(most=6)
        ).candidates
        for c in (as_cut, as_single, no_ids, foreign, beyond)
    )
    assert [c.log_probs for c in by_pieces] != [c.log_probs for c in by_characters]
    for other in others:  # another backend's numbers are of another vocabulary
        same(other, by_pieces)
    ended = Candidate("1", "1", "end", 2, ids=(vocabulary.ids["1"], vocabulary.eos))
    assert answer_ids(Request(prompt, (as_single, ended)), vocabulary) == [*single, *ended.ids]


def test_unsupported_models_and_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="causal_length: false"):
        CausalBackend(fresh(causal_length=True))
    with pytest.raises(ConfigError, match="head: next"):
        CausalBackend(fresh(head="aligned"))
    generator = CausalBackend(loaded())
    with pytest.raises(ParseError, match="unknown symbol"):
        one(generator, prompt="(+ a 1)>")
    with pytest.raises(BackendError, match=str(causal.LONGEST)):
        one(generator, prompt="1" * (causal.LONGEST + 1))
    assert not generator.children  # refused requests leave no node
    long = one(
        generator, prompt="1" * 300, num=2, temperature=0.0, stop=Stop((), 3)
    )  # beyond the canvases of the training
    assert all(candidate.tokens > 0 for candidate in long.candidates)


@pytest.mark.slow
@pytest.mark.parametrize("segment", [1, 2, 4, 7, 128])
def test_deep_branching_histories_equal_single_passes(
    segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of a tree, read in any order, have the log-probabilities of one pass.

    Segments end before, at and after a branch.
    """
    monkeypatch.setattr(caches, "SEGMENT", segment)
    model, rng = loaded(False, double=True), random.Random(segment)
    inner = list(model.vocabulary.inner_ids)
    strings = [rng.choices(inner, k=30)]
    while len(strings) < 12:
        kept = rng.choice(strings)[: rng.randrange(30)]
        strings.append([*kept, *rng.choices(inner, k=30 - len(kept))])
    expected = next_log_probs(model, strings)
    reader = CausalModel(model.denoiser, model.lengths).tree()
    numbers, left = dict[tuple[int, ...], int](), []
    for row, ids in enumerate(strings):
        for end in range(len(ids)):
            history = tuple(ids[:end])
            if history not in numbers:
                numbers[history] = -1
                left.append((history, row))
    rng.shuffle(left)
    left.sort(key=lambda item: len(item[0]))  # a parent comes before its children
    known = 0
    while left:
        batch, left = left[: (size := rng.randint(1, 40))], left[size:]
        for history, _ in batch:
            numbers[history] = known
            known += 1
        parents = torch.tensor([numbers[history[:-1]] if history else -1 for history, _ in batch])
        tokens = torch.tensor([history[-1] if history else 0 for history, _ in batch])
        log_p = reader.extend(parents, tokens)
        for got, (history, row) in zip(log_p, batch, strict=True):
            torch.testing.assert_close(got, expected[row, len(history) + 1], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_memory_is_bounded_by_bytes() -> None:
    """The cache holds at most `memory` plus the tokens of a call; answers do not change."""
    model = loaded()
    small, large = CausalBackend(model, memory=100_000), CausalBackend(model)
    before = small.token_bytes
    for i in range(0, 60, 3):
        requests = [Request(prompt, stop=stop_of(most=8), seed=i) for prompt in PROMPTS[i : i + 3]]
        most = sum(len(model.vocabulary.encode(request.prompt)) + 9 for request in requests)
        answers = small.next_step(requests), large.next_step(requests)
        for reply, expected in zip(*answers, strict=True):
            same(reply.candidates, expected.candidates)
        cache = small.tree.cache
        assert small.nodes * small.token_bytes <= small.memory + most * small.token_bytes
        held = sum(x.nbytes for x in (cache.keys, cache.values, cache.paths, cache.above))
        assert held <= max(64, small.nodes) * small.token_bytes
    assert small.nodes < large.nodes
    assert small.token_bytes == before


@both_seeds
def test_passes_hold_all_nodes_and_keep_runs_together(seed: int) -> None:
    """Every node is in one pass; a run of parents and children has separate passes."""
    for rng in cases(500, seed, 1.0):
        first, size, parents, runs = rng.randrange(5), rng.randrange(1, 6), [], []
        for _ in range(rng.randrange(1, 8)):
            run = rng.choice([1, 1, 1, 2, 9, 1500])
            runs.append(run)
            parents += [-1, *range(first + len(parents), first + len(parents) + run - 1)]
        passes = causal._passes(parents, first, size)
        assert sum(passes) == len(parents)
        ends = list(itertools.accumulate(passes))
        for start, end in zip([0, *ends], ends, strict=False):
            inner = [parents[i] == first + i - 1 for i in range(start + 1, end)]
            assert all(inner) or (not any(inner) and end - start <= size)
            assert end - start <= max(causal.CHAIN, size)
        assert len(passes) <= sum(-(-run // causal.CHAIN) for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("segment", [1, 5])
def test_long_prompts_are_read_in_chains(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading prompts in parts of chains gives the answers of reading them node by node."""
    model = loaded(pieces=True, double=True)
    asked = some_requests(model)[1::2]
    expected = CausalBackend(model).next_step(asked)
    monkeypatch.setattr(causal, "PASS", 1)
    monkeypatch.setattr(caches, "SEGMENT", segment)
    for chain in (1, 3):
        monkeypatch.setattr(causal, "CHAIN", chain)
        for reply, other in zip(CausalBackend(model).next_step(asked), expected, strict=True):
            for a, b in zip(reply.candidates, other.candidates, strict=True):
                assert (a.step, a.ids) == (b.step, b.ids)
                assert a.log_probs == pytest.approx(b.log_probs, abs=1e-9)
