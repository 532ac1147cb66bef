"""Our bidirectional mode as a backend: what is there so far is clamped, and blanks behind it are filled block by block.

For: `BlockBackend`, semi-autoregressive as in 2503.09573 (block diffusion) and LLaDA (2502.09992). Not for: models that never
saw a canvas whose end is open (`open_share` of training), which fill blanks only where a string ends behind them. Easy to get
wrong: within a block tokens are drawn in the order of confidence, so the log-probability of a step is a sum over that order,
and leaves out tokens of the block behind its end, which it may have seen; those are thrown away, though they were paid for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.errors import ConfigError
from maskdiff.stepwise.drawing import Drawn, Step, answered, draw, key_of
from maskdiff.stepwise.protocol import BackendError, Capabilities, Reply, Request, Spent

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded


@dataclass
class _Row:
    """A canvas under way: what is clamped, then a block of which `filled` tells place -> the draw that filled it."""

    owner: int
    step: Step
    given: list[int]
    block: int
    filled: dict[int, tuple[Drawn, int]] = field(default_factory=dict)  # and the row of it

    @property
    def start(self) -> int:
        """Place of the block's first token; BOS is at 0."""
        return 1 + len(self.given) + len(self.step.ids)


class BlockBackend:
    """Implements `StepBackend` by the bidirectional mode of a denoiser.

    block: tokens that are filled at a time; each evaluation of the canvas commits `per_call` of them, the most confident
    first. Raises ConfigError for a model that was not trained on open canvases.
    """

    capabilities = Capabilities(
        continues=True, log_probs=True, entropies=True, stop_strings=True, seed=True, token_ids=True
    )

    def __init__(
        self, loaded: Loaded, name: str = "blocks", block: int = 8, per_call: int = 1
    ) -> None:
        if loaded.config.train.open_share == 0.0:
            raise ConfigError(
                "this model never saw a string whose end is open, so it cannot write block by block; "
                "train it with open_share above 0, or take the causal backend"
            )
        if block < 1 or per_call < 1:
            raise ConfigError(
                f"block_size is {block} and per_call {per_call}; both must be at least 1"
            )
        self.name, self.vocabulary, self.denoiser = name, loaded.vocabulary, loaded.denoiser
        self.block, self.per_call, self.device = block, per_call, loaded.device
        self.longest = loaded.config.model.block_size
        drawn = torch.zeros(len(self.vocabulary), dtype=torch.bool)
        drawn[[*self.vocabulary.inner_ids, self.vocabulary.eos]] = True
        self.allowed = drawn

    def forget(self) -> None:
        """See `StepBackend`; nothing is kept."""

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """See `StepBackend`. Raises ParseError for foreign symbols, BackendError for a prompt longer than any trained canvas."""
        began = time.perf_counter()
        writing: list[list[Step]] = []
        rows: list[_Row] = []
        for r, request in enumerate(requests):
            given = [*self.vocabulary.encode(request.prompt), *answered(request, self.vocabulary)]
            if len(given) + 2 > self.longest:
                raise BackendError(
                    f"prompt and answer have {len(given)} tokens; the canvases of this model end at {self.longest}"
                )
            steps = [Step(request, key_of(request, i)) for i in range(request.num)]
            writing.append(steps)
            rows += [_Row(r, step, given, self.block) for step in steps if step.finish is None]
        tokens, calls = [0] * len(requests), [0] * len(requests)
        while rows:
            self._evaluate(rows, tokens, calls)
            rows = [row for row in rows if not self._settled(row)]
        share = (time.perf_counter() - began) / max(1, len(requests))
        return [
            Reply(
                tuple(step.candidate() for step in steps),
                Spent(tokens[r], calls[r], len(steps), share),
            )
            for r, steps in enumerate(writing)
        ]

    def _evaluate(self, rows: list[_Row], tokens: list[int], calls: list[int]) -> None:
        """One evaluation of every canvas; its most confident blanks are drawn and filled."""
        canvases, length = self._canvases(rows)
        logits = self.denoiser(
            canvases, length, torch.zeros(len(rows), device=self.device), False, None
        )
        log_p = logits.cpu().double().masked_fill(~self.allowed, -torch.inf).log_softmax(-1)
        for n in length.tolist():
            assert n <= self.longest
        for i, row in enumerate(rows):
            tokens[row.owner] += int(length[i])
            blanks = [
                place
                for place in range(row.start, row.start + row.block)
                if place not in row.filled
            ]
            sure = log_p[i, blanks].amax(-1)
            chosen = [
                blanks[j] for j in sure.topk(min(self.per_call, len(blanks))).indices.tolist()
            ]
            temperature = row.step.request.temperature
            drawn = draw(
                log_p[i, chosen], [row.step.key] * len(chosen), chosen, [temperature] * len(chosen)
            )
            row.filled.update({place: (drawn, j) for j, place in enumerate(chosen)})
        for owner in {row.owner for row in rows}:
            calls[owner] += 1

    def _canvases(self, rows: list[_Row]) -> tuple[Tensor, Tensor]:
        """(rows, width) tokens and (rows,) lengths: BOS, what is given, the block. Blocks that would not fit are shorter."""
        texts = []
        for row in rows:
            row.block = min(row.block, self.longest - row.start)
            block = [
                row.filled[place][0].ids[row.filled[place][1]]
                if place in row.filled
                else self.vocabulary.mask
                for place in range(row.start, row.start + row.block)
            ]
            texts.append([self.vocabulary.bos, *row.given, *row.step.ids, *block])
        width = max(map(len, texts))
        padded = [text + [self.vocabulary.pad] * (width - len(text)) for text in texts]
        return torch.tensor(padded, device=self.device), torch.tensor(
            [len(text) for text in texts], device=self.device
        )

    def _settled(self, row: _Row) -> bool:
        """Whether the step has ended: a block that is full is handed to it, up to its end."""
        if len(row.filled) < row.block:
            return False
        for place in range(row.start, row.start + row.block):
            drawn, i = row.filled[place]
            row.step.add(drawn.ids[i], drawn, i, self.vocabulary)
            if row.step.finish is not None:
                return True
        row.filled = {}
        if row.start >= self.longest:
            row.step.finish = "length"
        return row.step.finish is not None


__all__ = ["BlockBackend"]
