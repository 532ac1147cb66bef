"""What a causal mode that ends its strings itself writes after prompts, and what that is worth.

For: prompts with known answers, drawing after many of them in one batch, cutting what was drawn as a limit, a stop text or
extraction would have, and the figures of a set of outputs. Not for: which controls are compared (`repetition.py`). Easy to get
wrong: the first complete answer is what the *parser* says it is. Where answers end in a number, as in arithmetic, digits that
are written behind the right answer make another one, and nobody who reads the output alone can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskdiff import metrics
from maskdiff.config import ControlConfig
from maskdiff.data import held_out
from maskdiff.decoding import CausalModel, Decoding, SharedTree, condition
from maskdiff.drawing.random import new_keys
from maskdiff.drawing.settings import Draw
from maskdiff.languages import HasValue
from maskdiff.metrics import Estimate
from maskdiff.sampling import Penalties, Stopping, StopText
from maskdiff.text.answers import all_complete, first_complete
from maskdiff.text.repetition import (
    compression_ratio,
    distinct_n,
    first_periodic_tail,
    periodic_tail,
    rep,
    seq_rep,
)

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded
    from maskdiff.languages import Language

GRAM, WINDOW = 4, 16  # of seq_rep and distinct; of rep
PERIOD, REPEATS = 20, 4  # of what counts as a periodic tail
COUNTED = 30  # outputs whose answers are counted: the parser is asked about every part of them
BATCH = 256  # strings drawn together


@dataclass(frozen=True)
class Task:
    """A prompt and, where one answer alone is right, that answer; `text` is the held-out string that it is from."""

    prompt: str
    answer: str | None
    text: str


@dataclass(frozen=True)
class Output:
    """What was written after a prompt: texts of its tokens, without the one that ends it, and why it ended."""

    task: Task
    pieces: tuple[str, ...]
    reason: str

    @property
    def text(self) -> str:
        """The prompt and what follows it."""
        return "".join(self.pieces)

    @property
    def generated(self) -> str:
        """What follows the prompt."""
        return self.text[len(self.task.prompt) :]


def make_tasks(language: Language, count: int, seed: int, split: str = "test") -> list[Task]:
    """Prompts from held-out strings: up to where one continuation alone holds, else the first half of the string."""
    tasks = []
    for text in held_out(language, split, count, seed):  # type: ignore[arg-type]
        cut, answer = len(text) // 2, None
        if isinstance(language, HasValue):
            known = ((size, language.forced_ending(text[:size])) for size in range(1, len(text)))
            cut, answer = next(((size, own) for size, own in known if own is not None), (cut, None))
        tasks.append(Task(text[:cut], answer, text))
    return tasks


def draw_outputs(
    loaded: Loaded,
    tasks: Sequence[Task],
    max_tokens: int,
    temperature: float,
    control: ControlConfig,
    seed: int,
) -> list[Output]:
    """One output a task of at most `max_tokens` tokens, prompt included, and ended by what `control` says; but for
    `first_complete`. The model has to end its strings itself.

    Prompts are conditioned on as the tokenizer cuts them: of a model of pieces, all cuts of hundreds of prompts would not fit.
    """
    model = CausalModel(loaded.denoiser, loaded.lengths, max_tokens)
    draw = Draw(temperature, penalties=Penalties.of(control, loaded.vocabulary))
    stopping = Stopping.of(control, loaded.vocabulary.utf8)
    keys, made = new_keys(len(tasks), torch.Generator().manual_seed(seed)), []
    for start in range(0, len(tasks), BATCH):
        part, together = tasks[start : start + BATCH], SharedTree(model)
        given = [condition(together, task.prompt.encode(), "canonical") for task in part]
        strings = Decoding(given, keys[start : start + BATCH], draw, stopping).run()
        for task, done in zip(part, strings, strict=True):
            texts = (model.table.texts[token] for token in done.tokens)
            pieces = tuple(text.decode() for text in texts if text)
            made.append(Output(task, shortened(pieces, len(done.data.decode())), done.reason))
    return made


# ------------------------------------------------------------------------------------- what a stop would have left


def limited(output: Output, max_tokens: int) -> Output:
    """The output under a lower limit."""
    fits = len(output.pieces) < max_tokens  # the token that ends it counts, too
    return output if fits else replace(output, pieces=output.pieces[:max_tokens], reason="length")


def stopped(output: Output, stops: Sequence[str]) -> Output:
    """The output, ended before the first of some stop texts that it generates."""
    search = StopText([stop.encode() for stop in stops])
    kept = search.feed(output.generated.encode()) + search.close()
    if not search.stopped:
        return output
    return replace(
        output,
        pieces=shortened(output.pieces, len(output.task.prompt) + len(kept.decode())),
        reason="stop",
    )


def unlooped(output: Output) -> Output:
    """The output, ended at the token that completes a loop in what it generates."""
    given, start = 0, 0
    for piece in output.pieces:  # tokens of the prompt, the last of which may reach beyond it
        if start >= len(output.task.prompt):
            break
        given, start = given + 1, start + len(piece)
    loop = first_periodic_tail(output.pieces[given:], PERIOD, REPEATS)
    return (
        output
        if loop is None
        else replace(output, pieces=output.pieces[: given + loop[0]], reason="repetition")
    )


def shortened(pieces: Sequence[str], size: int) -> tuple[str, ...]:
    """The first pieces, together of `size` symbols."""
    kept: list[str] = []
    for piece in pieces:
        if size > 0:
            kept.append(piece[:size])
        size -= len(piece)
    return tuple(kept)


def extracted(output: Output, language: Language) -> Output:
    """The first string that parses, where there is one."""
    found = first_complete(output.text, language)
    if found is None or found.text == output.text:
        return output
    return replace(output, pieces=(found.text,), reason="stop")


def impossible_in_answers(tasks: Sequence[Task], language: Language) -> tuple[str, ...]:
    """Symbols that no right answer holds: what a careful user would give as stop texts. Nothing without answers."""
    answers = [task.answer for task in tasks if task.answer is not None]
    vocabulary = language.vocabulary
    inner = (vocabulary.symbols[i] for i in vocabulary.inner_ids)
    return (
        tuple(symbol for symbol in inner if not any(symbol in answer for answer in answers))
        if answers
        else ()
    )


# ---------------------------------------------------------------------------------------------------------- figures


def tokens_after(output: Output, language: Language) -> int | None:
    """Tokens that begin behind the first complete answer; None where nothing parses."""
    found = first_complete(output.text, language)
    if found is None:
        return None
    start = after = 0
    for piece in output.pieces:
        after += start >= found.end
        start += len(piece)
    return after


def is_right(output: Output) -> bool | None:
    """Whether the whole output is the prompt and the right answer; None where several are right."""
    return None if output.task.answer is None else output.generated == output.task.answer


def describe(
    outputs: Sequence[Output], language: Language, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Every figure of a set of outputs; of repetition, on what was generated alone."""
    after = [tokens_after(output, language) for output in outputs]
    ended = [output.reason in ("eos", "stop") for output in outputs]
    texts = [output.generated for output in outputs]
    right = [ok for output in outputs if (ok := is_right(output)) is not None]
    figures = {}
    if right:
        figures["accuracy"] = metrics.rate(right)
        starts = (
            output.generated.startswith(output.task.answer)
            for output in outputs
            if output.task.answer is not None
        )
        figures["starts_right"] = metrics.rate(starts)
    return figures | {
        "parses": metrics.rate(language.parses(output.text) for output in outputs),
        "run_on": metrics.rate(not end or bool(n) for end, n in zip(ended, after, strict=True)),
        "tokens_after": metrics.mean([n for n in after if n is not None], rng),
        "eos": metrics.rate(output.reason == "eos" for output in outputs),
        "cap_hit": metrics.rate(output.reason == "length" for output in outputs),
        "answers": metrics.mean(
            [len(all_complete(output.text, language)) for output in outputs[:COUNTED]], rng
        ),
        "periodic_tail": metrics.rate(periodic_tail(text, PERIOD, REPEATS) > 0 for text in texts),
        f"rep_{WINDOW}": metrics.mean([rep(text, WINDOW) for text in texts], rng),
        f"seq_rep_{GRAM}": metrics.mean([seq_rep(text, GRAM) for text in texts], rng),
        f"distinct_{GRAM}": _pooled(texts, lambda chosen: distinct_n(chosen, GRAM)),
        "compression": metrics.mean([compression_ratio(text) for text in texts], rng),
        "generated": metrics.mean([len(text) for text in texts], rng),
    }


def _pooled(texts: Sequence[str], figure: Callable[[Sequence[str]], float]) -> Estimate:
    """A figure of all texts together: resampled texts would repeat each other, so that it has no interval."""
    return Estimate(figure(texts), math.nan, math.nan, len(texts))


def real_outputs(tasks: Sequence[Task]) -> list[Output]:
    """The held-out strings themselves: what the figures of a perfect model are."""
    return [Output(task, (task.prompt, *task.text[len(task.prompt) :]), "eos") for task in tasks]
