"""Our causal mode as a backend: it continues the very ids of a partial answer.

Keys and values are kept between steps. The partial answer is never tokenised again; another cut of
the same text would be another history. The last token of a step is evaluated with the step after
it, if there is one, so the last token of an answer costs nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from maskdiff.decoding import CausalModel
from maskdiff.decoding.loop import Batch, decode, keyed_noise
from maskdiff.drawing.settings import Draw
from maskdiff.errors import ConfigError
from maskdiff.models.continuation import ROOT
from maskdiff.stepwise.protocol import BackendError, Capabilities, Reply, Request
from maskdiff.stepwise.writing import Step, StepStrings, answer_ids, candidate_keys, replies, symbol

if TYPE_CHECKING:
    from torch import Tensor

    from maskdiff.checkpoint import Loaded

# Bytes of what is kept of tokens; beyond them it forgets between requests, and reads prompts again.
MEMORY = 2**29
PASS = 2**25  # bytes of the keys and values that one pass gathers
CHAIN = 512  # tokens of one prompt that are read in one pass, and gather them once
OBJECTS = 1700  # bytes of the Python objects that are kept of a token, measured
LONGEST = 16_384  # tokens of prompt and answer


class CausalBackend:
    """Implements `StepBackend` by the causal mode of a denoiser that ends its strings itself.

    Prompt tokens are evaluated once and drawn ones as they come; what candidates share is not
    shared between them, so that `forward_tokens` is the cost of any backend with a key/value cache.

    Args:
        loaded: A model that is not length-conditioned, and predicts the next token; an n-gram is.
        name: Of the backend.
        memory: Bytes of what is kept between requests. A call of `next_step` adds `token_bytes` for
            each token of its own.

    Raises:
        ConfigError: For another model.
    """

    capabilities = Capabilities(
        continues=True, log_probs=True, entropies=True, stop_strings=True, seed=True, token_ids=True
    )

    def __init__(self, loaded: Loaded, name: str = "causal", memory: int = MEMORY) -> None:
        if loaded.denoiser.config.causal_length:
            raise ConfigError(
                "this model is conditioned on the length of its strings, so it cannot continue "
                "half an answer; take one trained with causal_length: false, such as "
                "checkpoints/arithmetic-steps.pt"
            )
        self.name, self.vocabulary, self.memory = name, loaded.vocabulary, memory
        self.model = CausalModel(loaded.denoiser, loaded.lengths)
        self.forget()

    def forget(self) -> None:
        """See `StepBackend`."""
        self.tree = self.model.tree()
        self.nodes = 0
        # Session -> node of its BOS: answers share nothing, so none makes another cheaper.
        self.roots: dict[int, int] = {}
        # (parent, token) -> node, of prompts and of what was drawn.
        self.children: dict[tuple[int, int], int] = {}
        # Node -> (vocab,) log-probabilities of the next token.
        self.after: dict[int, Tensor] = {}

    @property
    def token_bytes(self) -> int:
        """Bytes kept of each token. Keys and values count twice, because growing copies them."""
        return 2 * self.tree.cache.node_bytes + 8 * len(self.vocabulary) + OBJECTS

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """See `StepBackend`.

        Raises:
            ParseError: For a prompt with foreign symbols.
            BackendError: For one that is too long.
        """
        began = time.perf_counter()
        if self.nodes * self.token_bytes > self.memory:
            self.forget()
        paths = [
            [*self.vocabulary.encode(request.prompt), *answer_ids(request, self.vocabulary)]
            for request in requests
        ]
        if any(len(path) > LONGEST for path in paths):
            raise BackendError(f"prompt and answer have more than {LONGEST} tokens")
        spent = [Counter[str]() for _ in requests]
        ends = self._read_paths([request.session for request in requests], paths, spent)

        # Steps of one temperature are written together.
        steps = [[Step(request) for _ in range(request.num)] for request in requests]
        for temperature in dict.fromkeys(request.temperature for request in requests):
            rows = [
                _Row(r, step, ends[r], len(paths[r]), key)
                for r, request in enumerate(requests)
                if request.temperature == temperature
                for step, key in zip(steps[r], candidate_keys(request), strict=True)
                if step.finish is None
            ]
            if rows:
                self._write(rows, temperature, spent)
        return replies(steps, spent, time.perf_counter() - began)

    def _write(self, rows: list[_Row], temperature: float, spent: list[Counter[str]]) -> None:
        """Draw the tokens of steps until all have ended."""
        first = torch.tensor([row.start for row in rows])
        keys = torch.stack([row.key for row in rows])
        noise = keyed_noise(keys, first, len(self.vocabulary))
        strings = StepStrings([row.step for row in rows], symbol(self.vocabulary))
        stream = _Nodes(self, rows, spent)
        for _ in decode(stream, stream.scores(), strings, Batch(noise), Draw(temperature)):
            pass

    def _read_paths(
        self, sessions: list[int], paths: list[list[int]], spent: list[Counter[str]]
    ) -> list[int]:
        """Evaluate what is new of each path, all together; the node at which each ends."""
        new: list[tuple[int, int, int]] = []  # parent, token, request
        ends = []

        def added(parent: int, token: int, owner: int) -> int:
            new.append((parent, token, owner))
            return self.nodes + len(new) - 1

        for r, (session, path) in enumerate(zip(sessions, paths, strict=True)):
            if session not in self.roots:
                self.roots[session] = added(ROOT, 0, r)  # latent state 0, which is BOS
            node = self.roots[session]
            for token in path:
                if (node, token) not in self.children:
                    self.children[node, token] = added(node, token, r)
                node = self.children[node, token]
            ends.append(node)
        self.extend(new, max(map(len, paths), default=0), spent)
        return ends

    def extend(
        self, new: Sequence[tuple[int, int, int]], deepest: int, spent: list[Counter[str]]
    ) -> None:
        """Evaluate new nodes, each a parent, a token and the request that pays for it."""
        if not new:
            return
        parents, tokens, owners = (list(column) for column in zip(*new, strict=True))
        first = self.nodes
        log_p = self._extend(parents, tokens, deepest)
        self.after.update({first + i: row for i, row in enumerate(log_p)})
        for r in owners:
            spent[r]["tokens"] += 1
        for r in set(owners):
            spent[r]["calls"] += 1

    def _extend(self, parents: list[int], new: list[int], deepest: int) -> Tensor:
        """(n, vocab) log-probabilities after new nodes; a pass gathers a bounded number of keys."""
        size = max(1, PASS // (self.tree.cache.gathered_bytes * (deepest + 1)))
        passes = [len(new)] if len(new) <= size else _passes(parents, self.nodes, size)
        pairs = zip(
            torch.tensor(parents).split(passes), torch.tensor(new).split(passes), strict=True
        )
        log_p = torch.cat([self.tree.extend(above, tokens) for above, tokens in pairs])
        self.nodes += len(new)
        return log_p


@dataclass
class _Row:
    """A step while it is written, after a node of the tree."""

    owner: int  # number of its request
    step: Step
    node: int
    start: int  # tokens of prompt and answer before it
    key: Tensor  # () of its random numbers


class _Nodes:
    """Steps of `CausalBackend` as a `CausalStream`."""

    def __init__(self, backend: CausalBackend, rows: list[_Row], spent: list[Counter[str]]) -> None:
        self.backend, self.rows, self.spent = backend, rows, spent

    def scores(self) -> Tensor:
        """(rows, vocab) log-probabilities of the next token of each step."""
        return torch.stack([self.backend.after[row.node] for row in self.rows])

    def step(self, token: Tensor) -> Tensor:
        """See `CausalStream.step`."""
        backend, first = self.backend, self.backend.nodes
        new = [
            (row.node, own, row.owner) for row, own in zip(self.rows, token.tolist(), strict=True)
        ]
        deepest = max(row.start + len(row.step.ids) for row in self.rows)
        backend.extend(new, deepest, self.spent)
        # Equal histories share the node of the first, so that the keys and values of whichever
        # candidate is chosen are found.
        for i, (row, (node, own, _)) in enumerate(zip(self.rows, new, strict=True)):
            row.node = backend.children.setdefault((node, own), first + i)
        return self.scores()

    def select(self, rows: Tensor) -> _Nodes:
        """See `CausalStream.select`."""
        self.rows = [self.rows[row] for row in rows.tolist()]
        return self


def _passes(parents: list[int], first: int, size: int) -> list[int]:
    """The sizes of passes over new nodes, numbered from `first`, that are too many for one.

    A run of nodes each of which is the child of the one before it, such as a long prompt, has
    passes of its own, of up to `CHAIN` nodes: they gather keys once. Of the others up to `size`
    share a pass.
    """
    starts = [i for i, parent in enumerate(parents) if i == 0 or parent != first + i - 1]
    passes: list[int] = []
    alone = False  # whether the last pass is of nodes that are no run
    for start, end in zip(starts, [*starts[1:], len(parents)], strict=True):
        if end - start == 1 and alone and passes[-1] < size:
            passes[-1] += 1
        else:
            passes += [min(CHAIN, end - i) for i in range(start, end, CHAIN)]
            alone = end - start == 1
    return passes
