"""Backends over HTTP against local servers: requests, failures, and the key."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openai")

from maskdiff.errors import ConfigError
from maskdiff.stepwise.openai_api import ChatBackend, CompletionsBackend
from maskdiff.stepwise.protocol import BackendError, Rejected, Request, Stop
from tests.helpers.openai_servers import (
    Answer,
    Serve,
    after,
    chat,
    completion,
    fails,
    isolate,
    only,
    serving,
)

SECRET = "sk-verySecret123"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


# What is sent


def test_body_of_a_completions_request(serve: Serve) -> None:
    server = serve(completion("b", stop_reason=">"))
    backend = CompletionsBackend("some-model", server.url)
    request = Request(
        "p: ", after("a >", "\n b>"), temperature=0.5, seed=7, stop=Stop((">", "!"), 20)
    )
    assert only(backend, request).step == "b>"
    assert server.paths == ["/v1/completions"]
    assert server.bodies == [
        {"model": "some-model", "n": 1, "temperature": 0.5, "max_tokens": 20, "seed": 7,
         "stop": [">", "!"],
         "prompt": "p: a >\n b>", "logprobs": 5}
    ]  # fmt: skip
    assert backend.name == "completions:some-model"
    assert (backend.capabilities.continues, backend.capabilities.log_probs) == (True, True)


@pytest.mark.parametrize("text", ["  p \n", "\tq\r\n  ", "é日本🙂", 'a"b\\n'])
def test_text_is_sent_exactly(serve: Serve, text: str) -> None:
    server = serve(lambda body: completion("x") if "prompt" in body else chat("x"))
    request = Request(text, after(text, " " + text + " "))
    only(CompletionsBackend("m", server.url), request)
    only(ChatBackend("m", server.url), request)
    assert server.bodies[0]["prompt"] == text + text + " " + text + " "
    assert [message["content"] for message in server.bodies[1]["messages"]] == [
        text,
        text + " " + text + " ",
    ]


def test_body_without_stops_and_log_probs(serve: Serve) -> None:
    server = serve(lambda body: completion("x") if "prompt" in body else chat("x"))
    request = Request("p", stop=Stop((), 9))
    for kind in (CompletionsBackend, ChatBackend):
        candidate = only(kind("m", server.url, log_probs=False), request)
        assert (candidate.finish, candidate.log_probs, candidate.entropies, candidate.gaps) == (
            "end",
            None,
            None,
            None,
        )
    common = {"model": "m", "n": 1, "temperature": 1.0, "max_tokens": 9, "seed": 0}
    assert server.bodies == [
        {**common, "prompt": "p"},
        {**common, "messages": [{"role": "user", "content": "p"}]},
    ]


@pytest.mark.parametrize(
    "prefill, mark, extra",
    [
        (
            "continue_final_message",
            {},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ("prefix", {"prefix": True}, {}),
        ("plain", {}, {}),
    ],
)
def test_body_of_a_chat_request(
    serve: Serve, prefill: Any, mark: dict[str, Any], extra: dict[str, Any]
) -> None:
    server = serve(chat("x", stop_reason=">"))
    backend = ChatBackend("m", server.url, prefill=prefill)
    assert backend.capabilities.continues is None
    common = {
        "model": "m",
        "n": 1,
        "temperature": 1.0,
        "max_tokens": 64,
        "seed": 0,
        "stop": [">"],
        "logprobs": True,
        "top_logprobs": 5,
    }
    user = {"role": "user", "content": "p"}
    only(backend, Request("p"))
    only(backend, Request("p", after("a>", " b>")))
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.bodies[0] == {**common, "messages": [user]}
    assert server.bodies[1] == {
        **common,
        **extra,
        "messages": [user, {"role": "assistant", "content": "a> b>", **mark}],
    }


def test_default_prefill(serve: Serve) -> None:
    server = serve(chat("x", stop_reason=">"))
    only(ChatBackend("m", server.url), Request("p", after("a>")))
    assert server.bodies[0]["continue_final_message"] is True
    assert "prefix" not in server.bodies[0]["messages"][1]
    with pytest.raises(ConfigError, match=r"'suffix'.*continue_final_message, prefix, plain"):
        ChatBackend("m", server.url, prefill="suffix")  # type: ignore[arg-type]


def test_only_the_chat_backend_uses_chat(serve: Serve) -> None:
    url = serve(completion("x")).url
    assert ChatBackend("m", url).capabilities.chat is True
    assert CompletionsBackend("m", url).capabilities.chat is False


def test_seeds_fit_31_bits_and_differ_by_first(serve: Serve) -> None:
    server = serve(completion("x"))
    backend = CompletionsBackend("m", server.url)
    cases = [(5, 0), (5, 1), (5, 2), (6, 1), (-1, 0), (2**63, 0), (2**31 - 1, 0), (5, 1)]
    for seed, first in cases:
        only(backend, Request("p", seed=seed, first=first))
    seeds = [body["seed"] for body in server.bodies]
    assert seeds[0] == 5
    assert seeds[6] == 2**31 - 1
    assert seeds[1] == seeds[7]
    assert len(set(seeds)) == len(cases) - 1
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_unsupported_requests_are_refused_before_sending(serve: Serve) -> None:
    server = serve(completion("x"))
    backend = CompletionsBackend("m", server.url)
    for request, message in (
        (Request("p", stop=Stop((">",), 9, 2)), "cannot hold stop strings back"),
        (Request("p", stop=Stop(tuple("abcde"), 9)), "at most 4"),
        (Request("p\ud800"), "surrogate"),
    ):
        with pytest.raises(ConfigError, match=message):
            backend.next_step([Request("fine"), request])
    assert server.bodies == []
    assert backend.next_step([]) == []


# Several requests


def test_replies_keep_their_order_under_concurrency(serve: Serve) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def answer(body: dict[str, Any]) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05 if int(body["prompt"]) % 3 == 0 else 0.01)
        with lock:
            running -= 1
        return completion(body["prompt"], stop_reason=">")

    backend = CompletionsBackend("m", serve(answer).url, concurrency=4)
    replies = backend.next_step([Request(str(i)) for i in range(12)])
    assert [reply.candidates[0].step for reply in replies] == [f"{i}>" for i in range(12)]
    assert 2 <= most <= 4


def test_first_error_is_raised_after_all_requests_end(serve: Serve) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        if body["prompt"] == "slow":
            time.sleep(0.1)
            return 400, {"error": {"message": "the first"}}
        return 400, {"error": {"message": "the second"}}

    server = serve(answer)
    with pytest.raises(Rejected, match="the first"):
        CompletionsBackend("m", server.url).next_step([Request("slow"), Request("fast")])
    assert len(server.bodies) == 2


INTERRUPTED = """
import sys
from maskdiff.stepwise.openai_api import CompletionsBackend
from maskdiff.stepwise.protocol import Request
try:
    CompletionsBackend("m", sys.argv[1], concurrency=2).next_step([Request("p")] * 3)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for another process")
def test_an_interrupt_ends_at_once(serve: Serve) -> None:
    asked, done = threading.Barrier(3), threading.Event()

    def answer(body: dict[str, Any]) -> Answer:
        asked.wait(30)
        done.wait(30)
        return completion("x")

    server = serve(answer)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url], stdout=subprocess.PIPE
    )
    try:
        asked.wait(30)
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=12)
        except (
            subprocess.TimeoutExpired
        ):  # Python drops an interrupt in a destructor: send it again
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(
                timeout=12
            )  # the requests themselves go on for 30 seconds
        assert (output.strip(), process.returncode) == (b"interrupted", 0)
        assert len(server.bodies) == 2
    finally:
        done.set()
        process.kill()


# Errors


def test_temporary_errors_are_retried(serve: Serve) -> None:
    tries = 0

    def answer(body: dict[str, Any]) -> Answer:
        nonlocal tries
        tries += 1
        return (
            (503, "busy", {"retry-after-ms": "1"})
            if tries < 3
            else completion("a", stop_reason=">")
        )

    server = serve(answer)
    assert only(CompletionsBackend("m", server.url), Request("p")).step == "a>"
    assert len(server.bodies) == 3
    tries = 0
    assert "in 2 tries (HTTP 503): 'busy'" in fails(CompletionsBackend("m", server.url, retries=1))


def test_a_slow_server_times_out(serve: Serve) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        time.sleep(0.8)
        return completion("a")

    started = time.perf_counter()
    message = fails(CompletionsBackend("m", serve(answer).url, timeout=0.3, retries=0))
    assert "no answer within 0.3 seconds" in message
    assert time.perf_counter() - started < 0.75


@pytest.mark.parametrize(
    "status, body, kind, message",
    [
        (
            400,
            {"error": {"message": "bad\nthing"}},
            Rejected,
            r"refused the request (HTTP 400): 'bad\nthing'",
        ),
        (
            400,
            {"object": "error", "message": "n must be 1", "code": 400},
            Rejected,
            "'n must be 1'",
        ),
        (
            422,
            {"detail": [{"loc": ["body"]}]},
            Rejected,
            "refused the request (HTTP 422): '[{'loc': ['body']}]'",
        ),
        (
            401,
            {"error": {"message": "who?"}},
            BackendError,
            "asks for a key; set OPENAI_API_KEY (HTTP 401): 'who?'",
        ),
        (
            404,
            {"error": {"message": "none"}},
            BackendError,
            "has no such address, or no model 'm' (HTTP 404): 'none'",
        ),
        (
            429,
            {"error": "slower"},
            BackendError,
            "is asked too often in 2 tries (HTTP 429): 'slower'",
        ),
        (500, "<html>" + "x" * 9999, BackendError, "failed in 2 tries (HTTP 500): '<html>xxx"),
        (402, "", BackendError, "failed (HTTP 402): 'Payment Required'"),
    ],
)
def test_error_statuses_give_one_line(
    serve: Serve, status: int, body: Any, kind: type[BackendError], message: str
) -> None:
    server = serve((status, body, {"retry-after-ms": "1"}))
    for backend in (
        CompletionsBackend("m", server.url, retries=1),
        ChatBackend("m", server.url, retries=1),
    ):
        line = fails(backend, kind)
        assert message in line
        assert f"{backend.name} at {server.url}" in line
        assert len(line) <= 400


def test_an_unreachable_server_is_reported() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = fails(
        CompletionsBackend("m", f"http://user:hush@127.0.0.1:{port}/v1?token=hush", retries=0)
    )
    assert f"at http://127.0.0.1:{port}/v1: cannot be reached" in message
    assert "refused" in message
    assert "hush" not in message


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_proxies_are_not_used_for_localhost(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (
        only(CompletionsBackend("m", serve(completion("x")).url, retries=0), Request("p")).step
        == "x>"
    )


# The key


def test_key_is_sent_and_never_printed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    echoes = [
        (401, {"error": {"message": f"wrong key {SECRET}"}}),
        (500, f"{SECRET} " * 50),
        (400, {"detail": {"key": SECRET}}),
        (200, SECRET),
        (200, {"error": f"Bearer {SECRET}"}),
        (200, {"choices": [{"text": [SECRET], "finish_reason": "stop"}]}),
        (200, {"choices": [{"text": "", "finish_reason": SECRET}]}),
    ]
    for echo in echoes:
        server = serve(echo)
        backend = CompletionsBackend("m", server.url, retries=0)
        with pytest.raises(BackendError) as caught:
            backend.next_step([Request("p")])
        assert server.keys == [f"Bearer {SECRET}"]
        for text in (
            str(caught.value),
            repr(caught.value),
            repr(backend),
            backend.name,
            backend.where,
        ):
            assert "verySecret" not in text
        assert "***" in str(caught.value)  # negative control: the echo contains the key
    assert "does not accept the key in OPENAI_API_KEY" in fails(
        CompletionsBackend("m", serve(echoes[0]).url)
    )


def test_a_key_is_required_for_remote_servers_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"https://u\.example/v1 is not on this machine.*OPENAI_API_KEY"
    ):
        CompletionsBackend("m", "https://name:pass@u.example/v1?k=1")
    for url in ("http://localhost:1/v1", "http://127.9.9.9:1/v1", "http://[::1]:1/v1"):
        CompletionsBackend("m", url).close()
    server = serve(completion("x"))
    only(CompletionsBackend("m", server.url), Request("p"))
    assert server.keys == ["Bearer none"]
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    CompletionsBackend("m", "https://u.example/v1").close()
    for key in ("sk-verySecret\nx", "sk-verySecreté", "sk verySecret"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters") as caught:
            CompletionsBackend("m", server.url)
        assert "verySecret" not in str(caught.value)


def test_a_key_is_not_sent_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    CompletionsBackend("m", "http://u.example/v1").close()  # so that unsetting it helps
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(
        ConfigError, match=r"http://u\.example/v1 .*use https, or unset the key"
    ) as caught:
        CompletionsBackend("m", "HTTP://u.example/v1")
    assert "verySecret" not in str(caught.value)
    CompletionsBackend("m", "http://127.0.0.1:1/v1").close()


@pytest.mark.parametrize(
    "url, settings, message",
    [
        ("127.0.0.1:8000", {}, "no address"),
        ("ftp://127.0.0.1", {}, "no address"),
        ("http://:hush@/v1", {}, "no address"),
        ("http://127.0.0.1:99999/v1", {}, "no address"),
        ("http://127.0.0.1:1", {"timeout": 0.0}, "timeout of 0 seconds"),
        ("http://127.0.0.1:1", {"retries": -1}, "retries is -1"),
        ("http://127.0.0.1:1", {"concurrency": 0}, "concurrency 0"),
    ],
)
def test_impossible_settings_are_refused(url: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        CompletionsBackend("m", url, **settings)
    assert "hush" not in str(caught.value)


def test_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r'pip install "maskdiff\[openai\]"'):
        CompletionsBackend("m", "http://127.0.0.1:1/v1")


def test_close_closes_the_client(serve: Serve) -> None:
    server = serve(completion("x"))
    with CompletionsBackend("m", server.url) as backend:
        assert only(backend, Request("p")).step == "x>"
        backend.forget()
        assert only(backend, Request("p")).step == "x>"
    with pytest.raises(RuntimeError, match="closed"):
        backend.next_step([Request("p")])
