"""Outputs of a causal mode that ends its strings itself, and their figures.

Prompts with known answers, a draw after many of them in one batch, the same draws as a limit, a
stop text or extraction would have cut them, and figures of a set of outputs. The *parser* decides
what the first complete answer is: where answers end in a number, more digits behind the right
answer make another one, and nobody who reads the output alone can tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from maskdiff.metrics import Estimate, Unit
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
    from maskdiff.languages import Language, Split

GRAM, WINDOW = 4, 16  # of seq_rep and distinct; of rep
PERIOD, REPEATS = 20, 4  # of a periodic tail
COUNTED = 30  # outputs whose answers are counted, because every part of them is parsed
BATCH = 256  # strings drawn together


@dataclass(frozen=True)
class PromptTask:
    """A prompt, cut from the held-out string `text`, and its answer where only one is right."""

    prompt: str
    answer: str | None
    text: str


@dataclass(frozen=True)
class Output:
    """A prompt and its continuation.

    Attributes:
        pieces: The texts of all tokens but the one that ends the string.
        reason: Why it ended: "eos", "length", "stop" or "repetition".
    """

    task: PromptTask
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


def make_tasks(
    language: Language, count: int, seed: int, split: Split = "test"
) -> list[PromptTask]:
    """Return prompts of held-out strings.

    A prompt reaches to where only one continuation holds; otherwise it is half the string.
    """
    tasks = []
    for text in held_out(language, split, count, seed):
        cut, answer = len(text) // 2, None
        if isinstance(language, HasValue):
            known = ((size, language.forced_ending(text[:size])) for size in range(1, len(text)))
            cut, answer = next(((size, own) for size, own in known if own is not None), (cut, None))
        tasks.append(PromptTask(text[:cut], answer, text))
    return tasks


def draw_outputs(
    loaded: Loaded,
    tasks: Sequence[PromptTask],
    max_tokens: int,
    temperature: float,
    control: ControlConfig,
    seed: int,
) -> list[Output]:
    """Draw one output for each task; the model must end its strings itself.

    Prompts are conditioned on as the tokenizer cuts them, because all cuts of hundreds of prompts
    would not fit in memory.

    Args:
        max_tokens: Limit of an output in tokens, prompt included.
        control: Penalties and stop rules; `first_complete` has no effect.
    """
    model = CausalModel(loaded.denoiser, loaded.lengths, max_tokens)
    draw = Draw(temperature, penalties=Penalties.of(control, loaded.vocabulary))
    stopping = Stopping.of(control, loaded.vocabulary.utf8)
    keys, made = new_keys(len(tasks), torch.Generator().manual_seed(seed)), []
    for start in range(0, len(tasks), BATCH):
        part, together = tasks[start : start + BATCH], SharedTree(model)
        given = [condition(together, task.prompt.encode(), "canonical") for task in part]
        own_keys = keys[start : start + BATCH]
        outputs = Decoding(given, own_keys, draw, stopping).run()
        for task, done in zip(part, outputs, strict=True):
            texts = (model.table.texts[token] for token in done.tokens)
            pieces = tuple(text.decode() for text in texts if text)
            made.append(Output(task, shortened(pieces, len(done.data.decode())), done.reason))
    return made


# -------------------------------------------------------------------------------- cuts of an output


def limited(output: Output, max_tokens: int) -> Output:
    """Return the output under a lower limit."""
    fits = len(output.pieces) < max_tokens  # the token that ends it counts, too
    return output if fits else replace(output, pieces=output.pieces[:max_tokens], reason="length")


def stopped(output: Output, stops: Sequence[str]) -> Output:
    """Return the output, ended before the first stop text that it generates."""
    search = StopText([stop.encode() for stop in stops])
    kept = search.feed(output.generated.encode()) + search.close()
    if not search.stopped:
        return output
    size = len(output.task.prompt) + len(kept.decode())
    return replace(output, pieces=shortened(output.pieces, size), reason="stop")


def unlooped(output: Output) -> Output:
    """Return the output, ended at the token that completes a loop after the prompt."""
    given, start = 0, 0
    for piece in output.pieces:  # tokens of the prompt; the last may reach beyond it
        if start >= len(output.task.prompt):
            break
        given, start = given + 1, start + len(piece)
    loop = first_periodic_tail(output.pieces[given:], PERIOD, REPEATS)
    if loop is None:
        return output
    return replace(output, pieces=output.pieces[: given + loop[0]], reason="repetition")


def shortened(pieces: Sequence[str], size: int) -> tuple[str, ...]:
    """Return the first pieces, `size` symbols in all."""
    kept: list[str] = []
    for piece in pieces:
        if size > 0:
            kept.append(piece[:size])
        size -= len(piece)
    return tuple(kept)


def extracted(output: Output, language: Language) -> Output:
    """Return the output cut to the first string that parses, where there is one."""
    found = first_complete(output.text, language)
    if found is None or found.text == output.text:
        return output
    return replace(output, pieces=(found.text,), reason="stop")


def impossible_in_answers(tasks: Sequence[PromptTask], language: Language) -> tuple[str, ...]:
    """Return the symbols that no right answer contains: good stop texts. Empty without answers."""
    answers = [task.answer for task in tasks if task.answer is not None]
    vocabulary = language.vocabulary
    inner = (vocabulary.symbols[i] for i in vocabulary.inner_ids)
    if not answers:
        return ()
    return tuple(symbol for symbol in inner if not any(symbol in answer for answer in answers))


# ------------------------------------------------------------------------------------------ figures


def tokens_after(output: Output, language: Language) -> int | None:
    """Return the number of tokens behind the first complete answer; None where nothing parses."""
    found = first_complete(output.text, language)
    if found is None:
        return None
    start = after = 0
    for piece in output.pieces:
        after += start >= found.end
        start += len(piece)
    return after


def is_right(output: Output) -> bool | None:
    """Return whether the output is the prompt and the right answer; None where several are
    right."""
    return None if output.task.answer is None else output.generated == output.task.answer


def output_figures(
    outputs: Sequence[Output], language: Language, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Return every figure of a set of outputs; those of repetition leave out the prompts."""
    after = [tokens_after(output, language) for output in outputs]
    ended = [output.reason in ("eos", "stop") for output in outputs]
    texts = [output.generated for output in outputs]
    answers = [len(all_complete(output.text, language)) for output in outputs[:COUNTED]]
    right = [ok for output in outputs if (ok := is_right(output)) is not None]
    figures, share = {}, Unit.SHARE
    if right:
        figures["accuracy"] = metrics.rate(right)
        pairs = [(o.generated, o.task.answer) for o in outputs if o.task.answer is not None]
        figures["starts_right"] = metrics.rate(text.startswith(answer) for text, answer in pairs)
    # A figure of all texts together has no interval: resampled texts would repeat each other.
    together = Estimate(distinct_n(texts, GRAM), math.nan, math.nan, len(texts), share)
    return figures | {
        "parses": metrics.rate(language.parses(output.text) for output in outputs),
        "run_on": metrics.rate(not end or bool(n) for end, n in zip(ended, after, strict=True)),
        "tokens_after": metrics.mean([n for n in after if n is not None], rng),
        "eos": metrics.rate(output.reason == "eos" for output in outputs),
        "cap_hit": metrics.rate(output.reason == "length" for output in outputs),
        "answers": metrics.mean(answers, rng),
        "periodic_tail": metrics.rate(periodic_tail(text, PERIOD, REPEATS) > 0 for text in texts),
        f"rep_{WINDOW}": metrics.mean([rep(text, WINDOW) for text in texts], rng, share),
        f"seq_rep_{GRAM}": metrics.mean([seq_rep(text, GRAM) for text in texts], rng, share),
        f"distinct_{GRAM}": together,
        "compression": metrics.mean([compression_ratio(text) for text in texts], rng),
        "generated": metrics.mean([len(text) for text in texts], rng),
    }


def real_outputs(tasks: Sequence[PromptTask]) -> list[Output]:
    """Return the held-out strings themselves: the outputs of a perfect model."""
    return [Output(task, (task.prompt, *task.text[len(task.prompt) :]), "eos") for task in tasks]
