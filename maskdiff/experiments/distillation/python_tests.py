"""Programs judged by tests: problems of `records.py`, answers run by `sandbox.py`.

For: `PythonTests`, an environment whose reward is the share of tests passed. Not for: isolation, or the format of records. Easy
to get wrong: what feedback may say. It shows input, expected output and what came of failing public tests, which a solver may
know; of private tests it says only how many failed, and unless told otherwise those alone make up the reward: whoever was shown
what public ones expect could write it down. And a program may print whatever it likes, so the result of a function is what
stands behind a word drawn for each run, on the last line printed; forging it helps nobody, since what is expected is compared
here and never enters the sandbox.
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
from maskdiff.experiments.distillation.answers import code_of
from maskdiff.experiments.distillation.environment import Outcome, Problem
from maskdiff.experiments.distillation.records import MOST_DIGITS, Record, Test, value_of
from maskdiff.experiments.distillation.sandbox.run import (
    STANDARD,
    Isolation,
    Limits,
    Run,
    Surroundings,
    Verdict,
    available,
    refusal,
    run,
)

Counted = Literal["hidden", "all", "public", "private"]
MOST_SLOW = 2  # tests of an answer that may run into the limit of time; after them the others count as failed, and are not run
MOST_FEEDBACK = 2000  # characters
MOST_SHOWN = 2  # failing tests
MOST_FIELD = 280  # characters of an input, an output or an error
MOST_PROGRAM = 1 << 20  # characters
ERROR_LINES = 4
CUT = " ... [cut]"
PLACE = re.compile(r'File "[^"\n]*program\.py", line (\d{1,9})')
# The names that the grader of the format gives a solution, in its order: later ones replace earlier
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
        # There, calling `datetime` fails, since it is the module. Many solutions do: allow both.
        "datetime.__class__ = type('module', (type(datetime),), "
        "{'__call__': lambda self, *given, **named: self.datetime(*given, **named)})",
        "sys.setrecursionlimit(50000)",
        f"getattr(sys, 'set_int_max_str_digits', int)({MOST_DIGITS})",
    ]
)
# Calls the function with the arguments on standard input, and prints the word and the result.
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
class _Result:
    """A test, whether it is public, and what came of it. run: None where it was not run. shown: the answer, if there is one."""

    test: Test
    public: bool
    passed: bool
    run: Run | None
    shown: str | None

    @property
    def slow(self) -> bool:
        return self.run is not None and self.run.verdict is Verdict.TIME_LIMIT


class PythonTests:
    """Problems whose answers are Python programs, in a fence or bare; the reward is the share of the counted tests passed.

    reveals is False: what feedback shows is of public tests, as the problem's own text may. tests: which are counted, "all",
    "public", "private" or "hidden": private tests where a record has any, else its public ones, so that it does not pay to
    write down outputs that feedback shows. The first `most` of them count, public ones before private ones. Tests that do not
    count are not run, except by "hidden", which runs the first `most` public ones too, for feedback. Every test is a run of its
    own; after MOST_SLOW that ran into the limit of time the others count as failed, and are not run.
    """

    name = "python-tests"
    reveals = False

    def __init__(
        self,
        records: Sequence[Record],
        limits: Limits = STANDARD,
        isolation: Isolation = "required",
        tests: Counted = "hidden",
        most: int = 20,
        packages: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        """Make the environment; `packages` and `hidden` are those of `Surroundings`.

        Raises IsolationError where isolation is required and not to be had, ConfigError for
        settings out of range and packages that are not installed, DataError for no test to count.
        """
        for key, given, kinds in (("isolation", isolation, Isolation), ("tests", tests, Counted)):
            if given not in get_args(kinds):
                raise ConfigError(
                    f"{key} is {quote(given)}; give one of {', '.join(get_args(kinds))}"
                )
        if most < 1:
            raise ConfigError(f"most is {most}; at least 1 test must be run")
        reason = available() if isolation == "required" else None
        if reason is not None:
            raise refusal(reason)
        self.limits, self.isolation, self.tests, self.most = limits, isolation, tests, most
        self.surroundings = Surroundings(PRELUDE, tuple(packages), tuple(hidden))
        self.records = {record.name: record for record in records}
        for record in records:
            if not self.counted(record):
                raise DataError(
                    f"problem {record.name} has no {tests} tests; count others, or leave it out"
                )

    def problems(self, count: int, seed: int) -> list[Problem]:
        """`count` different problems in an order drawn by `seed`. Raises DataError where there are fewer."""
        if not 0 <= count <= len(self.records):
            raise DataError(
                f"{count} problems asked for, and there are {len(self.records)}; ask for at most as many"
            )
        chosen = random.Random(seed).sample(list(self.records.values()), count)
        return [Problem(record.name, text_of(record)) for record in chosen]

    def counted(self, record: Record) -> list[tuple[Test, bool]]:
        """The tests that make up the reward of a record, and whether each is public."""
        kind = ("private" if record.private else "public") if self.tests == "hidden" else self.tests
        public = [(test, True) for test in record.public if kind != "private"]
        private = [(test, False) for test in record.private if kind != "public"]
        return [*public, *private][: self.most]

    def attempt(self, problem: Problem, answer: str) -> Outcome:
        """Run the tests of the problem, those for feedback alone first.

        Raises IsolationError or OSError where programs cannot be run at all.
        """
        record = self.records[problem.name]
        code = code_of(answer)
        if len(code) > MOST_PROGRAM:
            return Outcome(
                0.0, f"The program is longer than {MOST_PROGRAM} characters and was not run."
            )
        extra = [
            (test, True)
            for test in record.public[: self.most]
            if self.tests == "hidden" and record.private
        ]
        results = list[_Result]()
        for test, public in [*extra, *self.counted(record)]:
            waits = sum(result.slow for result in results) < MOST_SLOW
            results.append(
                self._tested(record, code, test, public)
                if waits
                else _Result(test, public, False, None, None)
            )
        counted = results[len(extra) :]
        return Outcome(sum(result.passed for result in counted) / len(counted), feedback(results))

    def _tested(self, record: Record, code: str, test: Test, public: bool) -> _Result:
        word = f"result-{secrets.token_hex(16)}:"
        driver = DRIVER.format(name=record.function, word=word) if test.functional else ""
        ran = run(code + driver, test.input, self.limits, self.isolation, self.surroundings)
        shown: str | None = ran.stdout
        if test.functional:
            lines = ran.stdout.rstrip("\n").split("\n")
            shown = lines[-1].removeprefix(word) if lines[-1].startswith(word) else None
        right = same_value if test.functional else same_output
        passed = ran.verdict is Verdict.OK and shown is not None and right(shown, test.output)
        return _Result(test, public, passed, ran, shown)


def text_of(record: Record) -> str:
    """What a solver is given."""
    parts = [record.title, record.content]
    if any(test.functional for test in record.public + record.private):
        parts.append(
            f"Write Python that completes this:\n```python\n{record.starter.rstrip()}\n```"
        )
    else:
        parts.append(
            "Write a Python program that reads standard input and writes the answer to standard output."
        )
        if record.starter.strip():
            parts.append(f"Start from this:\n```python\n{record.starter.rstrip()}\n```")
    return "\n\n".join(part.strip() for part in parts)


def same_output(given: str, expected: str) -> bool:
    """Whether outputs agree line by line, white space around lines aside: as texts, or else word by word as numbers."""
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
    """Whether two JSON texts are equal values, as Python compares them: 1 equals 1.0 and true."""
    try:
        return bool(value_of(given) == value_of(expected))
    except (ValueError, RecursionError):
        return False


def feedback(results: Sequence[_Result]) -> str:
    """What may be said of the results: of public ones the shortest that failed, of private ones how many did.

    Tests that were not run failed, and are counted once more, together.
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return f"All {len(results)} tests passed."
    public, private = (
        sum(result.public for result in results),
        sum(not result.public for result in results),
    )
    passed, unrun = (
        sum(result.public and result.passed for result in results),
        sum(result.run is None for result in results),
    )
    told = []
    if public:
        told.append(f"{passed} of {public} public tests passed")
    if private:
        told.append(f"{len(failed) - (public - passed)} of {private} hidden tests failed")
    if unrun:
        told.append(f"{unrun} of all were not run, since {MOST_SLOW} had run out of time")
    shown = sorted(
        (
            (result.test, result.run, result.shown)
            for result in failed
            if result.public and result.run is not None
        ),
        key=lambda found: len(found[0].input) + len(found[0].output),
    )
    parts = ["; ".join(told) + ".", *(_told(*found) for found in shown[:MOST_SHOWN])]
    return cut("\n\n".join(parts), MOST_FEEDBACK)


def _told(test: Test, ran: Run, shown: str | None) -> str:
    """A failing public test in words."""
    lines = ["Input:", cut(test.input.strip("\n")), "Expected:", cut(test.output.strip("\n"))]
    if ran.verdict is Verdict.OK:
        lines += [
            "Got:",
            "nothing" if shown is None or not shown.strip() else cut(shown.strip("\n")),
        ]
    else:
        lines.append(f"Verdict: {ran.verdict.value}")
        words = _last_words(ran.stderr)
        lines += ["Error:", words] if words and ran.verdict is not Verdict.OUTPUT_LIMIT else []
    return "\n".join(lines)


def _last_words(stderr: str) -> str:
    """The last lines of what was written on standard error; their end where they are long."""
    text = "\n".join(stderr[-(1 << 14) :].rstrip().split("\n")[-ERROR_LINES:])
    text = PLACE.sub(r'File "program.py", line \1', text)
    return (
        text
        if len(text) <= MOST_FIELD
        else CUT.strip() + " " + text[-(MOST_FIELD - len(CUT) - 1) :]
    )


def cut(text: str, most: int = MOST_FIELD) -> str:
    """A text of at most `most` characters, with a mark where it was longer."""
    return text if len(text) <= most else text[: most - len(CUT)] + CUT


__all__ = [
    "Counted",
    "PythonTests",
    "code_of",
    "cut",
    "feedback",
    "same_output",
    "same_value",
    "text_of",
]
