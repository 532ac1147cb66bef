"""A causal language model of transformers as a policy.

Weights of bfloat16 do not move at the learning rates of fine-tuning: a step of 1e-6 is less than
half of the distance from a weight to the next number and is rounded away. So weights are loaded as
float32.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from maskdiff.checkpoint import resolve_device
from maskdiff.errors import ConfigError, quote
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import AnswerStrings, Ids, draw_answers, groups
from maskdiff.models.hugging_face import (
    GrowingRows,
    TransformersModel,
    growing_rows_fault,
    load_pretrained,
)
from maskdiff.models.hugging_face_tokens import PromptTemplate

ATTEMPT = "## Previous attempt"
FEEDBACK = "## Feedback on the previous attempt"
AGAIN = "Now solve the problem again from scratch, and write the whole solution."

# Tokens that revise what was written, or begin to; `#` and `//` begin a comment.
BACKTRACKING = frozenset(
    {"wait", "actually", "no", "hmm", "but", "however", "sorry", "instead", "oops", "#", "//"}
)

ROWS = 128  # most answers that are drawn together
DRAWN = 65_536  # most tokens whose keys and values are kept together, padding and answers included
SCORED = 8_192  # most tokens that are scored together, padding included
DTYPES = ("float32", "bfloat16", "float64")


def load_policy(
    name: str | Path, device: str | torch.device = "cpu", dtype: str = "float32"
) -> HuggingFacePolicy:
    """Return the policy of a folder or a name; see `load_pretrained`.

    Args:
        name: a folder that `save_pretrained` wrote, or a name that `from_pretrained` knows.
        device: see `resolve_device`.
        dtype: of the weights, one of `DTYPES`. Training of bfloat16 keeps a copy in float32.

    Raises:
        ConfigError: the package transformers or the device is missing, the model cannot be run in
            padded batches, or its chat template does not show where an answer begins.
        CheckpointError: the files cannot be read.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {quote(dtype)}; it must be one of {', '.join(DTYPES)}")
    loaded = load_pretrained(name, getattr(torch, dtype), resolve_device(device))
    return HuggingFacePolicy(TransformersModel(*loaded))


class HuggingFacePolicy:
    """Implements `Policy`. The model stays in eval mode, also in training.

    A chat template that writes the marks of a thought before every answer (Qwen3's) puts them into
    the prompt, so such a model answers without thinking first.

    Args:
        model: the model with its tokenizer.
        chat: whether prompts use its chat template, if it has one.

    Raises:
        ConfigError: the distributions of the model change with the padding.
    """

    large = True

    def __init__(self, model: TransformersModel, chat: bool = True) -> None:
        self.model, self.name, self.size = model, model.name, len(model.tokens.table)
        self.prompts = PromptTemplate(model.tokens.tokenizer, model.name, chat)
        self.backtracking = frozenset(
            i
            for i, text in enumerate(model.tokens.table.texts)
            if text and text.decode(errors="replace").strip().lower() in BACKTRACKING
        )
        if fault := growing_rows_fault(model, padded=True):
            raise ConfigError(
                f"{quote(self.name)} cannot be run in padded batches: {fault}; give a model whose "
                "attention takes a mask, and that keeps keys and values"
            )

    @property
    def module(self) -> nn.Module:
        """See `Policy`."""
        module: nn.Module = self.model.module
        return module

    def prompt(
        self, problem: Problem, attempt: Ids | None = None, feedback: str | None = None
    ) -> Ids:
        """See `Policy`. An attempt and feedback are text of the user's message.

        A space splits the names of special tokens in them, so that no text ends the message.
        Raises ConfigError where no token of an answer fits after the prompt.
        """
        parts = [problem.text]
        if attempt is not None:
            parts.append(f"{ATTEMPT}\n\n{_fenced(self._ordinary(self.text(attempt)))}")
        if feedback:
            parts.append(f"{FEEDBACK}\n\n{self._ordinary(feedback)}")
        if attempt is not None or feedback is not None:
            parts.append(AGAIN)
        return self._fitting(self.prompts.ids("\n\n".join(parts)))

    def text(self, answer: Ids) -> str:
        """See `Policy`. Special tokens have no text; bytes that are not UTF-8 are replaced."""
        return self.model.tokens.table.text(answer).decode(errors="replace")

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Ids], keys: Sequence[int], temperature: float, limit: int
    ) -> list[Ids]:
        """See `Policy`. An answer also stops where the model has no more positions.

        Raises:
            ConfigError: a prompt has no tokens, or leaves no room for one more.
            LogitsError: the model gives NaN.
        """
        self.module.eval()
        room, answers = self.model.room, list[Ids]([()] * len(prompts))
        sizes = [len(self._fitting(prompt)) for prompt in prompts]
        limits = [limit if room is None else min(limit, room - size) for size in sizes]
        for group in groups([size + limit for size in sizes], DRAWN, ROWS):
            rows = GrowingRows(self.model, [prompts[i] for i in group])
            scores, own = rows.log_p(), torch.tensor([keys[i] for i in group])
            strings = AnswerStrings([limits[i] for i in group], self.model.tokens.table.ends)
            allowed = ~self.model.barred.to(scores.device)
            drawn = draw_answers(rows, scores, own, temperature, strings, allowed)
            for i, answer in zip(group, drawn, strict=True):
                answers[i] = answer
        return answers

    def logits(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """See `Policy`: the model's own, including those of ids that are never drawn.

        Raises:
            ConfigError: a prompt has no tokens, or prompt and answer exceed the model's positions.
        """
        self.module.eval()
        rows = [
            (*self._fitting(prompt, len(answer)), *answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        together = groups([len(row) for row in rows], SCORED, len(rows))
        if len(together) == 1:
            return self._score(rows, [len(answer) for answer in answers])
        longest, scored = max(map(len, answers)), dict[int, Tensor]()
        for group in together:
            logits = self._score([rows[i] for i in group], [len(answers[i]) for i in group])
            padded = nn.functional.pad(logits, (0, 0, 0, longest - logits.shape[1]))
            scored.update(zip(group, padded, strict=True))
        return torch.stack([scored[i] for i in range(len(rows))])

    def _score(self, rows: Sequence[Ids], sizes: list[int]) -> Tensor:
        """(batch, longest answer, size) float32 logits of answers, the last `sizes` ids of rows."""
        keep = max(sizes)  # the last token of a row is scored, not read
        read = GrowingRows(self.model, [row[:-1] for row in rows], caches=False)
        logits = read.logits(keep).float()
        if min(sizes) == keep:
            return logits
        begins = keep - torch.tensor(sizes, device=logits.device)  # answers end in one column
        at = begins[:, None] + torch.arange(keep, device=logits.device)  # (batch, longest answer)
        return logits.gather(1, at.clamp(max=keep - 1)[..., None].expand_as(logits))

    def twin(self) -> HuggingFacePolicy:
        """See `Policy`. Tokenizer and tables are shared."""
        other = copy.copy(self)
        other.model = self.model.twin()
        return other

    def _ordinary(self, text: str) -> str:
        """The text without names of special tokens, so that no tokenizer finds one."""
        for name in self.model.tokens.special_names:
            text = text.replace(name, f"{name[0]} {name[1:]}")
        return text

    def _fitting(self, prompt: Ids, answer: int = 1) -> Ids:
        """The prompt, if it has tokens and leaves room for `answer` tokens."""
        room = self.model.room
        if not prompt:
            raise ConfigError("this prompt has no tokens; give a problem that is not empty")
        if room is not None and len(prompt) + answer > room:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer of {answer} in the "
                f"{room} positions of {quote(self.name)}: give shorter problems or feedback, or "
                "allow fewer tokens of an answer"
            )
        return prompt


def _fenced(text: str) -> str:
    """A text between lines of more backticks than it has in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


__all__ = ["AGAIN", "ATTEMPT", "BACKTRACKING", "FEEDBACK", "HuggingFacePolicy", "load_policy"]
