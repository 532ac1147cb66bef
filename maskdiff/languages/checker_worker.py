"""The process that runs a user's checker: texts in, verdicts out, one JSON value a line.

For: `checker.py`, which starts this file as a program of its own, so that whatever the checker does
(hang, exit, crash, print) can be seen and stopped from outside. Not for: importing; it knows the
standard library alone, so that it starts quickly. Easy to get wrong: the checker must get neither
of the two pipes, so both are moved away from the standard streams before it is imported.
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
LAZY = (Iterator, Awaitable, AsyncIterator)  # results that do their work later, if at all
LONGEST = 200  # characters of an exception's message
ORPHANED = 5.0  # seconds beyond the limit, after which a process that nobody stops ends itself


class Unfit(Exception):
    """What is wrong with the function itself."""


def main() -> None:
    """Read a task, then texts; write one line for each. Ends with the input."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the checker prints goes to the error stream
    sys.stdout = sys.stderr
    task = json.loads(requests.readline())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    function: Callable[[str], Any] | None = None
    for line in chain((b"",), iter(requests.readline, b"")):  # first the import
        # This process outlives a parent that is killed; nobody would stop it then.
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
        except OSError:  # nobody reads, or the checker has closed the pipe
            os._exit(1)
        task["limit"] = task["timeout"]
    os._exit(0)  # threads of the checker do not keep the process


def _function(task: dict[str, Any]) -> Callable[[str], Any]:
    """The function that a task names. Raises whatever its module raises, and Unfit."""
    function = getattr(_module(task["module"], task["file"]), task["function"])
    if not callable(function):
        raise Unfit("it is no function")
    if task["predicate"] and isinstance(function, type):
        raise Unfit("it is a class; a verdict is what a function returns")
    return function


def _module(name: str, file: str | None) -> ModuleType:
    """The module, from `file` alone if there is one: `sys.path` stays as it is."""
    if file is None:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"maskdiff_checker_{name}", Path(file))
    assert spec is not None  # a .py file has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer(function: Callable[[str], Any], text: str, predicate: bool) -> dict[str, Any]:
    """`valid`, and whether the function returned a truth value. Raises Unfit for no verdict."""
    try:
        result = function(text)
    except REFUSALS:
        return {"valid": False, "bool": False}
    kind = type(result).__name__
    if isinstance(result, LAZY):
        if hasattr(result, "close"):
            result.close()  # a coroutine that nobody awaits warns
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
    """The type and the message of an exception; a message may fail in turn."""
    try:
        message = str(error)[:LONGEST]
    except BaseException:
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


if __name__ == "__main__":
    main()
