"""`OwnPolicy`: our causal mode as a policy, a model of `arithmetic-corrections`.

The pieces of this language end at its marks, so that a prompt, an attempt and feedback put together
as ids are tokenised as their text is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskdiff.errors import ConfigError
from maskdiff.experiments.distillation.environment import Problem
from maskdiff.experiments.distillation.policy import AnswerStrings, Ids, draw_answers, groups
from maskdiff.languages import ArithmeticCorrections
from maskdiff.languages.arithmetic_corrections import BACKTRACK
from maskdiff.models.causal import PromptStream

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded

ROWS = 128  # answers that are drawn together
DRAWN = 2**16  # rows x tokens of prompts that are read together
SCORED = 2**14  # rows x tokens that go through the model together where answers are scored


class OwnPolicy:
    """Implements `Policy`.

    Raises:
        ConfigError: For a model of another language, or one that does not end its strings itself.
    """

    large = False

    def __init__(self, loaded: Loaded, name: str = "") -> None:
        if not isinstance(loaded.language, ArithmeticCorrections):
            raise ConfigError(
                f"this is a model of {loaded.language.name}; self-distillation needs one that was "
                "taught to use feedback: take one of arithmetic-corrections, such as "
                "checkpoints/arithmetic-corrections.pt"
            )
        if loaded.config.model.head == "aligned":
            raise ConfigError("this model predicts no next token; take one trained with head: next")
        if loaded.length_conditioned:
            raise ConfigError(
                "this model is conditioned on the length of its strings; "
                "take one trained with causal_length: false"
            )
        self.loaded, self.language, self.vocabulary = loaded, loaded.language, loaded.vocabulary
        self.denoiser = loaded.neural("self-distillation")
        self.name, self.size = name or loaded.language.name, len(loaded.vocabulary)
        self.backtracking = frozenset({self.vocabulary.ids[BACKTRACK]})
        barred = torch.zeros(self.size, dtype=torch.bool)
        barred[[i for i in self.vocabulary.specials if i != self.vocabulary.eos]] = True
        self._barred = barred.to(loaded.device)
        self.module.requires_grad_(True)  # a model that was loaded to sample has none

    @property
    def module(self) -> nn.Module:
        """See `Policy`."""
        model: nn.Module = self.denoiser.model
        return model

    def prompt(
        self, problem: Problem, attempt: Ids | None = None, feedback: str | None = None
    ) -> Ids:
        """See `Policy`. Raises ParseError for symbols that the language has not."""
        comment = feedback if attempt is None else feedback or ""
        empty = self.language.prompt(problem.text, None if attempt is None else "", comment)
        at = len(problem.text) + 1  # after the mark that begins an attempt
        encode, vocabulary = self.vocabulary.encode, self.vocabulary
        shown = [token for token in attempt or () if token != vocabulary.eos]
        return (vocabulary.bos, *encode(empty[:at]), *shown, *encode(empty[at:]))

    def text(self, answer: Ids) -> str:
        """See `Policy`."""
        return self.vocabulary.decode([token for token in answer if token != self.vocabulary.eos])

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Ids], keys: Sequence[int], temperature: float, limit: int
    ) -> list[Ids]:
        """See `Policy`."""
        answers: list[Ids] = [()] * len(prompts)
        for rows in groups([len(prompt) for prompt in prompts], DRAWN, ROWS):
            drawn = self._sample(
                [prompts[i] for i in rows],
                torch.tensor([keys[i] for i in rows]),
                temperature,
                limit,
            )
            for i, answer in zip(rows, drawn, strict=True):
                answers[i] = answer
        return answers

    def _sample(
        self, prompts: list[Ids], keys: Tensor, temperature: float, limit: int
    ) -> list[Ids]:
        """Answers to prompts that fit in one batch."""
        stream = PromptStream(self.denoiser.model, prompts, self.vocabulary.pad, limit)
        strings = AnswerStrings([limit] * len(prompts), {self.vocabulary.eos})
        return draw_answers(stream, stream.scores, keys, temperature, strings, ~self._barred)

    def logits(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
        """See `Policy`."""
        longest = max(map(len, answers))
        rows = [(*prompt, *answer) for prompt, answer in zip(prompts, answers, strict=True)]
        made: dict[int, Tensor] = {}
        for group in groups([len(row) for row in rows], SCORED, len(rows)):
            scores = self._forward([rows[i] for i in group])  # (group, width, size)
            for scored, i in zip(scores, group, strict=True):
                made[i] = nn.functional.pad(
                    scored[len(prompts[i]) : len(rows[i])], (0, 0, 0, longest - len(answers[i]))
                )
        return torch.stack([made[i] for i in range(len(rows))])

    def _forward(self, rows: list[Ids]) -> Tensor:
        """(batch, width, size) logits in causal mode, row i scoring token i."""
        device, width = self.loaded.device, max(map(len, rows))
        tokens = torch.tensor(
            [[*row, *[self.vocabulary.pad] * (width - len(row))] for row in rows], device=device
        )
        length = torch.tensor([len(row) for row in rows], device=device)
        scores: Tensor = self.denoiser.model.forward_strings(
            tokens, length, torch.zeros(len(rows), device=device), True
        )
        return scores.float()

    def twin(self) -> OwnPolicy:
        """See `Policy`."""
        denoiser = copy.copy(self.denoiser)
        denoiser.model = copy.deepcopy(denoiser.model)
        return OwnPolicy(replace(self.loaded, denoiser=denoiser), self.name)
