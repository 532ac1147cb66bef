"""Our causal model as a policy, against plain forward passes of a tiny random model."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskdiff.config import ModelConfig
from maskdiff.errors import ConfigError, ParseError
from maskdiff.experiments.distillation import causal_policy as own
from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import groups, lengths
from tests.helpers.distillation_policies import (
    attempted,
    lengthened,
    loaded,
    mixed,
    noise,
    policy_of,
    problems,
    ragged,
    scored,
)
from tests.helpers.dummies import chi_square
from tests.helpers.tiny import tiny_loaded

ONE_IN_A_MILLION = 4.75  # z-value of the chi-square that a right sampler reaches that rarely


@pytest.fixture(scope="module")
def policy() -> OwnPolicy:
    return policy_of()


def behind(policy: OwnPolicy, row: Sequence[int]) -> Tensor:
    """(size,) log-probabilities of the next token of a string: any but PAD, MASK and BOS."""
    logits = scored(policy, [*row, policy.vocabulary.pad])[-1]
    logits[[policy.vocabulary.pad, policy.vocabulary.mask, policy.vocabulary.bos]] = -torch.inf
    return logits.double().log_softmax(-1)


# ------------------------------------------------------------------------------- reading beginnings


def padded(rows: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Rows padded on the left with random tokens, and the padding of each."""
    rng = random.Random(9)
    before = [[rng.randrange(80) for _ in range(width - len(row))] for row in rows]
    return torch.tensor([b + row for b, row in zip(before, rows)]), torch.tensor(
        [len(b) for b in before]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "learned"},
        {"end_positions": True},
        {"k_iter": 3, "n_layer": 1},
        {"use_self_cond": True},
    ],
)
@pytest.mark.parametrize("cuts", [(), (1, 8, 19), tuple(range(1, 25))])
def test_prefix_scores_equal_those_of_a_full_pass(
    changes: dict[str, object], cuts: tuple[int, ...]
) -> None:
    """At once, in pieces and token by token; tokens in the padding make no difference."""
    policy = policy_of(**changes)
    model, rows = policy.loaded.denoiser.model, ragged(7, 25)
    tokens, pads = padded(rows, 25)
    cache = model.start_cache(len(rows), width=25)
    with torch.no_grad():
        for begin, end in zip((0, *cuts), (*cuts, 25)):
            logits = model.read_beginnings(tokens[:, begin:end], pads, cache)
            assert cache.filled == end
            for i, row in enumerate(rows):
                read_so_far = row[: max(0, end - int(pads[i]))]
                if read_so_far:
                    torch.testing.assert_close(
                        logits[i], scored(policy, [*read_so_far, 0])[-1], atol=2e-5, rtol=1e-4
                    )


def test_prefixes_continue_beyond_the_longest_training_string() -> None:
    """Rotary positions have no end: against a model of the same weights that was made for longer
    strings."""
    policy = policy_of()
    model = policy.loaded.denoiser.model
    longer = lengthened(policy, 512).loaded.denoiser.model
    rows = ragged(4, 300, seed=3)
    tokens, pads = padded(rows, 300)
    cache = model.start_cache(4, width=310)
    with torch.no_grad():
        logits = model.read_beginnings(tokens, pads, cache)
        for i, row in enumerate(rows):
            whole = longer.forward_strings(
                torch.tensor([[*row, 0]]), torch.tensor([len(row) + 1]), torch.zeros(1), True
            )
            torch.testing.assert_close(logits[i], whole[0, -1], atol=2e-5, rtol=1e-4)
        for t in range(10):
            logits = model.read_beginnings(torch.full((4, 1), 5 + t), pads, cache)
            rows = [[*row, 5 + t] for row in rows]
        whole = longer.forward_strings(
            torch.tensor([[*rows[-1], 0]]), torch.tensor([311]), torch.zeros(1), True
        )
        torch.testing.assert_close(logits[-1], whole[0, -1], atol=2e-5, rtol=1e-4)
    assert len(model.cos) > 300
    assert torch.equal(model.cos[:128], policy_of().loaded.denoiser.model.cos)


def test_a_selected_row_continues_independently() -> None:
    policy = policy_of()
    model, rows = policy.loaded.denoiser.model, ragged(5, 12, seed=4)
    tokens, pads = padded(rows, 12)
    cache = model.start_cache(5, width=20)
    with torch.no_grad():
        model.read_beginnings(tokens, pads, cache)
        kept = torch.tensor([3, 0, 0])
        cache, pads = cache.select(kept), pads[kept]
        logits = model.read_beginnings(torch.tensor([[7], [8], [9]]), pads, cache)
    for found, i, token in zip(logits, kept.tolist(), (7, 8, 9)):
        torch.testing.assert_close(
            found, scored(policy, [*rows[i], token, 0])[-1], atol=2e-5, rtol=1e-4
        )


# ------------------------------------------------------------------------------------------ prompts


def test_a_prompt_has_the_tokens_of_its_text(policy: OwnPolicy) -> None:
    vocabulary, language = policy.vocabulary, policy.language
    for problem, attempt, feedback in attempted(40):
        shown = tuple(vocabulary.encode(attempt))
        for ids in (shown, (*shown, vocabulary.eos)):
            for parts, text in (
                ((), language.prompt(problem.text)),
                ((None, feedback), language.prompt(problem.text, None, feedback)),
                ((ids,), language.prompt(problem.text, attempt)),
                ((ids, feedback), language.prompt(problem.text, attempt, feedback)),
            ):
                assert policy.prompt(problem, *parts) == (vocabulary.bos, *vocabulary.encode(text))
        assert policy.text((*shown, vocabulary.eos)) == policy.text(shown) == attempt
    problem = problems(1)[0]
    assert policy.text(policy.prompt(problem)[1:]) == problem.text + ">"
    assert policy.text(policy.prompt(problem, None, "")[1:]) == problem.text + "|>"
    assert policy.text(policy.prompt(problem, ())[1:]) == problem.text + ";|>"


def test_a_prompt_keeps_the_tokens_of_the_attempt(policy: OwnPolicy) -> None:
    """Its ids, whatever pieces its text would be cut into."""
    ids, (problem, attempt, feedback) = policy.vocabulary.ids, next(attempted(1))
    apart = tuple(ids[symbol] for symbol in attempt)
    assert apart != tuple(policy.vocabulary.encode(attempt))
    prompt = policy.prompt(problem, apart, feedback)
    at = prompt.index(ids[";"]) + 1
    assert prompt[at : at + len(apart)] == apart
    assert policy.text(prompt[1:]) == policy.language.prompt(problem.text, attempt, feedback)


def test_unknown_symbols_raise_a_one_line_error(policy: OwnPolicy) -> None:
    with pytest.raises(ParseError, match="unknown symbol 'x'"):
        policy.prompt(Problem("x", "(+ x 1)"))
    with pytest.raises(ParseError, match="unknown symbol"):
        policy.prompt(problems(1)[0], (), "é")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_loaded(), "a model of arithmetic; .* take one of arithmetic-corrections"),
        (
            lambda: loaded(causal_length=True),
            "conditioned on the length of its strings; take one trained with causal_length: false",
        ),
        (lambda: loaded(causal_length=True, end_positions=True), "conditioned on the length"),
        (
            lambda: loaded(head="aligned"),
            "this model predicts no next token; take one trained with head: next",
        ),
    ],
)
def test_other_models_are_refused(other, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message) as caught:
        OwnPolicy(other())
    assert "\n" not in str(caught.value)


def test_a_policy_of_characters() -> None:
    policy = policy_of(vocabulary="characters", vocab_size=ModelConfig().vocab_size)
    prompt = policy.prompt(problems(1)[0])
    assert len(prompt) == len(problems(1)[0].text) + 2
    assert policy.text(prompt[1:]) == problems(1)[0].text + ">"
    assert policy.sample([prompt], [1], 1.0, 9)[0]
    assert policy.size == len(policy.language.vocabulary)


def test_a_policy_describes_its_model(policy: OwnPolicy) -> None:
    assert (policy.name, policy.size, policy.large) == ("arithmetic-corrections", 80, False)
    assert OwnPolicy(loaded(), "mine").name == "mine"
    assert [policy.vocabulary.symbols[i] for i in policy.backtracking] == ["!"]
    assert all(weight.requires_grad for weight in policy.module.parameters())
    assert not policy.module.training
    assert lengths([(1, 2), (), (3,)]).tolist() == [2, 0, 1]


# ------------------------------------------------------------------------------------------ drawing


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_every_drawn_token_equals_the_definition(policy: OwnPolicy, temperature: float) -> None:
    """argmax of log p / T + noise of (key, place, symbol), by plain passes; an end ends, and
    nothing else does."""
    limit, prompts = 25, mixed(policy, 20)
    keys = [17 * i - 100 for i in range(20)]
    ended = 0
    for prompt, key, answer in zip(prompts, keys, policy.sample(prompts, keys, temperature, limit)):
        for place, token in enumerate(answer):
            log_p = behind(policy, [*prompt, *answer[:place]])
            expected = (
                log_p / temperature + noise(key, place, policy.size) if temperature else log_p
            )
            assert token == int(expected.argmax())
        assert policy.vocabulary.eos not in answer[:-1]
        assert not {*answer} & {
            policy.vocabulary.pad,
            policy.vocabulary.mask,
            policy.vocabulary.bos,
        }
        assert len(answer) == limit or (
            0 < len(answer) < limit and answer[-1] == policy.vocabulary.eos
        )
        ended += answer[-1] == policy.vocabulary.eos
    assert ended > 2
    assert ended < 20 or temperature == 0


@pytest.mark.slow
def test_an_answer_does_not_depend_on_its_batch(
    policy: OwnPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, keys = mixed(policy, 16), list(range(100, 116))
    together = policy.sample(prompts, keys, 1.0, 30)
    assert 2 < sum(answer[-1] == policy.vocabulary.eos for answer in together) < 14
    assert len({*map(len, together)}) > 5
    for prompt, key, answer in zip(prompts, keys, together):
        assert policy.sample([prompt], [key], 1.0, 30) == [answer]
    order = random.Random(0).sample(range(16), 16)
    assert policy.sample([prompts[i] for i in order], [keys[i] for i in order], 1.0, 30) == [
        together[i] for i in order
    ]
    seen, plain = list[int](), OwnPolicy._sample
    monkeypatch.setattr(
        OwnPolicy,
        "_sample",
        lambda self, rows, *more: seen.append(len(rows)) or plain(self, rows, *more),
    )
    for name, value, most in (
        ("ROWS", 3, 3),
        ("DRAWN", 2 * max(map(len, prompts)), 3),
        ("DRAWN", 1, 1),
    ):
        monkeypatch.setattr(own, name, value)
        seen.clear()
        assert policy.sample(prompts, keys, 1.0, 30) == together
        assert (max(seen), sum(seen)) == (most, 16)
    assert policy.sample([], [], 1.0, 30) == []


def test_keys_decide_the_draws_and_limits_only_truncate(policy: OwnPolicy) -> None:
    prompt = mixed(policy, 40)[3]
    keys = [5, 5, -(2**63), 2**63 - 1, 6, 5]
    answers = policy.sample([prompt] * 6, keys, 1.0, 30)
    assert answers[0] == answers[1] == answers[5]
    assert len({*answers}) == 4
    for limit in (0, 1, 2, 7):
        assert policy.sample([prompt] * 6, keys, 1.0, limit) == [
            answer[:limit] for answer in answers
        ]
    assert len({*policy.sample([prompt] * 6, keys, 0.0, 30)}) == 1


def shares(log_p: Tensor, temperature: float, least: float) -> dict[str, float]:
    """Probabilities of tokens at a temperature; those of less than `least` together."""
    p = (log_p / temperature).softmax(-1).tolist()
    often = {str(i): share for i, share in enumerate(p) if share >= least}
    return {**often, "rest": 1 - sum(often.values())}


def test_first_tokens_are_draws_from_the_model(policy: OwnPolicy) -> None:
    """Chi-square of 4,000 keys; another temperature, and another prompt, are rejected."""
    prompt, other = mixed(policy, 40)[7], mixed(policy, 40)[12]
    firsts = [str(answer[0]) for answer in policy.sample([prompt] * 4000, range(4000), 0.8, 1)]

    def z(log_p: Tensor, temperature: float) -> float:
        truth = shares(log_p, temperature, 5 / 4000)
        assert len(truth) > 15
        return chi_square([token if token in truth else "rest" for token in firsts], truth)

    assert z(behind(policy, prompt), 0.8) < ONE_IN_A_MILLION
    assert z(behind(policy, prompt), 1.0) > ONE_IN_A_MILLION
    assert z(behind(policy, other), 0.8) > ONE_IN_A_MILLION


# ------------------------------------------------------------------------------------------- logits


def test_row_t_scores_token_t(policy: OwnPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain passes over what stands before each token; in a batch, alone, and in small
    groups, which are counted."""
    prompts = mixed(policy, 24)
    answers = policy.sample(prompts, list(range(24)), 1.0, 20)
    answers[5] = ()
    with torch.no_grad():
        together = policy.logits(prompts, answers)
        assert together.shape == (24, max(map(len, answers)), 80)
        assert together.dtype == torch.float32
        for i, (prompt, answer) in enumerate(zip(prompts, answers)):
            alone = policy.logits([prompt], [answer])
            assert alone.shape == (1, len(answer), 80)
            torch.testing.assert_close(together[i, : len(answer)], alone[0], atol=1e-5, rtol=0)
            for t in {0, 1, len(answer) - 1} & {*range(len(answer))}:
                before = [*prompt, *answer[:t]]
                torch.testing.assert_close(
                    alone[0, t], scored(policy, [*before, 0])[-1], atol=1e-5, rtol=1e-5
                )
        sizes, plain = list[tuple[int, ...]](), OwnPolicy._forward
        monkeypatch.setattr(
            OwnPolicy,
            "_forward",
            lambda self, rows: sizes.append(tuple(map(len, rows))) or plain(self, rows),
        )
        for limit in (1, 60, 400):
            sizes.clear()
            monkeypatch.setattr(own, "SCORED", limit)
            torch.testing.assert_close(policy.logits(prompts, answers), together, atol=1e-5, rtol=0)
            assert sum(map(len, sizes)) == 24
            assert all(len(group) * max(group) <= limit or len(group) == 1 for group in sizes)
            assert (max(map(len, sizes)) > 1) == (limit > 1)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 40), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_groups_are_as_large_as_the_limits_allow(sizes: list[int], most: int, rows: int) -> None:
    """Groups hold each string once, shorter ones first; no group could take one more."""
    found = groups(sizes, most, rows)
    assert [i for group in found for i in group] == sorted(
        range(len(sizes)), key=lambda i: sizes[i]
    )
    for group in found:
        assert len(group) == 1 or (len(group) <= rows and len(group) * sizes[group[-1]] <= most)
    for group, after in zip(found, found[1:]):
        assert group
        assert len(group) == rows or (len(group) + 1) * sizes[after[0]] > most


def test_greedy_answers_are_the_argmax_of_their_logits(policy: OwnPolicy) -> None:
    prompts = mixed(policy, 16)
    answers = policy.sample(prompts, [0] * 16, 0.0, 12)
    with torch.no_grad():
        scores = policy.logits(prompts, answers)
    scores[..., [policy.vocabulary.pad, policy.vocabulary.mask, policy.vocabulary.bos]] = -torch.inf
    for row, answer in zip(scores, answers):
        assert row[: len(answer)].argmax(-1).tolist() == list(answer)


def test_logits_have_gradients_where_they_are_enabled() -> None:
    """The gradients of a batch are the sums of those of its answers: padding contributes
    nothing."""
    policy = policy_of()
    prompts = mixed(policy, 16)
    answers = policy.sample(prompts, list(range(16)), 1.0, 12)

    def gradient(chosen: Sequence[int]) -> Tensor:
        policy.module.zero_grad()
        scores = policy.logits([prompts[i] for i in chosen], [answers[i] for i in chosen])
        assert scores.requires_grad
        log_p = scores.log_softmax(-1)
        sum(
            log_p[k, t, token] for k, i in enumerate(chosen) for t, token in enumerate(answers[i])
        ).backward()
        return torch.cat(
            [
                weight.grad.flatten()
                for weight in policy.module.parameters()
                if weight.grad is not None
            ]
        )

    whole = gradient(range(16))
    assert float(whole.norm()) > 1
    torch.testing.assert_close(whole, sum(gradient([i]) for i in range(16)), atol=2e-3, rtol=1e-3)
    with torch.no_grad():
        assert not policy.logits(prompts, answers).requires_grad
    policy.module.requires_grad_(False)
    assert not policy.logits(prompts, answers).requires_grad


@pytest.mark.parametrize("changes", [{}, {"end_positions": True}, {"positions": "learned"}])
def test_strings_beyond_the_training_length_are_scored(changes: dict[str, object]) -> None:
    policy = policy_of(**changes)
    given = [(policy.vocabulary.bos, *ragged(1, 100)[0])], [tuple(ragged(1, 60, seed=1)[0])]
    found = policy.logits(*given)
    assert found.shape == (1, 60, 80)
    torch.testing.assert_close(found, lengthened(policy, 512).logits(*given), atol=2e-5, rtol=1e-4)


def test_a_twin_has_its_own_weights() -> None:
    policy = policy_of()
    prompts = mixed(policy, 16)
    answers = policy.sample(prompts, [1] * 16, 1.0, 9)
    twin, other = policy.twin(), policy.twin()
    assert isinstance(twin, OwnPolicy)
    assert (twin.name, twin.size, twin.vocabulary) == (policy.name, policy.size, policy.vocabulary)
    before = policy.logits(prompts, answers).detach()
    assert torch.equal(twin.logits(prompts, answers), before)
    assert not {w.data_ptr() for w in twin.module.parameters()} & {
        w.data_ptr() for w in policy.module.parameters()
    }
    with torch.no_grad():
        for weight in twin.module.parameters():
            weight.add_(0.1)
    assert not torch.allclose(twin.logits(prompts, answers), before, atol=1e-3)
    assert torch.equal(policy.logits(prompts, answers), before)
    with torch.no_grad():
        for weight in policy.module.parameters():
            weight.zero_()
    assert torch.equal(other.logits(prompts, answers), before)
    assert (
        twin.sample(prompts, [1] * 16, 1.0, 9) != answers == other.sample(prompts, [1] * 16, 1.0, 9)
    )
