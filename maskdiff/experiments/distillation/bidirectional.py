"""`BidirectionalTeacher`: hides the tokens of an answer that it doubts, and draws them again.

Its answer has as many tokens as the student's, so that places stay aligned; a teacher who writes
from left to right shifts everything after its first change. The places of the revised answer are
scored by the causal mode. A visible token is right by assumption of the training, so doubt is
measured with the token hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskdiff.drawing.settings import Draw
from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.policy import Ids
from maskdiff.sampling.canvas import Canvas
from maskdiff.sampling.leave_out import every, leave_out
from maskdiff.sampling.unmask import Unmask


@dataclass(frozen=True)
class BidirectionalTeacher:
    """Revises answers with the bidirectional mode of a model.

    Attributes:
        policy: The model.
        groups: Evaluations of an answer in which every token is hidden once.
        doubt: Tokens of less probability are drawn again.
        most: Share of the tokens of an answer that are drawn again at most, the least certain.
    """

    policy: OwnPolicy
    groups: int = 6
    doubt: float = 0.5
    most: float = 0.5

    @torch.no_grad()
    def confidence(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[Tensor]:
        """(places,) probability of every token of an answer but its end.

        Each is hidden together with every `groups`-th other token.
        """
        if not answers:
            return []
        bodies = [self._body(answer) for answer in answers]
        vocabulary, device = self.policy.vocabulary, self.policy.loaded.device
        rows = [
            [*prompt, *body, vocabulary.eos] for prompt, body in zip(prompts, bodies, strict=True)
        ]
        width = max(map(len, rows))
        tokens = torch.tensor(
            [row + [vocabulary.pad] * (width - len(row)) for row in rows], device=device
        )
        length = torch.tensor([len(row) for row in rows], device=device)
        start = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
        order = torch.arange(width, device=device)
        places = (order >= start) & (order < length[:, None] - 1)

        # Each group of a row that hides something is a row of its own.
        hidden = every(places, self.groups)
        group, row = hidden.any(2).nonzero(as_tuple=True)
        scores = torch.zeros(tokens.shape, dtype=torch.float64, device=device)
        if len(row):
            denoiser = self.policy.loaded.denoiser
            found = leave_out(denoiser, tokens[row], length[row], hidden[group, row])
            scores.index_add_(0, row, found.to(scores))
        return [
            scores[i, len(prompt) : len(prompt) + len(body)].exp().cpu()
            for i, (prompt, body) in enumerate(zip(prompts, bodies, strict=True))
        ]

    @torch.no_grad()
    def revise(
        self,
        prompts: Sequence[Ids],
        answers: Sequence[Ids],
        keys: Sequence[int],
        temperature: float,
    ) -> list[Ids]:
        """Answers of the same lengths with the doubted tokens drawn again.

        One token an evaluation, the most certain first.
        """
        chosen = [self._doubted(confidence) for confidence in self.confidence(prompts, answers)]
        made = list(answers)
        some = [i for i, places in enumerate(chosen) if places]
        if not some:
            return made
        vocabulary = self.policy.vocabulary
        rows, known = [], []
        for i in some:
            begun = list(prompts[i][1:])  # a canvas brings its own BOS
            body = self._body(answers[i])
            rows.append(
                begun
                + [
                    vocabulary.mask if place in chosen[i] else token
                    for place, token in enumerate(body)
                ]
            )
            known.append([token != vocabulary.mask for token in rows[-1]])
        canvas = Canvas.of(rows, known, vocabulary, device=self.policy.loaded.device)
        canvas = replace(
            canvas, keys=torch.tensor([keys[i] for i in some], device=canvas.tokens.device)
        )
        loop = Unmask(order="entropy", steps=0, draw=Draw(temperature))
        filled = loop(self.policy.loaded.denoiser, canvas).tokens.tolist()
        for whole, i in zip(filled, some, strict=True):
            start, body = len(prompts[i]), self._body(answers[i])
            made[i] = (*whole[start : start + len(body)], *answers[i][len(body) :])
        return made

    def _body(self, answer: Ids) -> Ids:
        """An answer without its end."""
        return answer[:-1] if answer[-1:] == (self.policy.vocabulary.eos,) else answer

    def _doubted(self, confidence: Tensor) -> set[int]:
        """Places of the tokens that are drawn again."""
        least_first = confidence.argsort(stable=True).tolist()
        return {
            place
            for place in least_first[: int(self.most * len(least_first))]
            if float(confidence[place]) < self.doubt
        }


__all__ = ["BidirectionalTeacher"]
