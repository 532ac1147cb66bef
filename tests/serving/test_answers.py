"""What the server answers, asked by the official client over real sockets: texts, streams, stop
strings, prefill."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

pytest.importorskip("fastapi")

import openai

from maskdiff.serving import generation
from maskdiff.serving.app import create_app
from maskdiff.serving.server import run_in_thread
from tests.helpers.serving_toy import STORY, Toy, client_of, expected, served, streamed


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with run_in_thread(create_app(served(Toy()))) as base_url:
        yield client_of(base_url)


# ------------------------------------------------------------------------------------------ answers


@pytest.mark.slow
def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").id == "toy"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/toy")


STOPS = [
    (),
    (">",),
    ("o>th", "six"),
    (", f", "our>f", "r"),
    ("e", "ee,", "THREE"),
    (".",),
    ("zebra", "one, two>three, four!"),
]


@pytest.mark.slow
@pytest.mark.parametrize("stops", STOPS)
def test_completions_equal_the_generator_streamed_or_not(
    client: openai.OpenAI, stops: tuple[str, ...]
) -> None:
    for (seed, temperature), max_tokens, keep in product(
        ((1, 0.0), (2, 1.0)), (1, 9, 60), (False, True)
    ):
        asked: dict[str, Any] = {
            "model": "toy", "prompt": "Tell?", "seed": seed, "max_tokens": max_tokens,
            "temperature": temperature, "n": 3,
            "stop": list(stops), "extra_body": {"include_stop_str_in_output": keep},
        }  # fmt: skip
        whole = client.completions.create(**asked)
        parts = streamed(
            client.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
        )
        usage = parts.pop(-1)["usage"]
        assert len(whole.choices) == len(parts) == 3
        drawn = 0
        for number, choice in enumerate(whole.choices):
            right = expected("Tell?", seed, number, max_tokens, stops, temperature)
            ended = [stop for stop in stops if right.finish == "stop" and right.step.endswith(stop)]
            reason = max(ended, key=len, default=None)
            text = right.step if keep or reason is None else right.step.removesuffix(reason)
            finish = "length" if right.finish == "length" else "stop"
            assert (choice.index, choice.text, choice.finish_reason, choice.stop_reason) == (
                number,
                text,
                finish,
                reason,
            )
            assert (parts[number]["text"], parts[number]["finish"], parts[number]["stop"]) == (
                text,
                finish,
                reason,
            )
            drawn += right.tokens
        assert whole.usage is not None
        assert (
            whole.usage.prompt_tokens,
            whole.usage.completion_tokens,
            whole.usage.total_tokens,
        ) == (5, drawn, 5 + drawn)
        assert usage == whole.usage
        assert usage.prompt_tokens_details.cached_tokens == 0


@pytest.mark.slow
def test_slices_do_not_change_the_answer(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(stops: tuple[str, ...]) -> list[tuple[str, Any, Any]]:
        made = client.completions.create(
            model="toy", prompt="?", seed=3, max_tokens=50, n=4, stop=list(stops)
        )
        return [
            (choice.text, choice.finish_reason, made.usage.completion_tokens)
            for choice in made.choices
        ]

    whole = [ask(stops) for stops in STOPS]
    for size in (1, 2, 5):
        monkeypatch.setattr(generation, "SLICE", size)
        assert [ask(stops) for stops in STOPS] == whole


def test_streams_send_only_final_text(client: openai.OpenAI) -> None:
    stop = "four>five!"  # the story says ".": held back, and then given out
    stream = client.completions.create(
        model="toy", prompt="?", temperature=0, max_tokens=40, stop=[stop], stream=True
    )
    parts = [chunk.choices[0].text for chunk in stream]
    assert "".join(parts) == STORY[:40]
    assert max(map(len, parts)) == len("four>five,")  # at temperature 0 tokens are single letters


def test_several_prompts(client: openai.OpenAI) -> None:
    made = client.completions.create(model="toy", prompt=["?", "?one"], n=2, seed=5)
    texts = [
        expected(prompt, 5, number, 16, (), 1.0).text
        for prompt in ("?", "?one")
        for number in (0, 1)
    ]
    assert [choice.text for choice in made.choices] == texts
    assert made.usage is not None
    assert made.usage.prompt_tokens == 5


def test_seeds(client: openai.OpenAI) -> None:
    def text(**seed: int) -> str:
        return (
            client.completions.create(model="toy", prompt="?", max_tokens=30, **seed)
            .choices[0]
            .text
        )

    assert text(seed=4) == text(seed=4)
    assert len({text(seed=seed) for seed in range(4)}) == 4
    assert len({text() for _ in range(4)}) == 4  # no seed: another one each time
    assert text(seed=-1) == text(seed=2**63 - 1)


def test_chat(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "toy", "seed": 6, "n": 2, "stop": ">",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sing"},
            {"role": "assistant", "content": "la"},
            {"role": "user", "content": [{"type": "text", "text": part} for part in ("Te", "ll")]},
        ],
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    parts = streamed(client.chat.completions.create(stream=True, **asked))
    for number, choice in enumerate(whole.choices):
        right = expected("Tell?", 6, number, 100, (">",), 1.0).step.removesuffix(">")
        assert choice.message.role == "assistant"
        assert choice.message.content == parts[number]["text"] == right
        assert parts[number]["roles"] == 1
        assert choice.finish_reason == parts[number]["finish"] == "stop"
    short = client.chat.completions.create(**asked, max_completion_tokens=1, max_tokens=9).choices[
        0
    ]
    assert short.finish_reason == "length"
    free = {**asked, "stop": None}
    ended = client.chat.completions.create(**free).choices[0]  # the model ends by itself
    assert (ended.message.content or "").lower() == STORY
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)


def test_log_probabilities_cover_every_drawn_token(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "toy", "seed": 8, "stop": "wo>t", "max_tokens": 90}
    right = expected("?", 8, 0, 90, ("wo>t",), 1.0)
    assert right.log_probs is not None
    made = client.completions.create(prompt="?", logprobs=3, **asked).choices[0]
    log_probs = made.logprobs
    assert log_probs is not None
    assert log_probs.token_logprobs == list(right.log_probs)
    assert log_probs.tokens is not None
    assert (
        "".join(log_probs.tokens) == right.text
    )  # with the stop string and the rest of the last token
    assert log_probs.text_offset == [
        len("".join(log_probs.tokens[:i])) for i in range(len(log_probs.tokens))
    ]
    assert log_probs.top_logprobs == [
        {token: number} for token, number in zip(log_probs.tokens, log_probs.token_logprobs or [])
    ]
    assert made.text == right.step.removesuffix("wo>t")
    parts = streamed(client.completions.create(prompt="?", logprobs=0, stream=True, **asked))
    assert parts[0]["log_probs"] == list(right.log_probs)
    assert parts[0]["text"] == made.text
    for top in (None, 2):
        messages: Any = [{"role": "user", "content": ""}]
        chat = client.chat.completions.create(
            messages=messages, logprobs=True, top_logprobs=top, **asked
        ).choices[0]
        assert chat.logprobs is not None
        content = chat.logprobs.content or []
        assert [entry.logprob for entry in content] == list(right.log_probs)
        assert [bytes(entry.bytes or []).decode() for entry in content] == log_probs.tokens
        assert {len(entry.top_logprobs) for entry in content} == {1 if top else 0}
    ended = client.completions.create(model="toy", prompt="?", seed=8, max_tokens=90, logprobs=0)
    assert ended.usage is not None
    tokens = ended.choices[0].logprobs.tokens  # type: ignore[union-attr]
    assert tokens is not None
    assert (tokens[-1], len(tokens)) == (
        "",
        ended.usage.completion_tokens,
    )  # the model's own end counts


# ------------------------------------------------------------------------------------------ prefill

PARTIAL: Any = [{"role": "user", "content": "Tell"}, {"role": "assistant", "content": STORY[:12]}]


def partial_answer(client: openai.OpenAI, **more: Any) -> tuple[str, str]:
    """The answer to a chat that ends with half an answer, whole and streamed."""
    asked: dict[str, Any] = {
        "model": "toy",
        "messages": PARTIAL,
        "temperature": 0,
        "max_tokens": 8,
        "extra_body": more,
    }
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    return whole, streamed(client.chat.completions.create(stream=True, **asked))[0]["text"]


def test_a_partial_answer_is_continued(client: openai.OpenAI) -> None:
    assert partial_answer(client) == (STORY[12:20],) * 2
    assert (
        partial_answer(client, continue_final_message=True, add_generation_prompt=False)
        == (STORY[12:20],) * 2
    )
    assert partial_answer(client, continue_final_message=False) == (STORY[:8],) * 2
    with pytest.raises(openai.BadRequestError):
        partial_answer(client, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.slow
def test_other_servers_restart_echo_or_reject() -> None:
    toy = Toy()
    with run_in_thread(create_app(served(toy), prefill="restart")) as url:
        client = client_of(url)
        for more in ({}, {"continue_final_message": True, "add_generation_prompt": False}):
            assert partial_answer(client, **more) == (STORY[:8],) * 2
    with run_in_thread(create_app(served(toy), prefill="echo")) as url:
        assert partial_answer(client_of(url)) == (STORY[:20],) * 2
        made = client_of(url).chat.completions.create(
            model="toy", messages=PARTIAL, temperature=0, stop=STORY[:3]
        )
        assert (
            made.choices[0].message.content == STORY
        )  # stop strings are searched only in the new text
    with run_in_thread(create_app(served(toy), prefill="reject")) as url:
        with pytest.raises(openai.BadRequestError, match="last message must be from the user"):
            partial_answer(client_of(url))
        assert client_of(url).chat.completions.create(model="toy", messages=PARTIAL[:1]).choices


def test_without_a_generation_prompt_the_user_text_is_continued(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "?one"}]
    more = {"add_generation_prompt": False}
    made = client.chat.completions.create(
        model="toy", messages=messages, temperature=0, max_tokens=5, extra_body=more
    )
    assert made.choices[0].message.content == STORY[3:8]
