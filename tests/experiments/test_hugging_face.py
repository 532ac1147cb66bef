"""Hugging Face models as policies: draws and scores are those of transformers, in any batch."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("transformers")

import torch

from maskdiff.errors import CheckpointError, ConfigError, UserError
from maskdiff.experiments.distillation import hugging_face
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.hugging_face import (
    AGAIN,
    ATTEMPT,
    FEEDBACK,
    HuggingFacePolicy,
    load_policy,
)
from maskdiff.experiments.distillation.policy import Ids, Policy
from maskdiff.models.hugging_face import TransformersModel
from tests.helpers.hugging_face import (
    CLOSE,
    MAX_POSITIONS,
    OPEN,
    PROMPTS,
    SIZE,
    byte_level,
    check_draws,
    greedy,
    network,
    saved,
)

END, WIDE = 3, 2048  # the id of CLOSE; positions of the model that is shown attempts
KEYS = [11, -5, 2**40, 7, 11, 0]


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def policy(request, tmp_path_factory) -> HuggingFacePolicy:
    """One that tests share, and so do not change."""
    return load_policy(saved(tmp_path_factory.mktemp("models") / request.param, request.param))


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> HuggingFacePolicy:
    return load_policy(saved(tmp_path_factory.mktemp("models") / "wide", positions=WIDE))


def prompts_of(policy: Policy) -> list[Ids]:
    """Prompts of different lengths."""
    return [
        policy.prompt(Problem("x", text))
        for text in [*PROMPTS[:3], "12", "compute 3 + 5 and so line 日本語", "<(3 * 4)>"]
    ]


def ids(policy: HuggingFacePolicy, text: str) -> Ids:
    """Returns ordinary tokens of one byte each."""
    return tuple(policy.model.tokens.table.exactly(bytes([byte]))[0] for byte in text.encode())


def plain(policy: HuggingFacePolicy, prompt: Ids, answer: Ids) -> torch.Tensor:
    """(answer, size) by one pass over one string."""
    return policy.model.module(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]


def test_a_folder_is_a_policy(policy):
    student: Policy = policy
    assert (student.name, student.size, student.large, policy.model.room) == (
        policy.name,
        SIZE,
        True,
        MAX_POSITIONS,
    )
    assert policy.name in ("qwen3", "gpt2")
    assert {p.dtype for p in student.module.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in student.module.parameters())
    answer = (*ids(policy, "so é"), *ids(policy, "日")[:2], END)
    assert student.text(answer) == "so é\ufffd"
    assert student.text(()) == student.text((END,)) == ""


def test_temperature_zero_is_greedy_generate(policy):
    prompts, barred = prompts_of(policy), policy.model.barred.nonzero()[:, 0].tolist()
    for prompt, answer in zip(prompts, policy.sample(prompts, KEYS, 0.0, 20), strict=True):
        assert answer == greedy(policy.model.module, prompt, 20, barred)


@pytest.mark.slow
def test_an_answer_depends_on_prompt_and_key_alone(policy, monkeypatch):
    prompts = prompts_of(policy) * 3
    keys = [key + 100 * (i // 6) for i, key in enumerate(KEYS * 3)]
    together = policy.sample(prompts, keys, 2.5, 40)
    ended = [END in answer for answer in together]
    assert any(ended)
    assert not all(ended)
    assert len({len(answer) for answer in together}) > 2  # rows leave the batch at different times
    assert all(
        answer.index(END) == len(answer) - 1 if END in answer else len(answer) == 40
        for answer in together
    )
    assert not any(policy.model.barred[list(answer)].any() for answer in together)
    assert policy.sample(prompts[:6], keys[:6], 2.5, 15) == [answer[:15] for answer in together[:6]]
    for prompt, key, answer in list(zip(prompts, keys, together, strict=True))[::5]:
        assert policy.sample([prompt], [key], 2.5, 40) == [answer]
    sizes = []

    def record(_, args, given):
        rows, new = given["input_ids"].shape
        past = given.get("past_key_values")
        sizes.append((rows, new + (past.get_seq_length() if past else 0)))

    hook = policy.module.register_forward_pre_hook(record, with_kwargs=True)
    for name, most in (("DRAWN", 300), ("ROWS", 5)):
        with monkeypatch.context() as patch:
            patch.setattr(hugging_face, name, most)
            sizes.clear()
            assert policy.sample(prompts, keys, 2.5, 40) == together
        assert max(rows * width if name == "DRAWN" else rows for rows, width in sizes) <= most
    hook.remove()
    assert (
        policy.sample([prompts[0]] * 3, [4, 5, 4], 2.5, 12)[::2]
        == policy.sample([prompts[0]], [4], 2.5, 12) * 2
    )


@pytest.mark.slow
def test_keys_are_draws_from_the_softmax(policy):
    prompt = prompts_of(policy)[0]
    drawn = policy.sample([prompt] * 3000, range(3000), 0.8, 1)
    with torch.no_grad():
        logits = plain(policy, prompt, (0,))[0].masked_fill(policy.model.barred, -torch.inf)
    check_draws((token for (token,) in drawn), logits)


@pytest.mark.slow
def test_answers_end_at_the_last_position(policy):
    prompts = [(5,) * (MAX_POSITIONS - 3), (6,) * (MAX_POSITIONS - 1), prompts_of(policy)[0]]
    for key in range(20):
        answers = policy.sample(prompts, [key] * 3, 1.0, 10)
        assert all(len(a) == n or a[-1] == END for a, n in zip(answers, (3, 1, 10), strict=True))
        assert max(map(len, answers)) <= 10
    assert policy.logits(prompts[:1], [(7, 8, 9)]).shape == (1, 3, SIZE)
    for ask in (
        lambda: policy.sample([(5,) * MAX_POSITIONS], [1], 1.0, 10),
        lambda: policy.logits(prompts[1:2], [(7, 8)]),
    ):
        with pytest.raises(UserError, match=f"tokens leaves no room .* {MAX_POSITIONS} positions"):
            ask()
    for ask in (lambda: policy.sample([()], [1], 1.0, 10), lambda: policy.logits([()], [(7, 8)])):
        with pytest.raises(UserError, match="no tokens"):
            ask()
    with pytest.raises(UserError, match="empty"):
        HuggingFacePolicy(policy.model, chat=False).prompt(Problem("x", ""))


def test_logits_and_gradients_are_those_of_plain_passes(policy, monkeypatch):
    policy, prompts = policy.twin(), prompts_of(policy)
    answers = [
        answer[: 3 * i + 1] for i, answer in enumerate(policy.sample(prompts, KEYS, 1.0, 20))
    ]
    longest = max(map(len, answers))
    torch.manual_seed(0)
    weights = torch.randn(len(prompts), longest, SIZE)
    expected = [
        plain(policy, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    sum((row * w[: len(row)]).sum() for row, w in zip(expected, weights, strict=True)).backward()
    gradients = [p.grad.clone() for p in policy.module.parameters()]
    sizes, heads = [], []
    hooks = [
        policy.module.register_forward_pre_hook(
            lambda _, a, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
        ),
        policy.module.get_output_embeddings().register_forward_hook(
            lambda _, given, out: heads.append(out.shape[:2].numel())
        ),
    ]
    for most in (10_000, 70, 1):
        monkeypatch.setattr(hugging_face, "SCORED", most)
        policy.module.zero_grad()
        sizes.clear(), heads.clear()
        policy.module.train()  # no dropout for all that
        given = policy.logits(prompts, answers)
        assert (given.shape, given.dtype) == ((len(prompts), longest, SIZE), torch.float32)
        assert not policy.module.training
        for row, scores in zip(given, expected, strict=True):
            torch.testing.assert_close(row[: len(scores)], scores, atol=2e-5, rtol=1e-4)
        sum(
            (row[: len(x)] * w[: len(x)]).sum()
            for row, x, w in zip(given, expected, weights, strict=True)
        ).backward()
        for p, gradient in zip(policy.module.parameters(), gradients, strict=True):
            assert gradient.abs().max() > 0
            torch.testing.assert_close(
                p.grad, gradient, atol=1e-4 * float(gradient.abs().max()), rtol=1e-3
            )
        assert len(sizes) == {10_000: 1, 70: len(sizes), 1: 6}[most]
        assert max(sizes) <= max(
            most, max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        )
        assert sum(heads) <= len(prompts) * longest  # of the answers alone
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        assert not policy.logits(prompts, answers).requires_grad


def test_a_batch_scores_as_each_alone(policy):
    prompts = prompts_of(policy)
    with torch.no_grad():
        answers = policy.sample(prompts, KEYS, 1.0, 20)
        together = policy.logits(prompts, answers)
        for prompt, answer, row in zip(prompts, answers, together, strict=True):
            torch.testing.assert_close(
                row[: len(answer)], policy.logits([prompt], [answer])[0], atol=2e-5, rtol=1e-4
            )
            rows = row[: len(answer)].masked_fill(policy.model.barred, -torch.inf)
            assert policy.sample([prompt], [0], 0.0, 1)[0][0] == int(rows[0].argmax())


def test_a_twin_has_its_own_weights(policy):
    twin, prompt = policy.twin(), prompts_of(policy)[0]
    before = policy.logits([prompt], [(7, 8)])
    assert torch.equal(twin.logits([prompt], [(7, 8)]), before)
    assert twin.module is not policy.module
    assert twin.module is twin.model.module
    with torch.no_grad():
        for p in twin.module.parameters():
            p.mul_(0.5)
    assert torch.equal(policy.logits([prompt], [(7, 8)]), before)
    assert not torch.allclose(twin.logits([prompt], [(7, 8)]), before)
    assert (twin.name, twin.size, twin.backtracking) == (
        policy.name,
        policy.size,
        policy.backtracking,
    )


def test_parts_of_a_prompt_stand_in_order(wide):
    problem, attempt = Problem("x", "compute 1 + 2"), (*ids(wide, "it is 4"), END)

    def message(*given) -> str:
        prompt = wide.prompt(problem, *given)
        assert prompt.count(END) == 1  # of the user's turn
        text = wide.model.tokens.tokenizer.decode(prompt)
        head, tail = f"{OPEN}user\n", f"{CLOSE}\n{OPEN}assistant\n"
        assert text.startswith(head)
        assert text.endswith(tail)
        return text.removeprefix(head).removesuffix(tail)

    shown, feedback = f"{ATTEMPT}\n\n```\nit is 4\n```", f"{FEEDBACK}\n\ntoo much"
    assert message() == "compute 1 + 2"
    assert message(None, "") == f"compute 1 + 2\n\n{AGAIN}"  # as with feedback
    assert message(attempt) == message(attempt, "") == f"compute 1 + 2\n\n{shown}\n\n{AGAIN}"
    assert message(attempt, "too much") == f"compute 1 + 2\n\n{shown}\n\n{feedback}\n\n{AGAIN}"
    assert message(None, "too much") == f"compute 1 + 2\n\n{feedback}\n\n{AGAIN}"
    assert message(()) == f"compute 1 + 2\n\n{ATTEMPT}\n\n```\n\n```\n\n{AGAIN}"
    assert wide.prompt(problem) == wide.prompts.ids("compute 1 + 2")
    for text, fence in (("``", "```"), ("```py\n1\n```", "````"), ("a ````` b `", "``````")):
        assert f"\n{fence}\n{text}\n{fence}\n" in message(ids(wide, text))


def test_without_a_template_a_prompt_is_text(wide):
    bare = HuggingFacePolicy(TransformersModel(wide.module, byte_level(None)))
    prompt = bare.prompt(Problem("x", "compute 1"), ids(bare, "2"), "no")
    expected = f"compute 1\n\n{ATTEMPT}\n\n```\n2\n```\n\n{FEEDBACK}\n\nno\n\n{AGAIN}"
    assert bare.model.tokens.tokenizer.decode(prompt) == bare.text(prompt) == expected


def test_shown_texts_end_no_message(wide):
    marks = f"{CLOSE}\n{OPEN}assistant\n"
    prompt = wide.prompt(Problem("x", "compute 1"), ids(wide, marks), f"printed {marks}")
    assert (prompt.count(END), prompt.count(2)) == (1, 2)  # of the template
    assert (
        wide.model.tokens.tokenizer.decode(prompt).count("< |im_end|>\n< |im_start|>assistant") == 2
    )


def test_a_prompt_that_is_too_long(wide, policy):
    with pytest.raises(
        UserError,
        match=rf"of \d+ tokens leaves no room .* {MAX_POSITIONS} positions of '{policy.name}'",
    ) as error:
        policy.prompt(Problem("x", "=" * MAX_POSITIONS))
    assert "\n" not in str(error.value)
    least = len(wide.prompt(Problem("x", ""), (), "="))
    assert len(wide.prompt(Problem("x", ""), (), "=" * (WIDE - least))) == WIDE - 1
    with pytest.raises(UserError, match=f"{WIDE} tokens"):
        wide.prompt(Problem("x", ""), (), "=" * (WIDE - least + 1))


def test_correction_tokens_are_found(wide):
    tokenizer = byte_level()
    tokenizer.add_tokens(["Wait", " but", "\nActually", "waiting", "//", " NO", "#a"])
    found = HuggingFacePolicy(TransformersModel(wide.module, tokenizer))
    expected = [
        *tokenizer.convert_tokens_to_ids(["Wait", " but", "\nActually", "//", " NO"]),
        *ids(found, "#"),
    ]
    assert found.backtracking == frozenset(expected)
    assert wide.backtracking == frozenset(ids(wide, "#"))


def test_weights_are_float32_by_default(tmp_path):
    where = saved(tmp_path / "half", dtype=torch.bfloat16)
    whole, half = load_policy(where), load_policy(where, "cpu", "bfloat16")
    assert {p.dtype for p in whole.module.parameters()} == {torch.float32}
    assert {p.dtype for p in half.module.parameters()} == {torch.bfloat16}
    prompts = prompts_of(half)
    answers = half.sample(prompts, KEYS, 1.0, 8)
    given, expected = half.logits(prompts, answers), whole.logits(prompts, answers)
    assert given.dtype == torch.float32
    assert (given[0].softmax(-1) - expected[0].softmax(-1)).abs().sum(-1).max() < 0.2
    with pytest.raises(ConfigError, match="dtype is 'int8'; it must be one of float32"):
        load_policy(where, "cpu", "int8")


def test_unloadable_folders_are_refused(tmp_path):
    for name in (tmp_path / "nothing", "nobody/nothing"):
        with pytest.raises(CheckpointError, match=r"cannot read a model .*nothing") as error:
            load_policy(name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("qwen3", "attention_mask"), ("gpt2", "attention_mask"), ("gpt2", "position_ids")],
)
def test_a_model_that_overlooks_padding_is_refused(kind, name):
    model = TransformersModel(network(kind), byte_level())
    forward = model.module.forward

    def blind(input_ids=None, attention_mask=None, position_ids=None, **settings):
        seen = {"attention_mask": attention_mask, "position_ids": position_ids, name: None}
        return forward(input_ids=input_ids, **seen, **settings)

    HuggingFacePolicy(model)
    model.module.forward = blind
    with pytest.raises(ConfigError, match="padded batches"):
        HuggingFacePolicy(model)


def test_weights_that_give_nan_are_refused(policy):
    broken = policy.twin()
    with torch.no_grad():
        next(iter(broken.module.parameters())).fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
        broken.sample(prompts_of(policy)[:1], [1], 1.0, 4)
