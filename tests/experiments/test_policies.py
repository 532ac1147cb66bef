"""Our model as a policy, and arithmetic as an environment: against plain forward passes of a tiny
random model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskdiff.config import ModelConfig
from maskdiff.errors import ConfigError, DataError, ParseError
from maskdiff.experiments.distillation import causal_policy as own
from maskdiff.experiments.distillation.arithmetic import ArithmeticEnvironment
from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.environment import Outcome, Problem, evaluate_all
from maskdiff.experiments.distillation.policy import groups, lengths
from maskdiff.languages import ArithmeticCorrections, split_of
from maskdiff.languages.arithmetic_corrections import FEEDBACK, feedback_text
from maskdiff.languages.arithmetic_corrections.slips import write_answer
from tests.helpers.distillation_policies import (
    BOUNDS,
    LANGUAGE,
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
from tests.helpers.step_trees import read, reducts, value_of, write
from tests.helpers.tiny import tiny_loaded

ONE_IN_A_MILLION = 4.75  # z-value of the chi-square that a right sampler reaches that rarely


@pytest.fixture(scope="module")
def policy() -> OwnPolicy:
    return policy_of()


def behind(policy: OwnPolicy, row: Sequence[int]) -> Tensor:
    """(size,) log-probabilities of what may follow a string: anything but PAD, MASK and BOS."""
    logits = scored(policy, [*row, policy.vocabulary.pad])[-1]
    logits[[policy.vocabulary.pad, policy.vocabulary.mask, policy.vocabulary.bos]] = -torch.inf
    return logits.double().log_softmax(-1)


# ------------------------------------------------------------------------------- reading beginnings


def padded(rows: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Rows that end together, with whatever stands before them, and how much of that each has."""
    rng = random.Random(9)
    before = [[rng.randrange(80) for _ in range(width - len(row))] for row in rows]
    return torch.tensor([b + row for b, row in zip(before, rows)]), torch.tensor(
        [len(b) for b in before]
    )


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
def test_beginnings_are_scored_as_by_a_full_pass(
    changes: dict[str, object], cuts: tuple[int, ...]
) -> None:
    """In one go, in pieces and token by token; what is behind the pads makes no difference."""
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


def test_beginnings_go_on_beyond_the_longest_string_of_the_training() -> None:
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


def test_a_row_of_a_selection_goes_on_alone() -> None:
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


def test_a_prompt_is_the_text_s_own_pieces(policy: OwnPolicy) -> None:
    vocabulary, language = policy.vocabulary, policy.language
    for problem, attempt, said in attempted(40):
        shown = tuple(vocabulary.encode(attempt))
        for ids in (shown, (*shown, vocabulary.eos)):
            for parts, text in (
                ((), language.prompt(problem.text)),
                ((None, said), language.prompt(problem.text, None, said)),
                ((ids,), language.prompt(problem.text, attempt)),
                ((ids, said), language.prompt(problem.text, attempt, said)),
            ):
                assert policy.prompt(problem, *parts) == (vocabulary.bos, *vocabulary.encode(text))
        assert policy.text((*shown, vocabulary.eos)) == policy.text(shown) == attempt
    problem = problems(1)[0]
    assert policy.text(policy.prompt(problem)[1:]) == problem.text + ">"
    assert policy.text(policy.prompt(problem, None, "")[1:]) == problem.text + "|>"
    assert policy.text(policy.prompt(problem, ())[1:]) == problem.text + ";|>"


def test_an_attempt_is_shown_as_it_was_drawn(policy: OwnPolicy) -> None:
    """Its ids, whatever pieces its text would be cut into."""
    ids, (problem, attempt, said) = policy.vocabulary.ids, next(attempted(1))
    apart = tuple(ids[symbol] for symbol in attempt)
    assert apart != tuple(policy.vocabulary.encode(attempt))
    prompt = policy.prompt(problem, apart, said)
    at = prompt.index(ids[";"]) + 1
    assert prompt[at : at + len(apart)] == apart
    assert policy.text(prompt[1:]) == policy.language.prompt(problem.text, attempt, said)


def test_foreign_symbols_are_an_error_of_one_line(policy: OwnPolicy) -> None:
    with pytest.raises(ParseError, match="unknown symbol 'x'"):
        policy.prompt(Problem("x", "(+ x 1)"))
    with pytest.raises(ParseError, match="unknown symbol"):
        policy.prompt(problems(1)[0], (), "é")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_loaded(), "a model of arithmetic; .* take one of arithmetic-corrections"),
        (
            lambda: loaded(causal_length=True),
            "told how long its strings are; take one trained with causal_length: false",
        ),
        (lambda: loaded(causal_length=True, end_positions=True), "told how long its strings are"),
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


def test_what_a_policy_says_of_itself(policy: OwnPolicy) -> None:
    assert (policy.name, policy.size, policy.large) == ("arithmetic-corrections", 80, False)
    assert OwnPolicy(loaded(), "mine").name == "mine"
    assert [policy.vocabulary.symbols[i] for i in policy.backtracking] == ["!"]
    assert all(weight.requires_grad for weight in policy.module.parameters())
    assert not policy.module.training
    assert lengths([(1, 2), (), (3,)]).tolist() == [2, 0, 1]


# ------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_every_token_drawn_is_the_definition_s(policy: OwnPolicy, temperature: float) -> None:
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


def test_an_answer_is_the_same_alone_and_in_any_batch(
    policy: OwnPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, keys = mixed(policy, 24), list(range(100, 124))
    together = policy.sample(prompts, keys, 1.0, 30)
    assert 3 < sum(answer[-1] == policy.vocabulary.eos for answer in together) < 21
    assert len({*map(len, together)}) > 5
    for prompt, key, answer in zip(prompts, keys, together):
        assert policy.sample([prompt], [key], 1.0, 30) == [answer]
    order = random.Random(0).sample(range(24), 24)
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
        assert (max(seen), sum(seen)) == (most, 24)
    assert policy.sample([], [], 1.0, 30) == []


def test_keys_are_luck_and_limits_only_cut(policy: OwnPolicy) -> None:
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
        for room in (1, 60, 400):
            sizes.clear()
            monkeypatch.setattr(own, "SCORED", room)
            torch.testing.assert_close(policy.logits(prompts, answers), together, atol=1e-5, rtol=0)
            assert sum(map(len, sizes)) == 24
            assert all(len(group) * max(group) <= room or len(group) == 1 for group in sizes)
            assert (max(map(len, sizes)) > 1) == (room > 1)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 40), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_groups_are_as_large_as_there_is_room(sizes: list[int], most: int, rows: int) -> None:
    """Shorter strings first, each once; none could have taken one more."""
    found = groups(sizes, most, rows)
    assert [i for group in found for i in group] == sorted(
        range(len(sizes)), key=lambda i: sizes[i]
    )
    for group in found:
        assert len(group) == 1 or (len(group) <= rows and len(group) * sizes[group[-1]] <= most)
    for group, after in zip(found, found[1:]):
        assert group
        assert len(group) == rows or (len(group) + 1) * sizes[after[0]] > most


def test_greedy_answers_are_the_likeliest_by_their_own_logits(policy: OwnPolicy) -> None:
    prompts = mixed(policy, 16)
    answers = policy.sample(prompts, [0] * 16, 0.0, 12)
    with torch.no_grad():
        scores = policy.logits(prompts, answers)
    scores[..., [policy.vocabulary.pad, policy.vocabulary.mask, policy.vocabulary.bos]] = -torch.inf
    for row, answer in zip(scores, answers):
        assert row[: len(answer)].argmax(-1).tolist() == list(answer)


def test_logits_have_gradients_where_they_are_enabled() -> None:
    """And those of a batch are the sums of those of its answers: nothing that is padding takes
    part."""
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
def test_strings_are_scored_however_long(changes: dict[str, object]) -> None:
    policy = policy_of(**changes)
    given = [(policy.vocabulary.bos, *ragged(1, 100)[0])], [tuple(ragged(1, 60, seed=1)[0])]
    found = policy.logits(*given)
    assert found.shape == (1, 60, 80)
    torch.testing.assert_close(found, lengthened(policy, 512).logits(*given), atol=2e-5, rtol=1e-4)


def test_a_twin_has_weights_of_its_own() -> None:
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


# -------------------------------------------------------------------------------------- environment


def solved(problem: str) -> str:
    """A solution that reduces in random order, by trees."""
    tree, steps, dice = read(problem), [], random.Random(problem)
    while options := reducts(tree or 0):
        tree = dice.choice(options)
        steps.append(write(tree))
    return ">".join(steps)


def test_problems_are_held_out_different_and_the_seed_s() -> None:
    language = ArithmeticCorrections(LANGUAGE)
    environment = ArithmeticEnvironment(language)
    first = environment.problems(60, 3)
    assert (
        environment.problems(60, 3)
        == first
        == ArithmeticEnvironment(language, "leak").problems(60, 3)
    )
    assert len({problem.text for problem in first}) == 60
    assert all(
        problem.name == problem.text and split_of(problem.text) == "test" for problem in first
    )
    others = environment.problems(60, 4)
    assert others != first
    assert len({*first} & {*others}) < 30
    assert environment.problems(0, 3) == []


def test_all_problems_there_are_are_found_and_no_more() -> None:
    """Of a language small enough to write all of them down."""
    small = replace(LANGUAGE, operators="+*", min_int=1, max_int=2, max_depth=2)
    every = {
        f"({a} {left} {right})"
        for a in "+*"
        for left, right in product(
            [f"({op} {x} {y})" for op in "+*" for x in (1, 2) for y in (1, 2)], repeat=2
        )
    }
    held_out = {problem for problem in every if split_of(problem) == "test"}
    assert 2 < len(held_out) < 20
    environment = ArithmeticEnvironment(ArithmeticCorrections(small))
    assert {problem.text for problem in environment.problems(len(held_out), 0)} == held_out
    for count in (len(held_out) + 1, 3 * len(held_out)):
        with pytest.raises(
            DataError, match=rf"only {len(held_out)} different problems of {count}: ask for fewer$"
        ):
            environment.problems(count, 0)


@pytest.mark.parametrize("mode", FEEDBACK)
def test_rewards_are_half_for_the_way_and_half_for_the_value(mode: str) -> None:
    environment = ArithmeticEnvironment(ArithmeticCorrections(LANGUAGE), mode)
    assert environment.reveals == (mode == "leak")
    for problem in environment.problems(40, 0):
        value, solution = str(value_of(read(problem.text) or 0)), solved(problem.text)
        steps = solution.split(">")
        said = {"none": "", "scalar": "~10", "first_wrong_step": "@0", "leak": f"={value}"}[mode]
        assert environment.evaluate(problem, solution) == Outcome(1.0, said)
        assert environment.evaluate(problem, f"0!{solution}").reward == 1.0
        for garbage in (
            "",
            "!",
            ">",
            ")(" * 50,
            "x",
            problem.text,
            solution + "0",
            "@0",
            "=" + value,
            value + ">x",
        ):
            outcome = environment.evaluate(problem, garbage)
            assert outcome.reward < 0.5, garbage
            assert outcome.feedback == feedback_text(problem.text, garbage, mode)
        for cut in range(len(steps)):  # the way, step by step
            assert environment.evaluate(problem, ">".join(steps[:cut])).reward == pytest.approx(
                cut / len(steps) / 2
            )
        assert environment.evaluate(problem, value).reward == 0.5  # the value alone
        assert environment.evaluate(problem, f"{int(value) + 1}").reward == 0.0


def test_rewards_are_shares() -> None:
    rng, environment = (
        np.random.default_rng(0),
        ArithmeticEnvironment(ArithmeticCorrections(LANGUAGE)),
    )
    rewards = set()
    for problem in environment.problems(60, 1):
        attempt = write_answer(problem.text, rng, 0.4, 0.2, BOUNDS)
        if attempt is not None:
            rewards.add(environment.evaluate(problem, attempt).reward)
    assert min(rewards) >= 0
    assert max(rewards) == 1
    assert len(rewards) > 3


def test_unknown_feedback_is_an_error_of_one_line() -> None:
    with pytest.raises(
        ConfigError,
        match=r"feedback is 'lea'; it must be one of none, scalar, first_wrong_step, leak$",
    ):
        ArithmeticEnvironment(ArithmeticCorrections(LANGUAGE), "lea")


def test_equal_answers_are_judged_once() -> None:
    asked: list[tuple[str, str]] = []

    class Counting:
        name, reveals = "counting", False

        def problems(self, count: int, seed: int) -> list[Problem]:
            return [Problem(str(i), "same text") for i in range(count)]

        def evaluate(self, problem: Problem, answer: str) -> Outcome:
            asked.append((problem.name, answer))
            return Outcome(len(asked) / 10, f"{problem.name}:{answer}")

    environment = Counting()
    one, two = environment.problems(2, 0)
    given = [(one, "a"), (two, "a"), (one, "a"), (one, "b"), (two, "a"), (one, "b")]
    outcomes = evaluate_all(
        environment, [problem for problem, _ in given], [answer for _, answer in given]
    )
    assert asked == [("0", "a"), ("1", "a"), ("0", "b")]
    assert [outcome.feedback for outcome in outcomes] == [
        f"{problem.name}:{answer}" for problem, answer in given
    ]
    assert evaluate_all(environment, [], []) == []
    with pytest.raises(ValueError):
        evaluate_all(environment, [one], [])
