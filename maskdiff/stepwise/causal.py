"""Our causal mode as a backend: it goes on from the very ids of a partial answer, with keys and values kept between steps.

For: `CausalBackend`. Not for: models that are told the length of their strings, which nobody knows of half an answer. Easy
to get wrong: the partial answer is never tokenised again; another cut of the same text would be another history. The last token
of a step is evaluated with the step after it, if there is one, so the last token of an answer costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from maskdiff.decoding import CausalModel
from maskdiff.errors import ConfigError
from maskdiff.models.continuation import ROOT
from maskdiff.stepwise.drawing import Step, answered, draw, key_of
from maskdiff.stepwise.protocol import BackendError, Capabilities, Reply, Request, Spent

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

    Prompt tokens are evaluated once and drawn ones as they come; what candidates share is not shared between them, so that
    `forward_tokens` is what any backend with a key/value cache spends. Raises ConfigError for a model that is told the
    length, or predicts no next token.

    memory: bytes of what is kept between requests. A call of `next_step` adds `token_bytes` for
    each token of its own.
    """

    capabilities = Capabilities(
        continues=True, log_probs=True, entropies=True, stop_strings=True, seed=True, token_ids=True
    )

    def __init__(self, loaded: Loaded, name: str = "causal", memory: int = MEMORY) -> None:
        if loaded.length_conditioned:
            raise ConfigError(
                "this model is told how long its strings are, so it cannot go on from half an answer; "
                "take one trained with causal_length: false, such as checkpoints/arithmetic-steps.pt"
            )
        self.name, self.vocabulary, self.memory = name, loaded.vocabulary, memory
        self.model = CausalModel(loaded.denoiser, loaded.lengths)
        self.forget()

    def forget(self) -> None:
        """See `StepBackend`."""
        self.tree = self.model.tree()
        self.nodes = 0
        self.roots: dict[
            int, int
        ] = {}  # session -> node of its BOS: answers share nothing, so none makes another cheaper
        self.children: dict[
            tuple[int, int], int
        ] = {}  # (parent, token) -> node, of prompts and of what was drawn
        self.after: dict[
            int, Tensor
        ] = {}  # node -> (vocab,) log-probabilities of what may follow it

    @property
    def token_bytes(self) -> int:
        """Bytes kept of each token. Keys and values count twice, because growing copies them."""
        return 2 * self.tree.cache.node_bytes + 8 * len(self.vocabulary) + OBJECTS

    def next_step(self, requests: Sequence[Request]) -> list[Reply]:
        """See `StepBackend`. Raises ParseError for a prompt with foreign symbols, BackendError for one that is too long."""
        began = time.perf_counter()
        if self.nodes * self.token_bytes > self.memory:
            self.forget()
        paths = [
            [*self.vocabulary.encode(request.prompt), *answered(request, self.vocabulary)]
            for request in requests
        ]
        if any(len(path) > LONGEST for path in paths):
            raise BackendError(f"prompt and answer have more than {LONGEST} tokens")
        writing = [
            [Step(request, key_of(request, i)) for i in range(request.num)] for request in requests
        ]
        tokens, calls = [0] * len(requests), [0] * len(requests)
        ends = self._read_paths([request.session for request in requests], paths, tokens, calls)
        active = [
            (r, step, ends[r])
            for r, steps in enumerate(writing)
            for step in steps
            if step.finish is None
        ]
        while active:
            active = self._one_token(active, [len(path) for path in paths], tokens, calls)
        share = (time.perf_counter() - began) / max(1, len(requests))
        return [
            Reply(
                tuple(step.candidate() for step in steps),
                Spent(tokens[r], calls[r], len(steps), share),
            )
            for r, steps in enumerate(writing)
        ]

    def _read_paths(
        self, sessions: list[int], paths: list[list[int]], tokens: list[int], calls: list[int]
    ) -> list[int]:
        """Evaluate what is new of each path, all together; the node at which each ends."""
        parents: list[int] = []
        new: list[int] = []
        owners: list[int] = []
        ends = []

        def added(parent: int, token: int, owner: int) -> int:
            parents.append(parent)
            new.append(token)
            owners.append(owner)
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
        if new:
            log_p = self._extend(parents, new, max(map(len, paths)))
            first = self.nodes - len(new)
            self.after.update({first + i: row for i, row in enumerate(log_p)})
            for r in owners:
                tokens[r] += 1
            for r in set(owners):
                calls[r] += 1
        return ends

    def _one_token(
        self,
        active: list[tuple[int, Step, int]],
        starts: list[int],
        tokens: list[int],
        calls: list[int],
    ) -> list[tuple[int, Step, int]]:
        """Draw a token for every step under way and evaluate those that go on."""
        rows = torch.stack([self.after[node] for _, _, node in active])
        places = [starts[r] + len(step.ids) for r, step, _ in active]
        drawn = draw(
            rows,
            [step.key for _, step, _ in active],
            places,
            [step.request.temperature for _, step, _ in active],
        )
        going: list[tuple[int, Step, int]] = []
        for row, (r, step, node) in enumerate(active):
            step.add(drawn.ids[row], drawn, row, self.vocabulary)
            if step.finish is None:
                going.append((r, step, node))
        if not going:
            return []
        first = self.nodes
        deepest = max(starts[r] + len(step.ids) for r, step, _ in going)
        log_p = self._extend(
            [node for _, _, node in going], [step.ids[-1] for _, step, _ in going], deepest
        )
        self.after.update({first + i: row for i, row in enumerate(log_p)})
        for r, _, _ in going:
            tokens[r] += 1
        for r in {r for r, _, _ in going}:
            calls[r] += 1
        # Of equal histories the first stands for all, so that whichever candidate is chosen, its keys and values are found.
        return [
            (r, step, self.children.setdefault((node, step.ids[-1]), first + i))
            for i, (r, step, node) in enumerate(going)
        ]

    def _extend(self, parents: list[int], new: list[int], deepest: int) -> Tensor:
        """(n, vocab) log-probabilities after each of the new nodes, in passes that gather a bounded number of keys."""
        keys = self.tree.cache.keys
        size = max(1, PASS // (2 * keys[0, 0].nbytes * (deepest + 1)))
        passes = [len(new)] if len(new) <= size else _passes(parents, self.nodes, size)
        pairs = zip(
            torch.tensor(parents).split(passes), torch.tensor(new).split(passes), strict=True
        )
        log_p = torch.cat([self.tree.extend(above, tokens) for above, tokens in pairs])
        self.nodes += len(new)
        return log_p


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
