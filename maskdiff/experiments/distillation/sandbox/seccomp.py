"""The seccomp filter: the system calls that a program in the sandbox may make.

The list holds what CPython and its standard library need (reasons: docs/distillation.md); the rest
fails. A call that is harmless alone may keep state outside the sandbox: `flock` on a file that two
runs see passes messages between them, and a socket in flight takes memory that no limit counts.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

# Group -> names. A call in `CONDITIONS` is allowed for some arguments only.
ALLOWED = {
    "memory": "brk mmap mprotect mremap munmap msync madvise",
    "descriptors": (
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile "
        "close close_range dup dup2 dup3 pipe pipe2 fcntl ioctl fsync fdatasync ftruncate poll "
        "ppoll select pselect6"
    ),
    "files": (
        "open openat creat stat lstat fstat newfstatat statx access faccessat faccessat2 readlink "
        "readlinkat getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat "
        "rename renameat renameat2 link linkat symlink symlinkat chmod fchmod fchmodat truncate "
        "utime utimes utimensat futimesat umask getxattr lgetxattr fgetxattr listxattr llistxattr "
        "flistxattr"
    ),
    "processes and threads": (
        "clone fork vfork execve exit exit_group wait4 waitid kill tkill tgkill getpid getppid "
        "gettid getpgid getpgrp setpgid getsid setsid set_tid_address set_robust_list "
        "get_robust_list rseq arch_prctl futex sched_yield sched_getaffinity sched_getparam "
        "sched_getscheduler sched_get_priority_max sched_get_priority_min getcpu prctl"
    ),
    "signals": (
        "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend "
        "sigaltstack pause restart_syscall alarm getitimer setitimer"
    ),
    "time and chance": (
        "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrandom"
    ),
    "identity and limits": (
        "getuid geteuid getgid getegid getresuid getresgid getgroups uname sysinfo getrusage "
        "getrlimit setrlimit prlimit64 getpriority"
    ),
    "socket pairs": (
        "socketpair sendto recvfrom shutdown getsockname getpeername getsockopt"
    ),
}  # fmt: skip
# Call -> (number of the argument, its allowed values, the error for any other).
CONDITIONS = {
    # Access patterns, DONTNEED, FREE and (NO)HUGEPAGE: nothing that acts on shared pages. A kernel
    # without an advice answers EINVAL too, so libc has a substitute.
    "madvise": (2, (0, 1, 2, 3, 4, 8, 14, 15), errno.EINVAL),
    # Duplicates and flags: no locks, leases, notices or owners, and no larger pipes.
    "fcntl": (1, (0, 1, 2, 3, 4, 1030, 1032), errno.EPERM),
    # TCGETS, TCGETS2 and TIOCGWINSZ ask for a terminal; FIONREAD, FIONBIO, FIOCLEX, FIONCLEX.
    "ioctl": (1, (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451), errno.EPERM),
    "prctl": (0, (3, 15, 16, 21, 23, 39), errno.EPERM),  # thread names, and asking
    "prlimit64": (0, (0,), errno.EPERM),  # of the process itself
    "socketpair": (0, (1,), errno.EAFNOSUPPORT),  # AF_UNIX
}
# Flags of `clone` for a thread or a process: no namespaces, no tracing, no other parent.
CLONE_FLAGS = 0x007D0F00 | 0x01004000 | 0xFF
# Calls that fail with their own error: one for which libc or Python has a substitute, or one that
# leads to the right status of the program.
REFUSED = {
    "clone3": errno.ENOSYS, "openat2": errno.ENOSYS, "epoll_pwait2": errno.ENOSYS,
    "pidfd_open": errno.ENOSYS, "membarrier": errno.ENOSYS, "futex_waitv": errno.ENOSYS,
    "memfd_create": errno.ENOMEM, "memfd_secret": errno.ENOMEM, "socket": errno.EAFNOSUPPORT,
}  # fmt: skip
NEWEST = 450  # newer calls fail with ENOSYS, so that libc does without them
# The number of every name above, where the machine has the call.
X86_64 = """
read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11
brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 ioctl=16 pread64=17 pwrite64=18 readv=19
writev=20 access=21 pipe=22 select=23 sched_yield=24 mremap=25 msync=26 madvise=28 dup=32 dup2=33
pause=34 nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 socket=41 sendto=44
recvfrom=45 shutdown=48 getsockname=51 getpeername=52 socketpair=53 getsockopt=55 clone=56 fork=57
vfork=58 execve=59 exit=60 wait4=61 kill=62 uname=63 fcntl=72 fsync=74 fdatasync=75 truncate=76
ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81 rename=82 mkdir=83 rmdir=84 creat=85 link=86
unlink=87 symlink=88 readlink=89 chmod=90 fchmod=91 umask=95 gettimeofday=96 getrlimit=97
getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 setpgid=109
getppid=110 getpgrp=111 setsid=112 getgroups=115 getresuid=118 getresgid=120 getpgid=121
getsid=124 rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131 utime=132
getpriority=140 sched_getparam=143 sched_getscheduler=145 sched_get_priority_max=146
sched_get_priority_min=147 prctl=157 arch_prctl=158 setrlimit=160 gettid=186 getxattr=191
lgetxattr=192 fgetxattr=193 listxattr=194 llistxattr=195 flistxattr=196 tkill=200 time=201
futex=202 sched_getaffinity=204 getdents64=217 set_tid_address=218 restart_syscall=219
clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 tgkill=234 utimes=235
waitid=247 openat=257 mkdirat=258 futimesat=261 newfstatat=262 unlinkat=263 renameat=264
linkat=265 symlinkat=266 readlinkat=267 fchmodat=268 faccessat=269 pselect6=270 ppoll=271
set_robust_list=273 get_robust_list=274 utimensat=280 dup3=292 pipe2=293 preadv=295 pwritev=296
prlimit64=302 getcpu=309 renameat2=316 getrandom=318 memfd_create=319 membarrier=324 preadv2=327
pwritev2=328 statx=332 rseq=334 pidfd_open=434 clone3=435 close_range=436 openat2=437
faccessat2=439 epoll_pwait2=441 memfd_secret=447 futex_waitv=449
"""
AARCH64 = """
getxattr=8 lgetxattr=9 fgetxattr=10 listxattr=11 llistxattr=12 flistxattr=13 getcwd=17 dup=23
dup3=24 fcntl=25 ioctl=29 mkdirat=34 unlinkat=35 symlinkat=36 linkat=37 renameat=38 truncate=45
ftruncate=46 faccessat=48 chdir=49 fchdir=50 fchmod=52 fchmodat=53 openat=56 close=57 pipe2=59
getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 preadv=69
pwritev=70 sendfile=71 pselect6=72 ppoll=73 readlinkat=78 newfstatat=79 fstat=80 fsync=82
fdatasync=83 utimensat=88 exit=93 exit_group=94 waitid=95 set_tid_address=96 futex=98
set_robust_list=99 get_robust_list=100 nanosleep=101 getitimer=102 setitimer=103 clock_gettime=113
clock_getres=114 clock_nanosleep=115 sched_getscheduler=120 sched_getparam=121
sched_getaffinity=123 sched_yield=124 sched_get_priority_max=125 sched_get_priority_min=126
restart_syscall=128 kill=129 tkill=130 tgkill=131 sigaltstack=132 rt_sigsuspend=133
rt_sigaction=134 rt_sigprocmask=135 rt_sigpending=136 rt_sigtimedwait=137 rt_sigreturn=139
getpriority=141 getresuid=148 getresgid=150 times=153 setpgid=154 getpgid=155 getsid=156
setsid=157 getgroups=158 uname=160 getrlimit=163 setrlimit=164 getrusage=165 umask=166 prctl=167
getcpu=168 gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177
gettid=178 sysinfo=179 socket=198 socketpair=199 getsockname=204 getpeername=205 sendto=206
recvfrom=207 getsockopt=209 shutdown=210 brk=214 munmap=215 mremap=216 clone=220 execve=221
mmap=222 mprotect=226 msync=227 madvise=233 wait4=260 prlimit64=261 renameat2=276 getrandom=278
memfd_create=279 membarrier=283 preadv2=286 pwritev2=287 statx=291 rseq=293 pidfd_open=434
clone3=435 close_range=436 openat2=437 faccessat2=439 epoll_pwait2=441 memfd_secret=447
futex_waitv=449
"""


def _numbers(table: str) -> dict[str, int]:
    return {name: int(number) for name, number in (pair.split("=") for pair in table.split())}


# Machine -> its architecture number, and the numbers of its calls.
MACHINES = {"x86_64": (0xC000003E, _numbers(X86_64)), "aarch64": (0xC00000B7, _numbers(AARCH64))}
LOAD, AND, EQUAL, ABOVE, LEAST, RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x06  # instructions
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # results
Rule = tuple[int, int, int, int]  # instruction, jump if true, jump if false, operand


def allowed_calls() -> list[str]:
    """Return the names of all calls on the list."""
    return [name for names in ALLOWED.values() for name in names.split()]


def filter_code(machine: str) -> bytes:
    """Return the filter's BPF instructions. Raises KeyError for an unknown machine."""
    return b"".join(struct.pack("HBBI", *rule) for rule in _rules(*MACHINES[machine]))


def _rules(arch: int, numbers: dict[str, int]) -> Iterator[Rule]:
    # Calls of another architecture (32-bit programs) have other numbers: kill.
    yield LOAD, 0, 0, 4
    yield EQUAL, 1, 0, arch
    yield RETURN, 0, 0, KILL
    # The second set of numbers of x86_64 (x32) lies above the newest number as well.
    yield LOAD, 0, 0, 0
    yield ABOVE, 0, 1, NEWEST
    yield RETURN, 0, 0, REFUSE | errno.ENOSYS
    for name, (argument, values, error) in CONDITIONS.items():
        equal = [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
        yield from _if_called(numbers[name], argument, [*equal, _refusal(error)])
    other = 0xFFFFFFFF ^ CLONE_FLAGS
    checked = [(AND, 0, 0, other), (EQUAL, 1, 0, 0), _refusal(errno.EPERM)]
    yield from _if_called(numbers["clone"], 0, checked)
    for name, error in REFUSED.items():
        yield EQUAL, 0, 1, numbers[name]
        yield _refusal(error)
    known = sorted(numbers[name] for name in allowed_calls() if name in numbers)
    for first, last in _ranges(known):
        yield LEAST, 0, 2, first
        yield ABOVE, 1, 0, last
        yield RETURN, 0, 0, ALLOW
    yield _refusal(errno.EPERM)


def _refusal(error: int) -> Rule:
    return RETURN, 0, 0, REFUSE | error


def _if_called(number: int, argument: int, checks: list[Rule]) -> Iterator[Rule]:
    """Yield the rules of one call: load the low half of an argument, which is all that the kernel
    reads of these, then the checks, which jump behind their last instruction to allow."""
    body = [(LOAD, 0, 0, 16 + 8 * argument), *checks, (RETURN, 0, 0, ALLOW)]
    yield EQUAL, 0, len(body), number
    yield from body


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Return the first and last number of each unbroken run of sorted numbers."""
    found = list[tuple[int, int]]()
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


__all__ = ["ALLOWED", "CONDITIONS", "MACHINES", "NEWEST", "REFUSED", "allowed_calls", "filter_code"]
