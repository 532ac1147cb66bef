"""Running a program that nobody vouches for: alone, for a while, within limits, and leaving nothing behind.

For: `run`, its `Limits`, what it gives (`Run` with a `Verdict`), and `available`. Not for: building the isolation (`jail.py`,
which runs in a process of its own), or judging output (`python_tests.py`). Easy to get wrong: a verdict is what was seen (the
clock, the count of output, a signal) or else what the program's last words say, the uncaught exception that ended it. A program
that swallows its exceptions gets the verdict of what it did in the end, and one that prints a false traceback the verdict that
it asked for: verdicts are for feedback, and what holds the program is the isolation.

Isolation needs Linux with user namespaces on a machine whose system calls we know (x86_64, aarch64); nothing is installed, and
no superuser needed. The program sees the interpreter and system libraries read-only, three devices,
and one empty folder to write to, which vanishes; no network, no other process, no descriptor but
its three streams, no environment of ours, and only the system calls on a list (`system_calls.py`).
Limits of memory and file size are of each process and each file; in all a program has at most
processes * (memory_bytes + 16 MiB of pipes and socket pairs) + file_bytes.
"""

from __future__ import annotations

import functools
import marshal
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import IO, Literal

from maskdiff.errors import ConfigError, UserError
from maskdiff.experiments.distillation.sandbox.surroundings import (
    NOTHING,
    Surroundings,
    interpreter,
    shown_paths,
)
from maskdiff.experiments.distillation.sandbox.system_calls import MACHINES, filter_code

Isolation = Literal["required", "none"]
START_SECONDS = 20.0  # what building the isolation may take
END_SECONDS = 10.0  # what its end may take, after which its supervisor is killed too
TICK = 0.02
CHUNK = 1 << 16
JAIL = Path(__file__).with_name("jail.py")
FLAGS = ("-s", "-S", "-B", "-X", "utf8")
# Defines what site.py would have, and runs the prelude and the source as the main module.
START = """
import sys, builtins
builtins.exit = builtins.quit = sys.exit
sys.argv = sys.argv[1:]
sys.path += {paths!r}
__file__ = sys.argv[0]
del sys, builtins
{prelude}
__builtins__.exec(__builtins__.compile(__builtins__.open(__file__, "rb").read(), __file__, "exec"))
"""


class IsolationError(UserError):
    """Isolation was required, and this machine does not give it."""


class Verdict(str, Enum):
    """How a run ended."""

    OK = "ok"  # to the end, with exit status 0
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    PROCESS_LIMIT = (
        "process_limit"  # also of threads; they fail alike where memory for their stacks runs out
    )
    OUTPUT_LIMIT = "output_limit"
    FILE_LIMIT = "file_limit"
    NETWORK_DENIED = "network_denied"
    # A file that is missing or not to be read, written or deleted; a system call that is refused.
    FILE_DENIED = "file_denied"
    RUNTIME_ERROR = "runtime_error"  # any other way


@dataclass(frozen=True)
class Limits:
    """What a program may use. Raises ConfigError where a value is out of its range.

    wall_seconds: from the program's start, in [0.05, 600]. cpu_seconds: whole seconds of each process, in [1, 600].
    memory_bytes: address space of each process, in [2^26, 2^40]; the interpreter itself takes about 2^24. processes: processes
    and threads at once, the program included, in [1, 1024]; without isolation it is not enforced, since a user's processes are
    counted together. file_bytes: each file, and with isolation all of them together, in [2^12, 2^30]. output_bytes: standard
    output and error together, in [2^10, 2^28].
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
    "wall_seconds": (0.05, 600), "cpu_seconds": (1, 600), "memory_bytes": (1 << 26, 1 << 40), "processes": (1, 1024),
    "file_bytes": (1 << 12, 1 << 30), "output_bytes": (1 << 10, 1 << 28),
}  # fmt: skip
STANDARD = Limits()


@dataclass(frozen=True)
class Run:
    """A program's end: what it wrote, what it cannot be decoded from replaced, and its exit status.

    status: -n for a signal n, None where the program did not end itself. seconds: from its start to its end.
    """

    verdict: Verdict
    stdout: str
    stderr: str
    status: int | None
    seconds: float


def run(
    program: str,
    stdin: str = "",
    limits: Limits = STANDARD,
    isolation: Isolation = "required",
    surroundings: Surroundings = NOTHING,
) -> Run:
    """Run the source text of a program with the interpreter that runs us, without site packages.

    With isolation "none" it is a process of this user like any other, with limits and a clock, in a temporary folder: it can
    read, write, delete and connect as the user can, and what it starts in a session of its own outlives it.
    Raises IsolationError where isolation is required and not to be had; OSError where no process can be started.
    """
    if isolation == "required":
        reason = available()
        if reason is not None:
            raise refusal(reason)
    return _run(program, stdin, limits, isolation, surroundings)


@functools.cache
def available() -> str | None:
    """Why isolation does not work here, None where it does; found by trying, once."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    try:
        tried = _run(PROBE, "", Limits(processes=2, wall_seconds=10.0), "required")
    except (OSError, IsolationError) as error:
        return str(error)
    if tried.verdict is Verdict.OK and tried.stdout == "isolated\n":
        return None
    told = (tried.stdout + tried.stderr).strip().splitlines()
    return f"a program run in it failed its check ({tried.verdict.value}): {told[-1] if told else 'it said nothing'}"


def refusal(reason: str) -> IsolationError:
    """The error of those who need isolation."""
    return IsolationError(
        f"no isolation for running programs here: {reason}; allow user namespaces, or run them unprotected "
        "with --isolation none"
    )


PROBE = """
import errno, os, socket
left = {line.split()[1].strip("0") for line in open("/proc/self/status") if line.startswith("Cap")} \\
    if os.path.exists("/proc/self/status") else {""}
assert left == {""}, "the program keeps capabilities"
assert set(os.listdir("/")) & {"etc", "home", "tmp", "var"} <= set(), "the program sees files"
assert not os.path.exists("/proc/1"), "the program sees processes"
assert not os.path.exists("/proc/sys"), "the program sees the kernel's settings"

assert os.getuid() != 0, "the program runs as the superuser"
try:
    open("/written", "w")
    raise SystemExit("the program can write")
except OSError:
    pass
try:
    os.utime("/dev/null")
    raise SystemExit("the program can change a device")
except OSError as error:
    assert error.errno == errno.EROFS, error
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raise SystemExit("the program has a network")
except OSError as error:
    assert error.errno == errno.EAFNOSUPPORT, error
import time
if not os.fork():
    time.sleep(60)
try:
    if not os.fork():
        time.sleep(60)
    raise SystemExit("the limit on processes does not hold")
except BlockingIOError:
    print("isolated")
"""


@dataclass
class _Seen:
    """What the parent has seen of a run so far."""

    begun: float = field(default_factory=time.monotonic)
    started: bool = False
    cause: Verdict | None = None  # why it was killed
    streams: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray() for name in ("out", "err", "status")}
    )

    def read(self, name: str, descriptor: int) -> bool:
        """Take what is there; False where nothing will come any more."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return True
        self.streams[name] += data
        if not self.started and self.streams["status"].startswith(b"start\n"):
            self.started, self.begun = True, time.monotonic()
        return bool(data)

    def full(self, limits: Limits) -> bool:
        if len(self.streams["out"]) + len(self.streams["err"]) > limits.output_bytes:
            self.cause = Verdict.OUTPUT_LIMIT
        return self.cause is not None


def _run(
    program: str,
    stdin: str,
    limits: Limits,
    isolation: Isolation,
    surroundings: Surroundings = NOTHING,
) -> Run:
    with _folder(isolation) as folder:
        job = _job(program, limits, isolation, folder, surroundings)
        with _launched(job) as (process, status):
            seen = _watch(process, status, stdin.encode("utf-8", "surrogatepass"), limits)
        seconds = time.monotonic() - seen.begun
    words = seen.streams["status"].decode(errors="replace").splitlines()
    for word in words:
        if word.startswith("error "):
            raise IsolationError(word.removeprefix("error "))
    if not seen.started:
        raise IsolationError(
            f"it did not start in {START_SECONDS:g} seconds"
            if seen.cause
            else "it ended before it started"
        )
    code, cpu = _ended(process.returncode, words, isolation)
    out, err = (
        seen.streams["out"][: limits.output_bytes],
        seen.streams["err"][: limits.output_bytes],
    )
    stderr = err.decode("utf-8", "replace")
    verdict = seen.cause or _judged(code, cpu, stderr, limits)
    return Run(
        verdict, out.decode("utf-8", "replace"), stderr, None if seen.cause else code, seconds
    )


@contextmanager
def _folder(isolation: Isolation) -> Iterator[str]:
    """A temporary folder for a program that is not isolated; no folder, "", for one that is."""
    if isolation == "required":
        yield ""
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield folder


def _job(
    program: str, limits: Limits, isolation: Isolation, folder: str, surroundings: Surroundings
) -> dict[str, object]:
    """Return all that `jail.py` needs to know. Raises IsolationError for an unknown machine."""
    executable, prefix = interpreter()
    path = os.path.join(folder, "program.py") if folder else "/program.py"
    home = folder or "/box"
    if folder:
        Path(path).write_bytes(program.encode("utf-8", "surrogatepass"))
    packages = surroundings.package_paths()
    folders = sorted({item.removesuffix(name) for item, name in packages})
    seen = folders if folder else ["/packages"]
    start = START.format(prelude=surroundings.prelude, paths=seen if packages else [])
    libraries = {} if prefix == "/usr" else {"LD_LIBRARY_PATH": f"{prefix}/lib"}
    places = {"HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin"}
    settings = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    return {item.name: getattr(limits, item.name) for item in fields(limits)} | {
        "isolation": isolation, "folder": folder, "program": program,
        "argv": [executable, *FLAGS, "-c", start, path],
        "environment": {**places, **libraries, **settings},
        "shown": shown_paths(), "packages": packages, "hidden": surroundings.hidden_paths(),
        "filter": _filter() if isolation == "required" else b"",
    }  # fmt: skip


def _filter() -> bytes:
    """Return the filter of system calls of this machine. Raises IsolationError if none is known."""
    machine = os.uname().machine
    if machine not in MACHINES:
        known = " and ".join(MACHINES)
        raise IsolationError(f"no filter of system calls is known for {machine}, only for {known}")
    return filter_code(machine)


@contextmanager
def _launched(job: dict[str, object]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process that becomes the program or its supervisor, and the descriptor of its status.

    All of its processes are gone in the end.
    """
    with tempfile.TemporaryFile() as request:
        request.write(marshal.dumps(job))
        request.seek(0)
        status, told = os.pipe()
        try:
            process = _popen(interpreter()[0], request, told)
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(told)
    try:
        yield process, status
    finally:
        _end(process, job["isolation"] == "required")
        os.close(status)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _popen(executable: str, request: IO[bytes], told: int) -> subprocess.Popen[bytes]:
    numbers = (request.fileno(), told)
    kept = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
    return subprocess.Popen(
        [executable, "-I", "-S", "-B", str(JAIL), *map(str, numbers), str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, pass_fds=numbers,
        env=kept, cwd="/", start_new_session=True,
    )  # fmt: skip


def _watch(process: subprocess.Popen[bytes], status: int, stdin: bytes, limits: Limits) -> _Seen:
    """Write, read and look at the clock, until the process ended or has to."""
    seen = _Seen()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    sources = {"out": process.stdout.fileno(), "err": process.stderr.fileno(), "status": status}
    for number in (*sources.values(), process.stdin.fileno()):
        os.set_blocking(number, False)
    with selectors.DefaultSelector() as selector:
        for name, number in sources.items():
            selector.register(number, selectors.EVENT_READ, name)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        written = 0
        while process.poll() is None and not seen.full(limits):
            left = (
                seen.begun
                + (limits.wall_seconds if seen.started else START_SECONDS)
                - time.monotonic()
            )
            if left <= 0:
                seen.cause = Verdict.TIME_LIMIT
            elif not selector.get_map():
                _wait(process, left)
            for key, _ in selector.select(min(max(left, 0), TICK)) if selector.get_map() else ():
                if key.data is None:
                    written = _feed(process, selector, stdin, written)
                elif not seen.read(key.data, key.fd):
                    selector.unregister(key.fd)
        for name, number in sources.items():  # what was written just before the end
            size = -1
            while not seen.full(limits) and size < len(seen.streams[name]):
                size = len(seen.streams[name])
                seen.read(name, number)
    return seen


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _feed(
    process: subprocess.Popen[bytes], selector: selectors.BaseSelector, stdin: bytes, written: int
) -> int:
    """Write more of the input, and close it after its end or where nobody reads it; how much is written."""
    assert process.stdin is not None
    try:
        written += os.write(process.stdin.fileno(), stdin[written : written + CHUNK])
    except BlockingIOError:
        return written
    except BrokenPipeError:
        written = len(stdin)
    if written >= len(stdin):
        selector.unregister(process.stdin)
        process.stdin.close()
    return written


def _end(process: subprocess.Popen[bytes], isolated: bool) -> None:
    """Have no process left: the supervisor ends after those it made, without isolation the group is killed."""
    if isolated:
        process.terminate()  # nothing where it ended
        _wait(process, END_SECONDS)
        process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    process.wait()


def _ended(code: int, words: list[str], isolation: Isolation) -> tuple[int | None, float]:
    """The exit status of the program, None where nobody told it, and the processor time that it took, 0 where unknown."""
    if isolation == "none":
        return code, 0.0
    for word in words:
        if word.startswith("end "):
            _, raw, cpu = word.split()
            return os.waitstatus_to_exitcode(int(raw)), float(cpu)
    return None, 0.0


ERRNO_VERDICTS = {
    Verdict.PROCESS_LIMIT: {11}, Verdict.MEMORY_LIMIT: {12}, Verdict.FILE_LIMIT: {27, 28, 122},
    Verdict.NETWORK_DENIED: {97, 99, 100, 101, 113}, Verdict.FILE_DENIED: {1, 2, 13, 16, 18, 30},
}  # fmt: skip


def _judged(status: int | None, cpu: float, stderr: str, limits: Limits) -> Verdict:
    """The verdict of a program that was not killed from outside, from its exit status and its last words."""
    if status == 0:
        return Verdict.OK
    if status == -signal.SIGXCPU or (status == -signal.SIGKILL and cpu >= limits.cpu_seconds):
        return Verdict.TIME_LIMIT
    if status == -signal.SIGXFSZ:
        return Verdict.FILE_LIMIT
    name, message = _last_exception(stderr)
    if name.endswith("MemoryError"):
        return Verdict.MEMORY_LIMIT
    if name == "RuntimeError" and "can't start new thread" in message:
        return Verdict.PROCESS_LIMIT
    number = re.search(r"\[Errno (-?\d+)\]", message)
    if number is not None and (name.endswith("Error") or name.endswith("error")):
        if name.endswith("gaierror") or number[1].startswith("-"):
            return Verdict.NETWORK_DENIED
        for verdict, numbers in ERRNO_VERDICTS.items():
            if int(number[1]) in numbers:
                return verdict
    return (
        Verdict.FILE_DENIED
        if name in ("PermissionError", "FileNotFoundError")
        else Verdict.RUNTIME_ERROR
    )


def _last_exception(stderr: str) -> tuple[str, str]:
    """Name and message of the exception whose traceback comes last; empty where there is none."""
    lines = stderr.splitlines()
    starts = [
        i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")
    ]
    if not starts:
        return ("MemoryError", "") if lines and lines[-1].startswith("MemoryError") else ("", "")
    header = next(
        (line for line in lines[starts[-1] + 1 :] if line.strip() and not line.startswith(" ")), ""
    )
    name, _, message = header.partition(": ")
    return name.strip(), message


__all__ = [
    "STANDARD", "Isolation", "IsolationError", "Limits", "Run", "Surroundings", "Verdict",
    "available", "refusal", "run",
]  # fmt: skip
