"""The sandbox against programs that mean harm: each gets its verdict, nothing of ours is touched,
and no process is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path

import pytest

from maskdiff.experiments.distillation.sandbox import run as sandbox
from maskdiff.experiments.distillation.sandbox.run import (
    ProgramResult,
    ResourceLimits,
    RunStatus,
    run_program,
)
from tests.helpers.paths import REPOSITORY
from tests.helpers.sandbox import BRIEF, SHORT, STORM, children, isolated, living, marked, soon


def attack(program: str, limits: ResourceLimits = SHORT, stdin: str = "") -> ProgramResult:
    """Run it isolated; whatever it does, no process of it is there when we have the
    result, and no descriptor stays open."""
    mark, before = uuid.uuid4().hex, sorted(os.listdir("/proc/self/fd"))
    result = run_program(marked(program, mark), stdin, limits)
    assert living(mark) == []
    assert sorted(os.listdir("/proc/self/fd")) == before
    return result


HARM = {
    "an endless loop": ("while True: pass", BRIEF, "time_limit"),
    "sleep": ("import time\ntime.sleep(60)", BRIEF, "time_limit"),
    "the processor's clock": (
        "while True: pass",
        ResourceLimits(wall_seconds=20.0, cpu_seconds=1),
        "time_limit",
    ),
    "a fork storm": (STORM, SHORT, "process_limit"),
    "threads": (
        "import threading, time\n"
        "for _ in range(200): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
        SHORT,
        "process_limit",
    ),
    "endless output": ("while True: print('x' * 1000)", SHORT, "output_limit"),
    "endless errors": ("while True: sys.stderr.write('x' * 1000)", SHORT, "output_limit"),
    "output of children": ("os.fork()\nwhile True: print('x' * 1000)", SHORT, "output_limit"),
    "ten gigabytes": ("bytearray(10 << 30)", SHORT, "memory_limit"),
    "memory in small pieces": (
        "held = []\nwhile True: held.append(bytearray(1 << 20))",
        SHORT,
        "memory_limit",
    ),
    "memory in a file of no folder": ("os.memfd_create('x')", SHORT, "memory_limit"),
    "a gigabyte on disk": (
        "with open('f', 'wb') as f:\n  for _ in range(1024): f.write(bytes(1 << 20))",
        SHORT,
        "file_limit",
    ),
    "many files": (
        "for i in range(64):\n  with open(f'part{i}', 'wb') as f: f.write(bytes(1 << 19))",
        SHORT,
        "file_limit",
    ),
    "many empty files": (
        "for i in range(10000): open(f'part{i}', 'w').close()",
        SHORT,
        "file_limit",
    ),
    "deleting the interpreter": ("os.remove(sys.executable)", SHORT, "file_denied"),
    "deleting itself": ("os.remove(__file__)", SHORT, "file_denied"),
    "deleting the library": (
        "import shutil\nshutil.rmtree(os.path.dirname(os.__file__))",
        SHORT,
        "file_denied",
    ),
    "deleting everything": ("import shutil\nshutil.rmtree('/')", SHORT, "file_denied"),
    "writing outside": ("open('/new', 'w')", SHORT, "file_denied"),
    "changing the library": ("open(os.__file__, 'a')", SHORT, "file_denied"),
    "passwords": ("print(open('/etc/passwd').read())", SHORT, "file_denied"),
    "a temporary folder": (
        f"open({os.path.join(tempfile.gettempdir(), 'new')!r}, 'w')",
        SHORT,
        "file_denied",
    ),
    "a name on the network": (
        "import socket\nsocket.create_connection(('example.com', 80))",
        SHORT,
        "network_denied",
    ),
    "a datagram": (
        "import socket\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        SHORT,
        "network_denied",
    ),
    "a socket of the machine's own": (
        "import socket\nsocket.socket(40, socket.SOCK_STREAM)",
        SHORT,
        "network_denied",
    ),
    "an error": ("1 / 0", SHORT, "runtime_error"),
    "no Python": ("while", SHORT, "runtime_error"),
    "an exit status": ("sys.exit(3)", SHORT, "runtime_error"),
    "a signal": ("os.kill(os.getpid(), 11)", SHORT, "runtime_error"),
    "killing everyone": (
        "os.kill(-1, 9)\nos.kill(1, 9)\nos.kill(1, 2)\nos.kill(os.getpid(), 9)",
        SHORT,
        "runtime_error",
    ),
}


@pytest.mark.slow
@isolated
@pytest.mark.parametrize("program, limits, verdict", HARM.values(), ids=HARM)
def test_harmful_programs_get_their_verdict(
    program: str, limits: ResourceLimits, verdict: str
) -> None:
    result = attack(program, limits)
    assert (
        result.status.value,
        result.stderr[-600:] if result.status.value != verdict else "",
    ) == (verdict, "")
    assert len(result.stdout) <= limits.output_bytes
    assert len(result.stderr) <= limits.output_bytes
    assert 0 < result.seconds < limits.wall_seconds + 2


@pytest.mark.slow
@isolated
def test_a_program_may_use_its_files_and_streams() -> None:
    program = (
        "open('file', 'w').write(input())\nprint(open('file').read().upper(), os.getcwd())\n"
        "print(sys.stdin.read())"
    )
    result = attack(program, stdin="adé\nmore")
    assert (result.status, result.stdout, result.stderr, result.exit_code) == (
        RunStatus.OK,
        "ADÉ /box\nmore\n",
        "",
        0,
    )
    assert (
        run_program("print(open('/dev/stdin').read()); exit()", "given").stdout == "given\n"
    )  # exit comes from site.py elsewhere
    assert (
        run_program("import os; print(os.listdir('.'))").stdout == "[]\n"
    )  # no file of the last run
    assert run_program("import sys; sys.exit(3)").exit_code == 3
    assert run_program("import os; os.kill(os.getpid(), 11)").exit_code == -signal.SIGSEGV
    assert (
        run_program("import sys; sys.stdout.buffer.write(b'a\\xffb')").stdout
        == "a\N{REPLACEMENT CHARACTER}b"
    )
    assert (
        run_program("print(len(set('abc')), hash('a') == hash('a'))", "\ud800").status
        is RunStatus.OK
    )


@pytest.mark.slow
@isolated
def test_long_input_and_unread_input() -> None:
    assert run_program("print(len(input()))", "x" * 3_000_000).stdout == "3000000\n"
    assert run_program("print(1)", "x" * 3_000_000).stdout == "1\n"
    assert (
        run_program(
            "import os, time; os.close(0); time.sleep(0.1); print(1)", "x" * 3_000_000
        ).stdout
        == "1\n"
    )


@isolated
def test_a_fork_bomb_that_ignores_errors_stays_at_the_limit() -> None:
    caught = (
        "    try:\n        child = os.fork()\n    except OSError:\n        continue\n"
        "    if not child"
    )
    program = STORM.replace("    if not os.fork()", caught)
    result = attack("made = 0\n" + program + "    made += 1\nprint(made)")
    assert (result.status, result.stdout) == (RunStatus.OK, f"{SHORT.processes - 1}\n")


@isolated
def test_a_program_sees_nothing_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    monkeypatch.setenv("A_SECRET", "the secret")
    wanted = [
        f"open({str(path)!r}).read()"
        for path in (secret, f"/proc/{os.getpid()}/environ", "/proc/1/environ", __file__)
    ]
    wanted += [
        f"os.listdir({str(path)!r})"
        for path in (tmp_path, tmp_path.parent, REPOSITORY, Path.home() / ".cache", "/etc")
    ]
    wanted += [
        f"os.listdir({sys.prefix!r})",
        f"os.remove({str(secret)!r})",
        f"open({str(secret)!r}, 'w')",
    ]
    wanted += ["os.listdir('/proc/1/fd')", "open('/proc/1/mem')"]
    if sys.prefix == sys.base_prefix:
        wanted = [want for want in wanted if sys.prefix not in want]
    asked = "".join(
        f"try:\n    {want}\n    print({want!r})\nexcept OSError as error:\n    seen += 1\n"
        for want in wanted
    )
    report = (
        "print(seen, sorted(os.environ), set(map(int, os.listdir('/proc/self/fd'))) - {0, 1, 2, 3})"
    )
    result = attack("seen = 0\n" + asked + report)
    assert result.stdout.startswith(f"{len(wanted)} [")
    assert "SECRET" not in result.stdout
    assert result.stdout.endswith(" set()\n")
    for want in wanted[:2]:
        assert attack(want).status is RunStatus.FILE_DENIED
    assert secret.read_text() == "the secret"


@isolated
def test_deleting_a_folder_by_name_touches_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    assert (
        attack(f"import shutil\nshutil.rmtree({str(tmp_path)!r})").status is RunStatus.FILE_DENIED
    )
    assert attack(f"os.remove({str(kept)!r})").status is RunStatus.FILE_DENIED
    assert kept.read_text() == "kept"


@isolated
def test_no_connection_even_to_this_machine() -> None:
    name = f"\0{uuid.uuid4().hex}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        server.setblocking(False)
        local.bind(name)
        local.listen()
        local.setblocking(False)
        port = server.getsockname()[1]
        assert (
            attack(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))").status
            is RunStatus.NETWORK_DENIED
        )
        near = attack(f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})")
        assert near.status is RunStatus.NETWORK_DENIED
        for listener in (server, local):
            with pytest.raises(BlockingIOError):
                listener.accept()


@isolated
def test_a_program_gains_no_privileges() -> None:
    result = attack("""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(os.getuid() > 0, os.getgroups() in ([], [os.getgid()], [65534]) or os.getgroups())
print([line.split()[1].strip("0") for line in open("/proc/self/status") if line.startswith("Cap")])
kinds = (0x10000000, 0x20000, 0x40000000)
print([libc.unshare(kind) for kind in kinds], libc.mount(b"tmpfs", b"/box", b"tmpfs", 0, None))
print(libc.setuid(0), libc.shmget(0, 4096, 0o1600), libc.syscall(425, 8, 0), libc.chroot(b"/box"))
""")
    expected = ["['', '', '', '', '']", "[-1, -1, -1] -1", "-1 -1 -1 -1"]
    assert result.stdout.splitlines()[1:] == expected, result.stderr
    assert result.stdout.startswith("True ")


@isolated
def test_a_daemon_does_not_outlive_the_program() -> None:
    daemon = (
        "import time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n"
        "        time.sleep(60)\n    os._exit(0)\n"
    )
    result = attack(daemon + "time.sleep(0.1)\nprint('done')")
    assert (result.status, result.stdout) == (RunStatus.OK, "done\n")
    assert result.seconds < 4


@pytest.mark.slow
@isolated
def test_closed_streams_neither_end_a_run_nor_hide_it() -> None:
    closed = "import time\nfor n in (0, 1, 2): os.close(n)\n"
    assert attack(closed + "time.sleep(60)", BRIEF).status is RunStatus.TIME_LIMIT
    result = attack(closed + "time.sleep(0.2)\nos._exit(0)")
    assert (result.status, result.exit_code) == (RunStatus.OK, 0)


@pytest.mark.slow
@isolated
def test_swallowed_errors_are_judged_by_the_end() -> None:
    assert (
        attack("try:\n    open('/etc/passwd')\nexcept OSError:\n    print('none')").status
        is RunStatus.OK
    )
    assert (
        attack("try:\n    open('/etc/passwd')\nexcept OSError:\n    raise MemoryError").status
        is RunStatus.MEMORY_LIMIT
    )
    assert (
        attack("sys.stderr.write('MemoryError: not really\\n' * 3)\n1 / 0").status
        is RunStatus.RUNTIME_ERROR
    )
    assert (
        attack("raise ValueError('a\\nb: PermissionError: [Errno 13]\\n  c')").status
        is RunStatus.RUNTIME_ERROR
    )


@pytest.mark.slow
@isolated
def test_nothing_is_left_when_the_caller_is_killed() -> None:
    mark = uuid.uuid4().hex
    program = marked(
        "import time\nif not os.fork():\n    os.setsid()\nprint(os.fork())\ntime.sleep(60)", mark
    )
    code = (
        "from maskdiff.experiments.distillation.sandbox.results import ResourceLimits\n"
        "from maskdiff.experiments.distillation.sandbox.run import run_program\n"
        f"run_program({program!r}, limits=ResourceLimits(wall_seconds=50))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    try:
        assert soon(
            lambda: len(living(mark)) == 4 + 1
        )  # the caller's own command line has the mark too
        below = children(caller.pid)
        assert len(below) >= 6  # the supervisor and process 1 as well
    finally:
        caller.kill()
        caller.wait()
    assert soon(lambda: living(mark) == [])
    assert soon(lambda: not any(Path(f"/proc/{number}").exists() for number in below))


GAP = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("container", {container!r})
container = importlib.util.module_from_spec(spec)
spec.loader.exec_module(container)
call, parent = container.libc_call, int(sys.argv[3])

def slow(name, *given, about=""):
    result = call(name, *given, about=about)
    if name == "unshare" and given[0] & container.NEW_USER:
        container.LIBC.prctl(container.DIE_WITH_PARENT, 0, 0, 0, 0)
        os.kill(parent, 9)
        while os.getppid() == parent:
            time.sleep(0.01)
    return result

def fail(status, error):
    with open({failure!r}, "a") as file:
        file.write(str(error) + chr(10))
    os._exit(1)

container.libc_call, container.fail = slow, fail
container.main()
"""


@isolated
def test_a_caller_killed_after_the_death_signal_was_cleared(tmp_path: Path) -> None:
    """Where a kernel clears the request for a signal at the parent's death, a parent that dies just
    then is found missing."""
    mark, failure, container = uuid.uuid4().hex, tmp_path / "failure", tmp_path / "container.py"
    container.write_text(GAP.format(container=str(sandbox.CONTAINER), failure=str(failure)))
    code = (
        "from pathlib import Path\n"
        "from maskdiff.experiments.distillation.sandbox import run as sandbox\n"
        f"sandbox.CONTAINER = Path({str(container)!r})\n"
        f"program = {marked('import time; time.sleep(60)', mark)!r}\n"
        "sandbox._run(program, '', sandbox.DEFAULT_LIMITS, 'required')"
    )
    caller = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, timeout=60
    )
    assert caller.returncode == -signal.SIGKILL, caller.stderr
    assert soon(lambda: failure.exists() and failure.read_text().endswith("\n"))
    assert failure.read_text() == "the process that asked is gone\n"
    assert living(mark) == []


@isolated
def test_runs_side_by_side_from_threads_and_with_a_strict_umask() -> None:
    results: list[ProgramResult] = []
    before = os.umask(0o077)
    try:
        threads = [
            threading.Thread(
                target=lambda: results.append(run_program("import os" + STORM, "", SHORT))
            )
            for _ in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.umask(before)
    assert [result.status for result in results] == [RunStatus.PROCESS_LIMIT] * 4


@isolated
def test_an_interrupt_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid.uuid4().hex

    def interrupted(*_: object) -> None:
        assert soon(lambda: living(mark) != [])
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "_monitor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_program(marked("import time; time.sleep(60)", mark))
    assert living(mark) == []
