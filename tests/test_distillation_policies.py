"""Our model as a policy, its bidirectional mode as a reviser, and arithmetic as an environment: against plain forward passes.

The model is tiny and random in all its weights, so that every way of going wrong shows in its numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from sampling_dummies import chi_square
from step_trees import read, reducts, value_of, write
from tiny import PIECES, tiny_loaded
from torch import Tensor

from maskdiff.checkpoint import Loaded, denoiser_from, make_payload
from maskdiff.config import Config, LanguageConfig, ModelConfig
from maskdiff.distillation import own
from maskdiff.distillation.arithmetic import ArithmeticSteps
from maskdiff.distillation.bidirectional import BidirectionalTeacher
from maskdiff.distillation.environment import Outcome, Problem, attempts
from maskdiff.distillation.own import OwnPolicy
from maskdiff.distillation.policy import Ids, lengths, pick
from maskdiff.errors import ConfigError, DataError, ParseError
from maskdiff.languages import ArithmeticCorrections, make_language, model_vocabulary, pieces, split_of, token_lengths
from maskdiff.languages.arithmetic_corrections import FEEDBACK, feedback
from maskdiff.languages.arithmetic_corrections.slips import write_answer
from maskdiff.model import UniversalDenoiser
from maskdiff.sampling.denoiser import ModelDenoiser
from maskdiff.sampling.random import Purpose, gumbel

LANGUAGE = LanguageConfig(
    language="arithmetic-corrections", operators="+-*", max_int=12, max_value=99, min_depth=2, max_depth=2, max_len=128
)
TINY = ModelConfig(
    vocabulary="bpe", vocab_size=80, block_size=128, n_layer=2, k_iter=1, n_head=2, n_embd=16, mlp_ratio=1.0,
    end_positions=False, causal_length=False,
)  # fmt: skip
ONE_IN_A_MILLION = 4.75  # z-value of the chi-square that a right sampler reaches that rarely


@cache
def payload(**changes: object) -> dict[str, object]:
    """A checkpoint without one weight that is zero, and that likes to end; its pieces are learnt from few strings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "DRAWS", 500)
        language, model = make_language(LANGUAGE), replace(TINY, **changes)  # type: ignore[arg-type]
        vocabulary = model_vocabulary(language, model)
        counts = token_lengths(language, vocabulary).tolist() if vocabulary.merges else ()
    config = replace(Config(), language=LANGUAGE, model=replace(model, vocab_size=len(vocabulary)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = UniversalDenoiser(config.model).state_dict()
        weights = {name: weight + 0.3 * torch.randn(weight.shape) for name, weight in weights.items()}
    weights["head.weight"][vocabulary.eos] *= 2.5
    return make_payload(config, vocabulary, weights, lengths=counts)


def loaded(**changes: object) -> Loaded:
    return denoiser_from(payload(**changes))


def policy_of(**changes: object) -> OwnPolicy:
    return OwnPolicy(loaded(**changes))


@pytest.fixture(scope="module")
def policy() -> OwnPolicy:
    return policy_of()


@cache
def problems(count: int) -> tuple[Problem, ...]:
    language = ArithmeticCorrections(LANGUAGE)
    return tuple(Problem(text, text) for text in language.problems(count, np.random.default_rng(0)))


def attempted(count: int) -> Iterator[tuple[Problem, str, str]]:
    """Problems with attempts, and with what is said of them, each kind in turn."""
    rng = np.random.default_rng(1)
    for i, problem in enumerate(problems(count)):
        attempt = write_answer(problem.text, rng, 0.3, 0.2, LANGUAGE.max_value) or ""
        yield problem, attempt, feedback(problem.text, attempt, FEEDBACK[i % 4])


def mixed(policy: OwnPolicy, count: int) -> list[Ids]:
    """Prompts of all forms and many lengths, in no order."""
    made = []
    for i, (problem, attempt, said) in enumerate(attempted(count)):
        shown = tuple(policy.vocabulary.encode(attempt))
        made.append(policy.prompt(problem, *((), (None, said), (shown,), (shown, said))[i // 4 % 4]))
    assert len({*map(len, made)}) > 8
    return made


def scored(policy: OwnPolicy, row: Sequence[int], causal: bool = True) -> Tensor:
    """(tokens, size) logits of one string, row i scoring token i, by the model alone."""
    with torch.no_grad():
        tokens = torch.tensor([list(row)])
        return policy.loaded.denoiser.model.forward_strings(tokens, torch.tensor([len(row)]), torch.zeros(1), causal)[0]


def behind(policy: OwnPolicy, row: Sequence[int]) -> Tensor:
    """(size,) log-probabilities of what may follow a string: anything but PAD, MASK and BOS."""
    logits = scored(policy, [*row, policy.vocabulary.pad])[-1]
    logits[[policy.vocabulary.pad, policy.vocabulary.mask, policy.vocabulary.bos]] = -torch.inf
    return logits.double().log_softmax(-1)


def noise(key: int, place: int, size: int) -> Tensor:
    """(size,) Gumbel noise of a key at a place."""
    return gumbel(torch.tensor(key), int(Purpose.TOKEN), 0, 0, place, torch.arange(size))


# --------------------------------------------------------------------------------------------------- reading beginnings


def ragged(count: int, longest: int, size: int = 80, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, size) for _ in range(rng.randint(1, longest))] for _ in range(count - 1)] + [
        [rng.randrange(2, size) for _ in range(longest)]
    ]


def padded(rows: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Rows that end together, with whatever stands before them, and how much of that each has."""
    rng = random.Random(9)
    before = [[rng.randrange(80) for _ in range(width - len(row))] for row in rows]
    return torch.tensor([b + row for b, row in zip(before, rows)]), torch.tensor([len(b) for b in before])


@pytest.mark.parametrize(
    "changes", [{}, {"positions": "learned"}, {"end_positions": True}, {"k_iter": 3, "n_layer": 1}, {"use_self_cond": True}]
)
@pytest.mark.parametrize("cuts", [(), (1, 8, 19), tuple(range(1, 25))])
def test_beginnings_are_scored_as_by_a_full_pass(changes: dict[str, object], cuts: tuple[int, ...]) -> None:
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
                    torch.testing.assert_close(logits[i], scored(policy, [*read_so_far, 0])[-1], atol=2e-5, rtol=1e-4)


def test_beginnings_go_on_beyond_the_longest_string_of_the_training() -> None:
    """Rotary positions have no end: against a model of the same weights that was made for longer strings."""
    policy = policy_of()
    model = policy.loaded.denoiser.model
    longer = UniversalDenoiser(replace(model.config, block_size=512)).eval()
    longer.load_state_dict(model.state_dict())
    rows = ragged(4, 300, seed=3)
    tokens, pads = padded(rows, 300)
    cache = model.start_cache(4, width=310)
    with torch.no_grad():
        logits = model.read_beginnings(tokens, pads, cache)
        for i, row in enumerate(rows):
            whole = longer.forward_strings(torch.tensor([[*row, 0]]), torch.tensor([len(row) + 1]), torch.zeros(1), True)
            torch.testing.assert_close(logits[i], whole[0, -1], atol=2e-5, rtol=1e-4)
        for t in range(10):
            logits = model.read_beginnings(torch.full((4, 1), 5 + t), pads, cache)
            rows = [[*row, 5 + t] for row in rows]
        whole = longer.forward_strings(torch.tensor([[*rows[-1], 0]]), torch.tensor([311]), torch.zeros(1), True)
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
        torch.testing.assert_close(found, scored(policy, [*rows[i], token, 0])[-1], atol=2e-5, rtol=1e-4)


# --------------------------------------------------------------------------------------------------------------- prompts


def test_a_prompt_is_the_text_s_own_pieces(policy: OwnPolicy) -> None:
    vocabulary, language = policy.vocabulary, policy.language
    for problem, attempt, said in attempted(40):
        shown = tuple(vocabulary.encode(attempt))
        for ids in (shown, (*shown, vocabulary.eos)):
            for given, text in (
                ((), language.prompt(problem.text)),
                ((None, said), language.prompt(problem.text, None, said)),
                ((ids,), language.prompt(problem.text, attempt)),
                ((ids, said), language.prompt(problem.text, attempt, said)),
            ):
                assert policy.prompt(problem, *given) == (vocabulary.bos, *vocabulary.encode(text))
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
        (lambda: tiny_loaded(**PIECES), "a model of arithmetic; .* take one of arithmetic-corrections"),
        (lambda: tiny_loaded(), "a model of arithmetic; "),
        (lambda: loaded(causal_length=True), "told how long its strings are; take one trained with causal_length: false"),
        (lambda: loaded(causal_length=True, end_positions=True), "told how long its strings are"),
    ],
)
def test_other_models_are_refused(other, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message) as caught:
        OwnPolicy(other())
    assert "\n" not in str(caught.value)


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="only the length that a causal mode is told is looked at")
def test_a_head_that_sees_what_it_scores_is_refused() -> None:
    with pytest.raises(ConfigError, match="head"):
        policy_of(head="aligned")


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


# --------------------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_every_token_drawn_is_the_definition_s(policy: OwnPolicy, temperature: float) -> None:
    """argmax of log p / T + noise of (key, place, symbol), by plain passes; an end ends, and nothing else does."""
    limit, prompts = 25, mixed(policy, 30)
    keys = [17 * i - 100 for i in range(30)]
    ended = 0
    for prompt, key, answer in zip(prompts, keys, policy.sample(prompts, keys, temperature, limit)):
        for place, token in enumerate(answer):
            log_p = behind(policy, [*prompt, *answer[:place]])
            expected = log_p / temperature + noise(key, place, policy.size) if temperature else log_p
            assert token == int(expected.argmax())
        assert policy.vocabulary.eos not in answer[:-1]
        assert not {*answer} & {policy.vocabulary.pad, policy.vocabulary.mask, policy.vocabulary.bos}
        assert len(answer) == limit or (0 < len(answer) < limit and answer[-1] == policy.vocabulary.eos)
        ended += answer[-1] == policy.vocabulary.eos
    assert ended > 3
    assert ended < 30 or temperature == 0


def test_an_answer_is_the_same_alone_and_in_any_batch(policy: OwnPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, keys = mixed(policy, 40), list(range(100, 140))
    together = policy.sample(prompts, keys, 1.0, 30)
    assert 5 < sum(answer[-1] == policy.vocabulary.eos for answer in together) < 35
    assert len({*map(len, together)}) > 5
    for prompt, key, answer in zip(prompts, keys, together):
        assert policy.sample([prompt], [key], 1.0, 30) == [answer]
    order = random.Random(0).sample(range(40), 40)
    assert policy.sample([prompts[i] for i in order], [keys[i] for i in order], 1.0, 30) == [together[i] for i in order]
    monkeypatch.setattr(own, "ROWS", 3)
    assert policy.sample(prompts, keys, 1.0, 30) == together
    assert policy.sample([], [], 1.0, 30) == []


def test_keys_are_luck_and_limits_only_cut(policy: OwnPolicy) -> None:
    prompt = mixed(policy, 40)[3]
    keys = [5, 5, -(2**63), 2**63 - 1, 6, 5]
    answers = policy.sample([prompt] * 6, keys, 1.0, 30)
    assert answers[0] == answers[1] == answers[5]
    assert len({*answers}) == 4
    for limit in (0, 1, 2, 7):
        assert policy.sample([prompt] * 6, keys, 1.0, limit) == [answer[:limit] for answer in answers]
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


def test_pick_never_takes_what_is_impossible() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 1.0, -torch.inf]]).expand(500, -1)
    drawn = pick(logits, torch.arange(500), 3, 1.0)
    assert {*drawn.tolist()} == {1, 2}
    assert torch.equal(drawn, pick(logits + 5, torch.arange(500), 3, 1.0))
    assert not torch.equal(drawn, pick(logits, torch.arange(500), 4, 1.0))


# ---------------------------------------------------------------------------------------------------------------- logits


def test_row_t_scores_token_t(policy: OwnPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain passes over what stands before each token; in a batch, alone, and in small groups."""
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
                torch.testing.assert_close(alone[0, t], scored(policy, [*before, 0])[-1], atol=1e-5, rtol=1e-5)
        for room in (1, 60, 400):
            monkeypatch.setattr(own, "TOKENS", room)
            torch.testing.assert_close(policy.logits(prompts, answers), together, atol=1e-5, rtol=0)


def test_greedy_answers_are_the_likeliest_by_their_own_logits(policy: OwnPolicy) -> None:
    prompts = mixed(policy, 16)
    answers = policy.sample(prompts, [0] * 16, 0.0, 12)
    with torch.no_grad():
        scores = policy.logits(prompts, answers)
    scores[..., [policy.vocabulary.pad, policy.vocabulary.mask, policy.vocabulary.bos]] = -torch.inf
    for row, answer in zip(scores, answers):
        assert row[: len(answer)].argmax(-1).tolist() == list(answer)


def test_logits_have_gradients_where_they_are_enabled() -> None:
    """And those of a batch are the sums of those of its answers: nothing that is padding takes part."""
    policy = policy_of()
    prompts = mixed(policy, 16)
    answers = policy.sample(prompts, list(range(16)), 1.0, 12)

    def gradient(chosen: Sequence[int]) -> Tensor:
        policy.module.zero_grad()
        scores = policy.logits([prompts[i] for i in chosen], [answers[i] for i in chosen])
        assert scores.requires_grad
        log_p = scores.log_softmax(-1)
        sum(log_p[k, t, token] for k, i in enumerate(chosen) for t, token in enumerate(answers[i])).backward()
        return torch.cat([weight.grad.flatten() for weight in policy.module.parameters() if weight.grad is not None])

    whole = gradient(range(16))
    assert float(whole.norm()) > 1
    torch.testing.assert_close(whole, sum(gradient([i]) for i in range(16)), atol=2e-3, rtol=1e-3)
    with torch.no_grad():
        assert not policy.logits(prompts, answers).requires_grad
    policy.module.requires_grad_(False)
    assert not policy.logits(prompts, answers).requires_grad


@pytest.mark.xfail(strict=True, raises=IndexError, reason="only reading beginnings makes positions longer")
@pytest.mark.parametrize("changes", [{}, {"end_positions": True}])
@pytest.mark.parametrize("causal", [True, False])
def test_strings_are_scored_however_long(changes: dict[str, object], causal: bool) -> None:
    """As they are drawn: whether something long was drawn before must make no difference either."""
    policy = policy_of(**changes)
    prompt, answer = (policy.vocabulary.bos, *ragged(1, 100)[0]), tuple(ragged(1, 60, seed=1)[0])
    if causal:
        assert policy.logits([prompt], [answer]).shape == (1, 60, 80)
    else:
        assert len(BidirectionalTeacher(policy).confidence([prompt], [answer])[0]) > 58


def test_a_twin_has_weights_of_its_own() -> None:
    policy = policy_of()
    prompts = mixed(policy, 16)
    answers = policy.sample(prompts, [1] * 16, 1.0, 9)
    twin, other = policy.twin(), policy.twin()
    assert isinstance(twin, OwnPolicy)
    assert (twin.name, twin.size, twin.vocabulary) == (policy.name, policy.size, policy.vocabulary)
    before = policy.logits(prompts, answers).detach()
    assert torch.equal(twin.logits(prompts, answers), before)
    assert not {w.data_ptr() for w in twin.module.parameters()} & {w.data_ptr() for w in policy.module.parameters()}
    with torch.no_grad():
        for weight in twin.module.parameters():
            weight.add_(0.1)
    assert not torch.allclose(twin.logits(prompts, answers), before, atol=1e-3)
    assert torch.equal(policy.logits(prompts, answers), before)
    with torch.no_grad():
        for weight in policy.module.parameters():
            weight.zero_()
    assert torch.equal(other.logits(prompts, answers), before)
    assert twin.sample(prompts, [1] * 16, 1.0, 9) != answers == other.sample(prompts, [1] * 16, 1.0, 9)


# ------------------------------------------------------------------------------------------------- the bidirectional mode


class Witness(ModelDenoiser):
    """Keeps what it was asked to score, without padding."""

    def __init__(self, policy: OwnPolicy) -> None:
        super().__init__(policy.module, policy.vocabulary)
        self.seen: list[list[int]] = []

    def __call__(self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, *extra: Tensor | None) -> Tensor:
        assert not causal
        assert not sigma.any()
        self.seen += [row[:n] for row, n in zip(tokens.tolist(), length.tolist())]
        return super().__call__(tokens, length, sigma, causal, *extra)


def answered(policy: OwnPolicy, count: int = 16) -> tuple[list[Ids], list[Ids]]:
    """Prompts that hold attempts, and answers, some of which came to an end; one ended at once."""
    prompts = mixed(policy, count)
    answers = policy.sample(prompts, list(range(count)), 1.0, 14)
    answers[1] = (policy.vocabulary.eos,)
    ended = [answer[-1] == policy.vocabulary.eos for answer in answers]
    assert any(ended)
    assert not all(ended)
    return prompts, answers


def body_of(policy: OwnPolicy, answer: Ids) -> Ids:
    return answer[: len(answer) - (answer[-1] == policy.vocabulary.eos)]


def hidden(policy: OwnPolicy, prompt: Ids, body: Ids, places: Sequence[int]) -> Tensor:
    """(places of the body, size) logits with some of its tokens hidden, by the model alone."""
    row = [*prompt, *(policy.vocabulary.mask if i in places else token for i, token in enumerate(body)), policy.vocabulary.eos]
    return scored(policy, row, causal=False)[len(prompt) : len(prompt) + len(body)]


@pytest.mark.parametrize("groups", [1, 3, 14, 50])
def test_confidence_is_that_of_the_hidden_token(policy: OwnPolicy, groups: int) -> None:
    """One at a time where there are as many groups as places, else together with every `groups`-th other."""
    prompts, answers = answered(policy)
    found = BidirectionalTeacher(policy, groups=groups).confidence(prompts, answers)
    for prompt, answer, confidence in zip(prompts, answers, found):
        body = body_of(policy, answer)
        assert confidence.shape == (len(body),)
        for place, token in enumerate(body):
            p = hidden(policy, prompt, body, range(place % groups, len(body), groups))[place].softmax(-1)
            assert float(confidence[place]) == pytest.approx(float(p[token]), rel=1e-3, abs=1e-6)
    assert BidirectionalTeacher(policy).confidence([], []) == []


@pytest.mark.parametrize("most", [0.3, 0.5, 1.0])
def test_only_what_is_doubted_is_written_anew(policy: OwnPolicy, most: float) -> None:
    """The least certain, at most the share of the tokens; everything else, ends and prompts included, stays."""
    prompts, answers = answered(policy)
    plain = BidirectionalTeacher(policy).confidence(prompts, answers)
    doubt = float(torch.cat(plain).median())
    witness = Witness(policy)
    teacher = BidirectionalTeacher(OwnPolicy(replace(policy.loaded, denoiser=witness)), doubt=doubt, most=most)
    revised = teacher.revise(prompts, answers, list(range(16)), 1.0)
    changed = doubted = 0
    allowed = {}
    for prompt, answer, new, confidence in zip(prompts, answers, revised, plain):
        body = body_of(policy, answer)
        ranked = sorted(range(len(body)), key=lambda place: float(confidence[place]))
        allowed[prompt] = {place for place in ranked[: int(most * len(body))] if float(confidence[place]) < doubt}
        assert len(new) == len(answer)
        assert new[len(body) :] == answer[len(body) :]
        assert not {*new[: len(body)]} & {*policy.vocabulary.specials}
        moved = {place for place in range(len(body)) if new[place] != body[place]}
        assert moved <= allowed[prompt]
        changed, doubted = changed + len(moved), doubted + len(allowed[prompt])
    assert doubted > 20
    assert changed > 0.7 * doubted  # a random model mostly draws something else
    for row in witness.seen:  # what is scored is a prompt, its answer with blanks, and an end
        prompt, answer = next((p, a) for p, a in zip(prompts, answers) if [*p] == row[: len(p)])
        body = body_of(policy, answer)
        assert len(row) == len(prompt) + len(body) + 1
        assert row[-1] == policy.vocabulary.eos


def test_one_token_is_written_at_an_evaluation(policy: OwnPolicy) -> None:
    prompts, answers = answered(policy)
    teacher = BidirectionalTeacher(policy, doubt=2.0, most=0.5)
    for prompt, answer in list(zip(prompts, answers))[:6]:
        witness = Witness(policy)
        watched = replace(teacher, policy=OwnPolicy(replace(policy.loaded, denoiser=witness)))
        (new,) = watched.revise([prompt], [answer], [3], 1.0)
        body = body_of(policy, answer)
        writing = witness.seen[min(teacher.groups, len(body)) :]
        assert [row.count(policy.vocabulary.mask) for row in writing] == list(range(len(body) // 2, 0, -1))
        for row in writing:
            assert row[: len(prompt)] == [*prompt]
            shown = row[len(prompt) : -1]
            assert all(s in (policy.vocabulary.mask, n) for s, n in zip(shown, new))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_written_is_drawn_from_the_bidirectional_mode(policy: OwnPolicy, temperature: float) -> None:
    """One doubted token: the likeliest, or argmax of log p + noise of (key, place in the string, symbol), with it hidden."""
    prompts, answers = answered(policy)
    checked = 0
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        body = body_of(policy, answer)
        if len(body) < 2:
            continue
        teacher = BidirectionalTeacher(policy, doubt=2.0, most=1.5 / len(body))
        place = int(teacher.confidence([prompt], [answer])[0].argmin())
        logits = hidden(policy, prompt, body, [place])[place]
        logits[[*policy.vocabulary.specials]] = -torch.inf
        luck = noise(i, len(prompt) + place, policy.size) if temperature else 0.0
        best = int((logits.double().log_softmax(-1) + luck).argmax())
        expected = (*answer[:place], best, *answer[place + 1 :])
        assert teacher.revise([prompt], [answer], [i], temperature) == [expected]
        checked += 1
    assert checked > 10


def test_a_revision_is_the_same_alone_and_in_any_batch(policy: OwnPolicy) -> None:
    prompts, answers = answered(policy)
    teacher, keys = BidirectionalTeacher(policy), list(range(50, 66))
    torch.manual_seed(1)
    together = teacher.revise(prompts, answers, keys, 1.0)
    torch.manual_seed(2)  # no number of torch's own takes part
    for prompt, answer, key, new in zip(prompts, answers, keys, together):
        assert teacher.revise([prompt], [answer], [key], 1.0) == [new]
    assert teacher.revise(prompts, answers, [key + 1 for key in keys], 1.0) != together
    assert together != answers


@pytest.mark.parametrize("settings", [{"doubt": 0.0}, {"most": 0.0}])
def test_what_nobody_doubts_stays(policy: OwnPolicy, settings: dict[str, float]) -> None:
    prompts, answers = answered(policy)
    assert BidirectionalTeacher(policy, **settings).revise(prompts, answers, [0] * 16, 1.0) == answers  # type: ignore[arg-type]
    assert BidirectionalTeacher(policy).revise(prompts[1:2], answers[1:2], [0], 1.0) == answers[1:2]  # nothing but an end
    assert BidirectionalTeacher(policy).revise([], [], [], 1.0) == []


# ----------------------------------------------------------------------------------------------------------- environment


def solved(problem: str) -> str:
    """A solution that reduces in random order, by trees."""
    tree, steps, dice = read(problem), [], random.Random(problem)
    while options := reducts(tree or 0):
        tree = dice.choice(options)
        steps.append(write(tree))
    return ">".join(steps)


def test_problems_are_held_out_different_and_the_seed_s() -> None:
    language = ArithmeticCorrections(LANGUAGE)
    environment = ArithmeticSteps(language)
    first = environment.problems(60, 3)
    assert environment.problems(60, 3) == first == ArithmeticSteps(language, "leak").problems(60, 3)
    assert len({problem.text for problem in first}) == 60
    assert all(problem.name == problem.text and split_of(problem.text) == "test" for problem in first)
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
        for left, right in product([f"({op} {x} {y})" for op in "+*" for x in (1, 2) for y in (1, 2)], repeat=2)
    }
    held_out = {problem for problem in every if split_of(problem) == "test"}
    assert 2 < len(held_out) < 20
    environment = ArithmeticSteps(ArithmeticCorrections(small))
    assert {problem.text for problem in environment.problems(len(held_out), 0)} == held_out
    for count in (len(held_out) + 1, 3 * len(held_out)):
        with pytest.raises(DataError, match=rf"only {len(held_out)} different problems of {count}: ask for fewer$"):
            environment.problems(count, 0)


@pytest.mark.parametrize("mode", FEEDBACK)
def test_rewards_are_half_for_the_way_and_half_for_the_value(mode: str) -> None:
    environment = ArithmeticSteps(ArithmeticCorrections(LANGUAGE), mode)
    assert environment.reveals == (mode == "leak")
    for problem in environment.problems(40, 0):
        value, solution = str(value_of(read(problem.text) or 0)), solved(problem.text)
        steps = solution.split(">")
        said = {"none": "", "scalar": "~10", "first_wrong_step": "@0", "leak": f"={value}"}[mode]
        assert environment.attempt(problem, solution) == Outcome(1.0, said)
        assert environment.attempt(problem, f"0!{solution}").reward == 1.0
        for garbage in ("", "!", ">", ")(" * 50, "x", problem.text, solution + "0", "@0", "=" + value, value + ">x"):
            outcome = environment.attempt(problem, garbage)
            assert outcome.reward < 0.5, garbage
            assert outcome.feedback == feedback(problem.text, garbage, mode)
        for cut in range(len(steps)):  # the way, step by step
            assert environment.attempt(problem, ">".join(steps[:cut])).reward == pytest.approx(cut / len(steps) / 2)
        assert environment.attempt(problem, value).reward == 0.5  # the value alone
        assert environment.attempt(problem, f"{int(value) + 1}").reward == 0.0


def test_rewards_are_shares() -> None:
    rng, environment = np.random.default_rng(0), ArithmeticSteps(ArithmeticCorrections(LANGUAGE))
    rewards = set()
    for problem in environment.problems(60, 1):
        attempt = write_answer(problem.text, rng, 0.4, 0.2, LANGUAGE.max_value)
        if attempt is not None:
            rewards.add(environment.attempt(problem, attempt).reward)
    assert min(rewards) >= 0
    assert max(rewards) == 1
    assert len(rewards) > 3


def test_unknown_feedback_is_an_error_of_one_line() -> None:
    with pytest.raises(ConfigError, match=r"feedback is 'lea'; it must be one of none, scalar, first_wrong_step, leak$"):
        ArithmeticSteps(ArithmeticCorrections(LANGUAGE), "lea")


def test_equal_answers_are_judged_once() -> None:
    asked: list[tuple[str, str]] = []

    class Counting:
        name, reveals = "counting", False

        def problems(self, count: int, seed: int) -> list[Problem]:
            return [Problem(str(i), "same text") for i in range(count)]

        def attempt(self, problem: Problem, answer: str) -> Outcome:
            asked.append((problem.name, answer))
            return Outcome(len(asked) / 10, f"{problem.name}:{answer}")

    environment = Counting()
    one, two = environment.problems(2, 0)
    given = [(one, "a"), (two, "a"), (one, "a"), (one, "b"), (two, "a"), (one, "b")]
    outcomes = attempts(environment, [problem for problem, _ in given], [answer for _, answer in given])
    assert asked == [("0", "a"), ("1", "a"), ("0", "b")]
    assert [outcome.feedback for outcome in outcomes] == [f"{problem.name}:{answer}" for problem, answer in given]
    assert attempts(environment, [], []) == []
    with pytest.raises(ValueError):
        attempts(environment, [one], [])
