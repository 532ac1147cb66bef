"""A teacher that sees a whole answer at once: it hides the tokens that it doubts, and writes them anew in their places.

Its own answer has as many tokens as the student's, so that places stay aligned, where a teacher who writes from left to right
shifts everything behind its first change. For: `BidirectionalTeacher.revise`. Not for: judging; the places of the revised
answer are scored by the causal mode like any other answer's. Easy to get wrong: a visible token is right by assumption of the
training, so that doubt is measured with the token hidden, some of them at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskdiff.experiments.distillation.causal_policy import OwnPolicy
from maskdiff.experiments.distillation.policy import Ids
from maskdiff.sampling.canvas import Canvas
from maskdiff.sampling.unmask import Unmask


@dataclass(frozen=True)
class BidirectionalTeacher:
    """The bidirectional mode of a model, as a reviser of answers.

    groups: evaluations of an answer in which every token is hidden once; more hide fewer at a time. doubt: tokens of less
    probability are written anew, the least certain first, of an answer's tokens at most the share `most`.
    """

    policy: OwnPolicy
    groups: int = 6
    doubt: float = 0.5
    most: float = 0.5

    @torch.no_grad()
    def confidence(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[Tensor]:
        """(places,) probability of every token of an answer but its end, hidden together with every `groups`-th other."""
        bodies = [self._body(answer) for answer in answers]
        rows: list[list[int]] = []
        spots: list[tuple[int, range]] = []
        for i, (prompt, body) in enumerate(zip(prompts, bodies, strict=True)):
            for first in range(min(self.groups, len(body))):
                row = [*prompt, *body]
                places = range(first, len(body), self.groups)
                for place in places:
                    row[len(prompt) + place] = self.policy.vocabulary.mask
                rows.append(row)
                spots.append((i, places))
        made = [torch.zeros(len(body)) for body in bodies]
        if rows:
            for scores, (i, places) in zip(self._scores(rows), spots, strict=True):
                for place in places:
                    made[i][place] = scores[len(prompts[i]) + place].softmax(-1)[bodies[i][place]]
        return made

    @torch.no_grad()
    def revise(
        self,
        prompts: Sequence[Ids],
        answers: Sequence[Ids],
        keys: Sequence[int],
        temperature: float,
    ) -> list[Ids]:
        """Answers of the same lengths in which the doubted tokens were drawn anew, one at an evaluation, the most certain
        first.
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
        loop = Unmask(order="entropy", steps=0, temperature=temperature)
        filled = loop(self.policy.loaded.denoiser, canvas).tokens.tolist()
        for whole, i in zip(filled, some, strict=True):
            start, body = len(prompts[i]), self._body(answers[i])
            made[i] = (*whole[start : start + len(body)], *answers[i][len(body) :])
        return made

    def _body(self, answer: Ids) -> Ids:
        """An answer without its end."""
        return answer[:-1] if answer[-1:] == (self.policy.vocabulary.eos,) else answer

    def _doubted(self, confidence: Tensor) -> set[int]:
        """Places to be written anew."""
        least_first = confidence.argsort(stable=True).tolist()
        return {
            place
            for place in least_first[: int(self.most * len(least_first))]
            if float(confidence[place]) < self.doubt
        }

    def _scores(self, rows: list[list[int]]) -> Tensor:
        """(rows, width, vocab) logits of the bidirectional mode; each row is BOS and symbols."""
        vocabulary, device = self.policy.vocabulary, self.policy.loaded.device
        width = max(map(len, rows)) + 1
        ended = [[*row, vocabulary.eos, *[vocabulary.pad] * (width - len(row) - 1)] for row in rows]
        length = torch.tensor([len(row) + 1 for row in rows], device=device)
        scores: Tensor = self.policy.loaded.denoiser(
            torch.tensor(ended, device=device), length, torch.zeros(len(rows), device=device), False
        )
        return scores


__all__ = ["BidirectionalTeacher"]
