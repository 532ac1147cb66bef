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
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_HOST, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2
DIE_WITH_PARENT, DUMPABLE, SECCOMP, DROP_BOUND, NO_NEW_PRIVILEGES, AMBIENT = 1, 4, 22, 24, 38, 47
ROOT, OLD, FOLDER = "/jail", "/old", "/box"
DEVICES = ("null", "zero", "urandom")
OPEN_FILES = 64
# Machine -> its number for the kernel, and the numbers of the calls that get round the limits: socket (of families that are not
# split by namespace), memory that no limit counts (memfd_create, memfd_secret, shmget, msgget), io_uring_setup (makes sockets),
# and what only widens the kernel's surface (add_key, request_key, keyctl, perf_event_open, bpf, userfaultfd).
CALLS = {
    "x86_64": (0xC000003E, 41, (319, 447, 29, 68), (425, 248, 249, 250, 298, 321, 323)),
    "aarch64": (0xC00000B7, 198, (279, 447, 194, 186), (425, 217, 218, 219, 241, 280, 282)),
}
FAMILIES = (1, 2, 10)  # unix, internet, internet 6


def main() -> None:
    """Run the job. What goes wrong before the program starts is told on the status descriptor, and the exit status is 1."""
    request, status, parent = map(int, sys.argv[1:])
    os.set_inheritable(status, False)
    with open(request, "rb") as file:
        job = marshal.load(file)  # from the same interpreter, and of the standard formats the one at hand soonest
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
    os.write(status, f"error {error.filename or ''} {error.strerror or error}\n".replace("  ", " ").encode())
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
        kind: "".join(f"{first} {first} {count}\n" for first, count in ranges(kind)) if several else f"{inside} {outside} 1\n"
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
        for path, text in ([] if several else [("setgroups", "deny")]) + [(f"{kind}_map", maps[kind]) for kind in maps]:
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
    call("unshare", NEW_MOUNTS, about="of the mount namespace")
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
    mount("tmpfs", "/proc", NO_SUID | NO_DEVICES, "tmpfs", f"size={size},nr_inodes=1024,mode=0755")
    os.chdir("/proc")  # any folder would do: it is uncovered again as the old root moves away
    os.mkdir(OLD[1:])
    call("pivot_root", b".", OLD[1:].encode())
    os.chdir("/")
    os.mkdir(ROOT)
    for path in job["shown"]:
        show(path)
    os.mkdir(ROOT + "/dev")
    for name in DEVICES:
        os.close(os.open(f"{ROOT}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        mount(f"{OLD}/dev/{name}", f"{ROOT}/dev/{name}", BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{ROOT}/dev/{name}")
    os.mkdir(ROOT + "/proc")
    try:
        mount("proc", ROOT + "/proc", NO_SUID | NO_DEVICES | NO_EXEC, "proc")
    except OSError:
        pass  # refused where the outer /proc is partly covered, as in many containers; most programs do without
    with open(f"{ROOT}/program.py", "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
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


def show(path: str) -> None:
    """Let the program see a file or folder of the old root, or the link that it is; nothing where it is not there."""
    source, target = OLD + path, ROOT + path
    if not os.path.lexists(source) or os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.mkdir(target)
        mount(source, target, BIND | RECURSIVE)


def close_to_writing() -> None:
    """Make every mount below the new root read-only, but the working folder and the devices; locked flags must be kept."""
    flags = {b"ro": READ_ONLY, b"nosuid": NO_SUID, b"nodev": NO_DEVICES, b"noexec": NO_EXEC}
    escapes = {b"\\%03o" % code: bytes([code]) for code in b" \t\n\\"}  # the backslash last
    with open(OLD + "/proc/self/mountinfo", "rb") as file:
        mounts = [line.split(b" ") for line in file]
    for fields in mounts:
        path = fields[4]
        for code, meant in escapes.items():
            path = path.replace(code, meant)
        inside = path.startswith(ROOT.encode() + b"/")
        if inside and path != (ROOT + FOLDER).encode() and not path.startswith(ROOT.encode() + b"/dev/"):
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
    limit(job, job["processes"] + (0 if several else 2))  # an ordinary user's supervisor and process 1 count too
    confine()
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


def rules() -> Iterator[tuple[int, int, int, int]]:
    """The filter of system calls, as instructions: what, how far to jump if so, how far if not, a number."""
    arch, socket, memory, other = CALLS[os.uname().machine]
    load, equal, least, back, refuse = 0x20, 0x15, 0x35, 0x06, 0x50000
    yield load, 0, 0, 4
    yield equal, 1, 0, arch
    yield back, 0, 0, 0x80000000  # calls of another machine's numbers: kill
    yield load, 0, 0, 0
    yield least, 0, 1, 0x40000000
    yield back, 0, 0, refuse | 38  # "no such call", to a second set of numbers
    for numbers, error in ((memory, 12), (other, 1)):  # "out of memory", "not permitted"
        for number in numbers:
            yield equal, 0, 1, number
            yield back, 0, 0, refuse | error
    yield equal, 0, len(FAMILIES) + 2, socket
    yield load, 0, 0, 16
    for i, family in enumerate(FAMILIES):
        yield equal, len(FAMILIES) - i, 0, family
    yield back, 0, 0, refuse | 97  # "no such family"
    yield back, 0, 0, 0x7FFF0000


def confine() -> None:
    """Refuse system calls that no namespace and no limit covers. Raises OSError on machines whose numbers we do not know."""
    machine = os.uname().machine
    if machine not in CALLS:
        raise OSError(f"no filter of system calls is known for {machine}, only for {' and '.join(CALLS)}")
    code = b"".join(struct.pack("HBBI", *rule) for rule in rules())
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
