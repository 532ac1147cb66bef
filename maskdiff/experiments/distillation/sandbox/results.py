"""The limits of a program in the sandbox, and the result of running it.

The status of a run comes from what was observed (the clock, the size of output, a signal) or else
from the exception that ended the program, by its traceback. A program can print a false traceback:
the status serves feedback; the isolation does not depend on it.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, fields
from enum import Enum

from maskdiff.errors import ConfigError


class RunStatus(str, Enum):
    """How a run ended."""

    OK = "ok"  # with exit status 0
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    PROCESS_LIMIT = "process_limit"  # also of threads, and where no memory is left for their stacks
    OUTPUT_LIMIT = "output_limit"
    FILE_LIMIT = "file_limit"
    NETWORK_DENIED = "network_denied"
    FILE_DENIED = "file_denied"  # a missing or protected file, or a denied system call
    RUNTIME_ERROR = "runtime_error"  # any other way


@dataclass(frozen=True)
class ResourceLimits:
    """What a program may use.

    Attributes:
        wall_seconds: Time from the program's start, in [0.05, 600].
        cpu_seconds: Whole seconds of each process, in [1, 600].
        memory_bytes: Address space of each process, in [2^26, 2^40]; the interpreter takes 2^24.
        processes: Processes and threads at once, the program included, in [1, 1024]. Without
            isolation it is not enforced, since all processes of a user count together.
        file_bytes: Size of each file, and with isolation of all together, in [2^12, 2^30].
        output_bytes: Size of standard output and error together, in [2^10, 2^28].

    Raises:
        ConfigError: For a value outside its range.
    """

    wall_seconds: float = 6.0
    cpu_seconds: int = 6
    memory_bytes: int = 1 << 30
    processes: int = 8
    file_bytes: int = 1 << 24
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for item in fields(self):
            given, (low, high) = getattr(self, item.name), RANGES[item.name]
            whole = item.name != "wall_seconds"
            kinds = (int,) if whole else (int, float)
            if isinstance(given, bool) or not isinstance(given, kinds) or not low <= given <= high:
                kind = "a whole number" if whole else "a number"
                raise ConfigError(f"{item.name} is {given!r}; give {kind} from {low} to {high}")


RANGES: dict[str, tuple[float, float]] = {
    "wall_seconds": (0.05, 600),
    "cpu_seconds": (1, 600),
    "memory_bytes": (1 << 26, 1 << 40),
    "processes": (1, 1024),
    "file_bytes": (1 << 12, 1 << 30),
    "output_bytes": (1 << 10, 1 << 28),
}
DEFAULT_LIMITS = ResourceLimits()


@dataclass(frozen=True)
class ProgramResult:
    """The result of a run.

    Attributes:
        stdout: Standard output; undecodable bytes are replaced.
        stderr: Standard error, likewise.
        exit_code: -n for a signal n; None where the program did not end by itself.
        seconds: From the program's start to its end.
    """

    status: RunStatus
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float


ERRNO_STATUS = {
    RunStatus.PROCESS_LIMIT: {11},
    RunStatus.MEMORY_LIMIT: {12},
    RunStatus.FILE_LIMIT: {27, 28, 122},
    RunStatus.NETWORK_DENIED: {97, 99, 100, 101, 113},
    RunStatus.FILE_DENIED: {1, 2, 13, 16, 18, 30},
}


def status_of(code: int | None, cpu: float, stderr: str, limits: ResourceLimits) -> RunStatus:
    """Return the status of a program that was not killed from outside."""
    if code == 0:
        return RunStatus.OK
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu >= limits.cpu_seconds):
        return RunStatus.TIME_LIMIT
    if code == -signal.SIGXFSZ:
        return RunStatus.FILE_LIMIT
    name, message = _last_exception(stderr)
    if name.endswith("MemoryError"):
        return RunStatus.MEMORY_LIMIT
    if name == "RuntimeError" and "can't start new thread" in message:
        return RunStatus.PROCESS_LIMIT
    number = re.search(r"\[Errno (-?\d+)\]", message)
    if number is not None and name.endswith(("Error", "error")):
        if name.endswith("gaierror") or number[1].startswith("-"):
            return RunStatus.NETWORK_DENIED
        for status, numbers in ERRNO_STATUS.items():
            if int(number[1]) in numbers:
                return status
    denied = name in ("PermissionError", "FileNotFoundError")
    return RunStatus.FILE_DENIED if denied else RunStatus.RUNTIME_ERROR


def _last_exception(stderr: str) -> tuple[str, str]:
    """Return name and message of the exception of the last traceback, or empty texts."""
    lines = stderr.splitlines()
    starts = [
        i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")
    ]
    if not starts:
        return ("MemoryError", "") if lines and lines[-1].startswith("MemoryError") else ("", "")
    after = (line for line in lines[starts[-1] + 1 :] if line.strip() and not line.startswith(" "))
    name, _, message = next(after, "").partition(": ")
    return name.strip(), message


__all__ = ["DEFAULT_LIMITS", "ProgramResult", "ResourceLimits", "RunStatus", "status_of"]
