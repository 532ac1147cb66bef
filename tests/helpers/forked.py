"""Python programs in processes of their own that start at once.

A server that has imported torch and the other slow modules forks them. Otherwise they are like
processes of `sys.executable`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import reduction
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType
from typing import IO

from tests.helpers.paths import REPOSITORY

PRELOADED = (
    "torch._dynamo", "maskdiff.training.loop", "maskdiff.tasks", "maskdiff.serving.server",
    "tests.helpers.serving_toy",
)  # fmt: skip
PIPE = subprocess.PIPE


@functools.cache
def _context() -> ForkServerContext:
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class _Inherited:
    """A descriptor that arrives in the new process as the number that it has there."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[object, ...]:
        return _detached, (reduction.DupFd(self.descriptor),)


def _detached(sent: reduction.DupFd) -> int:
    return sent.detach()


def _main(
    words: Sequence[str], folder: str, environment: Mapping[str, str], streams: dict[int, int]
) -> None:
    for number, descriptor in streams.items():
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.update(environment)
    os.chdir(folder)
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(module))
    elif words[0] == "-m":
        sys.argv = ["-m", *words[2:]]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


class Forked:
    """A process of `python *words`, with the interface of `subprocess.Popen`.

    Args:
        words: `["-c", program, ...]`, `["-m", module, ...]` or `[path, ...]`.
        folder: The working folder; by default the present one.
        environment: Variables that are changed.
        streams: `stdin`, `stdout` or `stderr`: an open file, or PIPE; others are inherited.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path | str = ".",
        environment: Mapping[str, str] | None = None,
        **streams: int | IO,
    ) -> None:
        inherited: dict[int, _Inherited] = {}
        with ExitStack() as stack:
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                stream = streams.get(name)
                if stream == PIPE:
                    ends = os.pipe()
                    theirs, ours = ends if number == 0 else ends[::-1]
                    stack.callback(os.close, theirs)
                    setattr(self, name, os.fdopen(ours, "r" if number else "w"))
                    inherited[number] = _Inherited(theirs)
                elif stream is not None:
                    inherited[number] = _Inherited(stream.fileno())  # type: ignore[union-attr]
            arguments = (list(words), os.path.abspath(folder), dict(environment or {}), inherited)
            self._process = _context().Process(target=_main, args=arguments)
            self._process.start()
        self.pid = self._process.pid

    stdin: IO[str]
    stdout: IO[str]
    stderr: IO[str]

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the process does not end"
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)

    def kill(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        for stream in ("stdin", "stdout", "stderr"):
            if hasattr(self, stream):
                getattr(self, stream).close()


def run(
    words: Sequence[str], folder: Path | str = ".", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Return the result of a process that ends by itself, with its output as text."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with Forked(words, folder, environment, stdout=out, stderr=err) as process:
            status = process.wait(240)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), status, out.read(), err.read())
