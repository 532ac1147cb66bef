"""Limits of connections, time, memory and log lines, of a server in another process."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import httpx

from maskdiff.cli.maskdiff import build_parser, main
from maskdiff.cli.serve import limits_of
from maskdiff.errors import ConfigError
from maskdiff.serving.connections import client_address
from maskdiff.serving.error_responses import RequestError
from maskdiff.serving.logs import RepeatFilter
from maskdiff.serving.memory import MemoryBudget
from maskdiff.serving.model import ServerLimits
from tests.helpers.serving_process import Running, all_of, head, process, request, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loopback addresses, /proc")

QUICK = ("--header_timeout", "0.2", "--body_timeout", "0.2", "--idle_timeout", "0.4")
MODELS = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the default limits."""
    with process(tmp_path_factory.mktemp("patient")) as server:
        yield server
        assert server.lines() == []
        assert server.end() == 0


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose time limits are fractions of a second."""
    flags = (*QUICK, "--write_timeout", "0.4")
    with process(tmp_path_factory.mktemp("quick"), *flags) as server:
        yield server
        assert server.lines() == []
        assert server.end() == 0


# -------------------------------------------------------------------------------------- connections


@pytest.mark.slow
def test_hundreds_of_waiting_connections_block_no_client(patient: Running) -> None:
    """240 connections of every kind that waits, of two clients; both are answered as others are."""
    kinds = (b"", b"GET /v1/mo", MODELS, head(10) + b"{", head("chunked") + b"1\r\n{\r\n")
    with ExitStack() as stack:
        for i in range(240):
            source = f"127.0.0.{1 + i % 2}"
            stack.enter_context(patient.connect(kinds[i // 2 % len(kinds)], source))
        wait_until(lambda: patient.connections() > 180)
        assert all(patient.answers() for _ in range(3))
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=transport) as other:
            assert other.get(f"{patient.url}/models").status_code == 200


@pytest.mark.slow
def test_a_client_has_so_many_connections(tmp_path: Path) -> None:
    """The oldest that waits is closed for the newest; other clients lose none."""
    with process(tmp_path, "--max_per_client", "8", "--max_connections", "20") as server:
        other = server.connect(source="127.0.0.9")
        many = [server.connect(MODELS) for _ in range(30)]
        for connection in many[:22]:
            all_of(connection)  # ends
        for connection in many[22:]:
            connection.settimeout(5)
            assert connection.recv(9) == b"HTTP/1.1 "
        other.sendall(MODELS)
        assert other.recv(9) == b"HTTP/1.1 "
        far = [server.connect(source=f"127.0.1.{i}") for i in range(30)]  # clients that are all new
        wait_until(lambda: server.connections() <= 20)
        assert server.answers()
        for connection in (other, *many, *far):
            connection.close()


@pytest.mark.slow
def test_connections_at_work_are_not_ended_for_new_ones(tmp_path: Path) -> None:
    """New ones end at once until another connection ends."""
    with process(tmp_path, "--max_per_client", "3", pause=0.05) as server:
        busy = [server.connect(request(max_tokens=8, logprobs=0)) for _ in range(3)]
        wait_until(lambda: server.connections() == 3)
        time.sleep(0.2)
        assert all_of(server.connect(MODELS)) == b""
        for connection in busy:
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.close()
        wait_until(lambda: server.connections() == 0)
        assert server.answers()


@pytest.mark.parametrize(
    "host, client",
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_clients_are_identified_by_address_or_ipv6_network(host: str, client: str) -> None:
    assert client_address(host) == client


# --------------------------------------------------------------------------------------------- time


def drip(connection: socket.socket, piece: bytes) -> bytes:
    """Sends a piece every 20 ms and returns the server's bytes until it ends the connection."""
    connection.settimeout(0.02)
    received = bytearray()
    for _ in range(1000):
        try:
            connection.sendall(piece)
            if not (part := connection.recv(4096)):
                return bytes(received)
            received += part
        except TimeoutError:
            pass
        except OSError:  # reset
            return bytes(received)
    pytest.fail("the connection does not end")


SLOW = {
    "headers": (b"GET /v1/models HTTP/1.1\r\nX-A: ", b"x", b"HTTP/1.1 408"),
    "headers of a second request": (MODELS + b"GET", b"x", b"HTTP/1.1 200"),
    "many short headers": (b"GET /v1/models HTTP/1.1\r\n", b"A: b\r\n", b"HTTP/1.1 408"),
    "body": (head(10_000), b" ", b"HTTP/1.1 408"),
    "chunks": (head("chunked"), b"1\r\n \r\n", b"HTTP/1.1 408"),
    "one long chunk": (head("chunked") + b"fffff\r\n", b" ", b"HTTP/1.1 408"),
    "body that nobody asked for": (head(10_000, "models"), b" ", b"HTTP/1.1 405"),
    "body behind an early answer": (
        head(10_000, **{"Content-Type": "text/plain"}),
        b" ",
        b"HTTP/1.1 415",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOW)
def test_slow_requests_are_cut(quick: Running, kind: str) -> None:
    """Bytes that come one by one do not extend a limit."""
    sent, piece, answer = SLOW[kind]
    with quick.connect(sent) as connection:
        assert drip(connection, piece).startswith(answer)
    assert quick.answers()


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/mo", MODELS, head(10), head(10) + b"{", head("chunked")]
)
def test_silent_clients_are_cut(quick: Running, sent: bytes) -> None:
    with quick.connect(sent) as connection:
        answer = all_of(connection)
    assert bool(answer) == bool(sent)
    assert quick.answers()


@pytest.mark.slow
def test_the_limits_are_those_of_the_flags(patient: Running) -> None:
    """The same silence is no reason to end a connection where more time is given."""
    connections = [patient.connect(sent) for sent in (b"", b"GET /v1/mo", head(10) + b"{")]
    time.sleep(0.6)
    for connection in connections:
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.close()


@pytest.mark.slow
def test_a_connection_may_be_used_again(quick: Running) -> None:
    with quick.connect() as connection:
        for _ in range(4):
            connection.sendall(MODELS)
            received = b""
            while not received.endswith(b"]}"):
                received += connection.recv(4096)
            assert received.startswith(b"HTTP/1.1 200")
            time.sleep(0.15)  # longer in all than a connection may be idle


@pytest.mark.slow
def test_clients_that_do_not_read_are_cut(quick: Running) -> None:
    """The answer is larger than the send buffers of the system."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wait_until(lambda: quick.connections() == 0)
        connection.connect(("127.0.0.1", quick.port))
        connection.sendall(request(n=16, max_tokens=8000, temperature=0.0))
        wait_until(lambda: quick.connections() == 1)
        wait_until(lambda: quick.connections() == 0)
        answer = all_of(connection)
    promised = int(answer.lower().partition(b"content-length: ")[2].split()[0])
    assert len(answer) < promised
    assert quick.answers()


@pytest.mark.slow
def test_clients_that_read_get_all_of_it(quick: Running) -> None:
    body = {"model": "toy", "prompt": "?", "n": 16, "max_tokens": 8000, "temperature": 0.0}
    answer = httpx.post(f"{quick.url}/completions", json=body, timeout=60)
    assert [len(choice["text"]) for choice in answer.json()["choices"]] == [8000] * 16


@pytest.mark.slow
def test_the_end_waits_for_no_client(tmp_path: Path) -> None:
    """Neither for one that does not read, nor for one that does not send."""
    with process(tmp_path) as server, socket.socket() as reader, ExitStack() as stack:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", server.port))
        reader.sendall(request(max_tokens=5000, stream=True))
        for sent in (b"", b"GET /v1/mo", MODELS, head(10), head("chunked")):
            stack.enter_context(server.connect(sent))
        wait_until(lambda: server.connections() == 6)
        assert server.end() == 0
        assert server.lines() == []


# --------------------------------------------------------------------------------------------- logs


@pytest.mark.slow
def test_without_descriptors_the_server_logs_little_and_keeps_running(tmp_path: Path) -> None:
    with process(tmp_path, files=12) as server, ExitStack() as stack:
        for i in range(80):
            stack.enter_context(server.connect(b"GET /v1/mo", f"127.0.0.{1 + i % 9}"))
        assert all(server.answers() for _ in range(5))
        assert 1 <= len(server.lines()) <= 2
        assert "cannot accept connections: Too many open files" in server.lines()[0]


@pytest.mark.slow
def test_without_descriptors_it_waits_for_work_to_end(tmp_path: Path) -> None:
    with process(tmp_path, pause=0.05, files=8) as server, ExitStack() as stack:
        sent = request(max_tokens=30, logprobs=0)
        for _ in range(40):
            stack.enter_context(server.connect(sent))
        wait_until(lambda: len(server.lines()) >= 1)
        time.sleep(0.5)
        assert len(server.lines()) == 1
        stack.close()
        wait_until(server.answers, 30)
        assert server.end() == 0


def test_equal_lines_pass_once_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now, repeats = 1000.0, RepeatFilter()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def passed(message: str, *args: object) -> str | None:
        record = logging.LogRecord("asyncio", logging.ERROR, "", 0, message, args, None)
        return record.getMessage() if repeats.filter(record) else None

    assert passed("lost %s\nsocket: 0x7f12", "a") == "lost a\nsocket: 0x7f12"
    assert passed("other") == "other"
    assert [passed(f"lost %s\nsocket: {i}", "b") for i in range(5)] == [None] * 5
    now += 61
    assert passed("lost %s", "c") == "lost c (left out since the last such line: 5)"
    assert (
        sum(passed("".join(chr(97 + int(d)) for d in str(i))) is not None for i in range(999))
        == 999
    )
    assert len(repeats._seen) <= 256


# ------------------------------------------------------------------------------------------- memory


def test_reserved_memory_is_never_more_than_there_is() -> None:
    """Requests enter in their order, and those that leave take no memory with them."""

    async def use(memory: MemoryBudget, size: int, number: int, entered: list[int]) -> None:
        async with memory.reserve(size):
            entered.append(number)
            assert 0 <= memory.used <= memory.most
            await asyncio.sleep(0.001 * (number % 3))

    async def run() -> None:
        memory, entered = MemoryBudget(100), list[int]()
        tasks = [asyncio.create_task(use(memory, 1 + 37 * i % 100, i, entered)) for i in range(80)]
        await asyncio.sleep(0)
        for i in (0, 3, 7, 20, 21, 60):
            tasks[i].cancel()
        await asyncio.sleep(0.004)
        for i in range(30, 50):
            tasks[i].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert entered == sorted(entered)
        assert [i for i, end in enumerate(ends) if end is None] == [
            i for i in range(80) if not tasks[i].cancelled()
        ]
        assert len(entered) >= 40
        assert memory.used == 0

    asyncio.run(run())


def test_closing_refuses_requests_that_wait_for_memory() -> None:
    async def run() -> None:
        memory = MemoryBudget(1)

        async def wait() -> None:
            async with memory.reserve(1):
                await asyncio.sleep(60)

        first, second, third = (asyncio.create_task(wait()) for _ in range(3))
        await asyncio.sleep(0)
        memory.close()
        with pytest.raises(RequestError, match="ending"):
            await second
        with pytest.raises(RequestError, match="ending"):
            await third
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert memory.used == 0

    asyncio.run(run())


@pytest.mark.slow
def test_answers_wait_for_memory_or_are_refused(tmp_path: Path) -> None:
    """With memory for one answer, answers run one after the other; longer ones are refused."""
    flags, capacity = ("--max_memory", "4"), 2**20 // (3800 + 200)
    with process(tmp_path, *flags, token_bytes=3800) as server, ThreadPoolExecutor(6) as pool:

        def ask(tokens: int) -> httpx.Response:
            body = {"model": "toy", "prompt": "?", "max_tokens": tokens, "seed": 3}
            return httpx.post(f"{server.url}/completions", json=body, timeout=30)

        answers = list(pool.map(ask, [capacity - 1] * 6))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        over = ask(capacity + 1)
        assert (over.status_code, over.json()["error"]["code"]) == (413, "answer_too_large")
        assert "--max_memory" in over.json()["error"]["message"]


@pytest.mark.slow
def test_bodies_are_bounded_together(tmp_path: Path) -> None:
    """120 bodies of a megabyte each that never end take no more than `--max_bodies` and buffers."""
    with process(tmp_path, "--max_bodies", str(4 * 2**20)) as server, ExitStack() as stack:
        assert server.answers()
        before = server.resident()
        waiting = [stack.enter_context(server.connect()) for _ in range(120)]
        for connection in waiting:
            connection.setblocking(False)
            try:
                connection.sendall(head(2**20) + b" " * (2**20 - 1))
            except BlockingIOError:
                pass
        wait_until(lambda: any(answer_of(connection) for connection in waiting))
        refused = next(filter(None, map(answer_of, waiting)))
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in refused
        assert server.resident("VmHWM") - before < 4 * 4 + 120 * 0.4
        stack.close()
        wait_until(server.answers)


def answer_of(connection: socket.socket) -> bytes:
    """Returns the bytes received so far, without waiting."""
    try:
        return connection.recv(4096, socket.MSG_PEEK)
    except OSError:
        return b""


HOSTILE = {
    "wrong prompts": b'{"model":"toy","prompt":[' + b"1," * 400_000 + b"1]}",
    "empty messages": b'{"model":"toy","messages":[' + b"{}," * 300_000 + b"{}]}",
    "unknown lists": b'{"model":"toy","prompt":"?","max_tokens":1,"x":['
    + b"[]," * 300_000
    + b"0]}",
    "unknown fields": b'{"model":"toy","prompt":"?","max_tokens":1'
    + b"".join(b',"%x":0' % i for i in range(90_000))
    + b"}",
    "stops": b'{"model":"toy","prompt":"?","stop":[' + b'"",' * 300_000 + b'""]}',
    "deep": b'{"model":"toy","prompt":"?","x":' + b"[" * 900_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bodies_take_little(patient: Running, kind: str) -> None:
    """A body of a megabyte takes at most 100 times as much while it is read."""
    raw, path = HOSTILE[kind], "chat/completions" if kind == "empty messages" else "completions"
    assert len(raw) < 2**20
    before = patient.resident()
    answer = httpx.post(
        f"{patient.url}/{path}",
        content=raw,
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    assert answer.status_code in (200, 400)
    assert patient.resident("VmHWM") - before < 100


# -------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--header_timeout", "0"], "header_timeout is '0'; allowed is 0.05 to 86400"),
        (["--header_timeout", "nan"], "header_timeout is 'nan'; it must be a number"),
        (["--max_connections", "0"], "max_connections is '0'; allowed is 1 to 4096"),
        (
            ["--max_body", "99999999999999999999"],
            "max_body is '99999999999999999999'; allowed is 1 to",
        ),
        (
            ["--max_body", "20000000"],
            "max_bodies is 16777216; at least max_body (20000000) is needed",
        ),
        (["--max_memory", "x"], "max_memory is 'x'; it must be a whole number"),
    ],
)
def test_flags_out_of_range(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["serve", "--port", "0", *flags])
    assert message in str(caught.value)


def test_connections_leave_descriptors_for_other_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (64, 100))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: changed.append(limits))
    parse = build_parser().parse_args
    assert limits_of(parse(["serve"])).max_connections == 75
    assert changed == [(100, 100)]
    assert limits_of(parse(["serve", "--max_connections", "75"])).max_connections == 75
    with pytest.raises(ConfigError, match="at most 75 are possible"):
        limits_of(parse(["serve", "--max_connections", "76"]))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    assert limits_of(parse(["serve"])).max_connections == ServerLimits().max_connections


@pytest.mark.slow
def test_a_taken_port_is_one_line(patient: Running, capsys: pytest.CaptureFixture[str]) -> None:
    from maskdiff.cli import arguments as cli

    assert cli.run_cli(main, ["serve", "--port", str(patient.port)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "cannot listen on '127.0.0.1'" in lines[0]
    assert json.dumps(lines[0]).isascii()
