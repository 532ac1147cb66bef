"""What `sandbox.py` starts: makes namespaces, builds a small root in them, gives up every privilege, becomes the program.

For: being run as a script of the base interpreter, with the numbers of two file descriptors (the job, and where to tell how it
goes) and of the process that started it. Not for: limits of time and of output, which the parent watches over, and being
imported; it imports nothing of ours. Easy to get wrong: the order. Mounting needs privileges that the program must not have,
limits on processes do not bind root, a process that changes its user forgets that it should die with its parent, and a
program that may make user namespaces of its own gets every capability back: the new root is a folder to which we `chroot`
after `pivot_root`, since the kernel refuses user namespaces to whoever lives in one.

Processes: the supervisor (outside the process namespace), process 1 of the namespace, which builds the root and reaps, and the
program. Each dies with the one before, and with process 1 everything in the namespace.
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
NEW_MOUNTS, NEW_GROUPS, NEW_HOST, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
DETACH = 2
DIE_WITH_PARENT, DUMPABLE, SECCOMP, DROP_BOUND, NO_NEW_PRIVILEGES, AMBIENT = 1, 4, 22, 24, 38, 47
ROOT, OLD, FOLDER, PACKAGES = "/jail", "/old", "/box", "/packages"
DEVICES = ("null", "zero", "urandom")
OPEN_FILES = 64
# Files of /proc about the process itself that it may read: its limits, memory and words.
OWN = ("cmdline", "comm", "environ", "limits", "maps", "stat", "statm", "status")


def main() -> None:
    """Run the job. What goes wrong before the program starts is told on the status descriptor, and the exit status is 1."""
    request, status, parent = map(int, sys.argv[1:])
    os.set_inheritable(status, False)
    with open(request, "rb") as file:
        job = marshal.load(
            file
        )  # from the same interpreter, and of the standard formats the one at hand soonest
    guarded(status, lambda: obey(job, status, parent))


def obey(job: dict[str, Any], status: int, parent: int) -> None:
    """Become the program as we are, or isolate it."""
    die_with_parent(parent)
    os.umask(0o022)
    if os.path.exists("/proc/self/oom_score_adj"):
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # where memory runs out, this goes first
    if job["isolation"] == "required":
        supervise(job, status, parent)
    limit(job, None)
    os.chdir(job["folder"])
    os.write(status, b"start\n")
    execute(job, status)


def fail(status: int, error: OSError) -> NoReturn:
    """Tell what went wrong in one line, and end."""
    os.write(
        status,
        f"error {error.filename or ''} {error.strerror or error}\n".replace("  ", " ").encode(),
    )
    os._exit(1)


def guarded(status: int, body: Callable[[], None]) -> NoReturn:
    """Do what a process of ours is for, and never come back."""
    try:
        body()
    except OSError as error:
        fail(status, error)
    except BaseException as error:
        fail(status, OSError(f"{type(error).__name__}: {error}"))
    os._exit(1)


def call(name: str, *arguments: Any, about: str = "") -> int:
    """A function of libc, numbers taken for long ones. Raises OSError, naming the call, where it says -1."""
    wide = [ctypes.c_ulong(item) if isinstance(item, int) else item for item in arguments]
    result = int(getattr(LIBC, name)(*wide))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), " ".join([name, about]).strip() + ":")
    return result


def die_with_parent(parent: int | None) -> None:
    """Raises OSError where the parent died before we asked; None: it has no number here, and the caller looks for it."""
    if hasattr(LIBC, "prctl"):
        call("prctl", DIE_WITH_PARENT, int(signal.SIGKILL), 0, 0, 0, about="parent death signal")
    if parent is not None and os.getppid() != parent:
        raise OSError("the process that asked is gone")


# The supervisor.


def supervise(job: dict[str, Any], status: int, parent: int) -> NoReturn:
    """Make the namespaces and process 1 in them; a SIGTERM ends it, and we end after it and all of its processes have."""
    several, uid, gid = strangers()
    mapper, ready = helper(several, uid, gid)
    spaces = NEW_USER | NEW_PIDS | NEW_NETWORK | NEW_IPC | NEW_HOST
    call("unshare", spaces, about="of user, pid, network, ipc and uts namespaces")
    os.close(ready)
    _, code = os.waitpid(mapper, 0)
    if code:
        number = os.waitstatus_to_exitcode(code)
        raise OSError(number, os.strerror(abs(number)), "writing the user map:")
    die_with_parent(parent)  # if the new user namespace made us forget it, as a change of user does
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    life, held = os.pipe()
    first = os.fork()
    if not first:
        os.close(held)
        guarded(status, lambda: reign(job, status, life, (several, uid, gid)))
    for number in range(3):
        os.close(number)
    while os.waitpid(first, os.WNOHANG)[0] == 0:
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
            os.kill(first, signal.SIGKILL)
    os._exit(0)


def ranges(kind: str) -> list[tuple[int, int]]:
    """The first number and how many, of each range of the user (uid) or group (gid) numbers that exist here."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        return [(int(first), int(count)) for first, _, count in map(str.split, file)]


def strangers() -> tuple[bool, int, int]:
    """Whether we may take other numbers than our own, and the user and the group that the program gets.

    A superuser's program gets numbers of nobody here, so that limits bind it; an ordinary user's keeps that user's.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        powers = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    found = []
    for kind in ("uid", "gid"):
        first, count = max(ranges(kind), key=lambda pair: pair[1])
        found.append((count, first + count // 2 + os.getpid() % (count // 4 + 1)))
    if powers >> 6 & 3 == 3 and min(count for count, _ in found) > 1:  # may set users and groups
        return True, found[0][1], found[1][1]
    return False, os.geteuid() or 65534, os.getegid() or 65534


def helper(several: bool, uid: int, gid: int) -> tuple[int, int]:
    """A process that stays outside and writes our maps, as only one outside may, once the descriptor given is closed."""
    target = os.getpid()
    maps = {
        kind: "".join(f"{first} {first} {count}\n" for first, count in ranges(kind))
        if several
        else f"{inside} {outside} 1\n"
        for kind, inside, outside in (("uid", uid, os.geteuid()), ("gid", gid, os.getegid()))
    }
    wait, ready = os.pipe()
    made = os.fork()
    if made:
        os.close(wait)
        return made, ready
    code = 0
    try:
        os.close(ready)
        os.read(wait, 1)
        for path, text in ([] if several else [("setgroups", "deny")]) + [
            (f"{kind}_map", maps[kind]) for kind in maps
        ]:
            with open(f"/proc/{target}/{path}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        code = error.errno or 1
    os._exit(code)


# Process 1.


def reign(job: dict[str, Any], status: int, life: int, ids: tuple[bool, int, int]) -> None:
    """Build the root, start the program, reap until it ends, tell how it did."""
    die_with_parent(None)
    watch = select.poll()
    watch.register(life, select.POLLHUP)
    if watch.poll(0):
        os._exit(1)  # the supervisor died before we asked to die with it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from within the namespace it is then ignored
    groups = NEW_GROUPS if os.path.exists("/proc/self/ns/cgroup") else 0
    call("unshare", NEW_MOUNTS | groups, about="of mount and cgroup namespaces")
    call("sethostname", b"box", 3)
    build(job, ids)
    call("prctl", DUMPABLE, 0, 0, 0, 0)  # nothing of ours can be read or traced by the program
    os.write(status, b"start\n")
    program = os.fork()
    if not program:
        guarded(status, lambda: become(job, status, ids))
    for number in range(3):
        os.close(number)
    drop()
    while True:
        ended, code, usage = os.wait4(-1, 0)
        if ended == program:
            os.write(status, f"end {code} {usage.ru_utime + usage.ru_stime}\n".encode())
            os._exit(0)


def mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    """Raises OSError."""
    texts = [item.encode() if item else None for item in (source, target, kind)]
    call("mount", *texts, flags, options.encode() or None, about=f"{kind or source} on {target}")


def build(job: dict[str, Any], ids: tuple[bool, int, int]) -> None:
    """The root that the program sees, and nothing else: read-only but for the working folder."""
    _, uid, gid = ids
    mount("", "/", RECURSIVE | PRIVATE)
    size = len(job["program"].encode("utf-8", "surrogatepass")) + (1 << 20)
    mount("tmpfs", "/proc", NO_SUID | NO_DEVICES, "tmpfs", f"size={size},nr_inodes=16384,mode=0755")
    os.chdir("/proc")  # any folder would do: it is uncovered again as the old root moves away
    os.mkdir(OLD[1:])
    call("pivot_root", b".", OLD[1:].encode())
    os.chdir("/")
    os.mkdir(ROOT)
    for path in job["shown"]:
        show(path, path)
    for path, name in job["packages"]:
        show(path, f"{PACKAGES}/{name}")
    for path in job["hidden"]:
        hide(path)
    os.mkdir(ROOT + "/dev")
    for name in DEVICES:
        os.close(os.open(f"{ROOT}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        mount(f"{OLD}/dev/{name}", f"{ROOT}/dev/{name}", BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{ROOT}/dev/{name}")
    os.mkdir(ROOT + "/proc")
    try:
        # Only the program's own processes: not ours, which it may not trace, and no kernel files.
        options = "hidepid=ptraceable,subset=pid"
        mount("proc", ROOT + "/proc", NO_SUID | NO_DEVICES | NO_EXEC, "proc", options)
    except OSError:
        # Kernels before 5.8 do not know these options, and many containers cover a part of their
        # own /proc, so that a new one is refused. Most programs do without.
        pass
    with open(
        f"{ROOT}/program.py", "w", encoding="utf-8", errors="surrogatepass", newline=""
    ) as file:
        file.write(job["program"])
    os.chmod(f"{ROOT}/program.py", 0o444)
    os.mkdir(ROOT + FOLDER)
    options = f"size={job['file_bytes']},nr_inodes=4096,mode=0700,uid={uid},gid={gid}"
    mount("tmpfs", ROOT + FOLDER, NO_SUID | NO_DEVICES, "tmpfs", options)
    close_to_writing()
    call("umount2", OLD.encode(), DETACH, about="of the old root")
    os.rmdir(OLD)
    mount("", "/", REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)
    os.chroot(ROOT)
    os.chdir(FOLDER)


def show(path: str, name: str) -> None:
    """Let the program see a file, folder or link of the old root by a name; nothing if missing."""
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


def hide(path: str) -> None:
    """Cover a file or folder that the program would see with one that nobody may read."""
    target = ROOT + path
    if os.path.isdir(target):
        mount("tmpfs", target, NO_SUID | NO_DEVICES, "tmpfs", "size=4k,nr_inodes=1,mode=0")
    elif os.path.lexists(target):
        os.close(os.open("/covered", os.O_CREAT | os.O_WRONLY, 0))
        mount("/covered", target, BIND)


def close_to_writing() -> None:
    """Make every mount below the new root read-only but the working folder; keep locked flags.

    A device of a read-only mount can still be written to, but its inode, which is the machine's
    own, keeps its times, mode and attributes.
    """
    flags = {b"ro": READ_ONLY, b"nosuid": NO_SUID, b"nodev": NO_DEVICES, b"noexec": NO_EXEC}
    escapes = {b"\\%03o" % code: bytes([code]) for code in b" \t\n\\"}  # the backslash last
    with open(OLD + "/proc/self/mountinfo", "rb") as file:
        mounts = [line.split(b" ") for line in file]
    for fields in mounts:
        path = fields[4]
        for code, meant in escapes.items():
            path = path.replace(code, meant)
        inside = path.startswith(ROOT.encode() + b"/")
        if inside and path != (ROOT + FOLDER).encode():
            kept = sum(flags.get(option, 0) for option in set(fields[5].split(b",")))
            kept |= REMOUNT | BIND | READ_ONLY | NO_SUID
            call("mount", None, path, None, kept, None, about=f"read-only of {os.fsdecode(path)}")


# The program.


def become(job: dict[str, Any], status: int, ids: tuple[bool, int, int]) -> None:
    """Give up every privilege, take on the limits, and execute the program."""
    several, uid, gid = ids
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setsid()
    for number in range(3):
        try:
            os.fchown(number, uid, gid)  # so that /dev/stdin can be opened
        except OSError:
            pass
    bound()
    if several:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    drop()
    die_with_parent(1)
    limit(
        job, job["processes"] + (0 if several else 2)
    )  # an ordinary user's supervisor and process 1 count too
    conceal()
    confine(job["filter"])
    execute(job, status)


def bound() -> None:
    """Take every capability out of the set that bounds what an executed file may give; needs privileges to give them up."""
    number = 0
    while number < 64 and LIBC.prctl(DROP_BOUND, *map(ctypes.c_ulong, (number, 0, 0, 0))) == 0:
        number += 1


def drop() -> None:
    """No capabilities, and none to be had again."""
    bound()
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0, about="no new privileges")
    call("prctl", AMBIENT, 4, 0, 0, 0, about="ambient capabilities")
    head = struct.pack("Ii", 0x20080522, 0)
    call("capset", head, bytes(24), about="to nothing")


def limit(job: dict[str, Any], processes: int | None) -> None:
    """Limits of the process and of each that it makes, and of how many those are: none where the user has others too."""
    wanted = {
        resource.RLIMIT_CPU: (job["cpu_seconds"], job["cpu_seconds"] + 1),  # a signal, then death
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


def conceal() -> None:
    """Make files below /proc unreadable, the mount table above all, but for a few of our own.

    By Landlock, where the kernel has its second version at least; elsewhere nothing changes.
    """
    create, add, restrict = 444, 445, 446  # the numbers of these system calls on every machine
    if LIBC.syscall(create, None, ctypes.c_ulong(0), 1) < 2:
        return
    read, move = 1 << 2, 1 << 13  # a file, between folders (refused unless it is allowed)
    rights = ctypes.create_string_buffer(struct.pack("Q", read | move), 8)
    ruleset = call("syscall", create, rights, 8, 0, about="of Landlock rules")
    whole = [f"/{name}" for name in os.listdir("/") if name != "proc"]
    for path in [*whole, *(f"/proc/self/{name}" for name in OWN)]:
        if os.path.exists(path):
            opened = os.open(path, os.O_PATH)
            allowed = read | move if os.path.isdir(path) else read
            rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, opened), 12)
            call("syscall", add, ruleset, 1, rule, 0, about=f"of the Landlock rule for {path}")
            os.close(opened)
    call("syscall", restrict, ruleset, 0, about="to Landlock rules")
    os.close(ruleset)


def confine(code: bytes) -> None:
    """Refuse the system calls that the filter does, given as instructions."""
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(held))
    call("prctl", SECCOMP, 2, ctypes.c_char_p(program), 0, 0, about="filter of system calls")


def execute(job: dict[str, Any], status: int) -> NoReturn:
    """Become the program, which has three descriptors: the one for the status closes as it starts."""
    os.closerange(3, status)
    os.closerange(status + 1, 1 << 16)
    os.execve(job["argv"][0], job["argv"], job["environment"])


if __name__ == "__main__":
    main()
