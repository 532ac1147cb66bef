"""Programs for the sandbox's tests, and a search for their processes in the process table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maskdiff.experiments.distillation.sandbox import run as sandbox
from maskdiff.experiments.distillation.sandbox.program_setup import ProgramSetup
from maskdiff.experiments.distillation.sandbox.results import ProgramResult, ResourceLimits
from maskdiff.experiments.distillation.sandbox.run import isolation_problem, run_program

REASON = isolation_problem()
isolated = pytest.mark.skipif(REASON is not None, reason=f"no isolation here: {REASON}")
BRIEF = ResourceLimits(wall_seconds=0.5, memory_bytes=1 << 28, processes=6)
SHORT = ResourceLimits(
    wall_seconds=5.0, memory_bytes=1 << 28, processes=6, file_bytes=1 << 20, output_bytes=1 << 16
)


def marked(program: str, mark: str) -> str:
    """A program that first becomes a process with `mark` in its command line, as all that it forks
    will have too."""
    start = (
        "import os, sys\nif len(sys.argv) == 1:\n"
        '    os.execv(sys.executable, [sys.executable, "-S", __file__, "MARK"])\n'
    )
    return start.replace("MARK", mark) + program


def living(mark: str) -> list[int]:
    """The processes of this machine with `mark` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def children(parent: int) -> list[int]:
    """All descendants of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
        except OSError:
            pass
    found, last = [parent], 0
    while last < len(found):
        found += [child for child, above in parents.items() if above == found[last]]
        last += 1
    return found[1:]


def soon(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


STORM = """
import time
for _ in range(200):
    if not os.fork():
        time.sleep(30)
        os._exit(0)
"""
QUICK = ResourceLimits(wall_seconds=10.0, memory_bytes=1 << 28, processes=6, file_bytes=1 << 20)
# `must` raises the error of a call by ctypes, so that it decides the verdict.
HELPERS = """
import ctypes, fcntl, os, select, signal, socket, sys, termios, time
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


def attack(
    program: str, limits: ResourceLimits = QUICK, setup: ProgramSetup = sandbox.DEFAULT_SETUP
) -> ProgramResult:
    return run_program(HELPERS + program, "", limits, "required", setup)
