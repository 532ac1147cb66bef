"""Ordinary programs in the sandbox: its list of system calls and its small root allow them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from maskdiff.experiments.distillation.sandbox.program_setup import interpreter
from maskdiff.experiments.distillation.sandbox.run import (
    ResourceLimits,
    RunStatus,
    isolation_problem,
    run_program,
)

REASON = isolation_problem()
isolated = pytest.mark.skipif(REASON is not None, reason=f"no isolation here: {REASON}")

PROGRAMS = {
    "threads": """
import threading
total, lock = [], threading.Lock()
def work(n):
    with lock:
        total.append(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(total))
""",
    "a pool of threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    print(list(pool.map(abs, range(-4, 1))))
""",
    "a queue": """
import queue, threading
q = queue.Queue()
threading.Thread(target=lambda: q.put(4)).start()
print([q.get(timeout=5), 0])
""",
    "asyncio": """
import asyncio
async def main():
    async def one(n):
        await asyncio.sleep(0.001)
        return n
    return await asyncio.gather(*map(one, range(5)))
print(asyncio.run(main()))
""",
    "a signal": """
import signal, time
signal.signal(signal.SIGALRM, lambda *_: print([1]))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.1)
signal.signal(signal.SIGALRM, lambda *_: print([2]))
signal.alarm(1)
signal.pause()
""",
    "deep recursion": """
import sys, threading
sys.setrecursionlimit(30000)
def depth(n): return n and 1 + depth(n - 1)
threading.stack_size(64 << 20)
thread = threading.Thread(target=lambda: print([depth(20000)]))
thread.start()
thread.join()
""",
    "a larger stack": """
import resource
hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
resource.setrlimit(resource.RLIMIT_STACK, (1 << 25 if hard < 0 or hard > 1 << 25 else hard, hard))
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print([resource.getrlimit(resource.RLIMIT_STACK)[1] == hard, used > 0])
""",
    "numbers": """
import decimal, fractions, math, random, statistics
random.seed(3)
decimal.getcontext().prec = 50
print([len(str(decimal.Decimal(2).sqrt())), str(fractions.Fraction(1, 3) + 1)])
print([math.comb(9, 3), statistics.mean([1, 2])])
print([random.random() == random.Random(3).random(), random.SystemRandom().random() < 1])
""",
    "dates": """
import datetime, time, zoneinfo
day = datetime.date(2020, 2, 28) + datetime.timedelta(2)
print([str(day), time.gmtime(0).tm_year, time.monotonic() > 0])
""",
    "files of its own": """
import os, pathlib, shutil, tempfile
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "a" / "b.txt"
    path.parent.mkdir()
    path.write_text("one\\ntwo\\n")
    shutil.copy2(path, path.with_suffix(".bak"))
    shutil.copytree(path.parent, pathlib.Path(folder) / "c")
    os.replace(path, pathlib.Path(folder) / "d")
    os.symlink("d", pathlib.Path(folder) / "e")
    os.link(pathlib.Path(folder) / "d", pathlib.Path(folder) / "f")
    os.truncate(pathlib.Path(folder) / "f", 4)
    found = sorted(str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*"))
    print([found, open(folder + "/e").read()])
with tempfile.NamedTemporaryFile("w+") as file, tempfile.SpooledTemporaryFile() as spooled:
    file.write("x"); file.flush(); os.fsync(file.fileno())
    os.chmod(file.name, 0o600); os.utime(file.name, (1, 1))
    print([os.stat(file.name).st_mtime, os.path.getsize(file.name)])
    print([os.getcwd() == tempfile.gettempdir(), os.listdir() != []])
print(os.listdir())
""",
    "mapped memory": """
import mmap
with open("f", "w+b") as file:
    file.write(b"abc" * 2000); file.flush()
    with mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:3] = b"xyz"; mapped.flush()
    file.seek(0)
    print([file.read(4).decode()])
shared = mmap.mmap(-1, 4096); shared[0] = 5
print([shared[0]])
""",
    "a database": """
import sqlite3
base = sqlite3.connect(":memory:")
base.execute("create table t (a)"); base.executemany("insert into t values (?)", [(1,), (2,)])
print([base.execute("select sum(a) from t").fetchone()[0]])
base = sqlite3.connect("file:kept?nolock=1", uri=True)
base.execute("create table t (a)"); base.execute("insert into t values (7)"); base.commit()
print([sqlite3.connect("file:kept?nolock=1", uri=True).execute("select a from t").fetchone()[0]])
""",
    "a child process": """
import os, subprocess, sys
child = [sys.executable, "-S", "-c", "print(input()[::-1])"]
done = subprocess.run(child, input="abc\\n", capture_output=True, text=True)
shell = subprocess.run("echo $((1 + 2))", shell=True, capture_output=True, text=True)
print([done.stdout, shell.stdout])
child = os.fork()
if not child:
    os._exit(3)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.system("exit 4") >> 8])
""",
    "multiprocessing": """
import multiprocessing
near, far = multiprocessing.Pipe()
process = multiprocessing.get_context("fork").Process(target=lambda: far.send([1, 2]))
process.start()
print(near.recv())
process.join()
""",
    "selectors": """
import os, selectors, socket
near, far = socket.socketpair()
read, write = os.pipe()
with selectors.DefaultSelector() as selector:
    selector.register(far, selectors.EVENT_READ, "socket")
    selector.register(read, selectors.EVENT_READ, "pipe")
    near.send(b"x"); os.write(write, b"x")
    print(sorted(key.data for key, _ in selector.select(1)))
""",
    "devices": """
import os
with open("/dev/null", "w") as null: null.write("x")
with open("/dev/zero", "rb") as zero, open("/dev/urandom", "rb") as chance:
    print([zero.read(3), len(chance.read(9)), open("/dev/null").read(), len(os.urandom(5))])
with open("/dev/stdout", "w") as out: out.write("[6]\\n")
""",
    "compression": """
import bz2, gzip, hashlib, io, lzma, tarfile, zipfile, zlib
with tarfile.open("a.tar.gz", "w:gz") as tar: tar.add(__file__, "p")
with tarfile.open("a.tar.gz") as tar: tar.extractall("out")
with zipfile.ZipFile("a.zip", "w") as z: z.write(__file__, "p")
print([open("out/p").read() == open(__file__).read(), zipfile.ZipFile("a.zip").namelist()])
print([hashlib.sha256(b"").hexdigest()[:6], lzma.decompress(lzma.compress(b"a"))])
print([bz2.decompress(bz2.compress(b"b")), gzip.decompress(gzip.compress(b"c"))])
""",
    "where it is": """
import getpass, locale, os, platform, sys, sysconfig
print([platform.system(), sys.getfilesystemencoding(), os.cpu_count() > 0])
print([len(os.sched_getaffinity(0)) > 0, locale.setlocale(locale.LC_ALL, "C")])
print([os.getuid() > 0, os.path.expanduser("~"), os.getpid() > 0])
""",
}
OUTPUTS = {
    "threads": "[0, 1, 2, 3, 4]\n", "a pool of threads": "[4, 3, 2, 1, 0]\n", "a queue": "[4, 0]\n",
    "asyncio": "[0, 1, 2, 3, 4]\n", "a signal": "[1]\n[2]\n", "deep recursion": "[20000]\n",
    "a larger stack": "[True, True]\n", "numbers": "[51, '4/3']\n[84, 1.5]\n[True, True]\n",
    "dates": "['2020-03-01', 1970, True]\n",
    "files of its own": (
        "[['a', 'a/b.bak', 'c', 'c/b.bak', 'c/b.txt', 'd', 'e', 'f'], 'one\\n']\n"
        "[1.0, 1]\n[True, True]\n[]\n"
    ),
    "mapped memory": "['xyza']\n[5]\n", "a database": "[3]\n[7]\n",
    "a child process": "['cba\\n', '3\\n']\n[3, 4]\n", "multiprocessing": "[1, 2]\n",
    "selectors": "['pipe', 'socket']\n", "devices": "[6]\n[b'\\x00\\x00\\x00', 9, '', 5]\n",
    "compression": "[True, ['p']]\n['e3b0c4', b'a']\n[b'b', b'c']\n",
    "where it is": "['Linux', 'utf-8', True]\n[True, 'C']\n[True, '/box', True]\n",
}  # fmt: skip


@pytest.mark.slow
@isolated
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_ordinary_program_runs(name: str) -> None:
    result = run_program(PROGRAMS[name])
    assert (result.status, result.stdout) == (RunStatus.OK, OUTPUTS[name]), result.stderr


@isolated
def test_large_output_is_whole() -> None:
    result = run_program("print('x' * (1 << 19), end='')\nprint('y' * (1 << 18), end='')")
    assert result.stdout == "x" * (1 << 19) + "y" * (1 << 18)


IMPORTS = """
import importlib, json, os, sys
failed = []
for name in sorted(sys.stdlib_module_names - {"antigravity", "this", "idlelib", "__main__"}):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append([name, type(error).__name__])
sys.stdout.write("\\n" + json.dumps(failed) + "\\n")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.slow
@isolated
def test_the_whole_standard_library_is_there() -> None:
    outside = [interpreter()[0], "-I", "-S", "-c", IMPORTS]
    expected = subprocess.run(outside, capture_output=True, text=True, timeout=60).stdout
    inside = run_program(IMPORTS, "", ResourceLimits(wall_seconds=60.0, cpu_seconds=60))
    assert inside.status is RunStatus.OK, inside.stderr
    failed = json.loads(inside.stdout.splitlines()[-1])
    assert failed == json.loads(expected.splitlines()[-1])
    assert len(failed) < 60 < len(sys.stdlib_module_names)
