"""Random bytes and mutated bodies for a server in another process, which logs nothing."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")

import httpx

from tests.helpers.fuzz import SECONDS, both_seeds, cases
from tests.helpers.serving_process import Running, all_of, head, process, request

TYPE = {"Content-Type": "application/json"}

pytestmark = pytest.mark.slow  # each worker that has a test starts a server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    flags = ("--max_body", "100000", "--header_timeout", "0.3")
    with process(tmp_path_factory.mktemp("fuzz"), *flags) as running:
        yield running


def unharmed(server: Running) -> None:
    """Asserts that the server answers a valid request and has logged nothing."""
    assert server.answers()
    assert server.lines() == []


# -------------------------------------------------------------------------------------------- bytes

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = head("chunked")
BODY = json.dumps({"model": "toy", "prompt": "?", "max_tokens": 3}).encode()
WHOLE = request(max_tokens=3)

# Name -> bytes and the statuses of the answers, in their order.
RAW: dict[str, tuple[bytes, list[int]]] = {
    "pipelined": (GET + WHOLE + GET, [200, 200, 200]),
    "pipelined behind a stream": (request(max_tokens=3, stream=True) + GET, [200, 200]),
    "pipelined garbage": (GET + b"\0\1\2\r\n\r\n", [200, 400]),
    "chunks": (CHUNKED + b"%x;a=b\r\n%b\r\n0\r\nA: b\r\n\r\n" % (len(BODY), BODY), [200]),
    "chunk of no length": (CHUNKED + b"\r\n{}\r\n0\r\n\r\n", [400]),
    "chunk of a huge length": (CHUNKED + b"f" * 40 + b"\r\n{}", [400]),
    "tiny chunks": (CHUNKED + b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n", [400]),
    "too little": (head(len(BODY) - 5) + BODY, [400, 408]),
    "wrong chunk behind a right one": (CHUNKED + b"1\r\n{\r\nz\r\n", [400]),
    "wrong chunk behind an early answer": (
        head("chunked", **{"Content-Type": "a/b"}) + b"z\r\n",
        [400],
    ),
    "negative length": (head(-1) + BODY, [400]),
    "length that is no number": (head("1e3") + BODY, [400]),
    "huge length": (head("9" * 30), [400]),
    "two lengths": (head(3, **{"content-length": "4"}) + b"{}  ", [400]),
    "length and chunks": (head(3, **{"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n", [400]),
    "unknown encoding": (head(3, **{"Transfer-Encoding": "gzip"}) + b"{} ", [400]),
    "compressed": (head(3, **{"Content-Encoding": "gzip"}) + b"{} ", [400]),
    "huge header": (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 200_000, [400]),
    "many headers": (b"GET /v1/models HTTP/1.1\r\n" + b"A: b\r\n" * 50_000, [400]),
    "huge address": (b"GET /v1/" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n", [400]),
    "long address": (b"GET /v1/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"%C3" * 4000), [404]),
    "HTTP/1.0": (b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n", [200]),
    "HTTP/0.9": (b"GET /v1/models\r\n", [408]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(60), [400, 400]),
    "upgrade to HTTP/2": (
        GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        [200],
    ),
    "websocket": (GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", [200]),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(range(189)), [400]),
    "zeros": (bytes(5000), [400]),
    "line ends": (b"\r\n" * 9 + GET, [400]),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", [400]),
    "two hosts": (GET[:-2] + b"Host: localhost\r\n\r\n", [400]),
    "other host": (b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n", [400]),
    "folded header": (GET[:-2] + b"A: b\r\n c\r\n\r\n", [200]),
    "header without a name": (GET[:-2] + b": b\r\n\r\n", [400]),
    "zero in a header": (GET[:-2] + b"A: \0\r\n\r\n", [400]),
    "address of a proxy": (
        b"GET http://localhost/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
        [404],
    ),
    "tunnel": (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", [404]),
    "any method": (b"BREW /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", [405]),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", [404]),
    "HEAD": (b"HEAD /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", [405]),
    "folder above": (b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", [404]),
    "model of any name": (b"GET /v1/models/%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", [404]),
    "continue": (head(len(BODY), Expect="100-continue") + BODY, [200]),
    "no type": (WHOLE.replace(b"Content-Type", b"A"), [415]),
}


def statuses(received: bytes) -> list[int]:
    return [
        int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:] if not part.startswith(b"100")
    ]


def sent(server: Running, raw: bytes, enough: int, seconds: float) -> bytes:
    """Returns the bytes received until there are `enough` answers, the connection ends or no byte
    comes."""
    received = bytearray()
    with server.connect() as connection:
        connection.settimeout(seconds)
        try:
            connection.sendall(raw)
        except OSError:  # the server has ended it, but an answer may be there
            pass
        try:
            while len(statuses(bytes(received))) < enough and (part := connection.recv(2**16)):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
    return bytes(received)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RAW)
def test_wrong_http_is_refused(server: Running, kind: str) -> None:
    raw, expected = RAW[kind]
    assert statuses(sent(server, raw, len(expected), 20)) == expected
    unharmed(server)


def test_a_cut_request_is_no_request(server: Running) -> None:
    """Wherever a request is cut and the connection ended, nothing is answered or logged."""
    for size in range(0, len(WHOLE), 7):
        with server.connect(WHOLE[:size]) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
    unharmed(server)


def test_garbage_behind_an_early_answer_ends_the_connection(server: Running) -> None:
    with server.connect(head("chunked", **{"Content-Type": "a/b"})) as connection:
        assert connection.recv(2**16).startswith(b"HTTP/1.1 415")
        connection.sendall(b"1\r\n{\r\nz\r\n")
        assert b"HTTP/1.1" not in all_of(connection)
    unharmed(server)


TOKENS = (
    b"\r\n", b"\n", b"\r\n\r\n", b" ", b":", b"\0", b"\xff", b"0", b"-1", b"99999999999",
    b"HTTP/1.0", b"HTTP/1.1", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"?a=%zz",
    b"%00", b"//", b"*",
)  # fmt: skip


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """`raw` after a few random changes."""
    for _ in range(rng.randint(0, 6)):
        at = rng.randrange(len(raw) + 1)
        end = min(len(raw), at + rng.choice((1, 1, 3, 20, 200)))
        new = rng.choice(
            (b"", raw[at:end] * 2, rng.choice(TOKENS), rng.randbytes(rng.randint(1, 9)))
        )
        raw = raw[:at] + new + raw[rng.choice((at, end)) :]
    return raw


@pytest.mark.slow
@both_seeds
def test_random_http(server: Running, seed: int) -> None:
    """Answers are refusals or right; connections end at any place, with and without reading."""
    sources = [raw for raw, _ in RAW.values() if len(raw) < 5000]
    for rng in cases(100_000, seed, SECONDS / 4):
        raw = b"".join(mutated(rng, rng.choice(sources)) for _ in range(rng.randint(1, 3)))
        received = sent(server, raw, 1, rng.choice((0.0001, 0.01, 0.1)))
        assert all(status < 500 for status in statuses(received)), (raw, received)
    unharmed(server)


# ------------------------------------------------------------------------------------------- bodies


def post(server: Running, raw: bytes | str, path: str = "completions") -> httpx.Response:
    return httpx.post(f"{server.url}/{path}", content=raw, headers=TYPE, timeout=20)


def with_field(name: str, value: str) -> str:
    """Returns a request in which a field has the given raw value."""
    return f'{{"model": "toy", "prompt": "?", "max_tokens": 3, "{name}": {value}}}'


@pytest.mark.parametrize(
    "raw, status",
    [
        (with_field("temperature", "NaN"), 400),
        (with_field("temperature", "Infinity"), 400),
        (with_field("temperature", "-Infinity"), 400),
        (with_field("temperature", "1e999"), 400),
        (with_field("temperature", "1e-999"), 200),
        (with_field("temperature", "-0.0"), 200),
        (with_field("temperature", '"1"'), 400),
        (with_field("temperature", "true"), 400),
        (with_field("seed", "9" * 5000), 400),
        (with_field("seed", "1.5"), 400),
        (with_field("seed", "-9223372036854775809"), 400),
        (with_field("seed", "-9223372036854775808"), 200),
        (with_field("n", "1.0"), 400),
        (with_field("n", "1e0"), 400),
        (with_field("x", "9" * 90_000), 400),
        (with_field("x", "NaN"), 200),
        (with_field("x", "[" * 5000 + "]" * 5000), 400),
        (with_field("x", '{"a":' * 5000 + "1" + "}" * 5000), 400),
        (with_field("x", "[" * 60_000), 400),
        (with_field("prompt", '"\\ud800"'), 400),
        (with_field("model", '"\\udfff"'), 400),
        (with_field("stop", '["\\ud83d"]'), 400),
        (with_field("prompt", '"\\u0000"'), 200),
        (with_field("prompt", "null"), 400),
        (with_field("model", '"toy\\n"'), 404),
        (with_field("stream", '"yes"'), 400),
        (with_field("stream_options", "[]"), 400),
        (with_field("logit_bias", '{"1": NaN}'), 400),
        ("\ufeff" + with_field("x", "1"), 400),
        (with_field("x", "1") + "x", 400),
        (with_field("x", "1") * 2, 400),
        (with_field("x", "1").replace('"', "'"), 400),
        ("null", 400),
        ('"text"', 400),
        ("1", 400),
        (with_field("x", "1").encode("utf-16"), 400),
        (b'{"model": "toy", "prompt": "\xc3("}', 400),
        (b'{"model": "toy", "prompt": "\xed\xa0\x80"}', 400),
        (b'{"model": "toy", "prompt": "?\0"}', 400),
    ],
)
def test_wrong_json_is_refused(server: Running, raw: bytes | str, status: int) -> None:
    answer = post(server, raw)
    assert (answer.status_code, "error" in answer.json()) == (status, status != 200)
    unharmed(server)


def test_the_last_of_duplicate_keys_counts(server: Running) -> None:
    """As in Python's own reader of JSON."""
    answers = [post(server, with_field("max_tokens", f"{n}").replace("3", "9", 1)) for n in (1, 2)]
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [1, 2]


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, float("nan"),
    float("inf"), "", "?", "text", "\0", "\ud800", "\U0001f600", "x" * 300, [], {}, [[]], [None],
    ["?"], ["?", 1], {"type": "text"}, {"include_usage": True}, [{"role": "user", "content": "?"}],
    [{"role": "user"}], [{"type": "text", "text": "a"}],
)  # fmt: skip
FIELDS = (
    "model", "prompt", "messages", "n", "best_of", "max_tokens", "max_completion_tokens",
    "temperature", "seed", "stop", "stream", "stream_options", "include_stop_str_in_output",
    "logprobs", "top_logprobs", "continue_final_message", "add_generation_prompt", "echo", "suffix",
    "tools", "response_format", "top_p", "top_k", "logit_bias", "x", "",
)  # fmt: skip


def random_body(rng: random.Random) -> bytes:
    """A right body in which values are replaced, and sometimes bytes."""
    turns = [
        {"role": rng.choice(("user", "assistant", "system")), "content": "a"} for _ in range(3)
    ]
    body: dict[str, Any] = {"model": "toy", "prompt": "?", "messages": turns, "max_tokens": 3}
    for _ in range(rng.randint(0, 4)):
        target: Any = body if rng.random() < 0.7 else rng.choice(turns)
        target[rng.choice(FIELDS)] = rng.choice(VALUES)
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] > 3:
        body["max_tokens"] = rng.choice((3, "3", -3, None))
    raw = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutated(rng, raw) if rng.random() < 0.3 else raw


@pytest.mark.slow
@both_seeds
def test_random_bodies(server: Running, seed: int) -> None:
    """Every answer is a completion or an error in the form that clients read."""
    seen = set()
    with httpx.Client(headers=TYPE, timeout=20) as client:
        for rng in cases(100_000, seed, SECONDS / 4):
            raw, path = random_body(rng), rng.choice(("completions", "chat/completions"))
            answer = client.post(f"{server.url}/{path}", content=raw)
            seen.add(answer.status_code)
            assert answer.status_code in (200, 400, 404, 413), (raw, answer.text)
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            elif not answer.headers["content-type"].startswith("text/event-stream"):
                assert answer.json()["choices"]
            else:
                assert answer.text.endswith("data: [DONE]\n\n")
    assert {200, 400} <= seen
    unharmed(server)
