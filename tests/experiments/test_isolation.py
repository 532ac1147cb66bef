"""Which users get isolation, which programs run without it, and the ranges of limits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from maskdiff.errors import ConfigError
from maskdiff.experiments.distillation.sandbox import run as sandbox
from maskdiff.experiments.distillation.sandbox.run import (
    IsolationError,
    ResourceLimits,
    RunStatus,
    isolation_problem,
    run_program,
)
from tests.helpers.paths import REPOSITORY
from tests.helpers.sandbox import BRIEF, SHORT, STORM, isolated, living, marked, soon

SANDBOX = Path(sandbox.__file__).parent
# The program runs as the caller's user: other means hide the files that it must not reach.
ORDINARY = """
import os, socket
tried = [
    lambda: open("/proc/1/cmdline"), lambda: os.utime("/dev/null"),
    lambda: open("/proc/self/mem", "w"), lambda: os.listdir("/usr/lib/python3/dist-packages"),
    lambda: socket.socket(),
]
failed = 0
for each in tried:
    try:
        each()
    except OSError:
        failed += 1
print(failed)
"""


@pytest.mark.slow
@isolated
@pytest.mark.skipif(os.geteuid() != 0, reason="only a superuser can become somebody else")
def test_an_ordinary_user_is_isolated_too(tmp_path: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if (
        python is None
        or subprocess.run(
            [python, "-c", "import sys; assert sys.version_info >= (3, 10)"]
        ).returncode
    ):
        pytest.skip("no interpreter that every user may run")
    copy = (
        Path(tempfile.gettempdir()) / f"sandbox-{uuid.uuid4().hex}"
    )  # in a folder that every user may enter
    try:
        package = REPOSITORY / "maskdiff"
        for path in (package / "__init__.py", package / "errors.py", *SANDBOX.glob("*.py")):
            target = copy / path.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        code = (
            "from maskdiff.experiments.distillation.sandbox.run import *\n"
            "from maskdiff.experiments.distillation.sandbox.results import ResourceLimits\n"
            "Limits = ResourceLimits\n"
            f"storm = run_program({'import os' + STORM!r}, limits=Limits(processes=6))\n"
            "slow = run_program('while 1: pass', limits=Limits(wall_seconds=0.2))\n"
            "listed = run_program('import os; print(os.listdir())')\n"
            "print(isolation_problem(), storm.status.value, listed.stdout, slow.status.value, "
            f"run_program({ORDINARY!r}).stdout)"
        )
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        asked = subprocess.run(
            [python, "-B", "-c", code],
            cwd=copy,
            capture_output=True,
            text=True,
            timeout=30,
            **nobody,
        )
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    if "namespaces" in asked.stdout:
        pytest.skip(f"user namespaces are for superusers here: {asked.stdout}")
    assert asked.stdout == "None process_limit []\n time_limit 5\n\n", asked.stderr


@isolated
def test_a_machine_of_unknown_calls_gives_no_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MACHINES", {"vax": sandbox.MACHINES["x86_64"]})
    monkeypatch.setattr(
        sandbox, "isolation_problem", sandbox.functools.cache(isolation_problem.__wrapped__)
    )
    reason = f"no filter of system calls is known for {os.uname().machine}, only for vax"
    assert sandbox.isolation_problem() == reason
    with pytest.raises(IsolationError, match=reason):
        run_program("print(1)")
    monkeypatch.setattr(sandbox, "isolation_problem", lambda: None)
    with pytest.raises(IsolationError, match=reason):
        run_program("print(1)")
    assert run_program("print(1)", isolation="none").stdout == "1\n"


def test_required_isolation_runs_nothing_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    container = tmp_path / "container.py"
    refused = "error unshare of namespaces: Operation not permitted"
    container.write_text(f"import os, sys\nos.write(int(sys.argv[2]), b'{refused}\\n')")
    monkeypatch.setattr(sandbox, "CONTAINER", container)
    monkeypatch.setattr(
        sandbox, "isolation_problem", sandbox.functools.cache(isolation_problem.__wrapped__)
    )
    if sys.platform == "linux":
        assert sandbox.isolation_problem() == "unshare of namespaces: Operation not permitted"
    touched = tmp_path / "touched"
    with pytest.raises(
        IsolationError, match=r"or run them unprotected with --isolation none$"
    ) as caught:
        run_program(f"open({str(touched)!r}, 'w')")
    assert "\n" not in str(caught.value)
    assert not touched.exists()


@pytest.mark.slow
def test_isolation_none_runs_without_isolation() -> None:
    assert (
        run_program("import os\nprint(input(), os.listdir('.'))", "hello", SHORT, "none").stdout
        == "hello ['program.py']\n"
    )
    assert run_program("while True: pass", "", BRIEF, "none").status is RunStatus.TIME_LIMIT
    assert run_program("while True: print(1)", "", SHORT, "none").status is RunStatus.OUTPUT_LIMIT
    assert run_program("bytearray(10 << 30)", "", SHORT, "none").status is RunStatus.MEMORY_LIMIT
    assert (
        run_program("open('big', 'wb').write(bytes(1 << 22))", "", SHORT, "none").status
        is RunStatus.FILE_LIMIT
    )
    assert run_program("import sys; sys.exit(4)", "", SHORT, "none").exit_code == 4
    closed = (
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(0.2)\n"
        "print(len(input()), file=open('n', 'w'))"
    )
    assert run_program(closed, "x" * 1_000_000, SHORT, "none").status is RunStatus.OK


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc")
def test_without_isolation_the_group_ends_with_the_program() -> None:
    mark = uuid.uuid4().hex
    program = marked(
        "import time\nif not os.fork():\n    time.sleep(60)\ntime.sleep(0.1)\nprint('done')", mark
    )
    result = run_program(program, "", SHORT, "none")
    assert (result.status, result.stdout) == (RunStatus.OK, "done\n")
    assert result.seconds < 4
    assert soon(lambda: living(mark) == [])


BAD = [
    ("wall_seconds", 0.01),
    ("wall_seconds", float("nan")),
    ("wall_seconds", "6"),
    ("cpu_seconds", 1.5),
]
BAD += [
    ("cpu_seconds", True),
    ("memory_bytes", 1000),
    ("processes", 0),
    ("file_bytes", 0),
    ("output_bytes", 1 << 40),
]


@pytest.mark.parametrize("key, value", BAD)
def test_limits_have_ranges(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} is .*; give a .* from"):
        ResourceLimits(**{key: value})  # type: ignore[arg-type]
