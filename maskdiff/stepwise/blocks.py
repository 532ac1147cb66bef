"""Our bidirectional mode as a backend: blanks after what is there are filled block by block.

Semi-autoregressive, as in block diffusion (2503.09573) and LLaDA (2502.09992). Within a block
tokens are committed in the order of confidence, so the log-probability of a step is a sum over that
order, and leaves out the tokens of the block beyond the end of the step, which it may have seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskdiff.drawing.logits import token_figures
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.sampling.canvas import Canvas
from maskdiff.sampling.order import Proposal
from maskdiff.sampling.schedule import Clock
from maskdiff.sampling.unmask import Unmask
from maskdiff.stepwise.protocol import BackendError, Capabilities, Reply, Request
from maskdiff.stepwise.writing import Step, answer_ids, candidate_keys, replies, symbol

if TYPE_CHECKING:
    from maskdiff.checkpoint import Loaded


@dataclass(frozen=True)
class EachCall:
    """A `Schedule` of the same number of tokens at every evaluation."""

    count: int

    def quota(self, clock: Clock, free: Tensor) -> Tensor:
        """See `Schedule.quota`."""
        return torch.full_like(clock.blanks, self.count)

    def extra(self, clock: Clock, proposal: Proposal, place: Tensor) -> Tensor:
        """See `Schedule.extra`."""
        return torch.full_like(clock.blanks, self.count)


@dataclass
class _Row:
    """A step while it is written, and the tokens before it."""

    owner: int  # number of its request
    step: Step
    given: list[int]
    key: Tensor  # ()

    @property
    def before(self) -> list[int]:
        """The inner tokens before the next block."""
        return [*self.given, *self.step.ids]


class BlockBackend:
    """Implements `StepBackend` by the bidirectional mode of a denoiser.

    Args:
        loaded: A model that was trained on open canvases.
        name: Of the backend.
        block: Tokens that are filled at a time.
        per_call: Tokens that an evaluation commits, the most confident first.

    Raises:
        ConfigError: For a model that was not trained on open canvases, and numbers below 1.
    """

    capabilities = Capabilities(
        continues=True, log_probs=True, entropies=True, stop_strings=True, seed=True, token_ids=True
    )

    def __init__(
        self, loaded: Loaded, name: str = "blocks", block: int = 8, per_call: int = 1
    ) -> None:
        denoiser = loaded.neural("the block backend")
        if loaded.config.train.open_share == 0.0:
            raise ConfigError(
                "this model never saw a string whose end is open, so it cannot write block by "
                "block; train it with open_share above 0, or take the causal backend"
            )
        if block < 1 or per_call < 1:
            raise ConfigError(
                f"block_size is {block} and per_call {per_call}; both must be at least 1"
            )
        self.name, self.vocabulary, self.denoiser = name, loaded.vocabulary, denoiser
        self.block, self.device = block, loaded.device
        self.longest = loaded.config.model.block_size
        self.sampler = Unmask(order="top", schedule=EachCall(per_call), steps=0)

    def forget(self) -> None:
        """See `StepBackend`; nothing is kept."""

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """See `StepBackend`.

        Raises:
            ParseError: For foreign symbols.
            BackendError: For a prompt longer than any trained canvas.
        """
        began = time.perf_counter()
        steps: list[list[Step]] = []
        rows: list[_Row] = []
        for r, request in enumerate(requests):
            given = [*self.vocabulary.encode(request.prompt), *answer_ids(request, self.vocabulary)]
            if len(given) + 2 > self.longest:
                raise BackendError(
                    f"prompt and answer have {len(given)} tokens; the canvases of this model end "
                    f"at {self.longest}"
                )
            steps.append([Step(request) for _ in range(request.num)])
            keys = candidate_keys(request)
            rows += [_Row(r, step, given, key) for step, key in zip(steps[-1], keys, strict=True)]
        spent = [Counter[str]() for _ in requests]
        for temperature in dict.fromkeys(request.temperature for request in requests):
            some = [row for row in rows if row.step.request.temperature == temperature]
            while some := [row for row in some if row.step.finish is None]:
                self._fill_block(some, Draw(temperature, symbols="open"), spent)
        return replies(steps, spent, time.perf_counter() - began)

    def _fill_block(self, rows: list[_Row], draw: Draw, spent: list[Counter[str]]) -> None:
        """Fill the next block of every step, and give its tokens to the step up to its end."""
        canvas = self._canvas(rows)
        figures = torch.zeros(*canvas.tokens.shape, 3, dtype=torch.float64)

        def record(part: Tensor, commit: Tensor, tokens: Tensor, log_probs: Tensor) -> None:
            row, place = commit.nonzero(as_tuple=True)
            own = token_figures(log_probs[row, place], tokens[row, place])
            columns = (own.log_probs, own.entropies, own.gaps)
            figures[part[row], place] = torch.stack(columns, 1)

        sampler = replace(self.sampler, draw=draw)
        done = sampler(_OpenCanvases(self), canvas, record).canvas

        # What each request has paid.
        calls: Counter[int] = Counter()
        evaluations = zip(rows, done.spent.tolist(), done.length.tolist(), strict=True)
        for row, count, length in evaluations:
            spent[row.owner]["tokens"] += count * length
            calls[row.owner] = max(calls[row.owner], count)
        for owner, count in calls.items():
            spent[owner]["calls"] += count

        # The tokens, from left to right; what goes beyond the end of a step is dropped.
        piece = symbol(self.vocabulary)
        for i, row in enumerate(rows):
            start, end = 1 + len(row.before), int(done.length[i])
            tokens, values = done.tokens[i, start:end].tolist(), figures[i, start:end].tolist()
            for token, own in zip(tokens, values, strict=True):
                if row.step.finish is None:
                    row.step.add(token, own, *piece(row.step, token))
            if row.step.finish is None and end >= self.longest:
                row.step.finish = "length"

    def _canvas(self, rows: list[_Row]) -> Canvas:
        """BOS, what is given, and a block of blanks, shorter where it would not fit; no EOS."""
        texts, known = [], []
        for row in rows:
            before = [self.vocabulary.bos, *row.before]
            blanks = min(self.block, self.longest - len(before))
            texts.append(before + [self.vocabulary.mask] * blanks)
            known.append([True] * len(before) + [False] * blanks)
        width, pad = max(map(len, texts)), self.vocabulary.pad
        gaps = [width - len(text) for text in texts]
        tokens = torch.tensor([text + [pad] * n for text, n in zip(texts, gaps, strict=True)])
        length = torch.tensor([len(text) for text in texts])
        return Canvas(
            tokens=tokens,
            known=torch.tensor([own + [True] * n for own, n in zip(known, gaps, strict=True)]),
            length=length,
            suspect=torch.zeros(len(rows)),
            keys=torch.stack([row.key for row in rows]),
            spent=torch.zeros_like(length),
            visits=torch.zeros_like(tokens),
        )


class _OpenCanvases:
    """The denoiser of a backend for canvases on the CPU; its logits are float64."""

    def __init__(self, backend: BlockBackend) -> None:
        self.vocabulary, self.backend = backend.vocabulary, backend

    def __call__(
        self,
        tokens: Tensor,
        length: Tensor,
        sigma: Tensor,
        causal: bool,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """See `Denoiser`."""
        device = self.backend.device
        shown = tokens.to(device), length.to(device), sigma.to(device)
        return self.backend.denoiser(*shown, causal, None).cpu().double()


__all__ = ["BlockBackend"]
