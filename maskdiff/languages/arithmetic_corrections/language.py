"""The language `arithmetic-corrections`: problems with their solutions, and with attempts, feedback and corrections.

A string has one of three forms, where an answer is a chain of steps of which some are taken back (`answers.py`):

    (+ 3 (* 2 4))>(+ 3 8)>11                        a problem and its answer
    (+ 3 (* 2 4))|@1=(+ 3 9)>(+ 3 8)>11             ... after feedback on an attempt that is not shown
    (+ 3 (* 2 4));(+ 3 9)>12|@1=(+ 3 9)>(+ 3 9)!(+ 3 8)>11
                                                    ... and after the attempt, too

For: `ArithmeticCorrections`, from whose strings a model learns to answer, and to make use of feedback. Not for: solving or
judging. Easy to get wrong: attempts begin behind `;`, so that a model learns to make their mistakes only where they are
announced; answers have no mistake but such as are taken back at once. No string begins with a problem of the test split; a step
on the way of another problem may be one.
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
from maskdiff.languages.arithmetic_steps.expressions import is_expression, is_number
from maskdiff.languages.arithmetic_steps.generator import draw_problems
from maskdiff.languages.arithmetic_steps.language import check_operations
from maskdiff.languages.protocol import Split, split_of
from maskdiff.languages.text import LanguageSpec, TextLanguage
from maskdiff.languages.vocabulary import DIGITS
from maskdiff.utils.lines import split_lines

ATTEMPT, SAID = ";", "|"  # what an attempt, and feedback, stand behind
SHORTEST = 100  # tokens: no derivation of three steps fits in what less leaves for it
LEAST_STEPS = (
    3  # of a solution: what has fewer says little about where in an answer something happens
)
SLIP = 0.25  # steps of an attempt that go wrong
BACK = 0.04  # steps before which a wrong one stands that is taken back
OWN = 0.75  # records of a model's own attempts, where there are some
REPEATED = (
    0.03  # corrections that go along with the attempt up to its first wrong step, and take it back
)
TRIES = 10
_MARKS = re.escape(STEP + BACKTRACK + ATTEMPT + SAID + SCALAR + FIRST_WRONG + LEAK)
_FRAGMENT = re.compile(rf"-?\d+|[{_MARKS}]|[^\d{_MARKS}]+?(?=-?\d|[{_MARKS}]|$)")


@dataclass(frozen=True)
class Mix:
    """Shares of strings without feedback, of those with feedback on an attempt that is not shown, and of kinds of FEEDBACK."""

    plain: float
    hidden: float
    told: tuple[float, float, float, float]


MADE_UP = Mix(0.35, 0.25, (0.1, 0.2, 0.45, 0.25))
FROM_FILE = Mix(
    0.2, 0.4, (0.1, 0.1, 0.65, 0.15)
)  # with a model's own attempts: more of what it has to learn from them


class ArithmeticCorrections(TextLanguage):
    """Implements `Language`. Raises ConfigError for options that it cannot obey."""

    def __init__(self, config: LanguageConfig, lengths: Sequence[int] | None = None) -> None:
        check_operations(config, "arithmetic-corrections", SHORTEST)
        if config.max_depth < 2:
            raise ConfigError(
                "max_depth is 1: problems of arithmetic-corrections have at least three operations; give 2 or more"
            )
        spec = LanguageSpec(
            symbols=DIGITS
            + "()+-* "
            + STEP
            + BACKTRACK
            + ATTEMPT
            + SAID
            + SCALAR
            + FIRST_WRONG
            + LEAK,
            draw=self._draw,
            grammar=lark_grammar(config.operators),
            valid=self._well_formed,
            validity="its own parser",
        )
        super().__init__("arithmetic-corrections", config, spec, lengths)
        self.min_symbols = len("(+ 0 0)>0")
        # Of a derivation: a record holds about two of them.
        self._bounds = Bounds(config.max_value, config.operators)
        self._steps = replace(config, max_len=max(16, int(0.45 * config.max_len)))

    # ------------------------------------------------------------------------------------------------------------- drawing

    def _draw(self, n: int, rng: np.random.Generator) -> list[str]:
        problems, words = (np.random.default_rng(seed) for seed in rng.integers(0, 2**63, 2))
        return [
            self._string(problem, words) for problem in self.problems(n, problems, held_out=False)
        ]

    @cached_property
    def _attempts(self) -> list[tuple[str, str]]:
        """Problems with attempts at them, of the file that the configuration names. Raises DataError."""
        return read_attempts(self.config.attempts, self) if self.config.attempts else []

    def state(self) -> dict[str, Any]:
        """See `TextLanguage.state`; `digest` is that of the attempts in their order."""
        lines = "\n".join(f"{problem}{ATTEMPT}{attempt}" for problem, attempt in self._attempts)
        digest = hashlib.blake2b(lines.encode(), digest_size=8).hexdigest() if lines else ""
        return {**super().state(), "digest": digest}

    def _problems(self, n: int, rng: np.random.Generator, splits: tuple[Split, ...]) -> list[str]:
        def fits(steps: list[str]) -> bool:
            return len(steps) > LEAST_STEPS and split_of(steps[0]) in splits

        return [steps[0] for steps in draw_problems(n, rng, self._steps, fits)]

    def problems(self, count: int, rng: np.random.Generator, held_out: bool = True) -> list[str]:
        """`count` problems of the test split, with which no string that is drawn begins, or of the others; may repeat."""
        return self._problems(count, rng, ("test",) if held_out else ("train", "validation"))

    def _string(self, problem: str, rng: np.random.Generator) -> str:
        """A string about `problem`; where none fits, its solution."""
        for _ in range(TRIES):
            form, made, mix = rng.random(), None, FROM_FILE if self._attempts else MADE_UP
            if form >= mix.plain and self._attempts and rng.random() < OWN:
                problem, made = self._attempts[rng.integers(len(self._attempts))]
            answer = write_answer(problem, rng, 0.0, BACK, self._bounds)
            text = None if answer is None else problem + STEP + answer
            if form >= mix.plain:
                kind = FEEDBACK[rng.choice(len(FEEDBACK), p=mix.told)]
                attempt = made or write_answer(problem, rng, SLIP, BACK, self._bounds)
                if attempt is None or answer is None:
                    continue
                if rng.random() < REPEATED:
                    answer = taken_back(problem, attempt) or answer
                shown = ATTEMPT + attempt if form >= mix.plain + mix.hidden else ""
                text = (
                    f"{problem}{shown}{SAID}{feedback_text(problem, attempt, kind)}{STEP}{answer}"
                )
            if text is not None and len(text) <= self.max_symbols:
                return text
        solution = write_answer(problem, rng, 0.0, 0.0, self._bounds)
        assert solution is not None  # its bounds were checked when the problem was drawn
        return problem + STEP + solution

    @cached_property
    def possible(self) -> np.ndarray:
        """(max_symbols + 1,) whether some string, right or wrong, has that many symbols."""
        return np.arange(self.max_symbols + 1) >= self.min_symbols

    # ------------------------------------------------------------------------------------------------------------ prompts

    def prompt(self, problem: str, attempt: str | None = None, said: str | None = None) -> str:
        """What an answer follows: a problem, perhaps with an attempt, and with what was said of it."""
        if attempt is None and said is None:
            return problem + STEP
        return f"{problem}{'' if attempt is None else ATTEMPT + attempt}{SAID}{said or ''}{STEP}"

    def fragments(self, text: str) -> list[str]:
        """See `TextLanguage`: numbers, marks, and what stands between them."""
        return _FRAGMENT.findall(text)

    # ------------------------------------------------------------------------------------------------------------- validity

    def _well_formed(self, text: str) -> bool:
        head = next((symbol for symbol in text if symbol in STEP + ATTEMPT + SAID), "")
        problem, _, rest = text.partition(head) if head else (text, "", "")
        if head == ATTEMPT:
            attempt, said, rest = rest.partition(SAID)
            if not said or not self._is_answer(attempt):
                return False
        if head in (ATTEMPT, SAID):
            said, step, rest = rest.partition(STEP)
            if not step or not self._is_feedback(said):
                return False
        return bool(head) and self._is_operation(problem) and self._is_answer(rest)

    def _is_operation(self, text: str) -> bool:
        return not is_number(text) and is_expression(text, self.config.operators)

    def _is_answer(self, text: str) -> bool:
        """Whether `text` is a chain of steps that ends in a number; a number is followed by nothing, or taken back."""
        steps = text.replace(BACKTRACK, BACKTRACK + STEP).split(STEP)
        *before, last = steps
        whole = all(
            self._is_operation(step) or (step.endswith(BACKTRACK) and self._taken(step[:-1]))
            for step in before
        )
        return whole and is_number(last) and is_expression(last, self.config.operators)

    def _taken(self, step: str) -> bool:
        return is_expression(step, self.config.operators)

    def _is_feedback(self, text: str) -> bool:
        """Whether `text` is something that `feedback` may say."""
        rest = text[1:]
        if text[:1] == LEAK:
            return is_number(rest) and self._taken(rest)
        if text[:1] == FIRST_WRONG:
            rest, quotes, step = rest.partition(LEAK)
            if quotes and not self._taken(step):
                return False
        return not text or (
            text[0] in SCALAR + FIRST_WRONG and is_number(rest) and not rest.startswith("-")
        )

    def holds(self, text: str) -> bool:
        """Whether `text` parses, its answer has no wrong step that is kept, and ends in the value of the problem."""
        if not self.parses(text):
            return False
        problem = text[: min(at for at in map(text.find, STEP + ATTEMPT + SAID) if at >= 0)]
        answer = (
            text.partition(SAID)[2].partition(STEP)[2] if SAID in text else text[len(problem) + 1 :]
        )
        marks = judge(problem, answer)
        return marks.first_wrong is None and marks.final

    def forced_ending(self, prefix: str) -> str | None:
        """None: a step may always be taken back, so nothing follows."""
        return None


def read_attempts(path: str, language: ArithmeticCorrections) -> list[tuple[str, str]]:
    """Lines `problem;attempt`, the problems not of the test split. Raises DataError with the number of a line that is none."""
    found = []
    try:
        lines = split_lines(Path(path).read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the attempts in {quote(path, 200)}: {error}") from None
    for number, line in enumerate(lines, 1):
        problem, _, attempt = line.partition(ATTEMPT)
        if not language.parses(problem + STEP + attempt) or split_of(problem) == "test":
            where = f"line {number} of {quote(path, 200)}"
            raise DataError(f"{where} is no attempt at a problem that may be trained on")
        found.append((problem, attempt))
    if not found:
        raise DataError(f"{quote(path, 200)} holds no attempts")
    return found


def lark_grammar(operators: str) -> str:
    """The grammar of the three forms, in Lark's EBNF; steps and feedback may be wrong."""
    sign = '"-"? ' if "-" in operators else ""
    either = " | ".join(f'"{symbol}"' for symbol in operators)
    return "\n".join(
        (
            f'start: operation "{STEP}" answer | operation shown "{STEP}" answer',
            f'shown: "{SAID}" feedback | "{ATTEMPT}" answer "{SAID}" feedback',
            f'feedback: | "{LEAK}" value | "{SCALAR}" natural | "{FIRST_WRONG}" natural quoted',
            f'quoted: | "{LEAK}" expr',
            f'answer: value | value "{BACKTRACK}" answer | operation mark answer',
            f'mark: "{STEP}" | "{BACKTRACK}"',
            'operation: "(" OPERATOR " " expr " " expr ")"',
            "expr: value | operation",
            f'value: "0" | {sign}NATURAL',
            'natural: "0" | NATURAL',
            "NATURAL: /[1-9][0-9]*/",
            f"OPERATOR: {either}",
            "",
        )
    )


__all__ = ["ArithmeticCorrections", "lark_grammar"]
