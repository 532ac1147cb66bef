"""The bidirectional mode of our model as a reviser, against plain forward passes of a tiny model
that is random throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maskdiff.experiments.distillation.bidirectional import BidirectionalTeacher
from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.policy import Ids
from maskdiff.models.denoiser import ModelDenoiser
from tests.helpers.distillation_policies import lengthened, mixed, noise, policy_of, ragged, scored


@pytest.fixture(scope="module")
def policy() -> OwnPolicy:
    return policy_of()


class Witness(ModelDenoiser):
    """Records the rows that it scores, without padding."""

    def __init__(self, policy: OwnPolicy) -> None:
        super().__init__(policy.module, policy.vocabulary)
        self.seen: list[list[int]] = []

    def __call__(
        self, tokens: Tensor, length: Tensor, sigma: Tensor, causal: bool, *extra: Tensor | None
    ) -> Tensor:
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
    row = [
        *prompt,
        *(policy.vocabulary.mask if i in places else token for i, token in enumerate(body)),
        policy.vocabulary.eos,
    ]
    return scored(policy, row, causal=False)[len(prompt) : len(prompt) + len(body)]


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 3, 14, 50])
def test_confidence_is_that_of_the_hidden_token(policy: OwnPolicy, groups: int) -> None:
    """One at a time where there are as many groups as places, else together with every `groups`-th
    other."""
    prompts, answers = answered(policy)
    found = BidirectionalTeacher(policy, groups=groups).confidence(prompts, answers)
    for prompt, answer, confidence in zip(prompts, answers, found):
        body = body_of(policy, answer)
        assert confidence.shape == (len(body),)
        for place, token in enumerate(body):
            p = hidden(policy, prompt, body, range(place % groups, len(body), groups))[
                place
            ].softmax(-1)
            assert float(confidence[place]) == pytest.approx(float(p[token]), rel=1e-3, abs=1e-6)
    assert BidirectionalTeacher(policy).confidence([], []) == []


@pytest.mark.parametrize("most", [0.3, 0.5, 1.0])
def test_only_doubted_tokens_are_regenerated(policy: OwnPolicy, most: float) -> None:
    """The least certain, at most the share of the tokens; everything else, ends and prompts
    included, stays."""
    prompts, answers = answered(policy)
    plain = BidirectionalTeacher(policy).confidence(prompts, answers)
    doubt = float(torch.cat(plain).median())
    witness = Witness(policy)
    teacher = BidirectionalTeacher(
        OwnPolicy(replace(policy.loaded, denoiser=witness)), doubt=doubt, most=most
    )
    revised = teacher.revise(prompts, answers, list(range(16)), 1.0)
    changed = doubted = 0
    allowed = {}
    for prompt, answer, new, confidence in zip(prompts, answers, revised, plain):
        body = body_of(policy, answer)
        ranked = sorted(range(len(body)), key=lambda place: float(confidence[place]))
        allowed[prompt] = {
            place for place in ranked[: int(most * len(body))] if float(confidence[place]) < doubt
        }
        assert len(new) == len(answer)
        assert new[len(body) :] == answer[len(body) :]
        assert not {*new[: len(body)]} & {*policy.vocabulary.specials}
        moved = {place for place in range(len(body)) if new[place] != body[place]}
        assert moved <= allowed[prompt]
        changed, doubted = changed + len(moved), doubted + len(allowed[prompt])
    assert doubted > 20
    assert changed > 0.7 * doubted  # a random model mostly draws something else
    for row in witness.seen:  # a scored row is a prompt, its answer with blanks, and an end
        prompt, answer = next((p, a) for p, a in zip(prompts, answers) if [*p] == row[: len(p)])
        body = body_of(policy, answer)
        assert len(row) == len(prompt) + len(body) + 1
        assert row[-1] == policy.vocabulary.eos


def test_one_token_is_written_at_an_evaluation(policy: OwnPolicy) -> None:
    prompts, answers = answered(policy)
    teacher = BidirectionalTeacher(policy, doubt=2.0, most=0.5)
    for prompt, answer in list(zip(prompts, answers))[:6]:
        witness = Witness(policy)
        recorded = replace(teacher, policy=OwnPolicy(replace(policy.loaded, denoiser=witness)))
        (new,) = recorded.revise([prompt], [answer], [3], 1.0)
        body = body_of(policy, answer)
        writing = witness.seen[min(teacher.groups, len(body)) :]
        assert [row.count(policy.vocabulary.mask) for row in writing] == list(
            range(len(body) // 2, 0, -1)
        )
        for row in writing:
            assert row[: len(prompt)] == [*prompt]
            shown = row[len(prompt) : -1]
            assert all(s in (policy.vocabulary.mask, n) for s, n in zip(shown, new))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_regenerated_tokens_are_drawn_from_the_bidirectional_mode(
    policy: OwnPolicy, temperature: float
) -> None:
    """One doubted token: the likeliest, or argmax of log p + noise of (key, place in the string,
    symbol), with it hidden."""
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


def test_a_revision_does_not_depend_on_its_batch(policy: OwnPolicy) -> None:
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
def test_confident_tokens_stay(policy: OwnPolicy, settings: dict[str, float]) -> None:
    prompts, answers = answered(policy)
    assert (
        BidirectionalTeacher(policy, **settings).revise(prompts, answers, [0] * 16, 1.0) == answers
    )  # type: ignore[arg-type]
    assert (
        BidirectionalTeacher(policy).revise(prompts[1:2], answers[1:2], [0], 1.0) == answers[1:2]
    )  # an answer of only an end
    assert BidirectionalTeacher(policy).revise([], [], [], 1.0) == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"end_positions": True}, {"positions": "learned"}])
def test_answers_beyond_the_training_length_are_revised(changes: dict[str, object]) -> None:
    policy = policy_of(**changes)
    teacher, longer = BidirectionalTeacher(policy), BidirectionalTeacher(lengthened(policy, 512))
    prompt, answer = (
        (policy.vocabulary.bos, *ragged(1, 100)[0]),
        (*ragged(1, 60, seed=1)[0], 60, policy.vocabulary.eos),
    )
    found, expected = (one.confidence([prompt], [answer])[0] for one in (teacher, longer))
    assert len(found) == 61
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (
        teacher.revise([prompt], [answer], [3], 1.0)
        == longer.revise([prompt], [answer], [3], 1.0)
        != [answer]
    )
