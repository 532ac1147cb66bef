"""The client of an HTTP backend: the package `openai`, the address, the key, and threads."""

from __future__ import annotations

import importlib
import ipaddress
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

from maskdiff.errors import ConfigError

KEY = "OPENAI_API_KEY"
R = TypeVar("R")


def start_threads(
    function: Callable[..., R], calls: Iterable[tuple[Any, ...]], concurrency: int
) -> list[Future[R]]:
    """Return futures of `function(*call)`, of which at most `concurrency` run at a time.

    A ThreadPoolExecutor does not fit: the interpreter waits for its threads at exit, and closing a
    connection does not wake a thread that reads from it. These are daemon threads.
    """
    waiting: SimpleQueue[tuple[Future[R], tuple[Any, ...]]] = SimpleQueue()
    futures: list[Future[R]] = []
    for call in calls:
        futures.append(Future())
        waiting.put((futures[-1], call))

    def work() -> None:
        while True:
            try:
                future, call = waiting.get_nowait()
            except Empty:
                return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*call))
                except BaseException as error:
                    future.set_exception(error)

    for _ in range(min(concurrency, len(futures))):
        threading.Thread(target=work, name="maskdiff-ask", daemon=True).start()
    return futures


def import_openai() -> Any:
    """Return the package `openai`, an extra. Raises ConfigError if it is not installed."""
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise ConfigError(
            'backends over HTTP need the package openai: pip install "maskdiff[openai]"'
        ) from error


def read_address(base_url: str) -> tuple[str, bool]:
    """Return the address without credentials and query, and whether it is this machine."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, parts, port = None, urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:  # not quoted: it may hold a password
        raise ConfigError(
            "base_url is no address of a server; give one such as http://127.0.0.1:8000/v1"
        )
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path}", local


def read_key(where: str, local: bool) -> str:
    """Return the API key of the environment, "" if none is set and none is needed."""
    key = os.environ.get(KEY, "").strip()
    plain = where.startswith("http:")
    if key and plain and not local:
        raise ConfigError(
            f"{where} would be sent the key in {KEY} unencrypted; use https, or unset the key"
        )
    if not key and not plain and not local:
        raise ConfigError(
            f"{where} is not on this machine and needs a key: set the environment variable {KEY}"
        )
    if not all("!" <= letter <= "~" and letter not in "\"'\\" for letter in key):
        raise ConfigError(
            f"{KEY} holds characters that no key has, such as spaces, quotes or accents; "
            "set it again"
        )
    return key
