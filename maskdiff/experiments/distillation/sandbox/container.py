"""The isolated process: makes namespaces, mounts a root, drops privileges, executes the program.

`run.py` starts this script with the base interpreter, two file descriptors (the job and a pipe for
the status) and its own process id. It imports nothing of this package. The parent enforces the
limits of time and output.

The order matters. Mounting needs privileges that the program must not have. Process limits do not
bind root. A process that changes its user forgets its parent-death signal. And a program that could
make a user namespace would get every capability back: the kernel refuses that to a process in a
chroot, so the new root is a folder that we `chroot` into after `pivot_root`.

Processes: the supervisor (outside the process namespace), init (process 1 of the namespace), which
mounts the root and reaps, and the program. Each dies with the one before, and with init everything
in the namespace.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
# Flags of unshare.
NEW_MOUNTS, NEW_CGROUP, NEW_UTS = 0x20000, 0x2000000, 0x4000000
NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = 0x8000000, 0x10000000, 0x20000000, 0x40000000
# Flags of mount and umount2.
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND = 1, 2, 4, 8, 32, 4096
RECURSIVE, PRIVATE, DETACH = 16384, 1 << 18, 2
# Operations of prctl.
DIE_WITH_PARENT, DUMPABLE, SECCOMP, DROP_BOUND, NO_NEW_PRIVILEGES, AMBIENT = 1, 4, 22, 24, 38, 47
ROOT, OLD, FOLDER, PACKAGES = "/jail", "/old", "/box", "/packages"
DEVICES = ("null", "zero", "urandom")
OPEN_FILES = 64
# Files below /proc/self that the program may read.
OWN = ("cmdline", "comm", "environ", "limits", "maps", "stat", "statm", "status")


def main() -> None:
    """Run the job; report errors before the program starts on the status pipe, and exit with 1."""
    request, status, parent = map(int, sys.argv[1:])
    os.set_inheritable(status, False)
    with open(request, "rb") as file:
        job = marshal.load(file)  # of the same interpreter, and imported fastest
    run_or_report(status, lambda: run_job(job, status, parent))


def run_job(job: dict[str, Any], status: int, parent: int) -> None:
    """Execute the program in this process, or isolated in a child."""
    die_with_parent(parent)
    os.umask(0o022)
    if os.path.exists("/proc/self/oom_score_adj"):
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # the first to be killed when memory runs out
    if job["isolation"] == "required":
        supervise(job, status, parent)
    set_resource_limits(job, None)
    os.chdir(job["folder"])
    os.write(status, b"start\n")
    execute(job, status)


def fail(status: int, error: OSError) -> NoReturn:
    """Report an error in one line and exit."""
    line = f"error {error.filename or ''} {error.strerror or error}\n"
    os.write(status, line.replace("  ", " ").encode())
    os._exit(1)


def run_or_report(status: int, body: Callable[[], None]) -> NoReturn:
    """Run `body` and report its error; never return."""
    try:
        body()
    except OSError as error:
        fail(status, error)
    except BaseException as error:
        fail(status, OSError(f"{type(error).__name__}: {error}"))
    os._exit(1)


def libc_call(name: str, *arguments: Any, about: str = "") -> int:
    """Call a function of libc, with integers as long ones. Raises OSError where it returns -1."""
    wide = [ctypes.c_ulong(item) if isinstance(item, int) else item for item in arguments]
    result = int(getattr(LIBC, name)(*wide))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), " ".join([name, about]).strip() + ":")
    return result


def die_with_parent(parent: int | None) -> None:
    """Ask for a parent-death signal. Raises OSError if the parent is dead already.

    None is a parent without a number in this namespace, which the caller checks.
    """
    if hasattr(LIBC, "prctl"):
        kill = int(signal.SIGKILL)
        libc_call("prctl", DIE_WITH_PARENT, kill, 0, 0, 0, about="parent death signal")
    if parent is not None and os.getppid() != parent:
        raise OSError("the process that asked is gone")


# ----------------------------------------------------------------------------------- the supervisor


def supervise(job: dict[str, Any], status: int, parent: int) -> NoReturn:
    """Make the namespaces and init, and exit after all of its processes; SIGTERM ends them."""
    several, uid, gid = choose_ids()
    mapper, ready = start_id_mapper(several, uid, gid)
    spaces = NEW_USER | NEW_PIDS | NEW_NETWORK | NEW_IPC | NEW_UTS
    libc_call("unshare", spaces, about="of user, pid, network, ipc and uts namespaces")
    os.close(ready)
    _, code = os.waitpid(mapper, 0)
    if code:
        number = os.waitstatus_to_exitcode(code)
        raise OSError(number, os.strerror(abs(number)), "writing the user map:")
    die_with_parent(parent)  # again, because a new user namespace may reset it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    alive, held = os.pipe()
    init = os.fork()
    if not init:
        os.close(held)
        run_or_report(status, lambda: run_init(job, status, alive, (several, uid, gid)))
    for number in range(3):
        os.close(number)
    while os.waitpid(init, os.WNOHANG)[0] == 0:
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
            os.kill(init, signal.SIGKILL)
    os._exit(0)


def id_ranges(kind: str) -> list[tuple[int, int]]:
    """Return (first, count) of each range of user ids (uid) or group ids (gid) that exist here."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        return [(int(first), int(count)) for first, _, count in map(str.split, file)]


def choose_ids() -> tuple[bool, int, int]:
    """Return whether we may take other ids than our own, and the program's user and group.

    The program of root gets unused ids, so that limits bind it; an ordinary user's keeps its own.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        capabilities = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    found = []
    for kind in ("uid", "gid"):
        first, count = max(id_ranges(kind), key=lambda pair: pair[1])
        found.append((count, first + count // 2 + os.getpid() % (count // 4 + 1)))
    may_set_ids = capabilities >> 6 & 3 == 3
    if may_set_ids and min(count for count, _ in found) > 1:
        return True, found[0][1], found[1][1]
    return False, os.geteuid() or 65534, os.getegid() or 65534


def start_id_mapper(several: bool, uid: int, gid: int) -> tuple[int, int]:
    """Start a process outside the namespaces, which writes our id maps.

    It waits until the returned descriptor is closed.
    """
    target = os.getpid()
    maps = {
        kind: "".join(f"{first} {first} {count}\n" for first, count in id_ranges(kind))
        if several
        else f"{inside} {outside} 1\n"
        for kind, inside, outside in (("uid", uid, os.geteuid()), ("gid", gid, os.getegid()))
    }
    wait, ready = os.pipe()
    mapper = os.fork()
    if mapper:
        os.close(wait)
        return mapper, ready
    code = 0
    try:
        os.close(ready)
        os.read(wait, 1)
        files = [] if several else [("setgroups", "deny")]
        for path, text in [*files, *((f"{kind}_map", maps[kind]) for kind in maps)]:
            with open(f"/proc/{target}/{path}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        code = error.errno or 1
    os._exit(code)


# --------------------------------------------------------------------------------------------- init


def run_init(job: dict[str, Any], status: int, alive: int, ids: tuple[bool, int, int]) -> None:
    """Mount the root, start the program, reap until it ends, and report its exit status."""
    die_with_parent(None)
    poll = select.poll()
    poll.register(alive, select.POLLHUP)
    if poll.poll(0):
        os._exit(1)  # the supervisor died before the call above
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # init then ignores it inside the namespace
    groups = NEW_CGROUP if os.path.exists("/proc/self/ns/cgroup") else 0
    libc_call("unshare", NEW_MOUNTS | groups, about="of mount and cgroup namespaces")
    libc_call("sethostname", b"box", 3)
    mount_root(job, ids)
    libc_call("prctl", DUMPABLE, 0, 0, 0, 0)  # the program can neither read nor trace us
    os.write(status, b"start\n")
    program = os.fork()
    if not program:
        run_or_report(status, lambda: exec_isolated(job, status, ids))
    for number in range(3):
        os.close(number)
    drop_capabilities()
    while True:
        ended, code, usage = os.wait4(-1, 0)
        if ended == program:
            os.write(status, f"end {code} {usage.ru_utime + usage.ru_stime}\n".encode())
            os._exit(0)


def mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    """Call mount. Raises OSError."""
    texts = [item.encode() if item else None for item in (source, target, kind)]
    what = f"{kind or source} on {target}"
    libc_call("mount", *texts, flags, options.encode() or None, about=what)


def mount_root(job: dict[str, Any], ids: tuple[bool, int, int]) -> None:
    """Mount the root that the program sees: read-only except for the working folder."""
    _, uid, gid = ids
    # A new root in memory, with the old one below it.
    mount("", "/", RECURSIVE | PRIVATE)
    size = len(job["program"].encode("utf-8", "surrogatepass")) + (1 << 20)
    mount("tmpfs", "/proc", NO_SUID | NO_DEVICES, "tmpfs", f"size={size},nr_inodes=16384,mode=0755")
    os.chdir("/proc")  # any folder would do: it is uncovered when the old root moves
    os.mkdir(OLD[1:])
    libc_call("pivot_root", b".", OLD[1:].encode())
    os.chdir("/")
    os.mkdir(ROOT)
    for path in job["shown"]:
        bind_mount(path, path)
    for path, name in job["packages"]:
        bind_mount(path, f"{PACKAGES}/{name}")
    for path in job["hidden"]:
        cover(path)
    # Devices and processes.
    os.mkdir(ROOT + "/dev")
    for name in DEVICES:
        os.close(os.open(f"{ROOT}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        mount(f"{OLD}/dev/{name}", f"{ROOT}/dev/{name}", BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{ROOT}/dev/{name}")
    os.mkdir(ROOT + "/proc")
    try:
        # The program's own processes alone: neither ours nor the kernel's files.
        options = "hidepid=ptraceable,subset=pid"
        mount("proc", ROOT + "/proc", NO_SUID | NO_DEVICES | NO_EXEC, "proc", options)
    except OSError:
        # Kernels before 5.8 do not know these options, and a container that covers parts of its
        # own /proc cannot mount a new one. Most programs do without.
        pass
    # The program and its working folder.
    program = ROOT + "/program.py"
    with open(program, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.write(job["program"])
    os.chmod(program, 0o444)
    os.mkdir(ROOT + FOLDER)
    options = f"size={job['file_bytes']},nr_inodes=4096,mode=0700,uid={uid},gid={gid}"
    mount("tmpfs", ROOT + FOLDER, NO_SUID | NO_DEVICES, "tmpfs", options)
    # Detach the old root and enter the new one.
    remount_read_only()
    libc_call("umount2", OLD.encode(), DETACH, about="of the old root")
    os.rmdir(OLD)
    mount("", "/", REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)
    os.chroot(ROOT)
    os.chdir(FOLDER)


def bind_mount(path: str, name: str) -> None:
    """Make a file, folder or link of the old root visible under a name, if it exists."""
    source, target = OLD + path, ROOT + name
    if not os.path.lexists(source) or os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, BIND | RECURSIVE)


def cover(path: str) -> None:
    """Mount an unreadable file or folder over a visible one."""
    target = ROOT + path
    if os.path.isdir(target):
        mount("tmpfs", target, NO_SUID | NO_DEVICES, "tmpfs", "size=4k,nr_inodes=1,mode=0")
    elif os.path.lexists(target):
        os.close(os.open("/covered", os.O_CREAT | os.O_WRONLY, 0))
        mount("/covered", target, BIND)


def remount_read_only() -> None:
    """Make all mounts below the new root read-only except the working folder; keep locked flags.

    A device of a read-only mount can still be written to, but the times, mode and attributes of
    its inode, which belongs to the machine, stay.
    """
    flags = {b"ro": READ_ONLY, b"nosuid": NO_SUID, b"nodev": NO_DEVICES, b"noexec": NO_EXEC}
    escapes = {b"\\%03o" % code: bytes([code]) for code in b" \t\n\\"}  # the backslash last
    with open(OLD + "/proc/self/mountinfo", "rb") as file:
        mounts = [line.split(b" ") for line in file]
    for fields in mounts:
        path = fields[4]
        for code, character in escapes.items():
            path = path.replace(code, character)
        inside = path.startswith(ROOT.encode() + b"/")
        if inside and path != (ROOT + FOLDER).encode():
            kept = sum(flags.get(option, 0) for option in set(fields[5].split(b",")))
            kept |= REMOUNT | BIND | READ_ONLY | NO_SUID
            what = f"read-only of {os.fsdecode(path)}"
            libc_call("mount", None, path, None, kept, None, about=what)


# -------------------------------------------------------------------------------------- the program


def exec_isolated(job: dict[str, Any], status: int, ids: tuple[bool, int, int]) -> None:
    """Drop all privileges, set the limits, and execute the program."""
    several, uid, gid = ids
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setsid()
    for number in range(3):
        try:
            os.fchown(number, uid, gid)  # so that /dev/stdin can be opened
        except OSError:
            pass
    drop_bounding_set()
    if several:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    drop_capabilities()
    die_with_parent(1)
    # The supervisor and init of an ordinary user count too.
    set_resource_limits(job, job["processes"] + (0 if several else 2))
    restrict_proc()
    install_seccomp_filter(job["filter"])
    execute(job, status)


def drop_bounding_set() -> None:
    """Empty the capability bounding set; needs privileges."""
    number = 0
    while number < 64 and LIBC.prctl(DROP_BOUND, *map(ctypes.c_ulong, (number, 0, 0, 0))) == 0:
        number += 1


def drop_capabilities() -> None:
    """Drop all capabilities for good."""
    drop_bounding_set()
    libc_call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0, about="no new privileges")
    libc_call("prctl", AMBIENT, 4, 0, 0, 0, about="ambient capabilities")
    head = struct.pack("Ii", 0x20080522, 0)
    libc_call("capset", head, bytes(24), about="to nothing")


def set_resource_limits(job: dict[str, Any], processes: int | None) -> None:
    """Set the limits of this process and its children.

    `processes` is None where the user's other processes would count too.
    """
    wanted = {
        resource.RLIMIT_CPU: (job["cpu_seconds"], job["cpu_seconds"] + 1),  # SIGXCPU, then SIGKILL
        resource.RLIMIT_AS: (job["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (job["file_bytes"],) * 2,
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_CORE: (0, 0),
    }
    if processes is not None:
        wanted[resource.RLIMIT_NPROC] = (processes, processes)
    for which, (soft, hard) in wanted.items():
        most = resource.getrlimit(which)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(which, (soft, hard))


def restrict_proc() -> None:
    """Make files below /proc unreadable except those of `OWN`; the mount table above all.

    This needs Landlock version 2; on other kernels nothing changes.
    """
    create, add, restrict = 444, 445, 446  # the system calls' numbers on every machine
    if LIBC.syscall(create, None, ctypes.c_ulong(0), 1) < 2:
        return
    read, move = 1 << 2, 1 << 13  # files; between folders
    rights = ctypes.create_string_buffer(struct.pack("Q", read | move), 8)
    ruleset = libc_call("syscall", create, rights, 8, 0, about="of Landlock rules")
    whole = [f"/{name}" for name in os.listdir("/") if name != "proc"]
    for path in [*whole, *(f"/proc/self/{name}" for name in OWN)]:
        if os.path.exists(path):
            opened = os.open(path, os.O_PATH)
            allowed = read | move if os.path.isdir(path) else read
            rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, opened), 12)
            libc_call("syscall", add, ruleset, 1, rule, 0, about=f"of the Landlock rule for {path}")
            os.close(opened)
    libc_call("syscall", restrict, ruleset, 0, about="to Landlock rules")
    os.close(ruleset)


def install_seccomp_filter(code: bytes) -> None:
    """Install a seccomp filter, given as instructions."""
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(held))
    libc_call("prctl", SECCOMP, 2, ctypes.c_char_p(program), 0, 0, about="filter of system calls")


def execute(job: dict[str, Any], status: int) -> NoReturn:
    """Execute the program with three descriptors; the status pipe closes on exec."""
    os.closerange(3, status)
    os.closerange(status + 1, 1 << 16)
    os.execve(job["argv"][0], job["argv"], job["environment"])


if __name__ == "__main__":
    main()
