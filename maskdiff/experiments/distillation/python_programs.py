"""The environment of problems whose answers are Python programs, evaluated by tests.

Feedback shows input, expected output and result of failing public tests, which a solver may know;
of private tests it gives the number that failed. By default those alone make up the reward, because
a solver could write down the outputs that feedback shows.

A program may print anything, so the result of a function is the text after a random word on the
last line printed. Forging it helps nobody: expected values are compared here and never enter the
sandbox.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.experiments.distillation.code_extraction import extract_code
from maskdiff.experiments.distillation.environment import Outcome, Problem
from maskdiff.experiments.distillation.records import MOST_DIGITS, Record, Test, parse_value
from maskdiff.experiments.distillation.sandbox.program_setup import ProgramSetup
from maskdiff.experiments.distillation.sandbox.results import (
    DEFAULT_LIMITS,
    ProgramResult,
    ResourceLimits,
    RunStatus,
)
from maskdiff.experiments.distillation.sandbox.run import (
    Isolation,
    isolation_error,
    isolation_problem,
    run_program,
)

Counted = Literal["hidden", "all", "public", "private"]
MOST_SLOW = 2  # tests of an answer that may time out; after them the others fail without a run
MOST_FEEDBACK = 2000  # characters
MOST_SHOWN = 2  # failing tests
MOST_FIELD = 280  # characters of an input, an output or an error
MOST_PROGRAM = 1 << 20  # characters
ERROR_LINES = 4
CUT = " ... [cut]"
PLACE = re.compile(r'File "[^"\n]*program\.py", line (\d{1,9})')
# The names that the format's grader gives a solution, in its order: later ones replace earlier
# ones, so that `sub` is the operator's and `datetime` the module.
STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
MODULES = STARRED[:-2]
PRELUDE = "\n".join(
    [
        *(f"from {name} import *" for name in STARRED),
        *(f"import {name}" for name in MODULES),
        # The grader's `datetime` is the module; many solutions call it, so allow both.
        "datetime.__class__ = type('module', (type(datetime),), "
        "{'__call__': lambda self, *given, **named: self.datetime(*given, **named)})",
        "sys.setrecursionlimit(50000)",
        f"getattr(sys, 'set_int_max_str_digits', int)({MOST_DIGITS})",
    ]
)
# Calls the function with the arguments on standard input; prints the word and the result.
DRIVER = """

def _answer():
    import json, sys
    given = [json.loads(line) for line in sys.stdin.read().split("\\n") if line.strip()]
    names = globals()
    target = names["Solution"]() if "Solution" in names else None
    result = (getattr(target, {name!r}) if target is not None else names[{name!r}])(*given)
    sys.stdout.write("\\n" + {word!r} + json.dumps(result) + "\\n")


_answer()
"""


@dataclass(frozen=True)
class _TestResult:
    """The result of a test; `run` is None if it was not run, `shown` is the program's answer."""

    test: Test
    public: bool
    passed: bool = False
    run: ProgramResult | None = None
    shown: str | None = None

    @property
    def slow(self) -> bool:
        return self.run is not None and self.run.status is RunStatus.TIME_LIMIT


class PythonEnvironment:
    """Problems whose answers are Python programs, in a fence or bare.

    The reward is the share of counted tests that pass. Every test is a run of its own; after
    `MOST_SLOW` tests that time out the others fail without a run.

    Args:
        records: The problems.
        limits: What a program may use.
        isolation: "required", or "none".
        tests: The counted tests: "all", "public", "private", or "hidden": the private ones where a
            record has any, else the public ones. "hidden" runs public tests too, for feedback.
        most: The number of tests that count, public ones first, and of public ones for feedback.
        packages: See `ProgramSetup`.
        hidden: See `ProgramSetup`.

    Raises:
        IsolationError: Where isolation is required and unavailable.
        ConfigError: For settings out of range and packages that are not installed.
        DataError: For a record without a counted test.
    """

    name = "python-tests"
    reveals = False  # feedback shows public tests alone, as the problem's own text may

    def __init__(
        self,
        records: Sequence[Record],
        limits: ResourceLimits = DEFAULT_LIMITS,
        isolation: Isolation = "required",
        tests: Counted = "hidden",
        most: int = 20,
        packages: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        for key, given, kinds in (("isolation", isolation, Isolation), ("tests", tests, Counted)):
            if given not in get_args(kinds):
                names = ", ".join(get_args(kinds))
                raise ConfigError(f"{key} is {quote(given)}; give one of {names}")
        if most < 1:
            raise ConfigError(f"most is {most}; at least 1 test must be run")
        reason = isolation_problem() if isolation == "required" else None
        if reason is not None:
            raise isolation_error(reason)
        self.limits, self.isolation, self.tests, self.most = limits, isolation, tests, most
        self.setup = ProgramSetup(PRELUDE, tuple(packages), tuple(hidden))
        self.records = {record.name: record for record in records}
        for record in records:
            if not self.counted_tests(record):
                raise DataError(
                    f"problem {record.name} has no {tests} tests; count others, or leave it out"
                )

    def problems(self, count: int, seed: int) -> list[Problem]:
        """See `Environment`; the order is random."""
        if not 0 <= count <= len(self.records):
            raise DataError(
                f"{count} problems asked for, and there are {len(self.records)}; ask for at most "
                "as many"
            )
        chosen = random.Random(seed).sample(list(self.records.values()), count)
        return [Problem(record.name, problem_text(record)) for record in chosen]

    def counted_tests(self, record: Record) -> list[tuple[Test, bool]]:
        """Return the tests that make up the reward of a record, and whether each is public."""
        kind = ("private" if record.private else "public") if self.tests == "hidden" else self.tests
        public = [(test, True) for test in record.public if kind != "private"]
        private = [(test, False) for test in record.private if kind != "public"]
        return [*public, *private][: self.most]

    def evaluate(self, problem: Problem, answer: str) -> Outcome:
        """See `Environment`; runs the tests of the problem, those for feedback alone first.

        Raises IsolationError or OSError where no program can be run.
        """
        record, code = self.records[problem.name], extract_code(answer)
        if len(code) > MOST_PROGRAM:
            message = f"The program is longer than {MOST_PROGRAM} characters and was not run."
            return Outcome(0.0, message)
        extra: list[tuple[Test, bool]] = []
        if self.tests == "hidden" and record.private:
            extra = [(test, True) for test in record.public[: self.most]]
        results = list[_TestResult]()
        for test, public in [*extra, *self.counted_tests(record)]:
            stopped = sum(result.slow for result in results) >= MOST_SLOW
            results.append(
                _TestResult(test, public) if stopped else self._run(record, code, test, public)
            )
        counted = results[len(extra) :]
        reward = sum(result.passed for result in counted) / len(counted)
        return Outcome(reward, feedback(results))

    def _run(self, record: Record, code: str, test: Test, public: bool) -> _TestResult:
        word = f"result-{secrets.token_hex(16)}:"
        driver = DRIVER.format(name=record.function, word=word) if test.functional else ""
        run = run_program(code + driver, test.input, self.limits, self.isolation, self.setup)
        shown: str | None = run.stdout
        if test.functional:
            last = run.stdout.rstrip("\n").split("\n")[-1]
            shown = last.removeprefix(word) if last.startswith(word) else None
        agree = same_value if test.functional else same_output
        passed = run.status is RunStatus.OK and shown is not None and agree(shown, test.output)
        return _TestResult(test, public, passed, run, shown)


def problem_text(record: Record) -> str:
    """Return the text that a solver reads."""
    parts = [record.title, record.content]
    starter = f"```python\n{record.starter.rstrip()}\n```"
    if any(test.functional for test in record.public + record.private):
        parts.append(f"Write Python that completes this:\n{starter}")
    else:
        parts.append(
            "Write a Python program that reads standard input and writes the answer to standard "
            "output."
        )
        if record.starter.strip():
            parts.append(f"Start from this:\n{starter}")
    return "\n\n".join(part.strip() for part in parts)


def same_output(given: str, expected: str) -> bool:
    """Return whether outputs agree line by line, as texts or word by word as numbers.

    White space around lines does not count.
    """
    ours, theirs = (
        [line.strip() for line in text.strip().split("\n")] for text in (given, expected)
    )
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(given: str, expected: str) -> bool:
    if given == expected:
        return True
    words = given.split(), expected.split()
    if len(words[0]) != len(words[1]):
        return False
    try:
        return all(Decimal(ours) == Decimal(theirs) for ours, theirs in zip(*words, strict=True))
    except InvalidOperation:  # no numbers
        return False


def same_value(given: str, expected: str) -> bool:
    """Return whether two JSON texts are equal Python values: 1 equals 1.0 and true."""
    try:
        return bool(parse_value(given) == parse_value(expected))
    except (ValueError, RecursionError):
        return False


def feedback(results: Sequence[_TestResult]) -> str:
    """Return the feedback on test results: failing public tests, and the number of private ones.

    Tests without a run count as failed and are also counted by themselves.
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return f"All {len(results)} tests passed."
    public = [result for result in results if result.public]
    hidden = [result for result in results if not result.public]
    unrun = sum(result.run is None for result in results)
    counts = []
    if public:
        passed = sum(result.passed for result in public)
        counts.append(f"{passed} of {len(public)} public tests passed")
    if hidden:
        wrong = sum(not result.passed for result in hidden)
        counts.append(f"{wrong} of {len(hidden)} hidden tests failed")
    if unrun:
        counts.append(f"{unrun} of all were not run, since {MOST_SLOW} had run out of time")
    shown = sorted(
        ((result.test, result.run, result.shown) for result in failed if result.public),
        key=lambda item: len(item[0].input) + len(item[0].output),
    )
    texts = [_failure(test, run, answer) for test, run, answer in shown if run is not None]
    return cut("\n\n".join(["; ".join(counts) + ".", *texts[:MOST_SHOWN]]), MOST_FEEDBACK)


def _failure(test: Test, run: ProgramResult, shown: str | None) -> str:
    """Return the description of a failing public test."""
    lines = ["Input:", cut(test.input.strip("\n")), "Expected:", cut(test.output.strip("\n"))]
    if run.status is RunStatus.OK:
        empty = shown is None or not shown.strip()
        lines += ["Got:", "nothing" if shown is None or empty else cut(shown.strip("\n"))]
    else:
        lines.append(f"Verdict: {run.status.value}")
        error = _last_lines(run.stderr)
        if error and run.status is not RunStatus.OUTPUT_LIMIT:
            lines += ["Error:", error]
    return "\n".join(lines)


def _last_lines(stderr: str) -> str:
    """Return the last lines of standard error, cut at their beginning."""
    text = "\n".join(stderr[-(1 << 14) :].rstrip().split("\n")[-ERROR_LINES:])
    text = PLACE.sub(r'File "program.py", line \1', text)
    if len(text) <= MOST_FIELD:
        return text
    return CUT.strip() + " " + text[-(MOST_FIELD - len(CUT) - 1) :]


def cut(text: str, most: int = MOST_FIELD) -> str:
    """Return a text of at most `most` characters, with a mark where it was longer."""
    return text if len(text) <= most else text[: most - len(CUT)] + CUT


__all__ = [
    "Counted", "PythonEnvironment", "cut", "feedback", "problem_text", "same_output", "same_value",
]  # fmt: skip
