"""A server of the toy generator in a process of its own, and clients that speak raw HTTP to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.forked import Forked

SCRIPT = """
import os, resource, socket, sys
from tests.helpers.serving_toy import Toy, served
from maskdiff.cli import arguments as cli
from maskdiff.serving import connections, server
from maskdiff.cli import serve as serve_cli
pause, token_bytes, files = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
toy = Toy()
toy.pause = pause
toy.story = "tick, tock. " * 5000
serve_cli.load_model = lambda args: served(toy, 50_000, token_bytes)
if files:
    ready = serve_cli._log
    def say(line):
        ready(line)
        most = files + len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    serve_cli._log = say
server.GRACE = 0.3
server.PAUSE = connections.BODY_GRACE = 0.2
open_listener = server.open_listener
def small(host, port):  # the system buffers few unread bytes
    listener = open_listener(host, port)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return listener
server.open_listener = small
parser = cli.Parser()
serve_cli.add_verb(parser.add_subparsers(dest="verb"))
flags = ["serve", "--port", "0", *sys.argv[4:]]
sys.exit(cli.run_cli(lambda argv: serve_cli.serve(parser.parse_args(argv)), flags))
"""


@dataclass
class Running:
    """A server that runs."""

    process: Forked
    port: int
    log: Path
    own: int = 0  # sockets without any connection

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def connect(self, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """A connection from `source` that has sent something."""
        connection = socket.create_connection(("127.0.0.1", self.port), 20, (source, 0))
        if sent:
            connection.sendall(sent)
        return connection

    def answers(self) -> bool:
        """Whether a right request is answered."""
        body = {"model": "toy", "prompt": "?", "seed": 1, "max_tokens": 3}
        answer = httpx.post(f"{self.url}/completions", json=body, timeout=20)
        return answer.status_code == 200 and bool(answer.json()["choices"][0]["text"])

    def connections(self) -> int:
        """How many connections the server has open."""
        folder, count = f"/proc/{self.process.pid}/fd", 0
        for name in os.listdir(folder):
            try:
                count += os.readlink(f"{folder}/{name}").startswith("socket:")
            except OSError:  # closed meanwhile
                continue
        return count - self.own

    def lines(self) -> list[str]:
        """Returns the output of the server after it was ready."""
        return self.log.read_text().splitlines()[1:]

    def end(self) -> int:
        """The exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def resident(self, what: str = "VmRSS") -> float:
        """Memory of the process in MiB (VmHWM: the most so far)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{what}:")[2].split()[0]) / 1024


@contextmanager
def process(
    folder: Path, *flags: str, pause: float = 0.0, token_bytes: int = 0, files: int = 0
) -> Iterator[Running]:
    """A server of `maskdiff serve` with some flags and short waits, over the toy.

    Args:
        pause: seconds that each call of the toy takes.
        token_bytes: memory that the toy claims for each token.
        files: descriptors that the process may open once it is ready; 0 sets no limit.
    """
    log = folder / "log.txt"
    words = ["-c", SCRIPT, str(pause), str(token_bytes), str(files), *flags]
    with log.open("wb") as errors, ExitStack() as stack:
        started = stack.enter_context(Forked(words, stderr=errors))
        wait_until(lambda: log.read_bytes().endswith(b"/v1\n") or started.poll() is not None, 60)
        assert started.poll() is None, log.read_text()
        server = Running(started, int(log.read_text().split(":")[-1].split("/")[0]), log)
        server.own = server.connections()
        yield server


def wait_until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Returns as soon as `condition` holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def head(length: int | str = 0, path: str = "completions", **headers: str) -> bytes:
    """The head of a POST request with a JSON body of `length` bytes."""
    more = (
        {"Content-Length": str(length)} if length != "chunked" else {"Transfer-Encoding": "chunked"}
    )
    lines = {"Host": "localhost", "Content-Type": "application/json", **more, **headers}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/{path} HTTP/1.1\r\n{text}\r\n".encode()


def request(**body: Any) -> bytes:
    """A whole request of a completion."""
    raw = json.dumps({"model": "toy", "prompt": "?", **body}).encode()
    return head(len(raw)) + raw


def all_of(connection: socket.socket) -> bytes:
    """Returns all bytes until the server ends the connection."""
    received = bytearray()
    try:
        while part := connection.recv(2**16):
            received += part
    except ConnectionResetError:
        pass
    return bytes(received)


def post_half(url: str, body: bytes) -> socket.socket:
    """A connection whose request promises ten bytes more than come."""
    address = url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = socket.create_connection((address[0], int(address[1])), 10)
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    )
    connection.sendall(f"{head}{len(body) + 10}\r\n\r\n".encode() + body)
    return connection
