"""A causal language model of Hugging Face as a policy: asked in words, answered in ids.

For: `HuggingFacePolicy`, and `load_policy`, of a folder or a name. Not for: loading, chat templates and token tables, which are
those of `maskdiff.stepwise.hugging_face`, or models that cannot be run in padded batches, which are refused.
Easy to get wrong: weights of bfloat16 do not move at the learning rates of fine-tuning. A step of 1e-6 is less than half of the
distance from a weight to the next number, and is rounded away, silently; so they are loaded as float32.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskdiff.errors import ConfigError, folded, quote
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import Ids, groups, pick
from maskdiff.stepwise.hugging_face import HuggingFaceBackend, load
from maskdiff.stepwise.protocol import BackendError

ATTEMPT = "## Previous attempt"
FEEDBACK = "## Feedback on the previous attempt"
AGAIN = "Now solve the problem again from scratch, and write the whole solution."

# Tokens that take something back, or begin to; `#` and `//` begin a comment, in which code is thought over.
BACKTRACKING = frozenset(
    {"wait", "actually", "no", "hmm", "but", "however", "sorry", "instead", "oops", "#", "//"}
)

ROWS = 128  # answers that are drawn together, at most
DRAWN = 65_536  # tokens whose keys and values are kept together, padding and room for the answers included
SCORED = (
    8_192  # tokens that go through the model together where answers are scored, padding included
)
DTYPES = ("float32", "bfloat16", "float64")


def load_policy(
    name: str | Path, device: str | torch.device = "cpu", dtype: str = "float32"
) -> HuggingFacePolicy:
    """What `save_pretrained` wrote to a folder, or what `from_pretrained` knows by name: safetensors, and no code.

    device: as in `resolve_device`. dtype: of the weights, one of DTYPES; whoever trains bfloat16 keeps a copy in float32.
    Raises ConfigError where the package transformers or the device is missing, or the model is none that can be run in padded
    batches; CheckpointError for what cannot be read; BackendError for a chat template that hides where an answer begins.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {quote(dtype)}; it must be one of {', '.join(DTYPES)}")
    return HuggingFacePolicy(load(name, device, getattr(torch, dtype), kept=0))


class HuggingFacePolicy:
    """Implements `Policy`. The model stays in evaluation mode, in training too: answers are drawn from what scores them.

    room: positions of the model, which prompt and answer share; None where it has no limit. The prompt of a chat template that
    writes the marks of a thought before every answer (Qwen3's) ends with them: such a model answers without thinking first.
    Raises ConfigError for a model whose distributions change with the padding.
    """

    large = True

    def __init__(self, generator: HuggingFaceBackend) -> None:
        self.generator, self.name, self.room = generator, generator.name, generator.room
        self.module: nn.Module = generator.model
        texts = generator.table.texts
        self.size = len(texts)
        self.backtracking = frozenset(
            i for i, text in enumerate(texts) if text and _word(text) in BACKTRACKING
        )
        special = [i for i, text in enumerate(texts) if text is None]
        names = generator.tokenizer.convert_ids_to_tokens(special)
        self._special = tuple(name for name in names if name and len(name) > 1)
        self._positioned = "position_ids" in inspect.signature(generator.model.forward).parameters
        self._check_padding()

    def prompt(
        self, problem: Problem, attempt: Ids | None = None, feedback: str | None = None
    ) -> Ids:
        """See `Policy`. An attempt and feedback are text of the user's message; where one reads like a special token, a space
        splits it there, so that nothing in it ends the message. Feedback that says nothing asks again like any other. Raises
        BackendError where no token of an answer fits behind.
        """
        parts = [problem.text]
        if attempt is not None:
            parts.append(f"{ATTEMPT}\n\n{_fenced(self._ordinary(self.text(attempt)))}")
        if feedback:
            parts.append(f"{FEEDBACK}\n\n{self._ordinary(feedback)}")
        if attempt is not None or feedback is not None:
            parts.append(AGAIN)
        return self._fitting(self.generator.prompt_ids("\n\n".join(parts)))

    def text(self, answer: Ids) -> str:
        """See `Policy`. Special tokens say nothing; bytes that are no UTF-8 are shown as replacement characters."""
        return self.generator.table.text(answer).decode(errors="replace")

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Ids], keys: Sequence[int], temperature: float, limit: int
    ) -> list[Ids]:
        """See `Policy`. An answer also stops where the model has no more positions. Raises BackendError for a prompt without
        tokens or without room for one more, and where the model says what is no number.
        """
        self.module.eval()
        limits = [
            limit if self.room is None else min(limit, self.room - len(self._fitting(prompt)))
            for prompt in prompts
        ]
        answers: list[Ids] = [()] * len(prompts)
        for group in groups(
            [len(self._fitting(prompt)) + limit for prompt in prompts], DRAWN, ROWS
        ):
            chosen = torch.tensor([keys[i] for i in group])
            drawn = self._draw(
                [prompts[i] for i in group], chosen, temperature, [limits[i] for i in group]
            )
            for i, answer in zip(group, drawn, strict=True):
                answers[i] = answer
        return answers

    def _draw(
        self, prompts: list[Ids], keys: Tensor, temperature: float, limits: list[int]
    ) -> list[Ids]:
        """Answers to prompts that fit in one batch."""
        answers: list[list[int]] = [[] for _ in prompts]
        alive, ends = list(range(len(prompts))), frozenset(self.generator.table.ends)
        reading = _Reading(self, prompts)
        for place in range(max(limits)):
            logits = reading.next()
            if not logits.logsumexp(-1).isfinite().all():
                raise BackendError(
                    f"{quote(self.name)} says what is no number, at token {place} of an answer"
                )
            allowed = logits.masked_fill(self.generator.barred.to(logits.device), -torch.inf)
            drawn = pick(allowed, keys[alive], place, temperature).tolist()
            for row, token in zip(alive, drawn, strict=True):
                answers[row].append(token)
            going = [
                n for n, row in enumerate(alive) if drawn[n] not in ends and place + 1 < limits[row]
            ]
            if not going:
                break
            reading.go_on(going, [drawn[n] for n in going])
            alive = [alive[n] for n in going]
        return [tuple(answer) for answer in answers]

    def logits(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """See `Policy`: the model's own, with those of ids that are never drawn. Raises BackendError where a prompt has no
        tokens, or prompt and answer have more than the model has positions.
        """
        self.module.eval()
        rows = [
            (*self._fitting(prompt, len(answer)), *answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        together = groups([len(row) for row in rows], SCORED, len(rows))
        if len(together) == 1:
            return self._score(rows, answers)
        longest, made = max(map(len, answers)), dict[int, Tensor]()
        for group in together:
            scores = self._score(
                [rows[i] for i in group], [answers[i] for i in group]
            )  # (group, its longest, size)
            made.update(
                zip(
                    group,
                    nn.functional.pad(scores, (0, 0, 0, longest - scores.shape[1])),
                    strict=True,
                )
            )
        return torch.stack([made[i] for i in range(len(rows))])

    def _score(self, rows: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """(batch, longest answer, size) float32: what scores the answers that `rows` end with, padded on the right."""
        width, device = max(map(len, rows)), self.generator.model.device
        tokens = torch.tensor(
            [[*row, *[0] * (width - len(row))] for row in rows], device=device
        )  # (batch, width)
        length = torch.tensor([len(row) for row in rows], device=device)
        positions = torch.arange(width, device=device).expand(len(rows), -1)
        before = (
            length - torch.tensor([len(answer) for answer in answers], device=device) - 1
        )  # the last place of the prompt
        at = before[:, None] + torch.arange(
            max(map(len, answers)), device=device
        )  # (batch, longest answer)
        out = self.forward(
            tokens, positions < length[:, None], positions, at.clamp(max=width - 1), use_cache=False
        )
        logits: Tensor = out.logits
        return logits.float()

    def forward(
        self, tokens: Tensor, mask: Tensor, positions: Tensor, at: Tensor, **settings: Any
    ) -> Any:
        """What the model makes of tokens, mask and positions (batch, width), with logits (batch, n, size) of the places `at`
        (batch, n) alone: those of a vocabulary of 150,000 at all places would take more memory than all the rest.
        """

        def chosen(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
            hidden = given[0]  # (batch, width, features)
            return (hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1])),)

        if self._positioned:
            settings["position_ids"] = positions
        model = self.generator.model
        hook = model.get_output_embeddings().register_forward_pre_hook(chosen)
        try:
            return model(input_ids=tokens, attention_mask=mask.long(), **settings)
        finally:
            hook.remove()

    def twin(self) -> HuggingFacePolicy:
        """See `Policy`. Tokenizer and tables are shared."""
        other, generator = copy.copy(self), copy.copy(self.generator)
        generator.model = copy.deepcopy(self.generator.model)
        other.generator, other.module = generator, generator.model
        return other

    def _ordinary(self, text: str) -> str:
        """The text, in which no tokenizer finds a special token."""
        for name in self._special:
            text = text.replace(name, f"{name[0]} {name[1:]}")
        return text

    def _fitting(self, prompt: Ids, answer: int = 1) -> Ids:
        """The prompt, if it has tokens, and an answer of so many fits behind it."""
        if not prompt:
            raise BackendError("this prompt has no tokens; give a problem that is not empty")
        if self.room is not None and len(prompt) + answer > self.room:
            raise BackendError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer of {answer} in the {self.room} positions of "
                f"{quote(self.name)}: give shorter problems or feedback, or allow fewer tokens of an answer"
            )
        return prompt

    @torch.no_grad()
    def _check_padding(self) -> None:
        """Run a few tokens in padded batches, and alone: a model that overlooks mask or positions would be wrong silently."""
        ordinary = [token for token, text in enumerate(self.generator.table.texts) if text]
        a, b, c = (ordinary[(len(ordinary) - 1) * i // 2] for i in range(3))
        model, paths, given = self.generator.model, [(a, b, c, a), (b,), (c, b)], list[Tensor]()
        try:
            reading, known = _Reading(self, paths), list(paths)
            given += reading.next()
            for rows, tokens in (([0, 1, 2], [c, a, b]), ([1, 2], [b, c]), ([0], [c])):
                reading.go_on(rows, tokens)
                given += reading.next()
                known = [(*known[row], token) for row, token in zip(rows, tokens, strict=True)]
                paths += known
            given += self._score([(a, b, c), (b, c)], [(c,), (c,)])[:, 0]
            paths += [(a, b), (b,)]
            alone = [
                model(torch.tensor([path], device=model.device)).logits[0, -1] for path in paths
            ]
            p, q = (
                torch.stack([row.cpu().double() for row in rows]).softmax(-1)
                for rows in (given, alone)
            )
            distance = (p - q).abs().sum(1).max().item() / 2
        except Exception as error:  # whatever a model's own code raises
            raise ConfigError(
                f"{quote(self.name)} cannot be run in padded batches: {folded(error)}"
            ) from error
        if not distance <= (1e-3 if model.dtype.itemsize >= 4 else 0.05):
            raise ConfigError(
                f"{quote(self.name)} cannot be run in padded batches: its distributions are off by {distance:.2g} in total "
                "variation there; give a model whose attention takes a mask, and that keeps keys and values"
            )


class _Reading:
    """What a model has read of several prompts, whose ends stand below each other, and of the answers behind them."""

    def __init__(self, policy: HuggingFacePolicy, prompts: Sequence[Ids]) -> None:
        self._policy, width = policy, max(map(len, prompts))
        self._cache: Any = None
        device = policy.generator.model.device
        self._new = torch.tensor(
            [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device
        )
        pads = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
        self._mask = (
            torch.arange(width, device=device) >= pads[:, None]
        )  # (rows, width) whatever is no padding

    def next(self) -> Tensor:
        """(rows, size) logits of the token behind all that there is."""
        new = self._new.shape[1]
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -new:]
        last = torch.full((len(self._new), 1), new - 1, device=self._new.device)
        out = self._policy.forward(
            self._new, self._mask, positions, last, past_key_values=self._cache, use_cache=True
        )
        self._cache, logits = out.past_key_values, out.logits[:, -1]
        return logits.cpu() if logits.device.type == "mps" else logits  # mps has no float64

    def go_on(self, rows: list[int], tokens: list[int]) -> None:
        """Keep some of the rows, and put a token behind each."""
        index = torch.tensor(rows, device=self._mask.device)
        if len(rows) < len(self._mask):
            self._cache.reorder_cache(index)
        self._new = torch.tensor(tokens, device=index.device)[:, None]
        self._mask = nn.functional.pad(self._mask[index], (0, 1), value=True)


def _fenced(text: str) -> str:
    """A text between lines of more backticks than it has anywhere in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _word(text: bytes) -> str:
    """What a token says, without white space and capitals; one that is no UTF-8 alone says nothing of ours."""
    return text.decode(errors="replace").strip().lower()


__all__ = ["AGAIN", "ATTEMPT", "BACKTRACKING", "FEEDBACK", "HuggingFacePolicy", "load_policy"]
