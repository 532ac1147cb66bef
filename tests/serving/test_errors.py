"""Requests that the server refuses, concurrent clients and clients that disconnect."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.helpers.paths import REPOSITORY

pytest.importorskip("fastapi")

import httpx
import openai

from maskdiff.cli.serve import host_names
from maskdiff.errors import ParseError
from maskdiff.serving.app import create_app
from maskdiff.serving.model import ServerLimits
from maskdiff.serving.server import run_in_thread
from tests.helpers.serving_process import post_half, request, wait_until
from tests.helpers.serving_toy import STORY, Toy, client_of, expected, served, streamed


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_in_thread(
        create_app(served(Toy()), ServerLimits(max_body=4000, max_prompt=150))
    ) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return client_of(url)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "given, param",
    [
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"prompt": ["?"] * 9, "n": 2}, "n"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": "x" * 151}, "prompt"),
        ({"prompt": "\u00a7"}, None),
        ({"max_tokens": 200}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 3 + list("abcdefghijklmnop")}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"top_p": 0.9}, "top_p"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_bad_requests(url: str, given: dict[str, Any], param: str | None) -> None:
    body = json.dumps({"model": "toy", "prompt": "?", **given})
    answer = httpx.post(
        f"{url}/completions", content=body, headers={"Content-Type": "application/json"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (
        400,
        "invalid_request_error",
        param,
    )
    assert set(error) == {"message", "type", "param", "code"}
    assert str(REPOSITORY) not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "robot", "content": "x"}],
        [{"role": "user", "content": "x" * 151}],
        "x",
    ],
)
def test_bad_chats(client: openai.OpenAI, messages: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="toy", messages=messages)
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError):  # also before a stream begins
        client.chat.completions.create(model="toy", messages=messages, stream=True)


def test_options_without_effect_are_accepted(client: openai.OpenAI) -> None:
    more = {
        "echo": False,
        "tools": None,
        "response_format": {"type": "text"},
        "top_k": -1,
        "unknown_option": [1],
        "best_of": 1,
    }
    assert client.completions.create(
        model="toy", prompt="?", top_p=1, frequency_penalty=0, extra_body=more
    ).choices


@pytest.mark.slow
def test_other_errors(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt", prompt="?")
    assert caught.value.code == "model_not_found"
    json_type = {"Content-Type": "application/json"}
    for path, method in (
        ("nothing", "GET"),
        ("../docs", "GET"),
        ("../openapi.json", "GET"),
        ("completions", "GET"),
    ):
        answer = httpx.request(method, f"{url}/{path}")
        assert answer.status_code in (404, 405)
        assert answer.json()["error"]["type"] == "invalid_request_error"
    for raw in (
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 3000,
        b'{"model": "toy"}',
        b'{"model": "toy", "prompt": "\\ud800"}',
    ):
        assert httpx.post(f"{url}/completions", content=raw, headers=json_type).status_code == 400
    assert (
        httpx.post(f"{url}/completions", content=b"{}").status_code == 415
    )  # requests that a web page may send without a preflight


def test_long_bodies(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="toy", prompt="x" * 5000)
    assert caught.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="toy", prompt="x" * 500_000)
    assert caught.value.status_code == 413

    def unending() -> Iterator[bytes]:  # without a content length
        for _ in range(2000):
            yield b" " * 1000

    answer = httpx.post(
        f"{url}/completions", content=unending(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert client.completions.create(model="toy", prompt="?").choices


def test_internal_errors_reveal_no_details() -> None:
    toy = Toy()
    toy.fault = RuntimeError(f"secret of {REPOSITORY}")
    with run_in_thread(create_app(served(toy))) as url:
        client = client_of(url)
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="toy", prompt="?", logprobs=0)
        assert "secret" not in str(caught.value)
        assert toy.forgotten == 1  # its cached state may be incomplete
        with pytest.raises(openai.APIError, match="the server failed"):
            list(client.completions.create(model="toy", prompt="?", stream=True))
        toy.fault = ParseError("unknown symbol")
        with pytest.raises(openai.APIError, match="unknown symbol"):
            list(client.completions.create(model="toy", prompt="?", stream=True))
        toy.fault = None
        assert client.completions.create(model="toy", prompt="?").choices


@pytest.mark.parametrize(
    "name, status",
    [
        ("127.0.0.1", 200),
        ("LOCALHOST", 200),
        ("[::1]", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("", 400),
    ],
)
def test_only_its_own_host_names_are_accepted(url: str, name: str, status: int) -> None:
    for host in (name, f"{name}:8000"):
        answer = httpx.get(f"{url}/models", headers={"Host": host})
        assert answer.status_code == status
        assert status == 200 or answer.json()["error"]["code"] == "invalid_host"


@pytest.mark.slow
def test_names_of_other_servers() -> None:
    assert host_names("127.0.0.1", "127.0.0.1") == ("127.0.0.1", "localhost", "[::1]")
    assert host_names("box", "fe80::1%eth0") == (
        "127.0.0.1",
        "localhost",
        "[::1]",
        "box",
        "[fe80::1%eth0]",
    )
    assert host_names("0.0.0.0", "0.0.0.0") == host_names("::", "::") == ("*",)
    for hosts, status in ((("box",), 200), (("*",), 200), (("fox",), 400)):
        with run_in_thread(create_app(served(Toy()), hosts=hosts)) as url:
            assert httpx.get(f"{url}/models", headers={"Host": "box"}).status_code == status


@pytest.mark.slow
def test_slow_bodies() -> None:
    with run_in_thread(create_app(served(Toy()), ServerLimits(body_timeout=0.3))) as url:
        with post_half(url, b"{") as slow:
            response = b"".join(iter(lambda: slow.recv(4096), b""))  # until the server closes it
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b"body_too_slow" in response
        assert httpx.get(f"{url}/models").status_code == 200


# ------------------------------------------------------------------------------------- many clients


@pytest.mark.slow
def test_a_client_that_leaves_stops_the_work() -> None:
    toy = Toy()
    toy.pause = 0.02
    app = create_app(served(toy, 10_000))
    with run_in_thread(app) as url:
        client = client_of(url)
        with client.completions.create(
            model="toy", prompt="?", temperature=0, max_tokens=5000, stream=True
        ) as stream:
            next(iter(stream))
        wait_until(lambda: app.state.scheduler.active == 0)
        calls = toy.calls
        time.sleep(0.2)
        assert toy.calls <= calls + 1 < len(STORY) - 10
        toy.gate.clear()
        toy.entered.clear()
        with ThreadPoolExecutor(2) as pool:
            asked = [
                pool.submit(
                    client_of(url).with_options(timeout=0.5).completions.create,
                    model="toy",
                    prompt="?",
                )
            ]
            toy.entered.wait(5)
            asked.append(
                pool.submit(
                    client_of(url).with_options(timeout=0.5).completions.create,
                    model="toy",
                    prompt="gone",
                )
            )
            for future in asked:
                assert isinstance(future.exception(10), openai.APITimeoutError)
        wait_until(lambda: app.state.scheduler.active == 0)
        toy.gate.set()
        assert client.completions.create(model="toy", prompt="?").choices
        assert all(
            request.prompt != "gone" for request in toy.asked
        )  # it left before its turn came


def test_a_client_that_leaves_behind_a_second_request_stops_the_work() -> None:
    """The server does not read while the second request waits, so it looks for the end."""
    toy = Toy()
    toy.pause = 0.02
    app = create_app(served(toy, 10_000))
    with run_in_thread(app) as url:
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(2 * request(temperature=0, max_tokens=5000, logprobs=0))
            wait_until(lambda: toy.calls)
        wait_until(lambda: app.state.scheduler.active == 0)
        assert toy.calls < len(STORY) - 5


@pytest.mark.slow
def test_too_many_waiting_requests_are_refused() -> None:
    toy = Toy()
    app = create_app(served(toy), ServerLimits(max_waiting=1))
    with run_in_thread(app) as url, ThreadPoolExecutor(2) as pool:
        toy.gate.clear()
        asked = [
            pool.submit(client_of(url).completions.create, model="toy", prompt="?", seed=1)
            for _ in range(2)
        ]
        wait_until(lambda: app.state.scheduler.active == 2)
        assert httpx.get(f"{url}/models").status_code == 200  # the loop is free
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                client_of(url).completions.create(model="toy", prompt="?", stream=stream)
            assert caught.value.response.headers["retry-after"] == "1"
        toy.gate.set()
        assert len({future.result(10).choices[0].text for future in asked}) == 1


@pytest.mark.slow
def test_eight_threads(url: str) -> None:
    def ask(number: int) -> bool:
        client, right = client_of(url), expected("?", number, 0, 60, (), 1.0).text
        made = [
            client.completions.create(model="toy", prompt="?", max_tokens=60, seed=number)
            .choices[0]
            .text
        ]
        stream = client.completions.create(
            model="toy", prompt="?", max_tokens=60, seed=number, stream=True
        )
        return [*made, streamed(stream)[0]["text"]] == [right] * 2

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


@pytest.mark.slow
def test_ending_stops_the_work_under_way() -> None:
    toy = Toy()
    toy.pause = 0.05
    with run_in_thread(create_app(served(toy, 10_000))) as url:
        stream = client_of(url).completions.create(
            model="toy", prompt="?", temperature=0, max_tokens=5000, stream=True
        )
        next(iter(stream))
        began = time.monotonic()
    assert time.monotonic() - began < 2
    with pytest.raises(openai.APIError, match="ending"):
        list(stream)
