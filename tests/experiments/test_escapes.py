"""Resources that a sandboxed program must not reach: kernel memory, lasting state, the caller's
files."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskdiff.experiments.distillation.sandbox import run as sandbox
from maskdiff.experiments.distillation.sandbox.run import ProgramResult, RunStatus
from tests.helpers.paths import REPOSITORY
from tests.helpers.sandbox import attack, isolated


def landlock() -> bool:
    """Whether the kernel has the version of Landlock that the sandbox needs."""
    version = ctypes.CDLL(None, use_errno=True).syscall(444, None, ctypes.c_ulong(0), 1)
    return int(version) >= 2


DENIED, MEMORY, NETWORK, FAILED = "file_denied", "memory_limit", "network_denied", "runtime_error"
KERNEL_MEMORY = {
    "semaphores": ("must(libc.semget(0, 32000, 0o1600))", DENIED),
    "shared memory": ("must(libc.shmget(0, 1 << 30, 0o1600))", DENIED),
    "messages": ("must(libc.msgget(0, 0o1600))", DENIED),
    "a message queue": ("must(libc.syscall(240, b'/q', 0o102, 0o600, None))", DENIED),
    "sockets in flight": (
        "a, b = socket.socketpair()\nwhile True: socket.send_fds(a, [b'x'], [a.fileno()] * 200)",
        DENIED,
    ),
    "larger socket buffers": (
        "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)",
        DENIED,
    ),
    "larger pipes": ("fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)", DENIED),
    "a larger stream of ours": ("fcntl.fcntl(1, 1031, 1 << 20)", DENIED),
    "a socket of a family": ("socket.socket(socket.AF_UNIX)", NETWORK),
    "netlink": ("socket.socket(16, socket.SOCK_RAW, 0)", NETWORK),
    "ciphers of the kernel": ("socket.socket(38, socket.SOCK_SEQPACKET)", NETWORK),
    "epoll": ("select.epoll()", DENIED),
    "eventfd": ("must(libc.eventfd(0, 0))", DENIED),
    "timerfd": ("must(libc.timerfd_create(1, 0))", DENIED),
    "signalfd": ("must(libc.signalfd(-1, bytes(128), 0))", DENIED),
    "inotify": ("must(libc.inotify_init1(0))", DENIED),
    "fanotify": ("must(libc.fanotify_init(0x200, 0))", DENIED),
    "memfd": ("os.memfd_create('x')", MEMORY),
    "secret memory": ("must(libc.syscall(447, 0))", MEMORY),
    "io_uring": ("must(libc.syscall(425, 8, bytes(120)))", DENIED),
    "asynchronous input": ("must(libc.syscall(206, 1 << 15, bytes(8)))", DENIED),
    "timers": ("must(libc.syscall(222, 1, None, bytes(8)))", DENIED),
    "keys": ("must(libc.syscall(248, b'user', b'k', b'x' * 99, 99, -3))", DENIED),
    "keyrings": ("must(libc.syscall(250, 0, -3, 1))", DENIED),
    "a kernel program": ("must(libc.syscall(321, 0, bytes(72), 72))", DENIED),
    "performance events": ("must(libc.syscall(298, bytes(112), 0, -1, -1, 0))", DENIED),
    "page faults": ("must(libc.syscall(323, 1))", DENIED),
    "locked memory": ("must(libc.mlockall(3))", DENIED),
    "mounts": ("must(libc.mount(b'tmpfs', b'/box', b'tmpfs', 0, None))", DENIED),
    "a user namespace": ("must(libc.unshare(0x10000000))", DENIED),
    "a mount namespace": ("must(libc.unshare(0x20000))", DENIED),
    "a terminal": ("os.openpty()", DENIED),
    "a device": ("os.mknod('null', 0o020666, os.makedev(1, 3))", DENIED),
    "a named pipe": ("os.mkfifo('pipe')", DENIED),
    "an attribute": ("open('f', 'w')\nos.setxattr('f', 'user.x', b'x')", DENIED),
    "locks": (
        "f = open('f', 'w')\nfor i in range(10 ** 6): fcntl.lockf(f, fcntl.LOCK_EX, 1, 2 * i)",
        DENIED,
    ),
    "a lease": ("f = open('f', 'w')\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)", DENIED),
    "queued signals": ("must(libc.syscall(129, os.getpid(), 34, bytes(128)))", DENIED),
    "another process's memory": ("must(libc.syscall(310, 1, None, 0, None, 0, 0))", DENIED),
    "tracing": ("must(libc.ptrace(0, 0, 0, 0))", DENIED),
    "a personality": ("must(libc.personality(0x40000))", DENIED),
    "to outlive its parent": ("must(libc.prctl(1, 0, 0, 0, 0))", DENIED),
    "a filter of its own": ("must(libc.syscall(317, 1, 0, None))", DENIED),
    "the clock": ("time.clock_settime(time.CLOCK_REALTIME, 0)", DENIED),
    "the name of the machine": ("socket.sethostname('x')", DENIED),
    "the kernel's messages": ("must(libc.klogctl(3, bytes(99), 99))", DENIED),
    "pages in memory": ("must(libc.mincore(0, 4096, bytes(9)))", DENIED),
    "a file system's size": ("os.statvfs('/box')", DENIED),
    "a priority": ("os.nice(1)", DENIED),
}
X86_ONLY = {name for name, (program, _) in KERNEL_MEMORY.items() if "syscall(" in program}


@functools.cache
def attacks() -> dict[str, ProgramResult]:
    """The ends of all programs of the two tables, several at a time since each is short."""
    programs = {name: program for name, (program, _) in {**KERNEL_MEMORY, **STATE}.items()}
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(programs, pool.map(attack, programs.values()), strict=True))


@pytest.mark.slow
@isolated
@pytest.mark.parametrize("name", KERNEL_MEMORY)
def test_kernel_memory_and_powers_are_refused(name: str) -> None:
    if name in X86_ONLY and os.uname().machine != "x86_64":
        pytest.skip("written in the numbers of another machine")
    result, verdict = attacks()[name], KERNEL_MEMORY[name][1]
    assert (result.status.value, result.stderr[-300:] if result.status != verdict else "") == (
        verdict,
        "",
    )


FULL = """
held, total = [], 0
try:
    while True:
        held += MADE
except OSError as error:
    print(error.errno)
for end in held:
    number = end if isinstance(end, int) else end.fileno()
    os.set_blocking(number, False)
    try:
        while True:
            total += os.write(number, b"x" * 4096)
    except OSError:
        pass
print(total)
"""


@isolated
@pytest.mark.parametrize("made", ["os.pipe()", "socket.socketpair()"])
def test_buffers_that_are_allowed_are_bounded(made: str) -> None:
    result = attack(FULL.replace("MADE", made))
    error, total = map(int, result.stdout.split())
    assert error == 24  # too many open files
    assert 1 << 20 < total < 64 * 256 << 10


STATE = {
    "a device's times": ("os.utime('/dev/null')", DENIED),
    "a device's times, exactly": ("os.utime('/dev/zero', (1, 1))", DENIED),
    "a device's mode": ("os.chmod('/dev/null', 0o600)", DENIED),
    "a device's owner": ("os.chown('/dev/null', os.getuid(), -1)", DENIED),
    "a device's attributes": ("os.setxattr('/dev/null', 'user.x', b'x')", DENIED),
    "a lock on a device": ("fcntl.flock(open('/dev/null'), fcntl.LOCK_EX)", DENIED),
    "a lock on a part of one": ("fcntl.lockf(open('/dev/null', 'w'), fcntl.LOCK_EX)", DENIED),
    "a lock on the library": ("fcntl.flock(open(os.__file__), fcntl.LOCK_EX)", DENIED),
    "a shared lock on it": ("fcntl.lockf(open(os.__file__), fcntl.LOCK_SH)", DENIED),
    "a lock on a folder": ("fcntl.flock(os.open('/usr/bin', 0), fcntl.LOCK_SH)", DENIED),
    "a lock on our streams": ("fcntl.flock(0, fcntl.LOCK_EX)", DENIED),
    "notice of a folder": ("fcntl.fcntl(os.open('/usr/bin', 0), 1026, 1)", DENIED),
    "a device removed": ("os.remove('/dev/null')", DENIED),
    "a device replaced": ("open('f', 'w')\nos.rename('f', '/dev/null')", DENIED),
    "a new device": ("open('/dev/new', 'w')", DENIED),
    "shared memory by name": ("open('/dev/shm/x', 'w')", DENIED),
    "the library's times": ("os.utime(os.__file__)", DENIED),
    "bits of chance added": ("fcntl.ioctl(open('/dev/urandom', 'w'), 0x40045201, 1)", DENIED),
    "a setting of the kernel": ("open('/proc/sys/kernel/hostname', 'w')", DENIED),
    "its standing in /proc": ("open('/proc/self/oom_score_adj', 'w').write('0')", DENIED),
}


@isolated
@pytest.mark.slow
@pytest.mark.parametrize("name", STATE)
def test_nothing_outside_its_folder_can_be_changed(name: str) -> None:
    result, verdict = attacks()[name], STATE[name][1]
    assert (result.status.value, result.stderr[-300:] if result.status != verdict else "") == (
        verdict,
        "",
    )


# Tries all that may be left behind, one after the other, and says what succeeded.
LEAVE = (
    "done = []\n"
    + "".join(
        f"try:\n    {line}\n    done.append({name!r})\n"
        "except (OSError, AttributeError):\n    pass\n"
        for name, line in {
            **{name: program.replace("\n", "\n    ") for name, (program, _) in STATE.items()},
            "a file": "open('left', 'w').write('left')",
            "a file in /": "open('/left', 'w')",
            "a folder": "os.makedirs('/box/a/b')",
            "an abstract name": "socket.socket(socket.AF_UNIX).bind('\\0left')",
            "a name": "os.environ['LEFT'] = 'left'",
            "written devices": (
                "[open(f'/dev/{name}', 'w').write('left') for name in ('null', 'zero', 'urandom')]"
            ),
            "a daemon": "os.fork() or (os.setsid(), time.sleep(30))",
        }.items()
    )
    + "print(done)\n"
)
# Says all that a program can know of the world, but for the clock and its own numbers.
LOOK = """
seen = {"names": sorted(os.environ.items()), "names of calls": os.uname()[:2]}
for top in ("/", "/dev", "/box", "/proc"):
    seen[top] = sorted(name for name in os.listdir(top) if not name.isdigit())
for path in ("/dev", "/dev/null", "/dev/zero", "/dev/urandom", "/usr/bin", os.__file__, "/box"):
    found = os.stat(path)
    times = (found.st_mtime_ns, found.st_ctime_ns)
    times = () if path in ("/dev", "/box") else times
    seen[path] = (found.st_mode, found.st_size, found.st_nlink, *times)
    seen[path, "attributes"] = os.listxattr(path) if path != "/dev/urandom" else []
seen["number"] = os.getpid()
seen["open"] = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self") else 0
print(seen)
"""


@isolated
def test_a_run_sees_nothing_of_the_one_before() -> None:
    devices = ("/dev/null", "/dev/zero", "/dev/urandom")
    ours = [os.stat(path) for path in devices]
    before = attack(LOOK)
    left = attack(LEAVE)
    after = attack(LOOK)
    assert before.status is left.status is after.status is RunStatus.OK, left.stderr
    assert left.stdout == "['a file', 'a folder', 'a name', 'written devices', 'a daemon']\n"
    assert after.stdout == before.stdout
    assert "left" not in after.stdout
    for path, old in zip(devices, ours, strict=True):
        new = os.stat(path)
        assert (new.st_mode, new.st_uid, new.st_mtime_ns) == (
            old.st_mode,
            old.st_uid,
            old.st_mtime_ns,
        )
        assert os.listxattr(path) == []


@pytest.mark.slow
@isolated
def test_runs_at_the_same_time_see_nothing_of_each_other() -> None:
    alone = attack(LOOK).stdout
    thread = threading.Thread(target=attack, args=(LEAVE + "time.sleep(0.8)",))
    thread.start()
    time.sleep(0.4)
    together = attack(LOOK).stdout
    thread.join()
    assert together == alone


WORDS = """
found, read = [], 0
for folder, folders, names in os.walk("/proc"):
    others = ("fd", "fdinfo", "map_files", "cwd", "root")
    folders[:] = [name for name in folders if name not in others]
    for name in names:
        path = os.path.join(folder, name)
        try:
            text = open(path, "rb").read(1 << 20)
        except OSError:
            continue
        read += 1
        found += [(path, word) for word in WORDS if word.encode() in text]
print(found, sorted({name for name in os.listdir("/proc") if not name.isdigit()}), read > 5)
"""


@pytest.mark.slow
@isolated
def test_proc_shows_the_program_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "the-secret")
    words = [str(REPOSITORY), "container.py", "the-secret", "workdir", "overlay", "ext4"]
    if not landlock():
        words = words[:3]  # the mount table of its own namespace names kinds of file systems
    result = attack(f"WORDS = {words!r}{WORDS}")
    assert result.status is RunStatus.OK, result.stderr
    if result.stdout != "[] [] False\n":  # no new /proc can be had in some containers
        assert result.stdout == "[] ['self', 'thread-self'] True\n"
    paths = [
        "1/cmdline",
        "1/environ",
        "cmdline",
        "keys",
        "kallsyms",
        "sys/kernel/osrelease",
        "version",
    ]
    if landlock():
        own = (
            "mountinfo",
            "mounts",
            "mountstats",
            "cgroup",
            "uid_map",
            "task/2/status",
            "net/unix",
        )
        paths += [f"self/{name}" for name in own]
    opened = "".join(
        f"try:\n    open('/proc/{path}')\n    print({path!r})\nexcept OSError:\n    pass\n"
        for path in paths
    )
    assert attack(opened).stdout == ""
    names = ["HOME", "LANG", "OMP_NUM_THREADS", "PATH", "PYTHONHASHSEED", "TMPDIR"]
    found = attack("print(' '.join(sorted(set(os.environ) - {'LD_LIBRARY_PATH'})))").stdout.split()
    assert found == names


@isolated
def test_without_landlock_all_else_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    container, source = tmp_path / "container.py", sandbox.CONTAINER.read_text(encoding="utf-8")
    container.write_text(source.replace("    restrict_proc()\n", ""), encoding="utf-8")
    assert container.read_text(encoding="utf-8") != source
    monkeypatch.setattr(sandbox, "CONTAINER", container)
    result = attack("""
mounts = [line.split() for line in open("/proc/self/mountinfo")]
print(sorted(fields[4] for fields in mounts if "ro" not in fields[5].split(",")))
print(all("nosuid" in fields[5] for fields in mounts))
print(set(open("/proc/self/cgroup").read().split(":")[-1::]) == {"/\\n"})
""")
    assert result.stdout == "['/box']\nTrue\nTrue\n", result.stderr
    assert attack("open('/proc/1/cmdline')").status is RunStatus.FILE_DENIED


@isolated
def test_without_proc_a_program_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    container, source = tmp_path / "container.py", sandbox.CONTAINER.read_text(encoding="utf-8")
    container.write_text(source.replace("subset=pid", "subset=unknown"), encoding="utf-8")
    monkeypatch.setattr(sandbox, "CONTAINER", container)
    assert attack("print(os.listdir('/proc'), open(0).read())").stdout == "[] \n"
