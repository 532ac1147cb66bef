"""The program that runs a user's checker: reads texts and writes verdicts, one JSON value a line.

`checker.py` starts this file in a process of its own. It imports the standard library only, so that
it starts quickly. Both pipes are moved away from the standard streams before the checker is
imported, so that the checker cannot read or write them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

REFUSALS = (ValueError, SyntaxError)  # what a parser raises for a text that is invalid
LAZY = (Iterator, Awaitable, AsyncIterator)  # results that have not checked the text yet
LONGEST = 200  # characters of an exception's message
ORPHANED = 5.0  # seconds beyond the limit, after which the process ends itself


class Unfit(Exception):
    """A fault of the function itself."""


def main() -> None:
    """Reads a task, then texts, and writes one line for each, until the input ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the checker prints goes to stderr
    sys.stdout = sys.stderr
    task = json.loads(requests.readline())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    function: Callable[[str], Any] | None = None
    for line in chain((b"",), iter(requests.readline, b"")):  # the first pass imports
        # Nothing else stops this process after its parent is killed.
        signal.setitimer(signal.ITIMER_REAL, task["limit"] + ORPHANED)
        try:
            if function is None:
                sys.path[:] = task["path"]
                function, reply = _function(task), {}
            else:
                reply = _answer(function, json.loads(line), task["predicate"])
        except BaseException as error:
            reply = {"error": str(error) if isinstance(error, Unfit) else _named(error)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            os.write(replies, json.dumps(reply).encode() + b"\n")
        except OSError:  # the reader is gone, or the checker has closed the pipe
            os._exit(1)
        task["limit"] = task["timeout"]
    os._exit(0)  # does not wait for threads of the checker


def _function(task: dict[str, Any]) -> Callable[[str], Any]:
    """The function of a task. Raises `Unfit`, and what its module raises."""
    function = getattr(_module(task["module"], task["file"]), task["function"])
    if not callable(function):
        raise Unfit("it is no function")
    if task["predicate"] and isinstance(function, type):
        raise Unfit("it is a class; a verdict is what a function returns")
    return function


def _module(name: str, file: str | None) -> ModuleType:
    """The module, from `file` if given; `sys.path` does not change."""
    if file is None:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"maskdiff_checker_{name}", Path(file))
    assert spec is not None  # a .py file has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer(function: Callable[[str], Any], text: str, predicate: bool) -> dict[str, Any]:
    """The verdict, and whether the function returned a truth value. Raises `Unfit`."""
    try:
        result = function(text)
    except REFUSALS:
        return {"valid": False, "bool": False}
    kind = type(result).__name__
    if isinstance(result, LAZY):
        if hasattr(result, "close"):
            result.close()  # prevents the warning of a coroutine that is never awaited
        raise Unfit(f"it returns a {kind}, which has not looked at the text yet")
    if not predicate:
        return {"valid": True, "bool": type(result) is bool}
    if isinstance(result, tuple):
        raise Unfit(f"it returns a {kind}, which is true whatever is in it; return True or False")
    try:
        return {"valid": bool(result), "bool": True}
    except BaseException as error:
        raise Unfit(f"it returns a {kind}, which is no verdict ({_named(error)})") from None


def _named(error: BaseException) -> str:
    """The type and the message of an exception; computing a message may fail, too."""
    try:
        message = str(error)[:LONGEST]
    except BaseException:
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


if __name__ == "__main__":
    main()
