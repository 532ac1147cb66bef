"""Local servers that give scripted answers and record requests, and answers for them."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from maskdiff.stepwise.protocol import BackendError, Candidate, Request

Answer = (
    Any  # a JSON body, or (status, body), or (status, body, headers); a str body is sent as it is
)


class Server:
    """Answers each request with `script(body)`; `bodies` records the received bodies."""

    def __init__(self, script: Callable[[dict[str, Any]], Answer]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                -1
            )  # head and body in one packet, or the second waits for the client's acknowledgement

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.paths.append(self.path)
                    outer.keys.append(self.headers["Authorization"])
                answer = script(body)
                status, content, headers = (
                    (*answer, {})[:3] if isinstance(answer, tuple) else (200, answer, {})
                )
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client gave up
                    pass

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()


Serve = Callable[..., Server]


@contextmanager
def serving() -> Iterator[Serve]:
    """Starts servers, each of a script or of one answer to everything, and ends them all."""
    servers: list[Server] = []

    def start(script: Any) -> Server:
        servers.append(Server(script if callable(script) else lambda body: script))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            server.http.shutdown()
            server.http.server_close()


def isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, address or proxy of the environment that the tests run in."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    # Reading all certificates takes most of the time of a test, and nothing here is encrypted.
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *args, **kwargs: None)


def logs(
    tokens: list[str], numbers: list[float | None], tops: list[dict[str, float]] | None = None
) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "token_logprobs": numbers,
        "top_logprobs": tops,
        "text_offset": list(range(len(tokens))),
    }


def chat_logs(
    tokens: list[str], numbers: list[float | None], tops: list[dict[str, float]] | None = None
) -> dict[str, Any]:
    rows = zip(tokens, numbers, tops or [{}] * len(tokens))
    return {
        "content": [
            {
                "token": token,
                "logprob": number,
                "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()],
            }
            for token, number, top in rows
        ]
    }


def completion(
    *texts: str, usage: Any = (10, 4), reason: str = "stop", **more: Any
) -> dict[str, Any]:
    """A completion; by default one token for every character, each of log-probability -0.5."""
    choices = [
        {
            "index": i,
            "text": text,
            "finish_reason": reason,
            "logprobs": logs(list(text), [-0.5] * len(text)),
            **more,
        }
        for i, text in enumerate(texts)
    ]
    counts = (
        {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        if usage
        else None
    )
    return {
        "id": "c",
        "object": "text_completion",
        "created": 0,
        "model": "m",
        "choices": choices,
        "usage": counts,
    }


def chat(text: str | None, **more: Any) -> dict[str, Any]:
    made = completion(text or "", **more)
    (choice,) = made["choices"]
    choice["message"] = {"role": "assistant", "content": text}
    choice["logprobs"] = chat_logs(list(choice.pop("text")), [-0.5] * len(text or ""))
    return made


def after(*steps: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(step, step, "stop", 1) for step in steps)


def only(backend: Any, request: Request) -> Candidate:
    (reply,) = backend.next_step([request])
    (candidate,) = reply.candidates
    return candidate


def fails(backend: Any, kind: type[BackendError] = BackendError) -> str:
    """The line of the error of a request."""
    with pytest.raises(BackendError) as caught:
        backend.next_step([Request("p")])
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None or caught.value.__suppress_context__
    return str(caught.value)
