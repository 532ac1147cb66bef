"""The language `arithmetic-corrections`: solutions, attempts with feedback, and corrections.

A string has one of three forms. An answer is a chain of steps, some taken back (`answers.py`):

    (+ 3 (* 2 4))>(+ 3 8)>11                                 a problem and its answer
    (+ 3 (* 2 4))|@1=(+ 3 9)>(+ 3 8)>11                      ... after feedback on a hidden attempt
    (+ 3 (* 2 4));(+ 3 9)>12|@1=(+ 3 9)>(+ 3 9)!(+ 3 8)>11   ... after the attempt, too

Attempts follow `;`, so that a model makes their mistakes only there; the mistakes of answers are
taken back at once. No string begins with a problem of the test split, but a step may be one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff.config import LanguageConfig
from maskdiff.errors import ConfigError, DataError, quote
from maskdiff.languages.arithmetic_corrections.answers import (
    BACKTRACK,
    FEEDBACK,
    FIRST_WRONG,
    LEAK,
    SCALAR,
    STEP,
    feedback_text,
    judge,
)
from maskdiff.languages.arithmetic_corrections.slips import Bounds, taken_back, write_answer
from maskdiff.languages.arithmetic_steps.expressions import (
    SYMBOLS,
    check_options,
    expression_rules,
    is_expression,
    is_integer,
    is_operation,
)
from maskdiff.languages.arithmetic_steps.generator import draw_problems
from maskdiff.languages.protocol import Split, split_of
from maskdiff.languages.text import LanguageSpec, TextLanguage
from maskdiff.utils.lines import split_lines

ATTEMPT, REMARK = ";", "|"  # the symbols before an attempt and before feedback
SHORTEST = 100  # tokens; no derivation of three steps fits into less
LEAST_STEPS = 3  # of a solution
SLIP = 0.25  # probability that a step of an attempt is wrong
BACK = 0.04  # probability that a wrong step that is taken back precedes a step
OWN = 0.75  # share of records of a model's own attempts, if there are any
REPEATED = 0.03  # share of corrections that repeat the attempt up to its first wrong step
TRIES = 10
NATURAL = 'natural: "0" | NATURAL\n'
_MARKS = STEP + BACKTRACK + ATTEMPT + REMARK + SCALAR + FIRST_WRONG + LEAK
_MARK = re.escape(_MARKS)
_FRAGMENT = re.compile(rf"-?\d+|[{_MARK}]|[^\d{_MARK}]+?(?=-?\d|[{_MARK}]|$)")


@dataclass(frozen=True)
class Mix:
    """Shares of strings.

    Attributes:
        plain: The share without feedback.
        hidden: The share with feedback on an attempt that is not shown.
        feedback: The shares of the kinds of `FEEDBACK`.
    """

    plain: float
    hidden: float
    feedback: tuple[float, float, float, float]


GENERATED = Mix(0.35, 0.25, (0.1, 0.2, 0.45, 0.25))
FROM_FILE = Mix(0.2, 0.4, (0.1, 0.1, 0.65, 0.15))  # with a model's own attempts


class ArithmeticCorrections(TextLanguage):
    """Implements `Language`.

    Raises:
        ConfigError: An option is impossible.
    """

    def __init__(self, config: LanguageConfig, lengths: Sequence[int] | None = None) -> None:
        check_options(config, "arithmetic-corrections", SHORTEST)
        if config.max_depth < 2:
            raise ConfigError(
                "max_depth is 1: problems of arithmetic-corrections have at least three "
                "operations; give 2 or more"
            )
        spec = LanguageSpec(
            symbols=SYMBOLS + _MARKS,
            draw=self._draw,
            grammar=correction_grammar(config.operators),
            valid=self._well_formed,
            validity="its own parser",
        )
        super().__init__("arithmetic-corrections", config, spec, lengths)
        self.min_symbols = len("(+ 0 0)>0")
        self._bounds = Bounds(config.max_value, config.operators)
        # The bound of a derivation: a record contains about two of them.
        self._derivations = replace(config, max_len=max(16, int(0.45 * config.max_len)))

    # Drawing

    def _draw(self, n: int, rng: np.random.Generator) -> list[str]:
        problems, words = (np.random.default_rng(seed) for seed in rng.integers(0, 2**63, 2))
        drawn = self.problems(n, problems, held_out=False)
        return [self._string(problem, words) for problem in drawn]

    @cached_property
    def _attempts(self) -> list[tuple[str, str]]:
        """Problems with attempts from the file of the configuration. Raises `DataError`."""
        return read_attempts(self.config.attempts, self) if self.config.attempts else []

    def state(self) -> dict[str, Any]:
        """See `TextLanguage`; `digest` is that of the attempts in their order."""
        lines = "\n".join(f"{problem}{ATTEMPT}{attempt}" for problem, attempt in self._attempts)
        digest = hashlib.blake2b(lines.encode(), digest_size=8).hexdigest() if lines else ""
        return {**super().state(), "digest": digest}

    def problems(self, count: int, rng: np.random.Generator, held_out: bool = True) -> list[str]:
        """Return random problems, with repetitions.

        Args:
            count: The number of problems.
            rng: The random number generator.
            held_out: Whether they are of the test split, with which no string begins, or of the
                others.
        """
        splits: tuple[Split, ...] = ("test",) if held_out else ("train", "validation")

        def fits(steps: list[str]) -> bool:
            return len(steps) > LEAST_STEPS and split_of(steps[0]) in splits

        return [steps[0] for steps in draw_problems(count, rng, self._derivations, fits)]

    def _string(self, problem: str, rng: np.random.Generator) -> str:
        """A string about `problem`; its solution if no other one fits."""
        mix = FROM_FILE if self._attempts else GENERATED
        for _ in range(TRIES):
            form, own_attempt = rng.random(), None
            if form >= mix.plain and self._attempts and rng.random() < OWN:
                problem, own_attempt = self._attempts[rng.integers(len(self._attempts))]
            answer = write_answer(problem, rng, 0.0, BACK, self._bounds)
            text = None if answer is None else problem + STEP + answer
            if form >= mix.plain:
                kind = FEEDBACK[rng.choice(len(FEEDBACK), p=mix.feedback)]
                attempt = own_attempt or write_answer(problem, rng, SLIP, BACK, self._bounds)
                if attempt is None or answer is None:
                    continue
                if rng.random() < REPEATED:
                    answer = taken_back(problem, attempt) or answer
                shown = attempt if form >= mix.plain + mix.hidden else None
                text = self.prompt(problem, shown, feedback_text(problem, attempt, kind)) + answer
            if text is not None and len(text) <= self.max_symbols:
                return text
        solution = write_answer(problem, rng, 0.0, 0.0, self._bounds)
        assert solution is not None  # its bounds were checked when the problem was drawn
        return problem + STEP + solution

    def prompt(self, problem: str, attempt: str | None = None, feedback: str | None = None) -> str:
        """Return the text before an answer.

        Args:
            problem: The problem.
            attempt: An attempt to show.
            feedback: The feedback on an attempt.
        """
        if attempt is None and feedback is None:
            return problem + STEP
        return (
            f"{problem}{'' if attempt is None else ATTEMPT + attempt}{REMARK}{feedback or ''}{STEP}"
        )

    def fragments(self, text: str) -> list[str]:
        """Return the integers, the marks, and the texts between them; see `TextLanguage`."""
        return _FRAGMENT.findall(text)

    # Validity

    def _well_formed(self, text: str) -> bool:
        head = next((symbol for symbol in text if symbol in STEP + ATTEMPT + REMARK), "")
        problem, _, rest = text.partition(head) if head else (text, "", "")
        if head == ATTEMPT:
            attempt, mark, rest = rest.partition(REMARK)
            if not mark or not self._is_answer(attempt):
                return False
        if head in (ATTEMPT, REMARK):
            feedback, mark, rest = rest.partition(STEP)
            if not mark or not self._is_feedback(feedback):
                return False
        return bool(head) and self._is_operation(problem) and self._is_answer(rest)

    def _is_operation(self, text: str) -> bool:
        return is_operation(text, self.config.operators)

    def _is_expression(self, text: str) -> bool:
        return is_expression(text, self.config.operators)

    def _is_answer(self, text: str) -> bool:
        """Whether `text` is a chain of steps with an integer at the end, or taken back, only."""
        *before, last = text.replace(BACKTRACK, BACKTRACK + STEP).split(STEP)
        chain = all(
            self._is_operation(step)
            or (step.endswith(BACKTRACK) and self._is_expression(step[: -len(BACKTRACK)]))
            for step in before
        )
        return chain and is_integer(last) and self._is_expression(last)

    def _is_feedback(self, text: str) -> bool:
        """Whether `text` is a possible result of `feedback_text`."""
        rest = text[1:]
        if text[:1] == LEAK:
            return is_integer(rest) and self._is_expression(rest)
        if text[:1] == FIRST_WRONG:
            rest, quotes, step = rest.partition(LEAK)
            if quotes and not self._is_expression(step):
                return False
        return not text or (
            text[0] in SCALAR + FIRST_WRONG and is_integer(rest) and not rest.startswith("-")
        )

    def holds(self, text: str) -> bool:
        """Return whether `text` parses, and its answer has no wrong kept step and is complete."""
        if not self.parses(text):
            return False
        problem = text[: min(at for at in map(text.find, STEP + ATTEMPT + REMARK) if at >= 0)]
        rest = text.partition(REMARK)[2].partition(STEP)[2]
        marks = judge(problem, rest if REMARK in text else text[len(problem) + 1 :])
        return marks.first_wrong is None and marks.final

    def forced_ending(self, prefix: str) -> str | None:
        """Return None: a step may always be taken back, so no ending is forced."""
        return None


def read_attempts(path: str, language: ArithmeticCorrections) -> list[tuple[str, str]]:
    """Return the problems and attempts of a file of lines `problem;attempt`.

    Raises:
        DataError: The file cannot be read or is empty, a line is no attempt, or its problem is of
            the test split.
    """
    shown = quote(path, 200)
    found = []
    try:
        lines = split_lines(Path(path).read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the attempts in {shown}: {error}") from None
    for number, line in enumerate(lines, 1):
        problem, _, attempt = line.partition(ATTEMPT)
        if not language.parses(problem + STEP + attempt) or split_of(problem) == "test":
            raise DataError(
                f"line {number} of {shown} is no attempt at a problem that may be trained on"
            )
        found.append((problem, attempt))
    if not found:
        raise DataError(f"{shown} holds no attempts")
    return found


def correction_grammar(operators: str) -> str:
    """Return the grammar of the three forms in Lark's EBNF; steps and feedback may be wrong."""
    return f"""start: operation "{STEP}" answer | operation shown "{STEP}" answer
shown: "{REMARK}" feedback | "{ATTEMPT}" answer "{REMARK}" feedback
feedback: | "{LEAK}" value | "{SCALAR}" natural | "{FIRST_WRONG}" natural quoted
quoted: | "{LEAK}" expr
answer: value | value "{BACKTRACK}" answer | operation mark answer
mark: "{STEP}" | "{BACKTRACK}"
{expression_rules(operators, NATURAL)}"""
