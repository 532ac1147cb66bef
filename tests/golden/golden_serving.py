"""The section `serve`: a server in a process of its own, and what it answers to requests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golden_cases import PREFILLS, REQUESTS, SERVE
from golden_compare import MASK, masked
from golden_programs import ROOT, run_section


def run_serving(tmp: Path) -> dict[str, Any]:
    """Returns the answers to all requests for each `--prefill`, and those of the clients."""
    results: dict[str, Any] = {}
    for prefill in PREFILLS:
        with server("--prefill", prefill) as url:
            for name, (method, path, body) in REQUESTS.items():
                if prefill == PREFILLS[0] or "partial" in name:
                    results[f"{prefill}: {name}"] = ask(url, method, path, body)
            if prefill == "reject":
                continue
            for line, result in run_section(SERVE, tmp, url=url).items():
                results[f"{prefill}: {line}"] = result
    return results


@contextlib.contextmanager
def server(*flags: str) -> Iterator[str]:
    """Yields the address of a server that runs until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "maskdiff", "serve", "--port", str(port), "--threads", "1"]
    command += ["--device", "cpu", "--name", "arithmetic-steps", *flags]
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=quiet, stdout=quiet
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}/v1"
            _wait(url, process)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError("the server does not answer")


def ask(url: str, method: str, path: str, body: Any) -> dict[str, Any]:
    """Returns the status and the decoded answer of one request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status, raw = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read().decode()
    if status == 200 and (body or {}).get("stream"):
        lines = [line.removeprefix("data: ") for line in raw.splitlines() if line]
        return {"status": status, "events": [_decoded(line) for line in lines]}
    return {"status": status, "body": _decoded(raw)}


def _decoded(text: str) -> Any:
    """The JSON of an answer; of an error without its words."""
    if text == "[DONE]":
        return text
    value = json.loads(text)
    if isinstance(value.get("error"), dict):
        return {"error of": {**value["error"], "message": MASK}}
    models = value.get("data", [value]) if isinstance(value, dict) else []
    names = [item["id"] for item in models if item.get("object") == "model"]
    return {**masked(value), **({"models": names} if names else {})}
