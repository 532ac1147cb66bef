"""Steps of Hugging Face models: ids are continued; caches and boundaries change nothing."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("transformers")

import torch

from maskdiff.errors import CheckpointError, ConfigError, LogitsError
from maskdiff.models.hugging_face import GrowingRows
from maskdiff.stepwise.hugging_face import HuggingFaceBackend, load
from maskdiff.stepwise.protocol import BackendError, Candidate, Request, Spent, StepBackend, Stop
from tests.helpers.hugging_face import (
    CLOSE,
    MAX_POSITIONS,
    OPEN,
    PLAIN,
    PROMPTS,
    STRIPS,
    THINKS,
    TURNS,
    byte_level,
    check_draws,
    greedy,
    network,
    one,
    saved,
)

KINDS = ("qwen3", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: saved(tmp_path_factory.mktemp("models") / kind, kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def folder(request, folders):
    """Return a backend of either kind, for tests of the model's figures."""
    return folders[request.param]


@pytest.fixture
def generator(folders) -> HuggingFaceBackend:
    return load(folders["qwen3"])


def walk(generator: StepBackend, prompt: str, tokens: int, **settings) -> list[Candidate]:
    """Return the steps of candidate 0 until the end or `tokens` tokens."""
    steps: list[Candidate] = []
    while sum(step.tokens for step in steps) < tokens and not (steps and steps[-1].finish == "end"):
        [step] = one(generator, prompt=prompt, partial=tuple(steps), **settings).candidates
        assert step.step.endswith(settings.get("stop", Stop()).strings) or step.finish != "stop"
        steps.append(step)
    return steps


def ids_of(steps) -> tuple[int, ...]:
    return tuple(token for step in steps for token in step.ids)


def same(left: list[Candidate], right: list[Candidate], tolerance: float = 1e-5) -> None:
    """Assert that candidates are equal, with figures up to rounding."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        bare = [replace(one, log_probs=(), entropies=(), gaps=()) for one in (a, b)]
        assert bare[0] == bare[1]
        for name in ("log_probs", "entropies", "gaps"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("chat", [True, False])
def test_steps_equal_the_output_of_generate(folder, chat):
    generator = load(folder, chat=chat)
    assert generator.capabilities.chat == generator.prompts.chat == chat
    assert generator.name == folder.name
    assert generator.prompts.agrees
    assert generator.caches
    barred = generator.model.barred.nonzero()[:, 0].tolist()
    for prompt in PROMPTS[::4]:
        ids = generator.prompts.ids(prompt)
        expected = greedy(generator.model.module, ids, 16, barred)
        steps = walk(generator, prompt, 16, temperature=0.0, stop=Stop((">", " ", "a"), 5))
        assert ids_of(steps)[:16] == expected
        [once] = one(generator, prompt=prompt, temperature=0.0, stop=Stop((), 16)).candidates
        assert once.ids == expected
        assert (once.finish == "end") == (once.ids[-1] == 3)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_log_probabilities_equal_those_of_one_pass(folder, dtype, near):
    generator = load(folder, dtype=dtype)
    for prompt in PROMPTS[:3]:
        steps = walk(generator, prompt, 30, stop=Stop((">", " "), 6), seed=5)
        ids, before = ids_of(steps), generator.prompts.ids(prompt)
        with torch.no_grad():
            logits = generator.model.module(torch.tensor([before + ids])).logits
        rows = logits[0, len(before) - 1 : -1].double().log_softmax(-1)
        chosen = rows.gather(1, torch.tensor(ids)[:, None])[:, 0]
        given = [
            [x for step in steps for x in getattr(step, name)]
            for name in ("log_probs", "entropies", "gaps")
        ]
        assert sum(given[0]) == pytest.approx(float(chosen.sum()), abs=10 * near)
        best = rows.exp().topk(2).values
        assert given[0] == pytest.approx(chosen.tolist(), abs=near)
        assert given[1] == pytest.approx((-rows.exp() * rows).sum(1).tolist(), abs=near)
        assert given[2] == pytest.approx((best[:, 0] - best[:, 1]).tolist(), abs=near)


def requests_at_random(generator: StepBackend, count: int) -> list[Request]:
    """Return requests of a few prompts and seeds: new ones, branches, and older states."""
    draw, states = random.Random(0), [(prompt, ()) for prompt in PROMPTS[:4]]
    found = []
    for _ in range(count):
        (prompt, partial), num = draw.choice(states), draw.randint(1, 4)
        settings = Stop((">", " "), 4), draw.randint(0, 2), draw.randint(0, 3)
        request = Request(prompt, partial, num, 1.0, *settings)
        found.append(request)
        [reply] = generator.next_step([request])
        states += [
            (prompt, (*partial, step))
            for step in reply.candidates
            if step.finish != "end" and len(partial) < 6
        ]
    return found


@pytest.mark.slow
def test_a_cache_does_not_change_replies(folder):
    plain, kept, small = load(folder, kept=0), load(folder, kept=64), load(folder, kept=2)
    others = [load(folder, kept_tokens=most) for most in (0, 60, 300)]
    requests = requests_at_random(plain, 12)
    requests[5::6] = [replace(request, stop=Stop((), 5)) for request in requests[5::6]]
    tokens = dict.fromkeys(["plain", "kept", "small", "none", "little", "more"], 0)
    for i, request in enumerate(requests):
        if i == 6:
            kept.forget()
            assert not kept._kept.groups
        expected, *more = (
            generator.next_step([request])[0] for generator in (plain, kept, small, *others)
        )
        for name, reply in zip(tokens, [expected, *more], strict=True):
            same(reply.candidates, expected.candidates)
            tokens[name] += reply.spent.forward_tokens
        assert all(other._kept.weight() <= other._kept.tokens for other in others)
    assert not plain._kept.groups | others[0]._kept.groups
    assert len(small._kept.groups) <= 2
    together = load(folder).next_step(requests)  # one call
    for request, reply in zip(requests, together, strict=True):
        same(reply.candidates, plain.next_step([request])[0].candidates)
    tokens["together"] = sum(reply.spent.forward_tokens for reply in together)
    assert tokens["more"] < tokens["none"] == tokens["plain"]
    assert max(tokens["kept"], tokens["together"]) < tokens["small"] < tokens["plain"]


def test_a_candidate_depends_on_its_number_alone(generator):
    settings = {
        "prompt": PROMPTS[0],
        "stop": Stop((">", " "), 8),
        "seed": 2**70 + 5,
        "temperature": 1.3,
    }
    many = one(generator, **settings, num=9).candidates
    alone = [one(generator, **settings, first=i).candidates[0] for i in range(9)]
    same(many, alone)
    same(many[4:7], one(generator, **settings, num=3, first=4).candidates)
    assert len({step.ids for step in many}) > 5
    assert many[0].ids != one(generator, **{**settings, "seed": 6}).candidates[0].ids


def test_one_token_at_a_time_equals_the_whole_step(generator):
    for i, whole in enumerate(
        one(generator, prompt=PROMPTS[1], num=6, stop=Stop((), 12)).candidates
    ):
        steps = walk(generator, PROMPTS[1], 12, stop=Stop((), 1), first=i)
        assert ids_of(steps) == whole.ids
        assert "".join(step.text for step in steps) == whole.text


@pytest.mark.slow
@pytest.mark.parametrize("by", ["candidates", "seeds"])
def test_draws_follow_the_softmax(by):
    generator = HuggingFaceBackend(network(), byte_level())
    settings = {"prompt": PROMPTS[0], "temperature": 0.8, "stop": Stop((), 1)}
    if by == "candidates":
        steps = one(generator, **settings, num=3000, seed=3).candidates
    else:
        requests = [Request(**settings, seed=i) for i in range(800)]
        steps = [reply.candidates[0] for reply in generator.next_step(requests)]
    with torch.no_grad():
        ids = torch.tensor([generator.prompts.ids(PROMPTS[0])])
        logits = generator.model.module(ids).logits[0, -1]
    check_draws(
        (step.ids[0] for step in steps), logits.masked_fill(generator.model.barred, -torch.inf)
    )


def test_ids_of_an_answer_follow_those_of_the_prompt(generator):
    """The ids of an answer follow those of the prompt; no new turn is rendered."""
    tokenizer, ids = generator.model.tokens.tokenizer, generator.prompts.ids("compute 1")
    turn = [{"role": "user", "content": "compute 1"}]
    rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True)
    assert list(ids) == rendered["input_ids"]
    assert tokenizer.decode(ids) == f"{OPEN}user\ncompute 1{CLOSE}\n{OPEN}assistant\n"
    steps = walk(generator, "compute 1", 8, stop=Stop((), 4))
    steps = [step for step in steps if step.finish != "end"]
    assert steps
    seen = []
    hook = generator.model.module.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["input_ids"]), with_kwargs=True
    )
    generator.forget()
    one(generator, prompt="compute 1", partial=tuple(steps), stop=Stop((), 1))
    hook.remove()
    read = seen[0][0].tolist()
    assert tuple(read) == ids + ids_of(steps)
    assert read.count(3) == ids.count(3)
    turns = [*turn, {"role": "assistant", "content": "".join(step.text for step in steps)}]
    wrong = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(wrong).endswith(f"{CLOSE}\n{OPEN}assistant\n")
    assert (wrong.count(3), wrong[: len(ids)]) == (ids.count(3) + 1, list(ids))


def test_templates_that_do_not_keep_the_prefix():
    model = network()
    agreed = HuggingFaceBackend(model, byte_level())
    strips = HuggingFaceBackend(model, byte_level(STRIPS))
    assert agreed.prompts.agrees
    assert not strips.prompts.agrees
    assert strips.prompts.ids(" compute 1") == agreed.prompts.ids("compute 1")
    thinks = HuggingFaceBackend(model, byte_level(THINKS))
    assert not thinks.prompts.agrees
    rendered = thinks.model.tokens.tokenizer.decode(thinks.prompts.ids("hm"))
    assert rendered.endswith(f"{OPEN}assistant\n<think>\n\n</think>\n\n")
    same(walk(strips, "compute 1", 12), walk(agreed, "compute 1", 12))
    template = PLAIN.replace("user", "").replace("m.role", "who")
    named = HuggingFaceBackend(model, byte_level(template), template={"who": "me"})
    rendered = named.model.tokens.tokenizer.decode(named.prompts.ids("hm"))
    assert rendered.startswith(f"{OPEN}me\nhm")
    changes = TURNS.replace("ANSWER", "m.content | replace('\n', '..')")
    for template in (
        changes,
        TURNS.replace("ANSWER", "'no content'"),
        "{{ raise_exception('not me') }}",
    ):
        with pytest.raises(ConfigError, match="template") as error:
            HuggingFaceBackend(model, byte_level(template))
        assert "\n" not in str(error.value)
        assert not HuggingFaceBackend(model, byte_level(template), chat=False).prompts.chat


@pytest.mark.slow
def test_spent_counts_the_tokens_that_are_run(folder):
    generator, counted = load(folder), [0, 0]

    def count(_, args, given) -> None:
        counted[0] += given["input_ids"].numel()
        counted[1] += 1

    requests = requests_at_random(load(folder), 12)
    generator.model.module.register_forward_pre_hook(count, with_kwargs=True)
    total = Spent()
    for i in range(0, 12, 4):
        replies = generator.next_step(requests[i : i + 4])
        total = sum((reply.spent for reply in replies), total)
        assert [total.forward_tokens, total.calls] == counted
        assert all(reply.spent.seconds > 0 for reply in replies)
    assert total.candidates == sum(request.num for request in requests)


def test_only_new_tokens_are_run(generator):
    prompt, stop = PROMPTS[2], Stop(tuple("abcdefghijklmnop"), 25, 2)
    first = one(generator, prompt=prompt, num=8, stop=stop)
    steps = [step for step in first.candidates if step.finish == "stop"]
    before = len(generator.prompts.ids(prompt))
    assert first.spent.forward_tokens == before + sum(step.tokens - 1 for step in first.candidates)
    more = one(generator, prompt=prompt, first=8, stop=stop)
    assert more.spent.forward_tokens == more.candidates[0].tokens - 1
    elsewhere = one(generator, prompt=prompt, seed=7, stop=stop)
    assert elsewhere.spent.forward_tokens == elsewhere.candidates[0].tokens - 1
    branches = generator.next_step([Request(prompt, (step,), stop=stop) for step in steps[:2]])
    assert [reply.spent.forward_tokens for reply in branches] == [
        reply.candidates[0].tokens for reply in branches
    ]
    # The entry of a third was dropped when another had been chosen.
    late = one(generator, prompt=prompt, partial=(steps[2],), stop=stop)
    assert late.spent.forward_tokens >= steps[2].tokens
    generator.forget()
    walk(generator, prompt, 6, stop=Stop((), 1))
    assert len(generator._kept.groups) == 1


@pytest.mark.slow
def test_kept_cache_entries_are_limited(generator):
    stop = Stop(tuple("abcdefghijklmnop"), 30, 2)
    requests = [Request(f"compute {i}", stop=stop, seed=i) for i in range(20)]
    steps = [reply.candidates for reply in generator.next_step(requests)]
    generator.next_step([replace(request, first=1) for request in requests[:3]])
    more = [
        replace(r, partial=step)
        for r, step in zip(requests, steps, strict=True)
        if step[0].finish == "stop"
    ]
    assert len(more) > 8
    for reply in generator.next_step(more):
        assert reply.spent.forward_tokens <= reply.candidates[0].tokens
    [one(generator, prompt=prompt, stop=stop) for prompt in PROMPTS[:2]]
    assert len(generator._kept.groups) <= 8
    generator.forget()
    one(generator, prompt=PROMPTS[0], num=4, stop=Stop((), 20))
    assert not generator._kept.groups  # a whole answer
    steps = one(
        generator, prompt=PROMPTS[0], num=16, stop=Stop(tuple("abcdefghijklmnop"), 4, 2)
    ).candidates
    assert {step.finish for step in steps} >= {"stop", "length"}
    [group] = generator._kept.groups.values()
    ids = generator.prompts.ids(PROMPTS[0])
    assert set(group) == {ids, *((*ids, *step.ids[:-1]) for step in steps if step.finish == "stop")}


def test_steps_end_at_the_last_position(generator):
    with pytest.raises(BackendError, match=str(MAX_POSITIONS)) as error:
        one(generator, prompt="日本 " * 90)
    assert "\n" not in str(error.value)
    prompt = "=" * (MAX_POSITIONS - 3 - len(generator.prompts.ids("")))
    assert len(generator.prompts.ids(prompt)) == MAX_POSITIONS - 3
    steps = [
        step
        for step in one(generator, prompt=prompt, num=8, stop=Stop((), 9)).candidates
        if step.finish != "end"
    ]
    assert steps
    assert all((step.finish, step.tokens) == ("length", 3) for step in steps)
    with pytest.raises(BackendError, match="positions"):
        one(generator, prompt=prompt, partial=(steps[0],))
    with pytest.raises(BackendError, match="empty"):
        one(HuggingFaceBackend(generator.model.module, byte_level(None)), prompt="")


def test_steps_of_another_backend_are_tokenised(generator):
    text = "so <1 + 2>"
    ids = tuple(generator.model.tokens.tokenizer(text).input_ids)
    foreign = Candidate(text, text, "stop", 3)
    known = Candidate(text, text, "stop", len(ids), ids=ids)
    replies = [
        one(generator, prompt=PROMPTS[0], partial=(step,), num=3).candidates
        for step in (foreign, known)
    ]
    same(*replies)
    with pytest.raises(BackendError, match="stand for"):
        one(generator, prompt=PROMPTS[0], partial=(Candidate(CLOSE, CLOSE, "stop", 1),))


def test_a_cache_that_cannot_be_copied_is_not_used(monkeypatch, folder):
    expected = walk(load(folder), PROMPTS[3], 12, stop=Stop((), 4))
    monkeypatch.setattr(GrowingRows, "copy", lambda rows, _: rows)  # never a copy
    generator = load(folder)
    assert not generator.caches
    monkeypatch.undo()
    same(walk(generator, PROMPTS[3], 12, stop=Stop((), 4)), expected)
    assert not generator._kept.groups


def test_weights_that_give_nan_are_an_error(folder):
    generator = load(folder)
    with torch.no_grad():
        next(iter(generator.model.module.parameters())).fill_(torch.nan)
    with pytest.raises(LogitsError, match="NaN"):
        one(generator, prompt="(")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_supported(folder, dtype):
    generator = load(folder, dtype=dtype)
    assert generator.caches
    steps = walk(generator, PROMPTS[0], 10)
    assert all(type(x) is float and x <= 0 for step in steps for x in step.log_probs)


def test_unloadable_models_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="cannot read") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="fast"):
        HuggingFaceBackend(network(), SimpleNamespace(chat_template=None, all_special_ids=[]))
    assert load(folder, "auto").model.module.device.type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="device is 'abacus'"):
        load(folder, "abacus")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"maskdiff\[transformers\]"):
        load(folder)
