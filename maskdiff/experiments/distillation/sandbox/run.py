"""Runs an untrusted program alone, for a limited time, within limits, and leaves nothing behind.

Isolation needs Linux with user namespaces on x86_64 or aarch64; nothing is installed, and root is
not needed. The program sees the interpreter and system libraries read-only, three devices and one
empty writable folder, which vanishes. It has no network, no other process, no descriptor but its
three streams, none of our environment, and only the system calls of `seccomp.py`. The limits of
memory and file size apply to each process and each file; a program has at most
processes * (memory_bytes + 16 MiB of pipes and socket pairs) + file_bytes in all.
"""

from __future__ import annotations

import functools
import marshal
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Literal

from maskdiff.errors import UserError
from maskdiff.experiments.distillation.sandbox.program_setup import (
    DEFAULT_SETUP,
    ProgramSetup,
    interpreter,
    visible_paths,
)
from maskdiff.experiments.distillation.sandbox.results import (
    DEFAULT_LIMITS,
    ProgramResult,
    ResourceLimits,
    RunStatus,
    status_of,
)
from maskdiff.experiments.distillation.sandbox.seccomp import MACHINES, filter_code

Isolation = Literal["required", "none"]
START_SECONDS = 20.0  # for setting up the isolation
END_SECONDS = 10.0  # for ending it, before its supervisor is killed too
TICK = 0.02
CHUNK = 1 << 16
CONTAINER = Path(__file__).with_name("container.py")
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
    """Isolation was required, and this machine does not provide it."""


def run_program(
    program: str,
    stdin: str = "",
    limits: ResourceLimits = DEFAULT_LIMITS,
    isolation: Isolation = "required",
    setup: ProgramSetup = DEFAULT_SETUP,
) -> ProgramResult:
    """Run the source text of a program with our interpreter, without site packages.

    With isolation "none" it is an ordinary process of this user with limits and a clock, in a
    temporary folder: it can read, write, delete and connect as the user can, and what it starts in
    another session outlives it.

    Raises:
        IsolationError: Where isolation is required and unavailable.
        OSError: Where no process can be started.
    """
    if isolation == "required":
        reason = isolation_problem()
        if reason is not None:
            raise isolation_error(reason)
    return _run(program, stdin, limits, isolation, setup)


@functools.cache
def isolation_problem() -> str | None:
    """Return why isolation does not work here, None where it does; tried once."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    try:
        tried = _run(PROBE, "", ResourceLimits(processes=2, wall_seconds=10.0), "required")
    except (OSError, IsolationError) as error:
        return str(error)
    if tried.status is RunStatus.OK and tried.stdout == "isolated\n":
        return None
    lines = (tried.stdout + tried.stderr).strip().splitlines()
    last = lines[-1] if lines else "it printed nothing"
    return f"a program run in it failed its check ({tried.status.value}): {last}"


def isolation_error(reason: str) -> IsolationError:
    """Return the error where isolation is required."""
    return IsolationError(
        f"no isolation for running programs here: {reason}; allow user namespaces, or run them "
        "unprotected with --isolation none"
    )


PROBE = """
import errno, os, socket
left = {""}
if os.path.exists("/proc/self/status"):
    lines = [line.split() for line in open("/proc/self/status") if line.startswith("Cap")]
    left = {value.strip("0") for _, value in lines}
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


def _run(
    program: str,
    stdin: str,
    limits: ResourceLimits,
    isolation: Isolation,
    setup: ProgramSetup = DEFAULT_SETUP,
) -> ProgramResult:
    with _folder(isolation) as folder:
        job = _job(program, limits, isolation, folder, setup)
        with _launched(job) as (process, status):
            seen = _monitor(process, status, stdin.encode("utf-8", "surrogatepass"), limits)
        seconds = time.monotonic() - seen.start
    # Errors of the setup.
    lines = seen.streams["status"].decode(errors="replace").splitlines()
    for line in lines:
        if line.startswith("error "):
            raise IsolationError(line.removeprefix("error "))
    if not seen.started:
        late = f"it did not start in {START_SECONDS:g} seconds"
        raise IsolationError(late if seen.cause else "it ended before it started")
    # The program's own end.
    code, cpu = _exit_code(process.returncode, lines, isolation)
    stdout, stderr = (
        seen.streams[name][: limits.output_bytes].decode("utf-8", "replace")
        for name in ("out", "err")
    )
    if seen.cause:
        return ProgramResult(seen.cause, stdout, stderr, None, seconds)
    return ProgramResult(status_of(code, cpu, stderr, limits), stdout, stderr, code, seconds)


@contextmanager
def _folder(isolation: Isolation) -> Iterator[str]:
    """Give a temporary folder for a program without isolation; "" for an isolated one."""
    if isolation == "required":
        yield ""
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield folder


def _job(
    program: str, limits: ResourceLimits, isolation: Isolation, folder: str, setup: ProgramSetup
) -> dict[str, object]:
    """Return the input of `container.py`. Raises IsolationError for an unknown machine."""
    executable, prefix = interpreter()
    path = os.path.join(folder, "program.py") if folder else "/program.py"
    home = folder or "/box"
    if folder:
        Path(path).write_bytes(program.encode("utf-8", "surrogatepass"))
    packages = setup.package_paths()
    folders = sorted({item.removesuffix(name) for item, name in packages})
    paths = folders if folder else ["/packages"]
    start = START.format(prelude=setup.prelude, paths=paths if packages else [])
    libraries = {} if prefix == "/usr" else {"LD_LIBRARY_PATH": f"{prefix}/lib"}
    places = {"HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin"}
    settings = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    return {item.name: getattr(limits, item.name) for item in fields(limits)} | {
        "isolation": isolation,
        "folder": folder,
        "program": program,
        "argv": [executable, *FLAGS, "-c", start, path],
        "environment": {**places, **libraries, **settings},
        "shown": visible_paths(),
        "packages": packages,
        "hidden": setup.hidden_paths(),
        "filter": _seccomp_filter() if isolation == "required" else b"",
    }


def _seccomp_filter() -> bytes:
    """Return the seccomp filter of this machine. Raises IsolationError if none is known."""
    machine = os.uname().machine
    if machine not in MACHINES:
        known = " and ".join(MACHINES)
        raise IsolationError(f"no filter of system calls is known for {machine}, only for {known}")
    return filter_code(machine)


@contextmanager
def _launched(job: dict[str, object]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start the process that becomes the program or its supervisor; give it and its status pipe.

    All of its processes end with the block.
    """
    with tempfile.TemporaryFile() as request:
        request.write(marshal.dumps(job))
        request.seek(0)
        status, write_end = os.pipe()
        try:
            process = _popen(interpreter()[0], request, write_end)
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(write_end)
    try:
        yield process, status
    finally:
        _end(process, job["isolation"] == "required")
        os.close(status)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _popen(executable: str, request: IO[bytes], status: int) -> subprocess.Popen[bytes]:
    numbers = (request.fileno(), status)
    kept = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
    return subprocess.Popen(
        [executable, "-I", "-S", "-B", str(CONTAINER), *map(str, numbers), str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        pass_fds=numbers, env=kept, cwd="/", start_new_session=True,
    )  # fmt: skip


@dataclass
class _Observed:
    """What was observed of a run so far."""

    start: float = field(default_factory=time.monotonic)
    started: bool = False
    cause: RunStatus | None = None  # why it was killed
    streams: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray() for name in ("out", "err", "status")}
    )

    def read(self, name: str, descriptor: int) -> bool:
        """Read what is there; False at the end of the stream."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return True
        self.streams[name] += data
        if not self.started and self.streams["status"].startswith(b"start\n"):
            self.started, self.start = True, time.monotonic()
        return bool(data)

    def full(self, limits: ResourceLimits) -> bool:
        if len(self.streams["out"]) + len(self.streams["err"]) > limits.output_bytes:
            self.cause = RunStatus.OUTPUT_LIMIT
        return self.cause is not None

    def seconds_left(self, limits: ResourceLimits) -> float:
        allowed = limits.wall_seconds if self.started else START_SECONDS
        return self.start + allowed - time.monotonic()


def _monitor(
    process: subprocess.Popen[bytes], status: int, stdin: bytes, limits: ResourceLimits
) -> _Observed:
    """Write the input and read the output until the process ends or exceeds a limit."""
    seen = _Observed()
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
            left = seen.seconds_left(limits)
            if left <= 0:
                seen.cause = RunStatus.TIME_LIMIT
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
    """Write more of the input and return how much is written; close it at its end."""
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
    """End all processes: through the supervisor, or without isolation by the process group."""
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


def _exit_code(code: int, lines: list[str], isolation: Isolation) -> tuple[int | None, float]:
    """Return the program's exit code, None if unknown, and its processor time, 0 if unknown."""
    if isolation == "none":
        return code, 0.0
    for line in lines:
        if line.startswith("end "):
            _, raw, cpu = line.split()
            return os.waitstatus_to_exitcode(int(raw)), float(cpu)
    return None, 0.0


__all__ = [
    "Isolation", "IsolationError", "isolation_error", "isolation_problem", "run_program",
]  # fmt: skip
