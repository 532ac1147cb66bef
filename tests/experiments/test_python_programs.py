"""Records of programs with tests, and the environment that runs them: rewards, feedback and what it
never says."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from maskdiff.errors import ConfigError, DataError
from maskdiff.experiments.distillation import python_programs
from maskdiff.experiments.distillation.environment import Environment, Problem
from maskdiff.experiments.distillation.python_programs import (
    PythonEnvironment,
    same_output,
    same_value,
)
from maskdiff.experiments.distillation.records import Record, shipped_problems
from maskdiff.experiments.distillation.sandbox import run as sandbox
from maskdiff.experiments.distillation.sandbox.run import (
    IsolationError,
    ProgramResult,
    ProgramSetup,
    ResourceLimits,
    RunStatus,
    isolation_problem,
)
from tests.helpers.records import SOLUTIONS, item, read

REASON = isolation_problem()
isolated = pytest.mark.skipif(REASON is not None, reason=f"no isolation here: {REASON}")
QUICK = ResourceLimits(wall_seconds=2.0, memory_bytes=1 << 28, processes=4)


def judged(found: list[Record], answer: str, **options: Any) -> tuple[float, str]:
    environment = PythonEnvironment(found, **{"limits": QUICK, **options})
    outcome = environment.evaluate(environment.problems(1, 0)[0], answer)
    assert len(outcome.feedback) <= python_programs.MOST_FEEDBACK
    return outcome.reward, outcome.feedback


# Outputs.


def test_outputs_are_compared_as_livecodebench_does() -> None:
    assert same_output(" 1 2 \n3\n\n", "1 2\n3")
    assert same_output("1.0 2e0", "1 2")
    assert same_output("0.10\nyes", "0.1\nyes")
    assert not same_output("1 2", "1  x")
    assert not same_output("1\n2", "1 2")
    assert not same_output("1 2 3", "1 2")
    assert not same_output("a", "A")
    assert not same_output("nan", "NaN")
    assert not same_output("sNaN", "1")
    assert not same_output("", "0")
    assert same_value("[1, 2.0]", "[1,2]")
    assert not same_value("[1, 2]", "[2, 1]")
    assert not same_value("x", "1")
    assert not same_value("[" * 100_000, "1")


# Judging.


def here(program: str, stdin: str, _: object, __: object, setup: ProgramSetup) -> ProgramResult:
    """Runs a program of ours in this process, which is quick."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        names = {"__name__": "__main__"}
        exec(setup.prelude, names)
        exec(compile(program, "program.py", "exec"), names)
    return ProgramResult(RunStatus.OK, out.getvalue(), "", 0, 0.0)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run in this process, which is quick."""
    monkeypatch.setattr(python_programs, "run_program", here)
    monkeypatch.setattr(sys, "setrecursionlimit", lambda _: None)
    # The prelude allows longer numbers; other tests of this process rely on the usual limit.
    monkeypatch.setattr(sys, "set_int_max_str_digits", lambda _: None, raising=False)


def test_reference_solutions_pass_everything(in_process: None) -> None:
    environment: Environment = PythonEnvironment(shipped_problems(), isolation="none")
    for problem in environment.problems(10, 0):
        outcome = environment.evaluate(problem, SOLUTIONS[problem.name])
        assert outcome.reward == 1.0, (problem.name, outcome.feedback)
        assert outcome.feedback.startswith("All ")
    assert not environment.reveals


@pytest.mark.slow
@isolated
def test_reference_solutions_pass_in_the_sandbox() -> None:
    environment = PythonEnvironment(shipped_problems(), QUICK, most=1)
    for name in ("hike", "plates", "column"):
        outcome = environment.evaluate(
            Problem(name, ""), f"Like this:\n```python\n{SOLUTIONS[name]}```\n"
        )
        assert outcome.reward == 1.0, outcome.feedback


def test_problems_are_drawn_by_seed() -> None:
    environment = PythonEnvironment(shipped_problems(), isolation="none")
    assert environment.problems(5, 1) == environment.problems(5, 1) != environment.problems(5, 2)
    assert len({problem.name for problem in environment.problems(10, 3)}) == 10
    assert environment.problems(3, 4) == environment.problems(3, 4)
    with pytest.raises(DataError, match="11 problems asked for, and there are 10"):
        environment.problems(11, 0)
    texts = {problem.name: problem.text for problem in environment.problems(10, 0)}
    assert "class Solution" in texts["lanterns"]
    assert "standard input" in texts["barrel"]
    assert "8 12" not in texts["barrel"]  # a private input


def test_wrong_solutions_get_a_share_and_feedback_on_the_shortest(
    tmp_path: Path, in_process: None
) -> None:
    pairs = [("100000\n", "200000\n"), ("3\n", "6\n"), ("20\n", "40\n"), ("1\n", "2\n")]
    found = read(tmp_path, item(pairs, [("5", "10"), ("6", "12")]))
    reward, feedback = judged(
        found, "n = int(input())\nprint(n * 2 if n in (1, 5) else n)", tests="all", isolation="none"
    )
    assert reward == 2 / 6
    assert feedback.startswith(
        "1 of 4 public tests passed; 1 of 2 hidden tests failed.\n\n"
        "Input:\n3\nExpected:\n6\nGot:\n3\n\n"
    )
    assert feedback.endswith("\n\nInput:\n20\nExpected:\n40\nGot:\n20")
    assert "100000" not in feedback
    assert (
        judged(
            found,
            "n = int(input())\nprint(n * 2 if n in (1, 5) else n)",
            tests="public",
            isolation="none",
        )[0]
        == 1 / 4
    )
    reward, feedback = judged(
        found, "n = int(input())\nprint(n * 2 if n < 6 else n)", tests="private", isolation="none"
    )
    assert (reward, feedback) == (0.5, "1 of 2 hidden tests failed.")
    assert judged(found, "print(2 * int(input()))", tests="all", isolation="none", most=3) == (
        1.0,
        "All 3 tests passed.",
    )


def test_tests_shown_by_feedback_are_not_rewarded(tmp_path: Path, in_process: None) -> None:
    pairs = [("1", "3"), ("2", "5"), ("9", "19")]
    learned = "print({'1': 3, '2': 5, '9': 19}.get(input()))"
    found = read(tmp_path, item(pairs, [("4", "9"), ("5", "11")]))
    hard = (0.0, "3 of 3 public tests passed; 2 of 2 hidden tests failed.")
    assert (
        judged(found, learned, isolation="none")
        == judged(found, learned, isolation="none", tests="hidden")
        == hard
    )
    assert judged(found, learned, isolation="none", tests="all")[0] == 3 / 5
    assert judged(found, "print(2 * int(input()) + 1)", isolation="none") == (
        1.0,
        "All 5 tests passed.",
    )
    reward, feedback = judged(
        found, "n = int(input())\nprint(2 * n + (n in (4, 9)))", isolation="none"
    )
    assert reward == 0.5
    assert feedback.startswith(
        "1 of 3 public tests passed; 1 of 2 hidden tests failed.\n\n"
        "Input:\n1\nExpected:\n3\nGot:\n2\n\n"
    )
    reward, feedback = judged(
        found, "n = int(input())\nprint(2 * n + (n > 3))", isolation="none", most=1
    )
    assert (reward, feedback.split(".")[0]) == (
        1.0,
        "0 of 1 public tests passed; 0 of 1 hidden tests failed",
    )
    found = read(tmp_path, item(pairs))
    assert judged(found, learned, isolation="none") == (
        1.0,
        "All 3 tests passed.",
    )  # no others are there


def test_an_answer_that_never_ends_is_not_run_on_every_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two public tests end, and time runs out on numbers from 3 on."""
    seen = list[int]()

    def run(_: str, stdin: str, *__: object) -> ProgramResult:
        seen.append(int(stdin))
        verdict = RunStatus.OK if seen[-1] < 3 else RunStatus.TIME_LIMIT
        return ProgramResult(verdict, stdin, "", 0 if verdict is RunStatus.OK else None, 6.0)

    monkeypatch.setattr(python_programs, "run_program", run)
    pairs = [(str(n), str(n)) for n in range(1, 10)]
    for public, shown, ran in ((2, 0, [1, 2, 3, 4]), (3, 1, [1, 2, 3, 4]), (6, 2, [1, 2, 3, 4])):
        seen.clear()
        reward, feedback = judged(
            read(tmp_path, item(pairs[:public], pairs[public:])), "", isolation="none"
        )
        assert (reward, seen) == (0.0, ran)
        head = (
            f"2 of {public} public tests passed; {9 - public} of {9 - public} hidden tests failed; "
        )
        assert feedback.startswith(f"{head}5 of all were not run, since 2 had run out of time.")
        assert feedback.count("Verdict: time_limit") == feedback.count("Input:") == shown
    for tests, reward in (("all", 2 / 9), ("public", 2 / 6), ("private", 0)):
        assert (
            judged(read(tmp_path, item(pairs[:6], pairs[6:])), "", isolation="none", tests=tests)[0]
            == reward
        )
    assert judged(read(tmp_path, item(pairs[:4])), "", isolation="none")[0] == 0.5
    assert "not run" not in judged(read(tmp_path, item(pairs[:4])), "", isolation="none")[1]


@pytest.mark.slow
@isolated
def test_a_loop_ends_after_two_tests(tmp_path: Path) -> None:
    limits = ResourceLimits(wall_seconds=0.3, memory_bytes=1 << 28)
    reward, feedback = judged(
        read(tmp_path, item([("1", "1")] * 2, [("1", "1")] * 9)), "while True: pass", limits=limits
    )
    assert reward == 0
    assert feedback.startswith(
        "0 of 2 public tests passed; 9 of 9 hidden tests failed; "
        "9 of all were not run, since 2 had run"
    )


@pytest.mark.slow
@isolated
def test_hidden_outputs_are_never_told(tmp_path: Path) -> None:
    found = read(
        tmp_path, item([("1", "1")], [("27182", "HIDDEN-31415"), ("27183", "HIDDEN-31416")])
    )
    for answer in (
        "print(input())",
        "import sys\nsys.exit(input())",
        "",
        "while True: print(input())",
    ):
        reward, feedback = judged(found, answer)
        assert reward < 1
        assert not any(word in feedback for word in ("HIDDEN", "27182", "27183", "31415"))
        assert "2 of 2 hidden tests failed" in feedback


@pytest.mark.slow
@isolated
def test_feedback_is_bounded_and_marks_its_cuts(tmp_path: Path) -> None:
    found = read(tmp_path, item([("x" * 5000, "y" * 5000)] * 3))
    for answer in (
        "print('z' * 5000)",
        "raise ValueError('w' * 5000)",
        "raise SystemExit('e\\n' * 5000)",
    ):
        _, feedback = judged(found, answer)
        assert python_programs.CUT in feedback
        assert feedback.count("Expected:") == 2
    assert judged(found, "'" + "x" * (1 << 20) + "'") == (
        0.0,
        "The program is longer than 1048576 characters and was not run.",
    )


@isolated
def test_errors_are_told_by_their_line_in_the_answer(tmp_path: Path) -> None:
    found = read(tmp_path, item([("1", "1")]))
    for isolation in ("required", "none"):
        for first in ("", "from __future__ import annotations\n"):
            _, feedback = judged(found, f"```python\n{first}x = 1\n1 / 0\n```", isolation=isolation)
            line = 3 if first else 2
            assert (
                f'Verdict: runtime_error\nError:\n  File "program.py", line {line}, in <module>\n'
                in feedback
            )
            assert feedback.endswith("ZeroDivisionError: division by zero")


HARM = {
    "while True: pass": "time_limit",
    "import os, time\nfor _ in range(200):\n"
    "    if not os.fork(): time.sleep(9); os._exit(0)": "process_limit",
    "while True: print('x' * 1000)": "output_limit",
    "x = bytearray(10 << 30)": "memory_limit",
    "import shutil\nshutil.rmtree('/usr')": "file_denied",
    "print(open('/etc/passwd').read())": "file_denied",
    "import socket\nsocket.create_connection(('192.0.2.1', 80))": "network_denied",
    "open('f', 'wb').write(bytes(1 << 26))": "file_limit",
}


@pytest.mark.slow
@isolated
@pytest.mark.parametrize("answer, verdict", HARM.items(), ids=HARM.values())
def test_harm_is_survived_and_named(tmp_path: Path, answer: str, verdict: str) -> None:
    found = read(tmp_path, item([("1", "1")]))
    wall = 0.5 if verdict == "time_limit" else 10.0
    reward, feedback = judged(
        found, answer, limits=ResourceLimits(wall_seconds=wall, memory_bytes=1 << 28, processes=4)
    )
    assert reward == 0
    assert f"Verdict: {verdict}" in feedback


FAKES = {
    "print('8'); print('result-00:8')": "print",
    "import atexit\natexit.register(lambda: print('8'))": "at the end",
    "import sys\nsys.stdin.read = None\nprint(8)\nsys.exit()": "and leave",
}


@pytest.mark.slow
@isolated
def test_functions_are_called_and_their_results_are_values(tmp_path: Path) -> None:
    found = read(
        tmp_path, item([('3\n"b"', '["bbb", 3]')], kind="functional", metadata='{"func_name": "f"}')
    )
    assert judged(found, "class Solution:\n    def f(self, n, text): return (text * n, n)")[0] == 1
    assert (
        judged(found, "def f(n, text):\n    print('noise')\n    return [text * n, n + 0.0]")[0] == 1
    )
    assert judged(found, "def f(n, text): return [n, text * n]")[1].endswith('Got:\n[3, "bbb"]')
    assert judged(found, "def f(n, text): return {1, 2}")[1].endswith(
        "TypeError: Object of type set is not JSON serializable"
    )
    assert judged(found, "def g(n, text): return 1")[0] == 0
    assert judged(found, "import sys\nsys.exit(0)")[1].endswith("Got:\nnothing")


@isolated
@pytest.mark.parametrize("fake", FAKES, ids=FAKES.values())
def test_results_that_a_program_prints_itself_do_not_count(tmp_path: Path, fake: str) -> None:
    found = read(tmp_path, item([("4", "8")], kind="functional", metadata='{"func_name": "f"}'))
    reward, _ = judged(found, f"class Solution:\n    def f(self, n): return 7\n{fake}")
    assert reward == 0


def test_the_expected_output_is_not_in_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(
        tmp_path,
        item([("4", "31415")], [("5", "27182")], kind="functional", metadata='{"func_name": "f"}'),
    )
    seen: list[str] = []
    monkeypatch.setattr(
        python_programs,
        "run_program",
        lambda *given: seen.append(repr(given)) or sandbox.run_program("", "", QUICK, "none"),
    )
    judged(found, "def f(n): return 1", isolation="none")
    assert len(seen) == 2
    assert not any("31415" in given or "27182" in given for given in seen)


def test_refusal_and_bad_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = read(tmp_path, item([("1", "1")]))
    monkeypatch.setattr(python_programs, "isolation_problem", lambda: "no namespaces")
    with pytest.raises(
        IsolationError,
        match=r"no isolation for running programs here: no namespaces; .*--isolation none$",
    ):
        PythonEnvironment(found)
    assert judged(found, "print(1)", isolation="none") == (1.0, "All 1 tests passed.")
    with pytest.raises(ConfigError, match="isolation is 'maybe'; give one of required, none"):
        PythonEnvironment(found, isolation="maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tests is 'some'"):
        PythonEnvironment(found, isolation="none", tests="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="most is 0"):
        PythonEnvironment(found, isolation="none", most=0)
    assert judged(found, "print(1)", isolation="none", tests="hidden")[0] == 1.0
    with pytest.raises(ConfigError, match="give one of hidden, all, public, private"):
        PythonEnvironment(found, isolation="none", tests="most")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="problem q has no private tests"):
        PythonEnvironment(found, isolation="none", tests="private")
    with pytest.raises(KeyError):
        PythonEnvironment(found, isolation="none").evaluate(Problem("other", ""), "")
