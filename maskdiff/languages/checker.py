"""Runs a user's checker, a Python function `MODULE:FUNCTION`, in a process of its own.

The name must come from the user, never from a checkpoint. A text is valid if the function returns;
a parser may return a false value for a valid text (`json.loads("false")`). A function that returns
a truth value is named with a question mark, `MODULE:FUNCTION?`.

The process (`checker_worker.py`) imports the module and checks one text after another. A function
that hangs is killed with its process after `timeout` seconds. A function that exits or crashes does
not affect this process. What it prints goes to stderr. Not limited: its memory, the files that it
changes, and programs that it starts in other sessions.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, quote

WORKER = Path(__file__).with_name("checker_worker.py")
TIMEOUT = LanguageConfig.validity_timeout  # seconds for one text
LONGEST_TIMEOUT = 3600.0
IMPORT_TIMEOUT = 60.0  # seconds for the import, or as long as a text may take if that is more
REPLY = 65_536  # bytes; a reply is far shorter, and is written at once


class CheckerProcess:
    """Checks texts with a function that runs in another process.

    A text is valid if the function raises neither `ValueError` nor `SyntaxError` and, if it is a
    predicate (`MODULE:FUNCTION?`), returns a true value. Calls from several threads are serialised.

    Args:
        name: The name of the function.
        folder: Where the module is looked for first.
        timeout: The time limit for one text in seconds.
    """

    def __init__(self, name: str, folder: Path | None = None, timeout: float = TIMEOUT) -> None:
        self.name, self.folder, self.timeout = name, folder, timeout
        self.predicate = name.endswith("?")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: a fork must not share its pipes

    def __call__(self, text: str) -> bool:
        """Return whether `text` is valid.

        Raises:
            ConfigError: The function raises another exception, ends its process or hangs.
        """
        return bool(self._ask(text)["valid"])

    def __reduce__(self) -> tuple[type[CheckerProcess], tuple[str, Path | None, float]]:
        return type(self), (self.name, self.folder, self.timeout)

    def only_verdicts(self, texts: list[str]) -> bool:
        """Return whether a function that is no predicate returns a truth value for each text."""
        return not self.predicate and all(self._ask(text)["bool"] for text in texts)

    def start(self) -> None:
        """Starts the process and imports the function. Raises `ConfigError`."""
        with self._lock:
            self._started()

    def _ask(self, text: str) -> dict[str, Any]:
        """The reply of the process to a text. Raises `ConfigError`."""
        with self._lock:
            reply = self._exchange(self._started(), text, self.timeout)
        if "error" in reply:
            raise ConfigError(f"checker {self.name} fails on {quote(text)}: {reply['error']}")
        return reply

    def _started(self) -> subprocess.Popen[bytes]:
        """The process; it is started if there is none."""
        if self._process is not None and self._owner == os.getpid():
            return self._process
        module, _, function = self.name.removesuffix("?").partition(":")
        file = self.folder / f"{module}.py" if self.folder and module.isidentifier() else None
        limit = max(IMPORT_TIMEOUT, self.timeout)
        task = {
            "module": module, "function": function, "predicate": self.predicate,
            "path": [str(place) for place in sys.path],
            "file": str(file) if file is not None and file.is_file() else None,
            "limit": limit, "timeout": self.timeout,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            start_new_session=True,  # Ctrl-C interrupts this program only
        )  # fmt: skip
        self._process, self._owner = process, os.getpid()
        self._end = weakref.finalize(self, _end, process, self._owner)
        reply = self._exchange(process, task, limit)
        if "error" in reply:
            self._stop()
            raise ConfigError(
                f"validity is {quote(self.name)}, which cannot be imported: {reply['error']}"
            )
        return process

    def _exchange(
        self, process: subprocess.Popen[bytes], sent: object, limit: float
    ) -> dict[str, Any]:
        """Sends one value and returns the reply, or an error if there is none."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(sent).encode() + b"\n")
            poll = select.poll()
            poll.register(process.stdout, select.POLLIN)
            reply = process.stdout.read(REPLY) if poll.poll(limit * 1000) else None
        except OSError:
            reply = b""
        except BaseException:  # Ctrl-C: the pending reply must not answer another text
            self._stop()
            raise
        if reply:
            return dict(json.loads(reply))
        if reply is not None:  # the pipe is closed, but the process may not have ended yet
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                pass
        self._stop()
        if reply is None:
            return {"error": f"it takes more than {limit:g} s (validity_timeout)"}
        return {"error": f"it ended its process ({_status(process.returncode)})"}

    def _stop(self) -> None:
        self._end()
        self._process = None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kills the process and those that it started."""
    if owner != os.getpid():
        return
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _status(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def load_checker(
    name: str, folder: Path | None = None, timeout: float = TIMEOUT
) -> CheckerProcess | None:
    """Return a started checker.

    Args:
        name: `MODULE:FUNCTION`, with `?` for a predicate; empty for no checker.
        folder: A folder with `MODULE.py`, which is then loaded without `sys.path`.
        timeout: The time limit for one text in seconds.

    Raises:
        ConfigError: The name or the timeout is invalid, or the function cannot be imported.
    """
    if not name:
        return None
    module, colon, function = name.removesuffix("?").partition(":")
    if not (module and colon and function):
        raise ConfigError(
            f"validity is {quote(name)}; give MODULE:FUNCTION, such as json:loads (a parser) "
            "or mine:ok? (a verdict)"
        )
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise ConfigError(
            f"validity_timeout is {timeout:g}; "
            f"give seconds, above 0 and at most {LONGEST_TIMEOUT:g}"
        )
    checker = CheckerProcess(name, folder, timeout)
    checker.start()
    return checker
